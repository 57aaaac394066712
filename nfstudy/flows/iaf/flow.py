"""Inverse autoregressive flow: each variable is shifted and scaled by what those before it say (Kingma et al. 2016)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from nfstudy.flows.base import (
    HEAD_SCALE,
    Flow,
    Generators,
    StepHead,
    draw_normal,
    fits_lanes,
    over_lanes,
    require_steps,
    shortened,
    softplus,
)
from nfstudy.flows.iaf.kernel import autoregressive_chain

OPEN = 1.0
"""Where a gate stands before it has learned: σ(1) = 0.73, one of the two values that Kingma et al. suggest."""
FARTHEST = 1e150
"""Of a variable that an inverse comes back with; its products with weights stay within the range of float64."""
LOG_OPEN = -math.log1p(math.exp(-OPEN))


def iaf_flow(
    z: Tensor,
    order: Tensor,
    w_in: Tensor,
    b_in: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    w_hidden: tuple[Tensor, ...] = (),
    b_hidden: tuple[Tensor, ...] = (),
) -> tuple[Tensor, Tensor]:
    """Apply K gated autoregressive steps f(z) = [g z + (1 − g) m]/σ(1), g = σ(1 + s) (Kingma et al. 2016, eqs. 9-14).

    The network (m, s) = W_out h_L + b_out, h_1 = tanh(W_in z + b_in), h_l = tanh(W_l h_{l−1} + b_l), is masked such
    that m_i and s_i depend on the variables before i alone (Germain et al. 2015); see `autoregressive_masks`. So a
    step's determinant is Π_i g_i/σ(1). The constant 1/σ(1) is ours: it changes the scale of z_k alone, and makes
    m = s = 0 the identity, where 80 gates without it would shrink every variable by a factor of 10¹¹ at the start.

    Arguments:
        z: z_0, (..., B, D), D ≥ 2; leading axes are samples, over which the parameters are broadcast without copies.
        order: the place 0, ..., D − 1 of each variable in each step's order, whole numbers (K, D).
        w_in: (K, H, D).
        b_in: (B, K, H) or (K, H).
        w_out: m's rows and then s's, (K, 2D, H).
        b_out: (K, 2D).
        w_hidden: W_2, ..., W_L, each (K, H, H); none for one hidden layer.
        b_hidden: b_2, ..., b_L, each (K, H).

    Returns:
        z_K, (..., B, D), and Σ_k ln|det ∂f_k/∂z_{k−1}| in nats, (..., B).

    Raises:
        ValueError: D is less than 2, where no variable comes before another.
    """
    _require_order(z.shape[-1])
    log_gates = []
    for layers, w_out_k, b_out_k in _steps(order, w_in, b_in, w_out, b_out, w_hidden, b_hidden):
        m, s = _network(z, layers, w_out_k, b_out_k)
        z = torch.lerp(m, z, s.sigmoid()) * math.exp(-LOG_OPEN)
        log_gates.append(-softplus(-s).sum(-1))
    return z, torch.stack(log_gates).sum(0) - len(order) * z.shape[-1] * LOG_OPEN


@torch.no_grad()
def invert_iaf_flow(
    z: Tensor,
    order: Tensor,
    w_in: Tensor,
    b_in: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    w_hidden: tuple[Tensor, ...] = (),
    b_hidden: tuple[Tensor, ...] = (),
) -> Tensor:
    """Return z_0 of given z_K under `iaf_flow`, whose arguments these are; without gradients.

    The variables are found one after another, in each step's order. Where a gate g all but closes, z_k hardly holds the
    variable any more: it comes back with the rounding of z_k divided by g, and those after it with that in m and s. So
    all of it is in float64, and a number beyond ±`FARTHEST` is cut there, as is the result at the range of z's type:
    it is finite for every finite z and weights, and means something where z_0 holds in z_K.
    """
    _require_order(z.shape[-1])
    kind, z = z.dtype, z.double()
    weights = (w_in.double(), b_in.double(), w_out.double(), b_out.double())
    steps = _steps(order, *weights, tuple(w.double() for w in w_hidden), tuple(b.double() for b in b_hidden))
    for places, (layers, w_out_k, b_out_k) in reversed([*zip(order, steps, strict=True)]):
        gated, z = z * math.exp(LOG_OPEN), torch.zeros_like(z)
        for place in range(z.shape[-1]):
            m, s = _network(z, layers, w_out_k, b_out_k)
            found = m + (gated - m) / s.sigmoid().clamp(min=torch.finfo(z.dtype).tiny)
            z = torch.where(places == place, found.clamp(-FARTHEST, FARTHEST), z)
    return z.clamp(torch.finfo(kind).min, torch.finfo(kind).max).to(kind)


def autoregressive_masks(order: Tensor, hidden: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the masks of W_in (K, H, D), of every W_l (H, H) and of W_out (K, 2D, H): which weights there are.

    Each hidden unit sees the first of the variables (`count_seen`), and variable i hears the units that see none but
    those before it. The units that see none carry what b_in, and so the image, says of the first variable.

    Arguments:
        order: the place of each variable, whole numbers (K, D).
        hidden: H.
    """
    seen = count_seen(order.shape[-1], hidden, order.device)
    heard = seen <= order.unsqueeze(-1)
    return order.unsqueeze(-2) < seen.unsqueeze(-1), seen <= seen.unsqueeze(-1), torch.cat([heard, heard], dim=-2)


def count_seen(latent: int, hidden: int, device: torch.device | None = None) -> Tensor:
    """Return how many variables each hidden unit sees, ⌊j D/H⌋ for j = 0, ..., H − 1, whole numbers (H,)."""
    return torch.arange(hidden, device=device) * latent // hidden


Layers = tuple[tuple[Tensor, Tensor], ...]
"""Masked W_l and b_l of the hidden layers of one step."""


def _steps(
    order: Tensor,
    w_in: Tensor,
    b_in: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    w_hidden: tuple[Tensor, ...],
    b_hidden: tuple[Tensor, ...],
) -> list[tuple[Layers, Tensor, Tensor]]:
    """Return each step's hidden layers, W_out and b_out, s's part of it moved by 1; weights are masked."""
    mask_in, mask_hidden, mask_out = autoregressive_masks(order, w_in.shape[-2])
    weights, biases = (w_in * mask_in, *(w * mask_hidden for w in w_hidden)), (b_in.unbind(-2), *b_hidden)
    layers = zip(*(zip(w, b, strict=True) for w, b in zip(weights, biases, strict=True)), strict=True)
    opened = torch.cat([b_out.new_zeros(order.shape[-1]), b_out.new_full(order.shape[-1:], OPEN)])
    return [*zip(layers, w_out * mask_out, b_out + opened, strict=True)]


def _network(z: Tensor, layers: Layers, w_out: Tensor, b_out: Tensor) -> tuple[Tensor, Tensor]:
    """Return m and 1 + s of z, each (..., B, D)."""
    hidden = z
    for w, b in layers:
        hidden = torch.tanh(F.linear(hidden, w) + b)
    m, scale = F.linear(hidden, w_out, b_out).chunk(2, dim=-1)
    return m, scale


def _require_order(latent: int) -> None:
    if latent < 2:
        raise ValueError(
            f"latent {latent}: in an autoregressive step a variable depends on another, expected: at least 2"
        )


class IafFlow(Flow):
    """K autoregressive steps; b_in comes from a linear head, so that the image moves the network: K H numbers an image.

    The order of the variables is that of their numbers in steps 1, 3, ..., and the reverse in steps 2, 4, ...

    Arguments, beside those of `Flow`:
        autoregressive_hidden: H, the number of tanh units in each hidden layer of an autoregressive network.
        autoregressive_layers: L, how many hidden layers each network has.
    """

    order: Tensor

    def __init__(
        self, latent: int, length: int, features: int, autoregressive_hidden: int, autoregressive_layers: int = 1
    ) -> None:
        require_steps(length)
        _require_order(latent)
        super().__init__(latent, length, features)
        hidden, layers = autoregressive_hidden, autoregressive_layers
        self.head = StepHead(features, length, hidden)
        self.w_in = nn.Parameter(torch.zeros(length, hidden, latent))
        self.w_out = nn.Parameter(torch.zeros(length, 2 * latent, hidden))
        self.b_out = nn.Parameter(torch.zeros(length, 2 * latent))
        self.w_hidden = nn.ParameterList(torch.zeros(length, hidden, hidden) for _ in range(layers - 1))
        self.b_hidden = nn.ParameterList(torch.zeros(length, hidden) for _ in range(layers - 1))
        places = torch.arange(latent)
        self.register_buffer("order", torch.stack([places.flip(0) if k % 2 else places for k in range(length)]))

    @torch.no_grad()
    def initialise(self, generator: Generators) -> None:
        """Start each step near the identity: full-sized hidden units, W_out small, b_out = 0.

        The biases of the second hidden layer and later ones start at 0. A mask leaves about half the weights of a unit:
        those are drawn √2 times as large as if none were left out.
        """
        hidden, latent = self.w_in.shape[1:]
        for bias in (self.b_out, *self.b_hidden):
            bias.zero_()
        for k in range(self.length):
            stream = generator(f"autoregression {k + 1}")
            draw_normal(self.w_in[k], (latent / 2) ** -0.5, stream)
            draw_normal(self.w_out[k], HEAD_SCALE * (hidden / 2) ** -0.5, stream)
            for layer, weights in enumerate(self.w_hidden, start=2):
                draw_normal(weights[k], (hidden / 2) ** -0.5, generator(f"autoregression {k + 1} layer {layer}"))
            # Without features that spread the biases, they are drawn: else all hidden units would bend at one place.
            bias = torch.randn(hidden, generator=stream, dtype=torch.float64)
            self.head.initialise_step(k + 1, torch.zeros_like(bias) if self.features else bias, 1.0, stream)

    def parameters_from(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return b_in (B, K, H) of features (B, F), or (K, H) where it is shared."""
        return (self.head(features),)

    def forward(self, z: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return z_K, (..., B, D), and the summed log-determinants in nats, (..., B); see `iaf_flow`."""
        (b_in,) = parameters
        if fits_lanes(z, b_in):
            return over_lanes(self._run, z, b_in)
        return iaf_flow(z, *self._arguments(parameters))

    def inverse(self, z: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        """Return z_0, (..., B, D); see `invert_iaf_flow`."""
        return invert_iaf_flow(z, *self._arguments(parameters))

    def first_steps(self, count: int, parameters: tuple[Tensor, ...]) -> tuple[Flow, tuple[Tensor, ...]]:
        """Return a chain of copies of the first steps."""
        (b_in,) = parameters
        shorter = shortened(self, count, ("order", "w_in", "w_out", "b_out", "w_hidden", "b_hidden"))
        return shorter, (b_in[..., :count, :],)

    def _run(self, z: Tensor, b_in: Tensor) -> tuple[Tensor, Tensor]:
        """Return z_K and the summed log-determinants, of arrays that are batch-last."""
        if self.w_hidden:
            w_hidden, b_hidden = torch.stack([*self.w_hidden]), torch.stack([*self.b_hidden])
        else:
            w_hidden, b_hidden = z.new_empty(0, 0, 0, 0), z.new_empty(0, 0, 0)
        seen = count_seen(self.latent, self.w_in.shape[1])
        weights = (self.w_in, w_hidden, b_hidden, self.w_out, self.b_out)
        return autoregressive_chain(z, b_in, self.order, seen, *weights, OPEN)

    def _arguments(
        self, parameters: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        (b_in,) = parameters
        return self.order, self.w_in, b_in, self.w_out, self.b_out, tuple(self.w_hidden), tuple(self.b_hidden)
