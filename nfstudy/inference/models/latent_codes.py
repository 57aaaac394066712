"""Codes of a latent z on bins: of a Gaussian posterior, and of a flow by local bits-back coding (Ho et al. 2019)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from nfstudy.flows.base import Flow
from nfstudy.inference.models.ans import CodingError, Masses, Stack

LOCAL_DEVIATION = 2.0**-7
"""σ of local bits-back coding, in deviations of q0: so near, flows are all but linear, and it is 128 bins of ε."""
LEAST_DEVIATION = 1e-9
"""Of z given ε along one axis, where a flow is flat."""


class Bins(ABC):
    """Intervals of the real line, each with a code 0 ... n − 1 and a point that stands for it."""

    size: int
    """n."""

    @abstractmethod
    def edge(self, code: int) -> float:
        """Return where a bin begins."""

    @abstractmethod
    def point(self, code: int) -> float:
        """Return the point within a bin."""

    def gaussian(self, mean: float, deviation: float) -> Masses:
        """Return the masses of the bins under N(mean, deviation²)."""
        scale = deviation * math.sqrt(2)
        return Masses(self.size, lambda code: 0.5 * math.erfc((mean - self.edge(code)) / scale))


class EqualMass(Bins):
    """2^bits bins of equal mass under N(0, 1), and their medians."""

    def __init__(self, bits: int) -> None:
        self.size = 1 << bits

    @cached_property
    def _edges(self) -> list[float]:
        return _quantiles(np.arange(self.size + 1) / self.size)

    @cached_property
    def _points(self) -> list[float]:
        return _quantiles((np.arange(self.size) + 0.5) / self.size)

    def edge(self, code: int) -> float:
        """Return the quantile of code / n."""
        return self._edges[code]

    def point(self, code: int) -> float:
        """Return the quantile of (code + ½) / n."""
        return self._points[code]


def _quantiles(masses: np.ndarray) -> list[float]:
    from scipy.special import ndtri  # See `diagnostics`.

    quantiles: list[float] = ndtri(masses).tolist()
    return quantiles


class EqualWidth(Bins):
    """2^bits bins of equal width from −8 to 8; the outermost hold what lies beyond."""

    def __init__(self, bits: int) -> None:
        self.size = 1 << bits
        self.width = 16 / self.size

    def edge(self, code: int) -> float:
        """Return code · width − 8."""
        return code * self.width - 8

    def point(self, code: int) -> float:
        """Return the middle."""
        return (code + 0.5) * self.width - 8


PRIOR_BINS = EqualMass(16)
"""Of z at K = 0: each code takes 16 bits under the prior."""
LATENT_BINS = EqualWidth(20)
"""Of z under a flow, 2^−16 wide."""
NOISE_BINS = EqualWidth(18)
"""Of ε, 2^−14 wide."""


class LatentCode(ABC):
    """q(z|x) of one image on bins of z."""

    @abstractmethod
    def pop(self, stack: Stack) -> list[int]:
        """Draw z by popping, and return its D codes."""

    @abstractmethod
    def push(self, stack: Stack, codes: Sequence[int]) -> None:
        """Undo `pop`."""

    @abstractmethod
    def log_density(self, codes: Sequence[int]) -> float:
        """Return ln q(z|x) in nats at the bins' points."""


class GaussianCode(LatentCode):
    """q(z|x) = N(mean, diag(deviation²)), on `PRIOR_BINS`.

    Arguments:
        mean, deviation: (D,).
        masks: D numbers below 2^P; see `Stack.pop_symbol`.
    """

    def __init__(self, mean: np.ndarray, deviation: np.ndarray, masks: Sequence[int]) -> None:
        self.mean, self.deviation, self.masks = mean, deviation, masks
        each = zip(mean.tolist(), deviation.tolist(), strict=True)
        self.masses = [PRIOR_BINS.gaussian(*parameters) for parameters in each]

    def pop(self, stack: Stack) -> list[int]:
        """Pop each variable on its own."""
        return pop_all(stack, self.masses, self.masks)

    def push(self, stack: Stack, codes: Sequence[int]) -> None:
        """Push them, the last one first."""
        push_all(stack, codes, self.masses, self.masks)

    def log_density(self, codes: Sequence[int]) -> float:
        """Return Σ ln N(z_d|mean_d, deviation_d²)."""
        noise = (points_of(PRIOR_BINS, codes) - self.mean) / self.deviation
        return log_normal(noise) - float(np.log(self.deviation).sum())


class FlowCode(LatentCode):
    """q(z|x) of a flow z = g(ε), on `LATENT_BINS`, by local bits-back coding.

    Arguments:
        mean, deviation: of q0(z_0|x), (D,).
        flow: invertible, in float64.
        parameters: of the flow for the image, each (1, ...), in float64.
        masks: 2D, as of `GaussianCode`.
    """

    def __init__(
        self,
        mean: np.ndarray,
        deviation: np.ndarray,
        flow: Flow,
        parameters: tuple[Tensor, ...],
        masks: Sequence[int],
    ) -> None:
        self.mean, self.deviation, self.flow, self.parameters = mean, deviation, flow, parameters
        self.masks, self.further_masks = masks[: len(mean)], masks[len(mean) :]
        self.base = [NOISE_BINS.gaussian(0.0, 1.0)] * len(mean)

    def pop(self, stack: Stack) -> list[int]:
        """Pop ε and z, and push ε given z."""
        noise = pop_all(stack, self.base, self.masks)
        local = _Local(*self._forward(noise))
        codes = []
        for variable in range(len(noise)):
            codes.append(stack.pop_symbol(local.masses(variable), self.further_masks[variable]))
            local.set(variable, codes[-1])
        push_all(stack, noise, self._noise_given(codes))
        return codes

    def push(self, stack: Stack, codes: Sequence[int]) -> None:
        """Pop ε given z, and push z and ε."""
        noise = pop_all(stack, self._noise_given(codes))
        local = _Local(*self._forward(noise))
        masses = []
        for variable, code in enumerate(codes):
            masses.append(local.masses(variable))
            local.set(variable, code)
        push_all(stack, codes, masses, self.further_masks)
        push_all(stack, noise, self.base, self.masks)

    def log_density(self, codes: Sequence[int]) -> float:
        """Return ln N(ε|0, I) − Σ ln deviation − Σ_k ln|det ∂f_k/∂z_{k−1}| at ε = g⁻¹(z), eq. (7)."""
        noise = self._backward(codes)
        _, log_det = self.flow(self._start(noise), self.parameters)
        return log_normal(noise) - float(np.log(self.deviation).sum()) - log_det.item()

    def _noise_given(self, codes: Sequence[int]) -> list[Masses]:
        return [NOISE_BINS.gaussian(mean, LOCAL_DEVIATION) for mean in self._backward(codes).tolist()]

    def _start(self, noise: np.ndarray) -> Tensor:
        return torch.from_numpy(self.mean + self.deviation * noise)[None]

    def _forward(self, noise: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return g(ε) (D,) and J (D, D), row d the gradient of g_d."""
        z_0 = self._start(points_of(NOISE_BINS, noise))
        latent = len(noise)
        with torch.enable_grad():
            # A copy for each output: the diagonal's gradient by the d-th copy is the d-th row.
            copies = z_0.expand(latent, 1, latent).clone().requires_grad_()
            ends, _ = self.flow(copies, self.parameters)
            (rows,) = torch.autograd.grad(ends[:, 0].diagonal().sum(), copies)
        return ends[0, 0].detach().numpy(), rows[:, 0].numpy() * self.deviation

    def _backward(self, codes: Sequence[int]) -> np.ndarray:
        """Return g⁻¹(z) (D,)."""
        z = torch.from_numpy(points_of(LATENT_BINS, codes))[None]
        z_0 = self.flow.inverse(z, self.parameters)[0].numpy()
        noise: np.ndarray = (z_0 - self.mean) / self.deviation
        if not np.isfinite(noise).all():
            raise CodingError(f"the flow's inverse of {z.tolist()} is {z_0}; expected: finite numbers")
        return noise


class _Local:
    """N(g, σ² J Jᵀ) of z, one variable after another: J Jᵀ = L Lᵀ with L = Rᵀ, Jᵀ = Q R."""

    def __init__(self, centre: np.ndarray, jacobian: np.ndarray) -> None:
        if not np.isfinite(jacobian).all() or not np.isfinite(centre).all():
            raise CodingError("the flow's values or Jacobian are not finite; expected: finite numbers")
        _, upper = np.linalg.qr(jacobian.T)
        factor = LOCAL_DEVIATION * upper.T
        self.factor = factor * np.where(factor.diagonal() < 0, -1, 1)
        self.centre, self.steps = centre, np.zeros(len(centre))

    def masses(self, variable: int) -> Masses:
        """Return those of a variable given the ones before it."""
        return LATENT_BINS.gaussian(self._mean(variable), self._deviation(variable))

    def set(self, variable: int, code: int) -> None:
        """Take in the bin of a variable."""
        self.steps[variable] = (LATENT_BINS.point(code) - self._mean(variable)) / self._deviation(variable)

    def _mean(self, variable: int) -> float:
        return float(self.centre[variable] + self.factor[variable, :variable] @ self.steps[:variable])

    def _deviation(self, variable: int) -> float:
        return max(float(self.factor[variable, variable]), LEAST_DEVIATION)


def pop_all(stack: Stack, masses: Sequence[Masses], masks: Sequence[int] | None = None) -> list[int]:
    """Pop a code of each of some masses, the first one first; see `Stack.pop_symbol` for masks."""
    pairs = zip(masses, masks or [0] * len(masses), strict=True)
    return [stack.pop_symbol(each, mask) for each, mask in pairs]


def push_all(stack: Stack, codes: Sequence[int], masses: Sequence[Masses], masks: Sequence[int] | None = None) -> None:
    """Undo `pop_all`: the last one first."""
    for code, each, mask in reversed([*zip(codes, masses, masks or [0] * len(masses), strict=True)]):
        stack.push_symbol(code, each, mask)


def points_of(bins: Bins, codes: Sequence[int]) -> np.ndarray:
    """Return the points of the bins of some codes."""
    return np.array([bins.point(code) for code in codes])


def log_normal(noise: np.ndarray) -> float:
    """Return ln N(noise|0, I)."""
    return float(-0.5 * (np.square(noise) + math.log(2 * math.pi)).sum())
