"""A trained run's model as a value: drawn from, and asked for posteriors and likelihoods."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nfstudy.core.errors import UserError
from nfstudy.core.seeds import derive_seed
from nfstudy.inference.likelihoods import load_likelihood
from nfstudy.inference.models.dlgm import DLGM
from nfstudy.inference.models.evaluation import log_likelihoods
from nfstudy.inference.problems.plane import PlaneFlow
from nfstudy.study.sections import DataSpec
from nfstudy.study.settings import Settings


class PosteriorDraws(NamedTuple):
    """Draws from q_K(z|x) of each of B examples."""

    z: Tensor
    """z_K, (S, B, D)."""
    log_q: Tensor
    """ln q_K(z_K|x) in nats, (S, B). Of `hamiltonian` and `langevin` flows, whose q_K is an integral, it is ln q0 − c,
    with which importance weights have the mean p(x) as well."""


class ImageModel:
    """A trained deep latent Gaussian model p(x|z) p(z) with its amortised posterior q_K(z|x).

    Attributes:
        run_id: of the run that trained it.
        settings: all of the run's.
        module: the torch module, an `inference.models.dlgm.DLGM`, in evaluation mode on the CPU.
        pixels: N, how many numbers an example has.
        latent: D, how many latent variables. With several stochastic layers, z is the noise ξ that they are made from,
            of all layers side by side, with p(ξ) = N(0, I); `module.layers_of` makes z_1, ..., z_L from it.
    """

    def __init__(self, run_id: str, settings: Settings, module: DLGM, pixels: int) -> None:
        self.run_id, self.settings, self.module = run_id, settings, module.eval()
        self.pixels, self.latent = pixels, module.latent

    @torch.inference_mode()
    def sample(self, n: int, seed: int = 0) -> Tensor:
        """Return the expected pixels of n examples, (n, N), at z ~ N(0, I).

        They are from 0 to 1; of real data they are x, and of n whole levels from 0 to n − 1.
        """
        _require(n, "n")
        return self.module.decode(torch.randn(n, self.latent, generator=torch.Generator().manual_seed(seed)))

    @torch.inference_mode()
    def posterior(self, x: Tensor | np.ndarray, samples: int = 1, seed: int = 0) -> PosteriorDraws:
        """Return S draws from the posterior q_K(z|x) of each example, eqs. (6), (7).

        Arguments:
            x: B examples as the model is trained on them (bits, numbers within (0, 1), real numbers, or whole levels),
                (B, N) or (B, height, width).
            samples: S.
            seed: of the draws.

        Raises:
            UserError: x is of another size, not finite, or has numbers that the model has no probability of.
        """
        _require(samples, "samples")
        rows = torch.tensor(self._rows(x))
        shape = (samples, len(rows), self.module.noise_size)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        z_K, log_q0, log_det = self.module.sample(self.module.infer(rows), noise)
        return PosteriorDraws(z_K, log_q0 - log_det)

    def log_likelihood(self, x: Tensor | np.ndarray, samples: int | None = None, seed: int | None = None) -> Tensor:
        """Return importance-sampled estimates of ln p(x), (B,) in nats and float64; in expectation lower bounds.

        ln p(x) ≈ ln (1/S) Σ_s p(x|z_s) p(z_s) / q_K(z_s|x), z_s ~ q_K(·|x) (Rezende et al. 2014, Appendix E). With the
        defaults, −the mean over the test set is the run's logged `test/nll`.

        Arguments:
            x: as for `posterior`.
            samples: S; None for as many as the run was evaluated with (`evaluation.samples`).
            seed: of the draws; None for the run's own.

        Raises:
            UserError: as `posterior` does.
        """
        count = self.settings.evaluation.samples if samples is None else samples
        _require(count, "samples")
        own = derive_seed(self.settings.seed, "evaluation", "test") if seed is None else seed
        return log_likelihoods(self.module, self._rows(x), count, own)

    def _rows(self, x: Tensor | np.ndarray) -> np.ndarray:
        values = np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x, dtype=np.float32)
        if values.ndim < 2 or int(np.prod(values.shape[1:])) != self.pixels:
            raise UserError(f"x of shape {values.shape}: expected: (B, {self.pixels}), one example a row")
        if not np.isfinite(values).all():
            raise UserError("x: got numbers that are not finite; expected: finite ones")
        assert self.settings.data is not None
        values = values.reshape(len(values), self.pixels)
        bad, allowed = _impossible(values, self.settings.data)
        if bad.any():
            row, column = np.unravel_index(bad.argmax(), bad.shape)
            got = f"x: row {row}: got {values[row, column]:.9g}"  # So many digits tell single precision from 1.
            raise UserError(f"{got}; expected: {allowed} (rows count from 0)")
        return values


class PlaneModel:
    """A trained flow on the plane: q_K, fitted to p(z) ∝ exp(−U(z)).

    Attributes:
        run_id: of the run that trained it.
        settings: all of the run's.
        module: the torch module, an `inference.problems.plane.PlaneFlow`, on the CPU.
    """

    def __init__(self, run_id: str, settings: Settings, module: PlaneFlow) -> None:
        self.run_id, self.settings, self.module = run_id, settings, module.eval()

    @torch.inference_mode()
    def sample(self, n: int, seed: int = 0) -> Tensor:
        """Return n draws from q_K, (n, 2)."""
        _require(n, "n")
        return self.module.sample(torch.randn(n, 2, generator=torch.Generator().manual_seed(seed)))[0]

    def log_density(self, z: Tensor | np.ndarray) -> Tensor:
        """Return ln q_K(z) in nats, (...), at points z, (..., 2), by the inverse of the flow; in float32."""
        points = torch.as_tensor(z, dtype=torch.float32)
        if points.dim() == 0 or points.shape[-1] != 2:
            raise UserError(f"z of shape {tuple(points.shape)}: expected: (..., 2)")
        return self.module.log_density(points)

    def posterior(self, x: object, samples: int = 1, seed: int = 0) -> PosteriorDraws:
        """Raise UserError: there are no examples on the plane."""
        raise self._no_examples("posterior")

    def log_likelihood(self, x: object, samples: int | None = None, seed: int | None = None) -> Tensor:
        """Raise UserError: there are no examples on the plane."""
        raise self._no_examples("log_likelihood")

    def _no_examples(self, asked: str) -> UserError:
        return UserError(
            f"run {self.run_id}: {asked}: its flow is fitted to an energy, without examples x; expected: sample(n) or "
            "log_density(z)"
        )


def trained_model(run_id: str, settings: Settings, weights: bytes) -> ImageModel | PlaneModel:
    """Return the model whose weights a run saved.

    Arguments:
        run_id: the run's, for messages.
        settings: the run's.
        weights: its file `checkpoint.pt`.

    Raises:
        UserError: the weights cannot be read, or are not those of such a model.
    """
    try:
        state = torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(f"run {run_id}: checkpoint.pt: cannot be read: {_first_line(error)}") from None
    if not isinstance(state, Mapping):
        raise UserError(f"run {run_id}: checkpoint.pt: got a {type(state).__name__}; expected: a torch state dict")
    if settings.problem == "energy":
        plane = PlaneFlow(settings.flow, settings.q0)
        _take_over(run_id, plane, state)
        return PlaneModel(run_id, settings, plane)
    assert settings.data is not None
    first = state.get("encoder.0.pieces.weight")
    if not isinstance(first, Tensor) or first.dim() != 2:
        raise UserError(f"run {run_id}: checkpoint.pt: got no encoder.0.pieces.weight; expected: weights of a DLGM")
    pixels = first.shape[1]
    likelihood = load_likelihood(settings.data, settings.model.likelihood)
    module = DLGM(pixels, settings.model, settings.flow, likelihood)
    _take_over(run_id, module, state)
    return ImageModel(run_id, settings, module, pixels)


def _impossible(x: np.ndarray, data: DataSpec) -> tuple[np.ndarray, str]:
    """Say of each number whether a model of such data has no probability of it, and what it has one of."""
    count = data.categories
    if count:
        return (x != np.floor(x)) | (x < 0) | (x >= count), f"levels, whole ones from 0 to {count - 1}"
    if data.values in ("bits", "levels"):
        return (x != 0) & (x != 1), "0 or 1, as the model is of bits"
    if data.values == "patches":
        return (x <= 0) | (x >= 1), "numbers within 0 and 1"
    return np.zeros(x.shape, dtype=bool), ""  # Real numbers, and kinds of somebody's own: any that are finite.


def _take_over(run_id: str, module: nn.Module, state: Mapping[str, Any]) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"run {run_id}: checkpoint.pt: is of another model: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _require(count: int, name: str) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UserError(f"{name}: got {count!r}; expected: a whole number from 1")
