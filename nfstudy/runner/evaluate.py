"""Evaluate the kept weights of logged runs again, and keep what comes of it with these runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from nfstudy import __version__
from nfstudy.core.errors import UserError
from nfstudy.core.plugins import require_recorded
from nfstudy.core.project import Project
from nfstudy.data import load_dataset
from nfstudy.runner.engine import Engine
from nfstudy.runner.rerun import recorded_plugins
from nfstudy.runner.signals import StopSignal
from nfstudy.runner.worker import Died, Evaluate, Evaluated
from nfstudy.runs.code import code_state
from nfstudy.runs.conditions import recorded_settings
from nfstudy.runs.evaluations import EVALUATION_PREFIX, Evaluation, EvaluationRequest, reason_of
from nfstudy.runs.former import runs_of_study
from nfstudy.runs.frame import latest_per_identity
from nfstudy.runs.result import TrialResult
from nfstudy.runs.tags import Tag
from nfstudy.runs.tracking.mlflow_export import read_copy
from nfstudy.runs.tracking.store import Store
from nfstudy.study.plan import StudyPlan

WEIGHTS = "checkpoint.pt"
GAPS = ("approximation", "amortisation", "inference")
WAIT_SECONDS = 0.5


@dataclass(frozen=True)
class KeptRun:
    """A run whose weights can be evaluated."""

    id: str
    own_id: str
    """That of the store."""
    name: str
    order: Evaluate


@dataclass
class Outcome:
    """What came of an evaluation of some runs."""

    evaluated: list[tuple[str, Evaluation]] = field(default_factory=list)
    """(name, evaluation) of each run that was evaluated now."""
    known: int = 0
    """Runs that had this evaluation already."""
    refused: list[str] = field(default_factory=list)
    """A line for each run that could not be evaluated, and why; for people."""


def finished_runs(store: Store, plan: StudyPlan) -> list[str]:
    """Return the ids of the finished repetitions of a study under a budget, one a repetition, in the frame's order."""
    frame = runs_of_study(plan.study, store.runs).frame(())
    frame = latest_per_identity(frame[(frame["budget"] == plan.budget) & (frame["stage"] == "repetition")])
    keys = {cell.key for cell in plan.cells}
    ours = frame["cell"].isin(keys) if keys else frame["cell"] == frame["cell"]
    return list(frame.loc[ours & (frame["outcome"] == "finished") & (frame["index"] <= plan.repetitions), "run_id"])


def evaluate_runs(
    store: Store,
    run_ids: Sequence[str],
    request: EvaluationRequest,
    project: Project,
    start: Callable[[int], Engine],
    told: Callable[[str], None],
    plugins: Sequence[Path] = (),
) -> Outcome:
    """Evaluate the weights of some runs; call it with the lock of their study held, and its claim taken.

    Each evaluation is kept as soon as it has been made: after an interruption, the same call does the others.

    Arguments:
        store: where the runs are.
        run_ids: their ids, also those of where they were imported from.
        request: what is asked of each.
        project: where data files are looked for.
        start: how many workers may have work -> the engine, entered and left here.
        told: is given a line for each run that has been evaluated.
        plugins: files of plug-ins that are not where the runs found them.

    Raises:
        StoreError: the store cannot be used, or the study was taken over.
        OtherCodeError: a worker would run other code than what its numbers are kept with.
        Interrupted: asked to stop.
    """
    outcome = Outcome()
    waiting = list(_kept(store, run_ids, request, project, plugins, outcome))
    if not waiting:
        return outcome
    code = code_state()
    with StopSignal() as stop, start(len(waiting)) as engine:
        under_way: dict[int, KeptRun] = {}
        while waiting or under_way:
            store.keep()
            for worker in engine.workers:
                if waiting and worker.device and worker.number not in under_way:
                    under_way[worker.number] = waiting.pop(0)
                    worker.evaluate(under_way[worker.number].order)
            for worker, message in engine.events(WAIT_SECONDS):
                if not isinstance(message, Evaluated | TrialResult | Died) or worker.number not in under_way:
                    continue
                run = under_way.pop(worker.number)
                if isinstance(message, Evaluated):
                    try:
                        found = Evaluation(
                            request=request,
                            numbers=dict(message.numbers),
                            version=__version__,
                            commit=code.commit,
                            dirty=code.dirty,
                            device=worker.device or "",
                            ended=datetime.now(UTC).isoformat(timespec="seconds"),
                        )
                    except ValidationError as error:  # Of weights for which no finite number can be said.
                        outcome.refused.append(f"run {run.id}: {reason_of(error)}; expected: finite numbers")
                        continue
                    store.tag_run(run.own_id, dict([found.tag()]))
                    outcome.evaluated.append((run.name, found))
                    told(f"{run.name}: {numbers_text(found)}")
                else:
                    outcome.refused.append(f"run {run.id}: {message.reason}")
            stop.check()
    return outcome


def numbers_text(found: Evaluation) -> str:
    """Return an evaluation's numbers for people."""
    n = found.numbers
    if found.request.estimator == "bdmc":
        ends = (_with_error(n, f"nll_{end}") for end in ("below", "above"))
        return f"−ln p(x) from {' to '.join(ends)} nats (seeds), of images that the model drew"
    if found.request.estimator == "local":
        gaps = (f"{name} {_with_error(n, f'{name}_gap')}" for name in GAPS)
        return f"gaps of {', '.join(gaps)} nats (seeds); {n['converged']:.0%} of the images converged"
    if found.request.estimator == "bits-back":
        return (
            f"{n['bits_per_pixel']:.4f} bits per pixel, {n['bits_per_pixel_net']:.4f} without the "
            f"{n['initial_bits']:.0f} bits that the chain begins with, F {n['bits_per_pixel_free_energy']:.4f}; "
            f"{n['images']:,.0f} images came back as they were"
        )
    return f"−ln p(x) ≤ {_with_error(n, 'nll')}{' (seeds)' if 'nll_seed_se' in n else ''} nats"


def _with_error(numbers: Mapping[str, float], name: str) -> str:
    """Return a number with its error over seeds, where that is known."""
    error = numbers.get(f"{name}_seed_se")
    return f"{numbers[name]:.3f}" + ("" if error is None else f" ± {error:.3f}")


def _kept(
    store: Store,
    run_ids: Sequence[str],
    request: EvaluationRequest,
    project: Project,
    plugins: Sequence[Path],
    outcome: Outcome,
) -> Iterator[KeptRun]:
    """Yield the runs that are still to be evaluated; those that cannot be are told of in the outcome."""
    fingerprints: dict[object, str] = {}
    for run_id in run_ids:
        copy = read_copy(store, run_id)
        tags, record = copy.record.tags, copy.record
        if f"{EVALUATION_PREFIX}{request.key}" in tags:
            outcome.known += 1
            continue
        try:
            if tags[Tag.STAGE] == "search" or record.outcome != "finished":
                raise UserError(f"got {tags[Tag.STAGE]}, {record.outcome}; expected: a finished repetition")
            runs = store.runs(tags[Tag.STUDY])
            require_recorded(recorded_plugins(tags), project.root, plugins)
            settings = recorded_settings(record.params)
            if not settings.data:
                raise UserError("got a run on the plane, without images; expected: one with a data set")
            source = settings.data.source()
            if source not in fingerprints:
                fingerprints[source] = load_dataset(source, project.data_folders).fingerprint
            if fingerprints[source] != tags.get(Tag.DATA_FINGERPRINT):
                raise UserError("its data are others than are here; expected: the data set that it was trained on")
            weights = runs.artifact(record.id, WEIGHTS)
            if weights is None:
                hint = "hint: `export` keeps weights with --with-checkpoints alone; `rerun` trains the run again"
                raise UserError(f"has no kept weights ({WEIGHTS}); expected: a run with them; {hint}")
        except UserError as error:
            outcome.refused.append(f"run {run_id}: {error}")
            continue
        order = Evaluate(settings, int(tags.get(Tag.REPETITION, tags[Tag.INDEX])), weights, request)
        yield KeptRun(record.id, runs.own_id(record.id), record.name, order)
