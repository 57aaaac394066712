"""Studies, runs and flows from Python; `import nfstudy` loads this only when one of its names is used.

    study = nfstudy.load_study("quickstart")
    frame = nfstudy.run("quickstart", workers=2)
    model = nfstudy.load_model(frame["run_id"].iloc[0])

A study is named by its file, or by its name alone where it is in `studies/` or comes with the package. Runs are those
of the project that holds the current folder, in the store at `tracking_uri`, else $MLFLOW_TRACKING_URI, else
`mlruns/mlflow.db`. Mistakes in what is asked are raised as `nfstudy.UserError`, one message each.
"""

from __future__ import annotations

import multiprocessing
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nfstudy.core.errors import UserError
from nfstudy.core.project import Project
from nfstudy.study.find import find_study
from nfstudy.study.reader import read_study

if TYPE_CHECKING:
    import pandas as pd

    from nfstudy.flows.standalone import StandaloneFlow
    from nfstudy.inference.problems.trained import ImageModel, PlaneModel
    from nfstudy.study.plan import StudyPlan
    from nfstudy.study.spec import StudySpec


def load_study(path: str | Path) -> StudySpec:
    """Read and check a study.

    Arguments:
        path: a study file, or the name of a shipped study such as `quickstart`.

    Raises:
        SpecError: there is no such study, or it is not valid; the message lists every mistake with line and key.
    """
    return read_study(find_study(path, Project.find().root))


def run(
    path: str | Path, budget: str | None = None, workers: int | None = None, tracking_uri: str | None = None
) -> pd.DataFrame:
    """Run what is to do of a study, rebuild its report, and return its `results`.

    It does what `nfstudy run` does, and prints the same. A script that calls it does so under
    `if __name__ == "__main__":`, for workers are processes that import the script again.

    Arguments:
        path: as for `load_study`.
        budget: one of the study's budgets; None for its own.
        workers: how many processes; None for one per core.
        tracking_uri: the store; None for $MLFLOW_TRACKING_URI, else the project's own.

    Raises:
        UserError: the study, a budget, data or a store is not what it should be; or this is not the main thread.
        KeyboardInterrupt: it was stopped; what had ended is saved, and the same call goes on from there.
    """
    if multiprocessing.parent_process() is not None:
        raise UserError(
            'nfstudy.run: called by a worker that imports your script; put it under `if __name__ == "__main__":`'
        )
    if threading.current_thread() is not threading.main_thread():
        raise UserError("nfstudy.run: expected: in the main thread, which alone is told of Ctrl-C")
    from nfstudy.cli.parser import make_parser
    from nfstudy.cli.run import run as run_command

    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise UserError(f"workers: got {workers!r}; expected: a whole number from 1")
    plan = load_study(path).under(budget)
    given = {"budget": plan.budget, "workers": workers, "tracking-uri": tracking_uri}
    words = [f"--{name}={value}" for name, value in given.items() if value is not None]
    if run_command(make_parser().read(["run", *words, "--", str(path)])) == 130:
        raise KeyboardInterrupt
    return results(path, budget, tracking_uri)


def results(path: str | Path, budget: str | None = None, tracking_uri: str | None = None) -> pd.DataFrame:
    """Return a study's repetitions, one row each, none where nothing has run yet.

    Columns: `label` (the cell, as on the console), `repetition`, `outcome` (finished, diverged, pruned, failed,
    running, killed), `reason`, `run_id`, `cell` (its key); then settings by dotted path (`flow.length`), and metrics by
    name: `test/elbo` is −F and `test/nll` is −ln p(x), in nats per example.

    Arguments:
        path: as for `load_study`.
        budget: one of the study's budgets; None for its own.
        tracking_uri: the store; None for $MLFLOW_TRACKING_URI, else the project's own.

    Raises:
        UserError: there is no such study or budget, or the store cannot be read.
    """
    _, frame = _runs(path, budget, tracking_uri, None)
    leading = ["label", "repetition", "outcome", "reason", "run_id", "cell"]
    settings_and_metrics = [name for name in frame.columns if "." in name or "/" in name]
    return frame[leading + [name for name in settings_and_metrics if frame[name].notna().any()]]


def history(
    path: str | Path,
    metrics: Sequence[str] = ("train/elbo", "valid/elbo"),
    budget: str | None = None,
    tracking_uri: str | None = None,
) -> pd.DataFrame:
    """Return the learning curves of a study's repetitions, one row a point.

    Columns: `label`, `repetition`, `run_id`, `metric`, `update` (parameter updates done), `value` (`*/elbo`: −F in nats
    per example).

    Arguments:
        path: as for `load_study`.
        metrics: names of logged metrics.
        budget: one of the study's budgets; None for its own.
        tracking_uri: the store; None for $MLFLOW_TRACKING_URI, else the project's own.

    Raises:
        UserError: as `results` does; or a metric is not known.
    """
    from nfstudy.runs.frame import make_history
    from nfstudy.runs.metrics import known_metrics
    from nfstudy.runs.tracking.open import open_study

    names = [metrics] if isinstance(metrics, str) else [*metrics]
    plan, frame = _runs(path, budget, tracking_uri, ())
    if unknown := [name for name in names if name not in known_metrics()]:
        raise UserError(f"metrics: got '{unknown[0]}'; expected: {', '.join(known_metrics())}")
    if frame.empty:
        points = make_history(())
    else:
        points = open_study(Project.find().tracking_uri(tracking_uri), plan.study).history([*frame["run_id"]], names)
    return frame[["label", "repetition", "run_id"]].merge(points, on="run_id", validate="one_to_many")


def load_model(
    run_id: str, tracking_uri: str | None = None, plugins: Sequence[str | Path] = ()
) -> ImageModel | PlaneModel:
    """Return the trained model of a run, on the CPU.

    Arguments:
        run_id: of a run that has ended and saved its weights; also the id it had where it was imported from.
        tracking_uri: the store; None for $MLFLOW_TRACKING_URI, else the project's own.
        plugins: files of plug-ins that are not where the run found them.

    Raises:
        UserError: there is no such run, it has no weights, they are of another run or other settings than the run
            logged, or a plug-in is not the one that the run used.
    """
    from nfstudy.core.plugins import require_recorded
    from nfstudy.inference.problems.trained import trained_model
    from nfstudy.runner.rerun import recorded_plugins
    from nfstudy.runs.conditions import recorded_settings
    from nfstudy.runs.tags import Tag
    from nfstudy.runs.tracking.mlflow_export import read_copy
    from nfstudy.runs.tracking.store import open_store
    from nfstudy.runs.weights import WEIGHTS, check_description, read_description

    project = Project.find()
    store = open_store(project.tracking_uri(tracking_uri))
    record = read_copy(store, run_id).record
    weights = store.runs(record.tags[Tag.STUDY]).artifact(record.id, WEIGHTS)
    if weights is None:
        why = "archives leave weights out unless they are exported --with-checkpoints"
        raise UserError(f"run {run_id}: has no {WEIGHTS}; expected: a finished repetition with its weights ({why})")
    try:
        check_description(read_description(weights), record.id, record.params)
        require_recorded(recorded_plugins(record.tags), project.root, [*map(Path, plugins)])
        settings = recorded_settings(record.params)
    except UserError as error:
        raise UserError(f"run {run_id}: {error}") from None
    return trained_model(run_id, settings, weights)


def flow(family: str, dim: int, length: int, seed: int = 0, **settings: Any) -> StandaloneFlow:
    """Return a flow as a torch module: `forward(z)` gives z_K and the log-determinant, with `inverse` and `log_prob`.

    Its parameters are learned, depend on nothing, and start near the identity.

    Arguments:
        family: `planar`, `radial`, `nice-perm`, `nice-orth`, `iaf`, `sylvester`, `householder`, `full-covariance`,
            `realnvp`, `glow`, `spline`, or an installed plug-in's.
        dim: D, the number of variables.
        length: K, the number of steps; 0 is the diagonal Gaussian.
        seed: of the initial parameters.
        settings: the family's own, as in a study's section `flow`: `constraint=False`.

    Raises:
        UserError: there is no such family or setting, a value is not allowed, or D is too small.
    """
    from nfstudy.flows.standalone import standalone_flow

    return standalone_flow(family, dim, length, seed, **settings)


def _runs(
    path: str | Path, budget: str | None, tracking_uri: str | None, metrics: Sequence[str] | None
) -> tuple[StudyPlan, pd.DataFrame]:
    """Return a study's plan, and the last attempt of each of its repetitions, with label and repetition."""
    from nfstudy.runs.frame import latest_per_identity, notes, study_cells, trusted
    from nfstudy.runs.tracking.open import load_frame

    plan = load_study(path).under(budget)
    frame = trusted(plan, load_frame(Project.find().tracking_uri(tracking_uri), plan.study, metrics))
    for note in notes(frame):
        warnings.warn(note, stacklevel=3)
    cells = {cell.key: (place, cell.label) for place, cell in enumerate(study_cells(plan, frame))}
    frame = latest_per_identity(frame[(frame["budget"] == plan.budget) & (frame["stage"] == "repetition")])
    frame = frame[frame["cell"].isin(cells) & (frame["index"] <= plan.repetitions)]
    place = frame["cell"].map(lambda key: cells[key][0])
    frame = frame.assign(label=frame["cell"].map(lambda key: cells[key][1]), repetition=frame["index"], _place=place)
    return plan, frame.sort_values(["_place", "repetition"], ignore_index=True).drop(columns="_place")
