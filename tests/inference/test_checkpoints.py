"""Trainings that were stopped are, bit for bit, those that never were; bad checkpoints are told of."""

import dataclasses
import errno
import io
import json
import os
import re
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nfstudy.core.atomic import LOCK
from nfstudy.data.dataset import Splits, make_dataset
from nfstudy.inference.problems import make_problem
from nfstudy.inference.training import restored
from nfstudy.inference.training.checkpoints import (
    Checkpoint,
    CheckpointError,
    CheckpointPlan,
    Checkpoints,
    checkpoint_key,
    checkpoint_path,
    prune_checkpoints,
    read_checkpoint,
    write_checkpoint,
)
from nfstudy.inference.training.fit import fit
from nfstudy.inference.training.loop import Loop
from nfstudy.inference.training.stop import Stopped, StopRequest
from nfstudy.inference.training.trial import run_trial
from nfstudy.runs.result import Notice, Resumed
from nfstudy.study.cells import Cell, Trial
from nfstudy.study.settings import Settings

IMAGES = Settings.model_validate(
    {
        "data": {"name": "digits"},
        "model": {"latent": 2, "hidden": 8, "layers": 1, "maxout": 2},
        "flow": {"family": "planar", "length": 2},
        "train": {"updates": 11, "batch": 4, "optimiser": "adam", "learning_rate": 0.01},
        "objective": {"anneal_updates": 20},
        "evaluation": {"samples": 4, "test_images": 4},
    }
)
ENERGY = Settings.model_validate(
    {
        "energy": {"name": "u1"},
        "flow": {"family": "planar", "length": 2},
        "train": {"updates": 7, "batch": 20, "optimiser": "rmsprop", "learning_rate": 1e-3},
        "evaluation": {"samples": 100},
    }
)


def keep_on(record):
    return True


CHANGES = {
    "adam": {},
    "rmsprop": {"train.optimiser": "rmsprop", "train.learning_rate": 1e-3},
    "rmsprop without momentum": {"train.optimiser": "rmsprop", "train.momentum": 0.0, "train.learning_rate": 1e-3},
    "averaging": {"train.averaging": 0.9},
    "best": {"train.keep": "best", "train.learning_rate": 0.3},
    "averaging and best": {"train.averaging": 0.5, "train.keep": "best", "train.learning_rate": 0.3},
    "bfloat16": {"train.precision": "bfloat16"},
    "bfloat16-all": {"train.precision": "bfloat16-all"},
    "clipping": {"train.clip_norm": 0.1},
    "StepLR": {"train.schedule": {"name": "StepLR", "step_size": 3, "gamma": 0.5}},
    "MultiStepLR": {"train.schedule": {"name": "MultiStepLR", "milestones": (2, 5)}},
    "ExponentialLR": {"train.schedule": {"name": "ExponentialLR", "gamma": 0.9}},
    "LinearLR": {"train.schedule": {"name": "LinearLR", "start_factor": 0.5, "total_iters": 4}},
    "PolynomialLR": {"train.schedule": {"name": "PolynomialLR", "power": 2.0}},
    "CosineAnnealingLR": {"train.schedule": {"name": "CosineAnnealingLR"}},
    "CosineAnnealingWarmRestarts": {"train.schedule": {"name": "CosineAnnealingWarmRestarts", "T_0": 5}},
    "OneCycleLR": {"train.schedule": {"name": "OneCycleLR", "max_lr": 0.01}},
    "radial": {"flow.family": "radial"},
    "nice-perm": {"flow.family": "nice-perm"},
    "nice-orth": {"flow.family": "nice-orth"},
    "iaf": {"flow.family": "iaf"},
    "sylvester": {"flow.family": "sylvester"},
    "householder": {"flow.family": "householder"},
    "full-covariance": {"flow.family": "full-covariance"},
    "realnvp": {"flow.family": "realnvp"},
    "glow": {"flow.family": "glow"},
    "spline": {"flow.family": "spline"},
    "hamiltonian": {"flow.family": "hamiltonian"},
    "langevin": {"flow.family": "langevin"},
    "running baseline": {"objective.estimator": "score-function", "objective.baseline": "running"},
    "baseline of the input": {
        "objective.estimator": "score-function",
        "objective.baseline": "input",
        "train.averaging": 0.9,
        "train.keep": "best",
    },
    "doubly reparametrised": {"objective.estimator": "dreg", "objective.samples": 2},
    "wake-sleep": {"objective.estimator": "wake-sleep", "objective.annealing": "none"},
    "reweighted wake-sleep": {
        "objective.estimator": "reweighted-wake-sleep",
        "objective.annealing": "none",
        "objective.q_update": "both",
        "objective.samples": 2,
    },
    "free bits": {"objective.free_bits": 0.5, "objective.annealing": "kl"},
    "two stochastic layers": {"model.stochastic_layers": 2, "objective.estimator": "sticking-the-landing"},
}


def tiny_dataset(levels=16):
    """Grey images, so that bits are drawn anew at every update."""
    rng = np.random.default_rng(0)
    images = [rng.integers(top + 1, size=(n, 64), dtype=np.uint8) for n, top in ((14, levels), (6, 1), (8, 1))]
    return make_dataset("tiny-dynamic", (8, 8), levels, Splits(*images), "made here")


class StoppedAfter(Checkpoints):
    """Is asked to stop after so many more updates, as by a SIGTERM."""

    def __init__(self, plan, trial, tell, updates):
        self.request = StopRequest()
        super().__init__(plan, trial, tell, self.request)
        self.updates = updates

    @property
    def due(self):
        self.updates -= 1
        self.request.asked = self.updates <= 0
        return super().due


def in_one_go(settings, dataset):
    problem, records = make_problem(settings, dataset, 1, "cpu"), []
    end = fit(problem, settings, lambda record: not records.append(record))
    return problem, records, end


def in_pieces(settings, dataset, path, updates):
    """Train with a stop after every so many updates, each time in a new problem; return the last one's."""
    plan, told = CheckpointPlan(path, 1e9), []
    while True:
        problem, records = make_problem(settings, dataset, 1, "cpu"), []
        checkpoints = StoppedAfter(plan, {"cell": "c"}, told.append, updates)
        try:
            end = fit(problem, settings, lambda record, to=records: not to.append(record), checkpoints)
        except Stopped:
            continue
        return problem, records, end, told


def assert_equal_bits(first, second):
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a.view(torch.int32), b.view(torch.int32))


@pytest.mark.parametrize("name", CHANGES)
def test_a_training_stopped_after_every_update_is_the_one_that_never_stopped(name, tmp_path):
    settings, dataset = IMAGES.replace(CHANGES[name]), tiny_dataset()
    whole, records, end = in_one_go(settings, dataset)
    problem, piece_records, piece_end, told = in_pieces(settings, dataset, tmp_path / "a", 1)
    assert_equal_bits(whole, problem)
    assert piece_records == records
    assert (piece_end.outcome, piece_end.update) == (end.outcome, end.update) == ("finished", 11)
    # Epochs have 3 updates: some of these stops are within one, some at its end.
    assert [message.update for message in told] == list(range(1, 12))


@pytest.mark.parametrize("updates", [2, 3, 5])
@pytest.mark.parametrize("schedule", [{"name": "constant"}, {"name": "OneCycleLR", "max_lr": 0.01}])
def test_a_fit_to_an_energy_stopped_is_the_one_that_never_stopped(updates, schedule, tmp_path):
    settings = ENERGY.replace({"train.schedule": schedule, "train.averaging": 0.9})
    whole, records, _ = in_one_go(settings, None)
    problem, piece_records, _, told = in_pieces(settings, None, tmp_path / "a", updates)
    assert_equal_bits(whole, problem)
    assert piece_records == records
    assert told[0] == Resumed(updates)


def test_an_update_draws_the_same_whether_or_not_those_before_it_are_left_out():
    problem = make_problem(IMAGES, tiny_dataset(), 1, "cpu")
    *_, last = (batch.terms() for batch in problem.minibatches(2, 3))
    (alone,) = (batch.terms() for batch in problem.minibatches(2, 3, 2))
    assert all(torch.equal(a, b) for a, b in zip(last, alone, strict=True))


def test_a_divergence_after_a_stop_is_told_at_the_same_update(tmp_path):
    settings = IMAGES.replace({"train.learning_rate": 1e6, "train.updates": 60})
    dataset = tiny_dataset()
    _, records, end = in_one_go(settings, dataset)
    _, piece_records, piece_end, _ = in_pieces(settings, dataset, tmp_path / "a", 2)
    assert end.outcome == "diverged"
    assert (piece_end.outcome, piece_end.update, piece_end.reason) == (end.outcome, end.update, end.reason)
    assert piece_records == records


def test_a_training_is_pruned_at_a_replayed_epoch_too(tmp_path):
    dataset, plan = tiny_dataset(), CheckpointPlan(tmp_path / "a", 1e9)
    with pytest.raises(Stopped):
        fit(make_problem(IMAGES, dataset, 1, "cpu"), IMAGES, keep_on, StoppedAfter(plan, {}, list, 8))
    again = Checkpoints(plan, {}, lambda _: None, StopRequest())
    end = fit(make_problem(IMAGES, dataset, 1, "cpu"), IMAGES, lambda record: record.epoch < 2, again)
    assert (end.outcome, end.update) == ("pruned", 6)
    assert end.reason.startswith("at epoch 2 at F ")


def test_an_evaluation_that_is_cut_off_does_not_train_again(tmp_path):
    """Test metrics and files too are those of a trial that never stopped; its times are those of all attempts."""
    dataset, plan, told = tiny_dataset(), CheckpointPlan(tmp_path / "a", 1e9), []
    trial = Trial("tiny", Cell(IMAGES.normalized(), "full"), IMAGES, "repetition", 1)
    whole = run_trial(trial, dataset, "cpu", keep_on)
    run_trial(trial, dataset, "cpu", keep_on, Checkpoints(plan, {}, told.append, StopRequest()))
    head, _, state = plan.path.read_bytes().partition(b"\n")
    head = json.loads(head) | {"seconds": 1000.0}
    plan.path.write_bytes(json.dumps(head).encode() + b"\n" + state)
    result = run_trial(trial, dataset, "cpu", keep_on, Checkpoints(plan, {}, told.append, StopRequest()))
    assert told == [Resumed(11)]
    of_test = {name for name in whole.metrics if name.startswith("test/")}
    assert {name: result.metrics[name] for name in of_test} == {name: whole.metrics[name] for name in of_test}
    assert result.files["samples.png"] == whole.files["samples.png"]
    assert result.metrics["time/wall_seconds"] > 1000
    assert "time/update_cpu_ms" not in result.metrics  # Of no update of this process.


def test_checkpoints_are_written_at_intervals_and_not_more_often(tmp_path):
    settings, dataset = IMAGES.replace({"train.updates": 30}), tiny_dataset()
    writes = []
    for every in (0.0, 1e9):
        checkpoints = Checkpoints(CheckpointPlan(tmp_path / str(every), every), {}, print, StopRequest())
        save = checkpoints.save
        writes.append(0)

        def counting(state, save=save):
            writes[-1] += 1
            save(state)

        checkpoints.save = counting
        fit(make_problem(settings, dataset, 1, "cpu"), settings, keep_on, checkpoints)
    assert writes == [31, 1]


# The file


TRIAL = {"cell": "c", "stage": "repetition", "index": 1, "settings": "s", "data": "d"}


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "folder" / "x.checkpoint"
    path.parent.mkdir()
    write_checkpoint(path, TRIAL, Checkpoint(1.5, b"state" * 1000, ("one", "two")))
    return path


def test_a_checkpoint_comes_back_as_it_was_written(written):
    assert read_checkpoint(written, TRIAL) == Checkpoint(1.5, b"state" * 1000, ("one", "two"))
    assert read_checkpoint(written.with_name("none"), TRIAL) is None
    assert [path.name for path in written.parent.iterdir()] == [written.name]


def test_every_truncation_and_every_altered_byte_is_noticed(written):
    content = written.read_bytes()
    for length in (0, 1, 50, 100, len(content) // 2, len(content) - 1):
        written.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="truncated"):
            read_checkpoint(written, TRIAL)
    for place in range(content.index(b"\n") + 1, len(content), 97):
        altered = bytearray(content)
        altered[place] ^= 1
        written.write_bytes(altered)
        with pytest.raises(CheckpointError, match="altered"):
            read_checkpoint(written, TRIAL)


@pytest.mark.parametrize(
    ("part", "other"),
    [(b'"seconds": 1.5', b'"seconds": ' + b"9" * 400), (b'["one", "two"]', b'"one"'), (b'["one", "two"]', b"7")],
)
def test_a_head_of_other_kinds_of_values_is_no_checkpoint_s(written, part, other):
    content = written.read_bytes()
    written.write_bytes(content.replace(part, other, 1))
    assert written.read_bytes() != content
    with pytest.raises(CheckpointError, match=r"not a checkpoint|its code is no list"):
        read_checkpoint(written, TRIAL)


def test_a_checkpoint_of_another_trial_or_a_newer_format_is_refused(written):
    for key in TRIAL:
        with pytest.raises(CheckpointError, match=f"another trial: it differs in {key}$"):
            read_checkpoint(written, TRIAL | {key: 7})
    written.write_bytes(written.read_bytes().replace(b'"format": 1', b'"format": 2'))
    with pytest.raises(CheckpointError, match="format 2; expected: 1"):
        read_checkpoint(written, TRIAL)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:200],
        lambda content: b"",
        lambda content: content.replace(b'"cell": "c"', b'"cell": "x"'),
    ],
    ids=["truncated", "empty", "foreign"],
)
def test_a_trial_whose_checkpoint_is_bad_says_so_and_starts_from_its_beginning(damage, tmp_path):
    settings, dataset, plan, told = IMAGES, tiny_dataset(), CheckpointPlan(tmp_path / "a", 1e9), []
    whole, records, _ = in_one_go(settings, dataset)
    with pytest.raises(Stopped):
        fit(make_problem(settings, dataset, 1, "cpu"), settings, keep_on, StoppedAfter(plan, {"cell": "c"}, print, 5))
    plan.path.write_bytes(damage(plan.path.read_bytes()))
    problem, again = make_problem(settings, dataset, 1, "cpu"), []
    checkpoints = Checkpoints(plan, {"cell": "c"}, told.append, StopRequest())
    fit(problem, settings, lambda record: not again.append(record), checkpoints)
    (notice,) = told
    assert isinstance(notice, Notice)
    assert str(plan.path) in notice.words
    assert notice.words.endswith("starting over")
    assert_equal_bits(whole, problem)
    assert again == records


def test_a_checkpoint_of_another_model_is_refused_before_anything_is_changed(tmp_path):
    dataset, plan, told = tiny_dataset(), CheckpointPlan(tmp_path / "a", 1e9), []
    wide = IMAGES.replace({"model.hidden": 9})
    with pytest.raises(Stopped):
        fit(make_problem(wide, dataset, 1, "cpu"), wide, keep_on, StoppedAfter(plan, {}, print, 5))
    whole, _, _ = in_one_go(IMAGES, dataset)
    problem = make_problem(IMAGES, dataset, 1, "cpu")
    fit(problem, IMAGES, keep_on, Checkpoints(plan, {}, told.append, StopRequest()))
    assert "other shapes" in told[0].words
    assert_equal_bits(whole, problem)


CHOSEN = IMAGES.replace(
    {"train.averaging": 0.5, "train.keep": "best", "train.schedule": {"name": "StepLR", "step_size": 2}}
)


@pytest.fixture(scope="module")
def reached():
    """The state of a training after 5 of its 11 updates: one epoch of 3, and 2 of the second."""
    states, loop = [], Loop(make_problem(CHOSEN, tiny_dataset(), 1, "cpu"), CHOSEN, None)
    loop.checkpoints = SimpleNamespace(due=True, save=states.append)
    next(epochs := loop.epochs())
    next(epochs)
    return states[4]


def epoch_of(state, **changes):
    fields = dict(zip(("epoch", "update", "updates", "metrics"), state["records"][0], strict=True))
    state["records"][0] = tuple((fields | changes).values())


def more_metrics(state, **metrics):
    epoch_of(state, metrics=state["records"][0][3] | metrics)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.update(update=10**9), "at update 1,000,000,000 of 11"),
        (lambda state: state.update(update=-1), "at update -1 of 11"),
        (lambda state: state.update(update=5.0), "no whole numbers"),
        (lambda state: state.update(update=11), "at update 11, 2 after its 1 epochs, which end at 3"),
        (lambda state: state.update(count=5, update=8), "at update 8, 5 after its 1 epochs"),
        (lambda state: state.update(records=[]), "which end at 0"),
        (lambda state: epoch_of(state, epoch=2), "its epoch number 1 is epoch 2"),
        (lambda state: epoch_of(state, update=4), "to update 4 of 11; expected: to update 3 of 11"),
        (lambda state: epoch_of(state, updates=12), "to update 3 of 12"),
        (lambda state: state["records"].append(state["records"][0]), "its epoch number 2 is epoch 1"),
        (lambda state: more_metrics(state, **{"test/elbo": 1.0}), "not the metrics of an epoch: test/elbo"),
        (lambda state: state["records"][0][3].pop("valid/elbo"), "not the metrics of an epoch: valid/elbo"),
        (lambda state: more_metrics(state, **{"valid/elbo": float("nan")}), "no numbers"),
        (lambda state: state.update(seconds=float("inf")), "its seconds"),
        (lambda state: state.update(sums=None), "its sums"),
        (lambda state: state.update(norm=None), "gradient norm"),
        (lambda state: state.update(averages=None), "averages weights otherwise"),
        (lambda state: state.update(best=None), "keeps weights otherwise"),
        (lambda state: state.update(best=(1e9, state["best"][1])), "best epoch is none of its own"),
        (lambda state: state["parameters"][0].fill_(float("nan")), "no finite numbers"),
        (lambda state: state["optimiser"]["param_groups"][0].update(betas=(0.5, 0.5)), "other settings: betas"),
        (lambda state: state["optimiser"]["state"][0].update(step=torch.tensor(50.0)), "number of steps"),
        (lambda state: state["optimiser"]["state"][0].update(exp_avg=torch.zeros(7)), "exp_avg does not fit"),
        (lambda state: state["schedule"].update(step_size=3), "another schedule: step_size"),
        (lambda state: state["schedule"].update(last_epoch=0), "its schedule is at another update"),
        (lambda state: state.update(schedule=None), "follows another schedule"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_this_training_cannot_have_written_is_refused_and_changes_nothing(reached, change, words):
    loop = Loop(make_problem(CHOSEN, tiny_dataset(), 1, "cpu"), CHOSEN, None)
    before = loop.state()
    state = torch.load(io.BytesIO(reached), weights_only=True)
    change(state)
    file = io.BytesIO()
    torch.save(state, file)
    with pytest.raises(CheckpointError, match=re.escape(words)):
        loop.restore(file.getvalue())
    assert loop.state() == before
    assert loop.restore(reached) == 5


def test_what_other_code_has_trained_is_told_and_stays_known_to_later_checkpoints(tmp_path):
    plan, told = CheckpointPlan(tmp_path / "a", 1e9), []
    for code, earlier in (("one", ()), ("two", ("one",)), ("two", ("one",)), ("three", ("one", "two"))):
        checkpoints = Checkpoints(plan, {}, told.append, StopRequest(), code)
        checkpoints.load(lambda state: 5)
        assert [message.other_code for message in told] == ([earlier] if plan.path.exists() else [])
        told.clear()
        checkpoints.save(b"state")
    head, state = plan.path.read_bytes().split(b"\n", 1)
    older = {name: value for name, value in json.loads(head).items() if name != "code"}
    plan.path.write_bytes(json.dumps(older).encode() + b"\n" + state)
    Checkpoints(plan, {}, told.append, StopRequest(), "three").load(lambda state: 5)
    assert told == [Resumed(5, ("unknown",))]


def made_by(device, threads="1", torch="2.13.0"):
    return {"device": device, "threads": threads, "torch": torch}


def test_what_another_device_has_trained_is_told_and_stays_known_to_later_checkpoints(tmp_path):
    plan, told = CheckpointPlan(tmp_path / "a", 1e9), []
    for device, devices in (("cpu", ()), ("cpu", ()), ("cuda:0", ("cpu", "cuda:0")), ("cuda:0", ("cpu", "cuda:0"))):
        checkpoints = Checkpoints(plan, {}, told.append, StopRequest(), "one", made_by(device))
        checkpoints.load(lambda state: 5)
        expected = {"device": devices} if devices else {}
        assert [message.made_by for message in told] == ([expected] if plan.path.exists() else [])
        told.clear()
        checkpoints.save(b"state")
    checkpoints = Checkpoints(plan, {}, told.append, StopRequest(), "one", made_by("cpu", "2", "2.13.1"))
    checkpoints.load(lambda state: 5)
    several = {"device": ("cpu", "cuda:0", "cpu"), "threads": ("1", "2"), "torch": ("2.13.0", "2.13.1")}
    assert told == [Resumed(5, (), several)]


def test_of_a_checkpoint_from_before_the_devices_are_known_and_threads_are_not(tmp_path):
    plan, told = CheckpointPlan(tmp_path / "a", 1e9), []
    Checkpoints(plan, {}, told.append, StopRequest(), "one", made_by("cuda:0", "2")).save(b"state")
    head, state = plan.path.read_bytes().split(b"\n", 1)
    older = {name: value for name, value in json.loads(head).items() if name != "made_by"} | {"devices": ["cuda:0"]}
    plan.path.write_bytes(json.dumps(older).encode() + b"\n" + state)
    Checkpoints(plan, {}, told.append, StopRequest(), "one", made_by("cpu")).load(lambda state: 5)
    assert told == [Resumed(5, (), {"device": ("cuda:0", "cpu")})]


def no_room(descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before_and_the_training(tmp_path, monkeypatch):
    path = tmp_path / "x.checkpoint"
    write_checkpoint(path, TRIAL, Checkpoint(1.0, b"first"))
    told = []
    checkpoints = Checkpoints(CheckpointPlan(path, 0.0), TRIAL, told.append, StopRequest())
    with monkeypatch.context() as full:
        full.setattr("nfstudy.core.atomic.os.fsync", no_room)
        checkpoints.save(b"second")
        checkpoints.save(b"third")
    (notice,) = told
    assert f"{path}: cannot write a checkpoint" in notice.words
    assert read_checkpoint(path, TRIAL) == Checkpoint(1.0, b"first", ())
    assert list(tmp_path.iterdir()) == [path]
    checkpoints.save(b"fourth")
    assert read_checkpoint(path, TRIAL).state == b"fourth"


def test_done_trials_and_drafts_are_swept_and_others_left(tmp_path):
    done, open_ = ("k1", "repetition", 1, "s1"), ("k1", "repetition", 2, "s1")
    for identity in (done, open_):
        write_checkpoint(checkpoint_path(tmp_path, identity), TRIAL, Checkpoint(0.0, b""))
    (tmp_path / ".k1-abc.draft").mkdir()  # What a kill leaves of `draft_of`.
    for name in (LOCK, "draft"):
        (tmp_path / ".k1-abc.draft" / name).write_bytes(b"half")
    prune_checkpoints(tmp_path, {done, ("k2", "search", 0, "s2")})
    assert [path.name for path in tmp_path.iterdir()] == ["k1-repetition-2-s1.checkpoint"]
    prune_checkpoints(tmp_path / "none", {done})


def test_only_a_regular_file_of_a_sane_size_is_read_as_a_checkpoint(tmp_path):
    pipe, sparse = tmp_path / "a.checkpoint", tmp_path / "b.checkpoint"
    os.mkfifo(pipe)
    with sparse.open("wb") as file:
        file.truncate(40 * 10**9)
    for path, words in (pipe, "is a pipe, socket or device"), (sparse, r"has 40,000,000,000 bytes; expected: at most"):
        with pytest.raises(CheckpointError, match=words):
            read_checkpoint(path, TRIAL)


def test_a_folder_that_was_moved_under_a_training_is_not_made_anew(tmp_path):
    path, told = tmp_path / "mlruns" / "checkpoints" / "x.checkpoint", []
    checkpoints = Checkpoints(CheckpointPlan(path, 0.0), TRIAL, told.append, StopRequest())
    checkpoints.save(b"first")
    (tmp_path / "mlruns").rename(tmp_path / "elsewhere")
    checkpoints.save(b"second")
    assert "cannot write a checkpoint: No such file or directory" in told[0].words
    assert [each.name for each in tmp_path.iterdir()] == ["elsewhere"]


def test_what_a_checkpoint_belongs_to_tells_trials_apart():
    trial = Trial("tiny", Cell(IMAGES.normalized(), "full"), IMAGES, "repetition", 1)
    others = [
        dataclasses.replace(trial, index=2),
        dataclasses.replace(trial, stage="search"),
        dataclasses.replace(trial, settings=IMAGES.replace({"train.learning_rate": 0.02})),
        dataclasses.replace(trial, cell=Cell(IMAGES.normalized(), "other")),
    ]
    stamps = [json.dumps(checkpoint_key(each, "")) for each in (trial, *others)] + [
        json.dumps(checkpoint_key(trial, "data"))
    ]
    assert len(set(stamps)) == 6


def test_updates_are_counted_as_far_as_float32_can(monkeypatch):
    """torch counts them in float32, in which 2²⁴ + 1 is 2²⁴; here, for the sake of time, 3 + 1 is 3."""
    monkeypatch.setattr(restored, "MOST_STEPS", 3)
    loop = Loop(make_problem(CHOSEN, tiny_dataset(), 1, "cpu"), CHOSEN, None)
    for update, counted, fits in ((5, 3.0, True), (5, 5.0, True), (3, 3.0, True), (5, 2.0, False), (2, 3.0, False)):
        state = loop.optimiser.state_dict() | {"state": {0: {"step": torch.tensor(counted)}}}
        expected = SimpleNamespace(optimiser=loop.optimiser, schedule=None)
        with nullcontext() if fits else pytest.raises(CheckpointError, match="number of steps"):
            restored._check_optimiser(state, expected, update)
