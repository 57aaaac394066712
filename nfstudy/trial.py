"""`run_trial`: one trial from data to result; it knows of no search and no store."""

from __future__ import annotations

import dataclasses
import io
import math
import time

import numpy as np
import torch

from nfstudy.cells import Trial
from nfstudy.data import Dataset
from nfstudy.dlgm import DLGM
from nfstudy.evaluation import evaluate_likelihood
from nfstudy.outcomes import OnEpoch, TrialResult
from nfstudy.pictures import image_grid
from nfstudy.seeds import derive_seed
from nfstudy.training import TrainingEnd, fit

SAMPLES_GRID = 8
"""Rows and columns of `samples.png`."""
RECONSTRUCTIONS = 8
"""Images in `reconstructions.png`."""


def run_trial(trial: Trial, dataset: Dataset, device: str, on_epoch: OnEpoch) -> TrialResult:
    """Train a model, and evaluate it on the test set if the trial is a finished repetition.

    A trial of a search is never shown the test set: it is chosen by the validation bound, which `on_epoch` is told.

    Arguments:
        trial: what to run; `data.train_images` of its settings takes the first of the training images.
        dataset: the images its settings name, whole.
        device: where tensors live, such as `cpu` or `cuda:0`.
        on_epoch: told of every epoch; False ends the training there.

    Returns:
        The outcome with its time/* metrics; for a finished repetition the test/* metrics and the files as well.
    """
    started = time.perf_counter()
    settings = trial.settings
    dataset = dataclasses.replace(dataset, train=dataset.train[: settings.data.train_images])
    model = DLGM(dataset.train.shape[1], settings.model, settings.flow)
    model.initialise(settings.seed, trial.repetition)
    model.to(device)
    end = fit(model, dataset, settings, trial.repetition, device, on_epoch)
    metrics = {"time/updates_per_second": end.update / end.seconds} if end.outcome != "diverged" else {}
    files = {}
    if trial.stage == "repetition" and end.outcome == "finished":
        evaluation_started = time.perf_counter()
        test = _test_metrics(model, trial, dataset)
        metrics["time/evaluation_seconds"] = time.perf_counter() - evaluation_started
        not_finite = [f"{name} is {value}" for name, value in test.items() if not math.isfinite(value)]
        if not_finite:
            end = TrainingEnd("diverged", end.update, not_finite[0], end.seconds)
        else:
            metrics |= test
            files = _files(model, dataset, settings.seed)
    metrics["time/wall_seconds"] = time.perf_counter() - started
    return TrialResult(end.outcome, end.update, end.reason, metrics, files)


def _test_metrics(model: DLGM, trial: Trial, dataset: Dataset) -> dict[str, float]:
    evaluation = trial.settings.evaluation
    seed = derive_seed(trial.settings.seed, "evaluation", "test")
    estimates = evaluate_likelihood(model, dataset.test[: evaluation.test_images], evaluation.samples, seed)
    return {f"test/{name}": value for name, value in estimates._asdict().items()}


def _files(model: DLGM, dataset: Dataset, seed: int) -> dict[str, bytes]:
    checkpoint = io.BytesIO()
    torch.save(model.state_dict(), checkpoint)
    return {
        "checkpoint.pt": checkpoint.getvalue(),
        "samples.png": image_grid(_samples(model, dataset, seed), columns=SAMPLES_GRID),
        "reconstructions.png": image_grid(_reconstructions(model, dataset, seed), columns=RECONSTRUCTIONS),
    }


@torch.inference_mode()
def _samples(model: DLGM, dataset: Dataset, seed: int) -> np.ndarray:
    """Return the pixels' probabilities at draws from the prior, (64, height, width)."""
    z = _noise(model, SAMPLES_GRID**2, derive_seed(seed, "pictures", "samples"))
    return model.decode(z).cpu().numpy().reshape(-1, *dataset.shape)


@torch.inference_mode()
def _reconstructions(model: DLGM, dataset: Dataset, seed: int) -> np.ndarray:
    """Return the first test images, then the pixels' probabilities at one posterior sample of each."""
    noise = _noise(model, RECONSTRUCTIONS, derive_seed(seed, "pictures", "reconstructions"))
    images = dataset.test[:RECONSTRUCTIONS].astype(np.float32)
    z_K, _, _ = model.sample(model.infer(torch.tensor(images, device=noise.device)), noise)
    return np.concatenate([images, model.decode(z_K).cpu().numpy()]).reshape(-1, *dataset.shape)


def _noise(model: DLGM, count: int, seed: int) -> torch.Tensor:
    weight = model.mean.weight
    return torch.randn(count, len(weight), generator=torch.Generator().manual_seed(seed)).to(weight.device)
