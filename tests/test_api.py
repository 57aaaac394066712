"""The API on a store with runs that were trained here, without processes."""

import io
import json
import math
import shutil
import threading
import zipfile

import numpy as np
import pytest
import torch

import nfstudy
from nfstudy.core.errors import UserError
from nfstudy.data import load_dataset
from nfstudy.inference.training.trial import run_trial
from nfstudy.runner.prepare import data_record
from nfstudy.runs.tracking.store import Attempt, open_store
from nfstudy.runs.weights import FORMAT_VERSION, MEMBER, describe_weights, read_description

STUDY = """\
study: small
title: Small
data: {name: digits}
model: {latent: 3, hidden: 8, layers: 1, maxout: 2}
objective: {anneal_updates: 20}
train: {updates: 30, batch: 50, optimiser: adam, learning_rate: 3e-3}
evaluation: {samples: 8, test_images: 30}
grid: {flow.family: [planar], flow.length: [0, 2]}
repetitions: 2
exhibits: [summary]
"""
PLANE = """\
study: plane
title: Plane
energy: {name: u1}
flow: {family: planar, length: 2}
objective: {anneal_updates: 5}
train: {updates: 20, batch: 50, optimiser: adam, learning_rate: 1e-2}
evaluation: {samples: 100}
exhibits: [summary]
"""


def log(store, study, described=True):
    """Train a study's repetitions in this process; return the run ids in the order of cells and repetitions."""
    plan = study.under()
    experiment, ids = store.experiment(plan.name), []
    for trial in (trial for cell in plan.cells for trial in plan.repetitions_of(cell)):
        dataset = load_dataset(trial.settings.data.source(), ()) if trial.settings.data else None
        run_id = store.start_run(experiment, trial, data_record(dataset) if dataset else None, Attempt("cpu", 1))

        def note(record, run_id=run_id):
            store.log_epoch(run_id, record)
            return True

        result = run_trial(trial, dataset, "cpu", note)
        if described:
            content = describe_weights(result.files["checkpoint.pt"], trial, run_id, nfstudy.__version__)
            result.files["checkpoint.pt"] = content
        store.finish_run(run_id, result)
        ids.append(run_id)
    return ids


@pytest.fixture(scope="module")
def project(empty_store, tmp_path_factory):
    """A project in which study `small` has run, and `plane` with weights that say nothing, as those of old runs."""
    folder = tmp_path_factory.mktemp("api")
    shutil.copytree(empty_store, folder / "mlruns")
    for name, text in (("small", STUDY), ("plane", PLANE)):
        (folder / f"{name}.yaml").write_text(text)
    store = open_store(f"sqlite:///{folder}/mlruns/mlflow.db")
    ids = log(store, nfstudy.load_study(folder / "small.yaml"))
    old = log(store, nfstudy.load_study(folder / "plane.yaml"), described=False)
    return folder, ids, old


@pytest.fixture
def here(project, monkeypatch):
    monkeypatch.chdir(project[0])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return project


def weights_of(folder, run_id):
    (path,) = folder.glob(f"mlruns/artifacts/**/{run_id}/**/checkpoint.pt")
    return path


def test_results_have_a_row_a_repetition_with_settings_and_metrics(here):
    _, ids, _ = here
    frame = nfstudy.results("small")
    assert [*frame["run_id"]] == ids
    assert [*frame["flow.length"]] == [0, 0, 2, 2]
    assert [*frame["repetition"]] == [1, 2, 1, 2]
    assert set(frame["outcome"]) == {"finished"}
    assert (frame["test/nll"] <= -frame["test/elbo"]).all()
    assert "energy.name" not in frame.columns
    assert "energy.name" in nfstudy.results("plane.yaml").columns


def test_history_has_the_points_of_each_curve(here):
    points = nfstudy.history("small", "train/elbo")
    assert [*points.columns] == ["label", "repetition", "run_id", "metric", "update", "value"]
    assert [*points["update"]] == [23, 30] * 4  # 1,198 // 50 updates an epoch, then the rest.
    assert nfstudy.history("quickstart").empty
    assert nfstudy.results("quickstart").empty
    with pytest.raises(UserError, match=r"metrics: got 'train/loss'; expected: .*train/elbo"):
        nfstudy.history("small", ["train/loss"])


def test_a_loaded_model_gives_the_logged_likelihood_of_the_test_images(here):
    _, ids, _ = here
    model = nfstudy.load_model(ids[2])
    images = load_dataset(model.settings.data.source(), ()).test[:30]
    logged = nfstudy.results("small").set_index("run_id")["test/nll"][ids[2]]
    estimates = model.log_likelihood(images.reshape(30, 8, 8))
    assert estimates.shape == (30,)
    assert -estimates.mean().item() == pytest.approx(logged, abs=1e-9)
    more = model.log_likelihood(images, samples=200, seed=1)
    assert more.mean() > estimates.mean() - 0.1  # The bound rises with the samples.


def test_posterior_draws_have_the_density_that_makes_the_free_energy(here):
    _, ids, _ = here
    model = nfstudy.load_model(ids[3])
    x = load_dataset(model.settings.data.source(), ()).test[:5].astype(np.float32)
    z, log_q = model.posterior(x, samples=4)
    assert (z.shape, log_q.shape) == ((4, 5, 3), (4, 5))
    with torch.no_grad():
        log_p = model.module.log_likelihood(torch.tensor(x), z) - 0.5 * (z**2 + math.log(2 * math.pi)).sum(-1)
    # E_q[ln p(x, z) − ln q(z|x)] is a bound on ln p(x), and single draws are not far from it.
    assert ((log_p - log_q).mean(0) < model.log_likelihood(x, samples=500) + 1).all()
    assert torch.equal(model.posterior(x, samples=4).z, z)
    images = model.sample(7)
    assert images.shape == (7, 64)
    assert images.min() >= 0
    assert images.max() <= 1


def test_models_of_old_runs_load_and_those_on_the_plane_have_a_density(here):
    folder, _, (old,) = here
    assert read_description(weights_of(folder, old).read_bytes()) is None
    model = nfstudy.load_model(old)
    z = model.sample(6)
    assert z.shape == (6, 2)
    step = 16 / 200
    axis = torch.linspace(-8 + step / 2, 8 - step / 2, 200)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1)
    assert model.log_density(grid).exp().sum().item() * step**2 == pytest.approx(1, abs=0.01)
    for ask in (model.posterior, model.log_likelihood):
        with pytest.raises(UserError, match=r"fitted to an energy.*expected: sample\(n\) or log_density\(z\)"):
            ask(z)


def test_weights_say_what_they_are_and_torch_loads_them_all_the_same(here):
    folder, ids, _ = here
    content = weights_of(folder, ids[2]).read_bytes()
    said = read_description(content)
    assert said["run_id"] == ids[2]
    assert said["nfstudy"] == nfstudy.__version__
    assert said["settings"]["flow.length"] == "2"
    assert "flow.head.weight" in torch.load(io.BytesIO(content), weights_only=True)


def rewritten(content, change):
    """Return a file of weights whose description has been changed."""
    said, out = change(read_description(content)), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(out, "w") as after:
        for member in before.namelist():
            after.writestr(member, json.dumps(said) if member.endswith(f"/{MEMBER}") else before.read(member))
    return out.getvalue()


@pytest.mark.parametrize(
    ("spoil", "message"),
    {
        "later": (lambda c: rewritten(c, lambda s: s | {"format_version": 2}), f"weights 2.*weights {FORMAT_VERSION}"),
        "another run": (lambda c: rewritten(c, lambda s: s | {"run_id": "ab" * 16}), "run_id: got abab"),
        "settings": (
            lambda c: rewritten(c, lambda s: s | {"settings": s["settings"] | {"flow.length": "3"}}),
            "flow.length: got 3; expected: 2, as logged",
        ),
        "no description": (lambda c: rewritten(c, lambda s: []), "cannot be read"),
        "truncated": (lambda c: c[: len(c) // 2], "cannot be read"),
        "no zip": (lambda c: b"weights", "cannot be read"),
        "gone": (None, "has no checkpoint.pt"),
    }.values(),
)
def test_weights_that_are_not_the_run_s_are_refused(here, spoil, message):
    folder, ids, _ = here
    path = weights_of(folder, ids[2])
    content = path.read_bytes()
    try:
        path.write_bytes(spoil(content)) if spoil else path.unlink()
        with pytest.raises(UserError, match=f"run {ids[2]}: .*{message}"):
            nfstudy.load_model(ids[2])
    finally:
        path.write_bytes(content)


def test_examples_of_another_size_and_odd_counts_are_refused(here):
    model = nfstudy.load_model(here[1][0])
    for ask, message in (
        (lambda: model.log_likelihood(np.zeros((2, 63))), r"shape \(2, 63\): expected: \(B, 64\)"),
        (lambda: model.posterior(np.zeros(64)), r"shape \(64,\)"),
        (lambda: model.posterior(np.full((1, 64), np.nan)), "not finite"),
        (lambda: model.log_likelihood(np.zeros((2, 64)), samples=0), "samples: got 0; expected"),
        (lambda: model.sample(-1), "n: got -1; expected"),
        (lambda: nfstudy.load_model("ab" * 16), "expected: the id of a run"),
        (lambda: nfstudy.run("small", workers=0), "workers: got 0; expected"),
        (lambda: nfstudy.run("small", budget="huge"), "no budget 'huge'"),
    ):
        with pytest.raises(UserError, match=message):
            ask()


def test_running_is_for_the_main_thread(here):
    found = []

    def work():
        try:
            nfstudy.run("small")
        except UserError as error:
            found.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == ["nfstudy.run: expected: in the main thread, which alone is told of Ctrl-C"]


def test_running_what_is_done_returns_its_results(here, capsys):
    assert nfstudy.run("small").equals(nfstudy.results("small"))
    assert "0 runs to do" in capsys.readouterr().out


def test_a_run_whose_tags_were_edited_is_left_out_with_a_warning(here):
    folder, ids, _ = here
    store = open_store(f"sqlite:///{folder}/mlruns/mlflow.db")
    cells = nfstudy.results("small").set_index("run_id")["cell"]
    for edited, back, message in (
        ({"nfstudy.index": "first"}, {"nfstudy.index": "1"}, "nfstudy.index"),
        ({"nfstudy.cell": cells[ids[2]]}, {"nfstudy.cell": cells[ids[0]]}, "contradict each other"),
    ):
        store.tag_run(ids[0], edited)
        try:
            for read in (nfstudy.results, nfstudy.history):
                with pytest.warns(UserWarning, match=f"run {ids[0]} .*{message}.*left out"):
                    assert ids[0] not in [*read("small")["run_id"]]
        finally:
            store.tag_run(ids[0], back)
    assert len(nfstudy.results("small")) == len(ids)
