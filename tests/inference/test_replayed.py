"""Training by replayed updates, which takes a CUDA device: without one, a stand-in does what a graph would hold."""

import gc
import weakref
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch

from nfstudy.core import registry
from nfstudy.core.cuda import capture
from nfstudy.data.dataset import Splits, make_dataset
from nfstudy.inference.models.captured_bound import CapturedBound
from nfstudy.inference.models.evaluation import evaluate_bound
from nfstudy.inference.problems import make_problem
from nfstudy.inference.training import fit as fit_module
from nfstudy.inference.training import replayed, update_graph
from nfstudy.inference.training.fit import fit
from nfstudy.inference.training.replayed import Replayed
from nfstudy.inference.training.update_graph import UpdateGraph
from nfstudy.study.settings import Settings

SETTINGS = {
    "data": {"name": "digits"},
    "model": {"latent": 4, "hidden": 8, "layers": 1, "maxout": 2},
    "flow": {"family": "planar", "length": 2},
    "objective": {"anneal_updates": 20},
    "train": {"updates": 37, "batch": 10, "optimiser": "adam", "learning_rate": 1e-2},
}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def images(levels=1):
    rng = np.random.default_rng(0)
    splits = Splits(*(rng.integers(levels + 1, size=(count, 12), dtype=np.uint8) for count in (140, 250, 20)))
    return make_dataset("tiny", (3, 4), levels, splits, "made here")


class Repeated:
    """In a graph's place on the processor: what it would replay is done anew."""

    def __init__(self, graph, updates):
        # A real one does not hold what it was made from either.
        self.replay = partial(UpdateGraph.steps, weakref.proxy(graph), updates)


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
    if request.param == "cpu":
        monkeypatch.setattr(UpdateGraph, "_capture", lambda self, updates: Repeated(self, updates))
    return request.param


def trained(settings, device, replayed, monkeypatch, dataset=None, epochs=None):
    """Return the records, the end, and the weights, of a training that is replayed or not."""
    monkeypatch.setattr(fit_module, "replayed", Replayed if replayed else lambda loop: None)
    problem = make_problem(settings, dataset, 1, device)
    records = []

    def on_epoch(record):
        records.append(record)
        return epochs is None or len(records) < epochs

    end = fit(problem, settings, on_epoch)
    return records, end, [weight.detach().cpu() for weight in problem.parameters()]


def both(changes, device, monkeypatch, dataset=None, **options):
    settings = Settings.model_validate(SETTINGS).replace(changes)
    return [trained(settings, device, replayed, monkeypatch, dataset, **options) for replayed in (False, True)]


CHANGES = {
    "as it is": {},
    "a schedule": {"train.schedule": {"name": "OneCycleLR", "max_lr": 1e-2}},
    "running means": {"train.averaging": 0.9},
    "the best weights": {"train.keep": "best"},
    "weight decay and clipping": {"train.weight_decay": 0.1, "train.clip_norm": 0.5},
    "RMSprop": {"train.optimiser": "rmsprop", "train.learning_rate": 1e-3, "train.momentum": 0.9},
    "annealed KL": {"objective.annealing": "kl"},
    "three samples": {"objective.samples": 3, "objective.estimator": "iwae"},
    "a baseline that learns": {"objective.estimator": "score-function", "train.learning_rate": 1e-4},
    "free bits": {"objective.free_bits": 0.1, "objective.annealing": "kl"},
    "two layers": {"model.stochastic_layers": 2},
    "RMSprop without momentum": {"train.optimiser": "rmsprop", "train.momentum": 0.0, "train.learning_rate": 1e-3},
}


@pytest.mark.parametrize(
    ("changes", "levels"),
    [*((changes, 1) for changes in CHANGES.values()), ({}, 16)],
    ids=[*CHANGES, "levels, which are drawn anew"],
)
def test_replayed_updates_are_those_of_the_loop(changes, levels, device, monkeypatch):
    monkeypatch.setattr(update_graph, "MOST_UPDATES", 5)  # Epochs have 14: three chunks each, the last one short.
    (records, end, weights), (own_records, own_end, own_weights) = both(changes, device, monkeypatch, images(levels))
    assert [(record.epoch, record.update) for record in own_records] == [(1, 14), (2, 28), (3, 37)]
    assert own_end.outcome == end.outcome == "finished"
    for record, own in zip(records, own_records, strict=True):
        assert own.metrics == pytest.approx(record.metrics, rel=1e-4, abs=1e-4)
    for weight, own in zip(weights, own_weights, strict=True):
        torch.testing.assert_close(own, weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["planar", "nice-orth", "iaf", "realnvp"])
def test_so_they_are_on_the_plane(family, device, monkeypatch):
    settings = Settings.model_validate(
        {"energy": {"name": "u2"}, "flow": {"family": family, "length": 3}, "train": SETTINGS["train"]}
    )
    runs = [trained(settings, device, replayed, monkeypatch) for replayed in (False, True)]
    for weight, own in zip(runs[0][2], runs[1][2], strict=True):
        torch.testing.assert_close(own, weight, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("bad", [2, 9, 20])
def test_an_update_that_is_not_finite_is_told_as_by_the_loop(bad, device, monkeypatch):
    """The minibatch of one update is spoilt, in the first updates, in a later one of an epoch, and in a later epoch."""
    monkeypatch.setattr(update_graph, "MOST_UPDATES", 5)
    from nfstudy.inference.problems.images import ImageProblem

    blocks = ImageProblem.blocks

    def spoilt(self, epoch, updates, at_once):
        number = (epoch - 1) * 14
        for places, noise in blocks(self, epoch, updates, at_once):
            if number <= bad < number + len(noise):
                noise[bad - number] *= float("inf")
            number += len(noise)
            yield places, noise

    monkeypatch.setattr(ImageProblem, "blocks", spoilt)
    (records, end, weights), (own_records, own_end, own_weights) = both({}, device, monkeypatch, images())
    assert own_end.outcome == end.outcome == "diverged"
    assert own_end.reason == end.reason
    assert f"at update {bad + 1}" in end.reason
    assert (own_end.update, len(own_records)) == (end.update, len(records))
    for weight, own in zip(weights, own_weights, strict=True):
        torch.testing.assert_close(own, weight, rtol=1e-3, atol=1e-4)
        assert own.isfinite().all()


def test_a_training_that_is_stopped_after_an_epoch_has_its_updates_alone(device, monkeypatch):
    (_, end, weights), (_, own_end, own_weights) = both({}, device, monkeypatch, images(), epochs=2)
    assert (own_end.outcome, own_end.update) == (end.outcome, end.update) == ("pruned", 28)
    for weight, own in zip(weights, own_weights, strict=True):
        torch.testing.assert_close(own, weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("objective", [{}, {"estimator": "score-function"}], ids=["pathwise", "one that learns"])
def test_what_cannot_be_captured_is_done_update_by_update_and_told(objective, device, monkeypatch):
    """A capture that is given up after the estimate, of which an estimator has learned: nothing of it is left."""

    def broken(loss):
        raise RuntimeError("operation not permitted when stream is capturing")

    def refuse(self, updates):
        loop = self.update.__self__.loop
        loop.gradient = broken
        try:
            self.steps(updates)
        finally:
            del loop.gradient

    monkeypatch.setattr(UpdateGraph, "_capture", refuse)
    values = {f"objective.{name}": value for name, value in objective.items()}
    settings = Settings.model_validate(SETTINGS).replace(values | {"train.learning_rate": 1e-4})
    _, _, weights = trained(settings, device, False, monkeypatch, images())
    with pytest.warns(UserWarning, match=r"one by one, which is slower: operation not permitted"):
        records, end, own_weights = trained(settings, device, True, monkeypatch, images())
    assert (end.outcome, end.update, len(records)) == ("finished", 37, 3)
    for weight, own in zip(weights, own_weights, strict=True):
        torch.testing.assert_close(own, weight, rtol=1e-5, atol=1e-6)


def test_an_error_of_the_device_is_not_taken_for_what_cannot_be_captured(device, monkeypatch):
    class Broken:
        def replay(self):
            raise RuntimeError("CUDA error: invalid argument")

    monkeypatch.setattr(UpdateGraph, "_capture", lambda self, updates: Broken())
    with pytest.raises(RuntimeError, match="invalid argument"):
        trained(Settings.model_validate(SETTINGS), device, True, monkeypatch, images())


@pytest.mark.parametrize("updates", [37, 2], ids=["captured", "over before a capture"])
def test_a_training_that_is_over_leaves_no_graph_for_the_collector(updates, device, monkeypatch):
    """It would find the graph's page-locked memory dead within another's capture, which ends that."""
    made = []

    class Watched(UpdateGraph):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(weakref.ref(self))

    monkeypatch.setattr(replayed, "UpdateGraph", Watched)
    settings = Settings.model_validate(SETTINGS).replace({"train.updates": updates})
    gc.disable()
    try:
        _, end, _ = trained(settings, device, True, monkeypatch, images())
        assert end.outcome == "finished"
        assert [graph() for graph in made] == [None]
    finally:
        gc.enable()


class Recorded:
    """In the place of a CUDA graph: whether Python collected between the two ends of a capture."""

    collected = None

    def capture_begin(self, capture_error_mode):
        assert capture_error_mode == "thread_local"
        self.collected = gc.isenabled()

    def capture_end(self):
        self.collected = self.collected or gc.isenabled()


@pytest.mark.parametrize("error", [None, RuntimeError("operation not permitted when stream is capturing")])
def test_nothing_is_collected_within_a_capture(error, monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorded)
    with (
        pytest.raises(RuntimeError, match="not permitted") if error else nullcontext(),
        capture.captured("cpu") as graph,
    ):
        if error:
            raise error
    assert graph.collected is False
    assert gc.isenabled()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="captures a CUDA graph: this machine has no such device")
@pytest.mark.parametrize("family", registry.all_of("flows"))
def test_every_family_is_captured_and_its_bound_is_that_of_the_processor(family, monkeypatch, recwarn):
    length = 0 if family == "none" else 3
    settings = Settings.model_validate(SETTINGS).replace({"flow.family": family, "flow.length": length})
    runs = [trained(settings, device, device == "cuda", monkeypatch, images()) for device in ("cpu", "cuda")]
    assert not [warning for warning in recwarn if "one by one" in str(warning.message)]
    for record, own in zip(runs[0][0], runs[1][0], strict=True):
        assert own.metrics == pytest.approx(record.metrics, rel=2e-3, abs=2e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="captures a CUDA graph: this machine has no such device")
def test_the_captured_bound_is_that_of_the_evaluation_and_follows_the_weights():
    settings = Settings.model_validate(SETTINGS)
    problem = make_problem(settings, images(), 1, "cuda")
    problem.model.eval()
    bound = CapturedBound(problem.model, problem.dataset.valid, 7, "cuda")
    for _ in range(2):
        assert bound() == pytest.approx(evaluate_bound(problem.model, problem.dataset.valid, 7), rel=1e-5)
        with torch.no_grad():
            for weight in problem.parameters():
                weight.mul_(1.1)
