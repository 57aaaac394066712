"""Neural spline flow: couplings by monotone rational-quadratic splines with linear tails (Durkan et al. 2019)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from nfstudy.flows.base import softplus
from nfstudy.flows.coupling import (
    Layers,
    MixedCouplingFlow,
    coupling_networks,
    network_output,
    require_halves,
    split_halves,
)
from nfstudy.flows.spline.kernel import AT_ONE, LEAST, LOOPS


def spline_flow(z: Tensor, bound: float, mixing: Tensor, *networks: Any) -> tuple[Tensor, Tensor]:
    """Apply K couplings f(z) = (z_A, g(z_B)), each z_i of z_B by a spline g_i of its own, of which z_A decides.

    (z_A, z_B) is Pz split after the first d, P a permutation; `rational_quadratic` says what a spline is.

    Arguments:
        z: z_0, (..., B, D), D ≥ 2; leading axes are samples, over which the parameters are broadcast without copies.
        bound: R, splines act within ±R.
        mixing: permutations as whole-number indices π, (K, D): (Pz)_i = z_π(i).
        networks: arguments of `coupling_networks`, with W_out (K, (D − d) (3 J − 1), H) for J bins.

    Returns:
        z_K, (..., B, D), and Σ_k ln|det ∂f_k/∂z_{k−1}| = Σ ln g′ nats, (..., B).

    Raises:
        ValueError: D is less than 2, which cannot be split.
    """
    require_halves(z.shape[-1])
    log_det = z.new_zeros(z.shape[:-1])
    for order, network in zip(mixing, coupling_networks(*networks), strict=True):
        z_a, z_b = split_halves(z.index_select(-1, order), network)
        z_b, log_slope = rational_quadratic(z_b, _numbers(z_a, z_b, network), bound)
        z = torch.cat([z_a, z_b], dim=-1)
        log_det = log_det + log_slope.sum(-1)
    return z, log_det


@torch.no_grad()
def invert_spline_flow(z: Tensor, bound: float, mixing: Tensor, *networks: Any) -> Tensor:
    """Return z_0 of given z_K under `spline_flow`, whose arguments these are; without gradients."""
    for order, network in reversed([*zip(mixing, coupling_networks(*networks), strict=True)]):
        z_a, z_b = split_halves(z, network)
        z_b = invert_rational_quadratic(z_b, _numbers(z_a, z_b, network), bound)
        z = torch.cat([z_a, z_b], dim=-1).index_select(-1, order.argsort())
    return z


def rational_quadratic(x: Tensor, numbers: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Return g(x), (...), and ln g′(x), (...), of monotone splines (Durkan et al. 2019, eqs. 4, 5).

    Between neighbouring knots (x_j, y_j), with s = (y_{j+1} − y_j)/(x_{j+1} − x_j), derivatives d_j and d_{j+1} at the
    two and ξ = (x − x_j)/(x_{j+1} − x_j),

        g = y_j + (y_{j+1} − y_j) [s ξ² + d_j ξ (1 − ξ)] / q,          q = s + (d_{j+1} + d_j − 2 s) ξ (1 − ξ),
        g′ = s² [d_{j+1} ξ² + 2 s ξ (1 − ξ) + d_j (1 − ξ)²] / q².

    Beyond ±R it is g(x) = x, and the derivatives at the outer knots are 1.

    Arguments:
        x: (...).
        numbers: what a network says of J bins, 0 for the identity, (..., 3 J − 1): logits of widths and of heights,
            and derivatives at the J − 1 inner knots before a softplus.
        bound: R.
    """
    knots = _knots(numbers, bound)
    inside = x.abs() < bound
    bin_ = _bin_of(torch.where(inside, x, 0), knots.x, knots)
    rise, log_slope = _within((torch.where(inside, x, 0) - bin_.x) / bin_.width, bin_)
    return torch.where(inside, bin_.y + rise, x), torch.where(inside, log_slope, 0)


def invert_rational_quadratic(y: Tensor, numbers: Tensor, bound: float) -> Tensor:
    """Return x with g(x) = y, (...), under `rational_quadratic`, whose arguments these are (Durkan et al., eqs. 6-8).

    ξ is the root 2c/(−b − √(b² − 4ac)) of a quadratic. Where its discriminant cancels, half of the digits are lost: two
    Newton steps give back what rounding leaves of y.
    """
    knots = _knots(numbers, bound)
    inside = y.abs() < bound
    bin_ = _bin_of(torch.where(inside, y, 0), knots.y, knots)
    rise, slope = torch.where(inside, y, 0) - bin_.y, bin_.height / bin_.width
    bend = bin_.right + bin_.left - 2 * slope
    a = bin_.height * (slope - bin_.left) + rise * bend
    b = bin_.height * bin_.left - rise * bend
    c = -slope * rise
    xi = 2 * c / (-b - (b.square() - 4 * a * c).clamp(min=0).sqrt())
    for _ in range(2):
        found, log_slope = _within(xi, bin_)
        xi = (xi - (found - rise) / bin_.width * (-log_slope).exp()).clamp(0, 1)
    return torch.where(inside, bin_.x + xi * bin_.width, y)


class _Knots(NamedTuple):
    """Places of the J + 1 knots and the derivatives there, each (..., J + 1)."""

    x: Tensor
    y: Tensor
    derivative: Tensor


class _Bin(NamedTuple):
    """The bin that a number lies in: its lower knot, its size, and the derivatives at both of its ends, each (...)."""

    x: Tensor
    width: Tensor
    y: Tensor
    height: Tensor
    left: Tensor
    right: Tensor


def _knots(numbers: Tensor, bound: float) -> _Knots:
    bins = (numbers.shape[-1] + 1) // 3
    widths, heights, inner = numbers.split([bins, bins, bins - 1], dim=-1)
    derivative = pad(LEAST + softplus(inner + AT_ONE), (1, 1), value=1.0)
    return _Knots(_places(widths, bound), _places(heights, bound), derivative)


def _places(logits: Tensor, bound: float) -> Tensor:
    """Return the knots along one axis, (..., J + 1), from −R to R exactly."""
    shares = LEAST + (1 - LEAST * logits.shape[-1]) * logits.softmax(-1)
    inner = bound * (2 * shares[..., :-1].cumsum(-1) - 1)
    return pad(pad(inner, (1, 0), value=-bound), (0, 1), value=bound)


def _bin_of(place: Tensor, edges: Tensor, knots: _Knots) -> _Bin:
    """Return the bin among `edges`, the knots' x or y, in which each place lies."""
    index = (place.unsqueeze(-1) >= edges[..., 1:-1]).sum(-1, keepdim=True)
    (x, right_x), (y, right_y), (left, right) = (
        (along.gather(-1, index).squeeze(-1), along.gather(-1, index + 1).squeeze(-1)) for along in knots
    )
    return _Bin(x, right_x - x, y, right_y - y, left, right)


def _within(xi: Tensor, bin_: _Bin) -> tuple[Tensor, Tensor]:
    """Return g − y_j and ln g′ at the share ξ of a bin's width."""
    slope, across = bin_.height / bin_.width, xi * (1 - xi)
    below = slope + (bin_.right + bin_.left - 2 * slope) * across
    rise = bin_.height * (slope * xi.square() + bin_.left * across) / below
    above = bin_.right * xi.square() + 2 * slope * across + bin_.left * (1 - xi).square()
    return rise, 2 * (slope.log() - below.log()) + above.log()


def _numbers(z_a: Tensor, z_b: Tensor, network: tuple[Layers, Tensor, Tensor]) -> Tensor:
    """Return what a network says of each variable of z_B, (..., B, D − d, 3 J − 1)."""
    return network_output(z_a, network).unflatten(-1, (z_b.shape[-1], -1))


class SplineFlow(MixedCouplingFlow):
    """K spline couplings, with a random permutation before each split.

    Arguments, beside those of `CouplingFlow`:
        spline_bins: J, bins of a spline.
        spline_bound: R, where splines end.
    """

    def __init__(
        self,
        latent: int,
        length: int,
        features: int,
        coupling_hidden: int,
        coupling_amortised: bool = True,
        coupling_layers: int = 1,
        coupling_pass: float = 0.5,
        spline_bins: int = 8,
        spline_bound: float = 5.0,
    ) -> None:
        networks = (coupling_hidden, coupling_amortised, coupling_layers, coupling_pass)
        super().__init__(latent, length, features, 3 * spline_bins - 1, *networks)
        self.bound = spline_bound
        self.add_mixing()

    def forward(self, z: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return z_K, (..., B, D), and the summed log-determinants in nats, (..., B); see `spline_flow`."""
        if self.fits_loops(z, parameters):
            return self.by_loops(LOOPS, self.bound, z, parameters, self.mixing)
        return spline_flow(z, self.bound, self.mixing, *self.network_arguments(parameters))

    def inverse(self, z: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        """Return z_0, (..., B, D); see `invert_spline_flow`."""
        return invert_spline_flow(z, self.bound, self.mixing, *self.network_arguments(parameters))
