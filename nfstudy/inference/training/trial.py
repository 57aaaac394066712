"""`run_trial`: one trial from data to result; it knows of no search and no store."""

from __future__ import annotations

import math
import time

from nfstudy.data import Dataset
from nfstudy.inference.problems import make_problem
from nfstudy.inference.training.checkpoints import Checkpoints
from nfstudy.inference.training.loop import TrainingEnd, fit
from nfstudy.runs.result import OnEpoch, TrialResult
from nfstudy.study.cells import Trial


def run_trial(
    trial: Trial, dataset: Dataset | None, device: str, on_epoch: OnEpoch, checkpoints: Checkpoints | None = None
) -> TrialResult:
    """Train a problem, and evaluate it on the test set if the trial is a finished repetition.

    A trial of a search is never shown the test set: it is chosen by the validation bound, which `on_epoch` is told.

    Arguments:
        trial: what to run.
        dataset: the images its settings name, whole; None where they name none.
        device: where tensors live, such as `cpu` or `cuda:0`.
        on_epoch: told of every epoch; False ends the training there.
        checkpoints: where its training goes on from and saves itself; its evaluation is done in one go.

    Returns:
        The outcome with its time/* metrics, which count the attempts that led to a checkpoint as well; for a finished
        repetition the test/* metrics and the files too.
    """
    started = time.perf_counter()
    problem = make_problem(trial.settings, dataset, trial.repetition, device)
    end = TrainingEnd("finished", 0, "", 0.0)
    if problem.parameters():
        end = fit(problem, trial.settings, on_epoch, checkpoints)
    metrics = {"time/updates_per_second": end.update / end.seconds} if end.seconds and end.outcome != "diverged" else {}
    files = {}
    if trial.stage != "search" and end.outcome == "finished":
        evaluation_started = time.perf_counter()
        test = problem.test()
        metrics["time/evaluation_seconds"] = time.perf_counter() - evaluation_started
        not_finite = [f"test/{name} is {value}" for name, value in test.items() if not math.isfinite(value)]
        if not_finite:
            end = TrainingEnd("diverged", end.update, not_finite[0], end.seconds)
        else:
            metrics |= {f"test/{name}": value for name, value in test.items()}
            files = problem.files()
    earlier = checkpoints.earlier if checkpoints else 0.0
    metrics["time/wall_seconds"] = earlier + time.perf_counter() - started
    return TrialResult(end.outcome, end.update, end.reason, metrics, files)
