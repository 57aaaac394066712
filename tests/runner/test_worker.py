"""What a trial raises is the trial's, whatever it is; that the coordinator has gone is not."""

import pytest

from nfstudy.inference.training.stop import Stopped, StopRequest
from nfstudy.runner import worker
from nfstudy.runner.worker import CoordinatorGoneError, Run
from nfstudy.runs.result import EpochRecord, TrialResult
from nfstudy.study.reader import parse_study

STUDY = parse_study("study: s\ntitle: T\ndata: {name: digits}\nexhibits: [summary]\n", "s.yaml")
(CELL,) = STUDY.under("default").cells
(TRIAL,) = STUDY.under("default").repetitions_of(CELL)


class Pipe:
    """A worker's end of a channel, whose other end may be closed."""

    def __init__(self, closed=None):
        self.closed, self.sent = closed, []

    def send(self, message):
        if self.closed:
            raise self.closed
        self.sent.append(message)

    def order(self):
        raise EOFError

    answer = order


def run(monkeypatch, channel, error=None, asks=False):
    """Run a trial that says one epoch and then raises."""

    def run_trial(trial, dataset, device, on_epoch, checkpoints):
        on_epoch(EpochRecord(1, 7, 10, {}))
        if error:
            raise error
        return TrialResult("finished")

    monkeypatch.setattr("nfstudy.inference.training.trial.run_trial", run_trial)
    datasets = worker._Datasets(lambda source: type("Dataset", (), {"fingerprint": "ab"}))
    made_by = {"device": "cpu"}
    return worker._run(worker._Line(channel), datasets, StopRequest(), Run(TRIAL, asks), "code", made_by)


@pytest.mark.parametrize(
    "error",
    [
        EOFError("Ran out of input"),
        BrokenPipeError(32, "Broken pipe"),
        ConnectionResetError("by peer"),
        OSError(5, "Input/output error"),
        SystemExit(0),
        KeyboardInterrupt(),
        GeneratorExit(),
        MemoryError(),
        ValueError("got http://alice:pw@host"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_a_trial_is_a_failed_result_with_its_traceback(monkeypatch, error):
    result = run(monkeypatch, Pipe(), error)
    assert (result.outcome, result.update, result.retry) == ("failed", 7, True)
    assert result.reason.startswith(type(error).__name__)
    assert b"in run_trial" in result.files["traceback.txt"]
    assert "alice" not in result.reason + result.files["traceback.txt"].decode().replace("ValueError(", "")


def test_a_stop_passes_through_a_trial(monkeypatch):
    with pytest.raises(Stopped):
        run(monkeypatch, Pipe(), Stopped())


@pytest.mark.parametrize("closed", [BrokenPipeError(), EOFError(), ConnectionResetError()], ids=repr)
def test_a_coordinator_that_has_gone_ends_a_trial_and_is_no_result(monkeypatch, closed):
    with pytest.raises(CoordinatorGoneError):
        run(monkeypatch, Pipe(closed))
    with pytest.raises(CoordinatorGoneError):
        run(monkeypatch, Pipe(), asks=True)
