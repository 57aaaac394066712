"""`run_trial`: one trial from data to result; it knows of no search and no store."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace

from nfstudy.data import Dataset
from nfstudy.films import film_files
from nfstudy.films.fits import FITS, write_fits
from nfstudy.inference.models.diagnostics import gradient_moments
from nfstudy.inference.problems import make_problem
from nfstudy.inference.problems.base import Problem, variational
from nfstudy.inference.problems.metrics import compute_metric
from nfstudy.inference.training.checkpoints import Checkpoints
from nfstudy.inference.training.fit import fit
from nfstudy.inference.training.memory import peak_memory, reset_peak_memory
from nfstudy.inference.training.variances import losses
from nfstudy.runs.result import OnEpoch, TrialResult
from nfstudy.study.cells import Trial

GRADIENTS = 16
"""Draws of the gradient that its signal-to-noise ratio is estimated from."""


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
        repetition the test/* metrics and the files too, and the metrics from outside that the trial names.
    """
    started = time.perf_counter()
    reset_peak_memory(device)
    problem = make_problem(trial.settings, dataset, trial.repetition, device)
    end = TrialResult("finished")
    if problem.parameters():
        end = fit(problem, trial.settings, on_epoch, checkpoints, trial.gradients)
    metrics = dict(end.metrics)
    if end.seconds and end.outcome != "diverged":
        metrics["time/updates_per_second"] = end.update / end.seconds
    if end.outcome == "finished":
        # Nothing rests on it: one that is not finite is left out.
        found = {f"valid/{name}": value for name, value in problem.held_out().items()}
        metrics |= {name: value for name, value in found.items() if math.isfinite(value)}
    curves: Mapping[str, Mapping[int, float]] = {}
    files, reason = {}, ""
    if trial.stage != "search" and end.outcome == "finished":
        evaluation_started = time.perf_counter()
        test = problem.test()
        not_finite = [f"test/{name} is {value}" for name, value in test.items() if not math.isfinite(value)]
        if not_finite:
            end = replace(end, outcome="diverged", reason=not_finite[0])
        else:
            metrics |= {f"test/{name}": value for name, value in test.items()}
            diagnosis = problem.diagnose()
            metrics |= {**diagnosis.metrics, "train/parameters": sum(weight.numel() for weight in problem.parameters())}
            if problem.parameters():
                # At β = 1 all annealings are one; so much is said of the estimator that it was trained by.
                plain = trial.settings.objective.model_copy(update={"annealing": "none"})
                snr = gradient_moments(losses(problem, plain, GRADIENTS), variational(problem.named_parameters())).snr
                metrics |= {} if math.isnan(snr) else {"train/gradient_snr": snr}
            curves, files = diagnosis.curves, {**problem.files(), **diagnosis.files}
            if trial.film and trial.settings.flow.length:
                files |= film_files(problem.film(), trial.cell.label)
            if trial.fits and (fits := problem.fits()):
                files |= {FITS: write_fits(fits)}
            further, reason, tracebacks = _further_metrics(trial.metrics, problem)
            metrics, files = metrics | further, files | tracebacks
        metrics["time/evaluation_seconds"] = time.perf_counter() - evaluation_started
    if memory := peak_memory(device):
        metrics["time/peak_memory"] = memory
    earlier = checkpoints.earlier if checkpoints else 0.0
    metrics["time/wall_seconds"] = earlier + time.perf_counter() - started
    return replace(end, reason=end.reason or reason, metrics=metrics, curves=curves, files=files)


def _further_metrics(names: Sequence[str], problem: Problem) -> tuple[dict[str, float], str, dict[str, bytes]]:
    """Return the metrics from outside, what became of those that failed, and their tracebacks as files.

    A training that has ended well is not lost for one of them: it is then without that number.
    """
    found: dict[str, float] = {}
    reasons, files = [], {}
    for name in names:
        try:
            found[name] = compute_metric(name, problem)
        except (Exception, SystemExit) as error:  # Somebody else's code: it may raise anything.
            reasons.append(f"without {name}: {type(error).__name__}: {error}")
            files[f"traceback-{name.partition('/')[2]}.txt"] = traceback.format_exc().encode()
    return found, "; ".join(reasons), files
