"""What the loops of couplings with a log-determinant share: mixing, coupling networks, and the gradients of both.

Names are those of `flows.coupling`. Each family adds two loops that do with a network's numbers what its formula says:
`flows.realnvp.kernel`, which Glow runs too, and `flows.spline.kernel`. As in `flows.nice.kernel`, they keep what went
into every matrix product; the gradients of the weights, which all images share, are then one batched product each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nfstudy.core.kernels import PART, differentiable_once
from nfstudy.core.kernels.cache import compiled
from nfstudy.core.kernels.layout import from_lanes, lanes
from nfstudy.flows.nice.kernel import add_product, copy, mix, over_samples, squash, unmix, unsquash


class Loops(NamedTuple):
    """The two loops of a family. Of slots, there is one for each sample and step, S K, or one alone."""

    forward: Callable[..., None]
    """Takes an option and the arrays b_in (K, H, B) or (K, H, 1), mixing, moved, w_in, w_hidden, b_hidden (L − 1, K, H,
    1), w_out and b_out (K, n, 1); fills came, each step's z_{k−1}, and given, what became of it by mixing, (slots, D,
    B), hidden (slots, L, H, B), said (slots, n, B) and log_det (S, B); turns end (S, D, B) from z_0 into z_K."""
    backward: Callable[..., None]
    """Takes the option, mixing, w_in, w_hidden, w_out, given, hidden, said, and the gradient of log_det; turns that of
    z_K into that of z_0, and fills those of given, (slots, D, B), said and the hidden units' pre-activations."""


class NetworkChain(torch.autograd.Function):
    """Apply K couplings whose networks have L hidden layers and say n numbers of an image.

    Arguments:
        loops: of the family.
        option: what they are told beside.
        z: z_0, (..., B, D).
        b_in: (B, K, H); not copied where it is batch-last in memory, or its first axis was expanded.
        mixing: matrices W, (K, D, D), or the indices of permutations, (K, D).
        moved: what is added to Wz, (K, D); not looked at with permutations.
        w_in: (K, H, d).
        w_hidden: W_2, ..., W_L, (L − 1, K, H, H).
        b_hidden: b_2, ..., b_L, (L − 1, K, H).
        w_out: (K, n, H).
        b_out: (K, n).

    Returns:
        z_K, (..., B, D), batch-last in memory, and the sums that the loops make of ln|det| in nats, (..., B): without
        that of W.
    """

    @staticmethod
    def forward(
        ctx: Any,
        loops: Loops,
        option: float,
        z: Tensor,
        b_in: Tensor,
        mixing: Tensor,
        moved: Tensor,
        w_in: Tensor,
        w_hidden: Tensor,
        b_hidden: Tensor,
        w_out: Tensor,
        b_out: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Run the chain; where a gradient will be asked for, keep what went into every product and came out of it."""
        end, b_in = lanes(z, own=True), b_in.permute(1, 2, 0)
        length, units, _ = w_in.shape
        samples, latent, images = end.shape
        slots = samples * length if any(ctx.needs_input_grad) else 1
        came, given = (
            np.empty((count, latent, images), end.dtype) for count in (slots if mixing.dim() == 3 else 0, slots)
        )
        hidden = np.empty((slots, len(w_hidden) + 1, units, images), end.dtype)
        said = np.empty((slots, w_out.shape[1], images), end.dtype)
        log_det = np.empty((samples, images), end.dtype)
        b_first = b_in[..., :1] if b_in.stride(-1) == 0 else b_in
        inputs = (b_first, mixing, moved, w_in, w_hidden, b_hidden.unsqueeze(-1), w_out, b_out.unsqueeze(-1))
        arrays = (np.ascontiguousarray(x.numpy()) for x in inputs)
        loops.forward(option, *arrays, came, given, hidden, said, end, log_det)
        ctx.save_for_backward(mixing, w_in, w_hidden, w_out)
        ctx.kept = loops, option, came, given, hidden, said
        return from_lanes(end, z.shape), torch.from_numpy(log_det.reshape(z.shape[:-1]))

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_z: Tensor, grad_log_det: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of all that has one."""
        mixing, w_in, w_hidden, w_out = ctx.saved_tensors
        loops, option, came, given, hidden, said = ctx.kept
        length, _, first = w_in.shape
        grad_start = lanes(grad_z, own=True)
        totals = np.ascontiguousarray(grad_log_det.numpy()).reshape(len(grad_start), -1)
        grad_given = np.empty_like(came if mixing.dim() == 3 else given[:1])
        grad_said, grad_hidden = np.empty_like(said), np.empty_like(hidden)
        inputs = (np.ascontiguousarray(x.numpy()) for x in (mixing, w_in, w_hidden, w_out))
        loops.backward(option, *inputs, given, hidden, said, totals, grad_start, grad_given, grad_said, grad_hidden)
        # A layer's pre-activations are its weights times what came in, plus its biases.
        came_in = (torch.from_numpy(given)[:, :first], *torch.from_numpy(hidden).unbind(1))
        grads = (*torch.from_numpy(grad_hidden).unbind(1), torch.from_numpy(grad_said))
        by_weights = [over_samples(torch.bmm(grad, x.mT), length) for grad, x in zip(grads, came_in, strict=True)]
        by_biases = [over_samples(grad, length) for grad in grads]
        by_mixing, by_moved = None, None
        if mixing.dim() == 3:
            grad = torch.from_numpy(grad_given)
            by_mixing = over_samples(torch.bmm(grad, torch.from_numpy(came).mT), length)
            by_moved = over_samples(grad, length).sum(-1)
        return (
            None,
            None,
            from_lanes(grad_start, grad_z.shape),
            by_biases[0].permute(2, 0, 1),
            by_mixing,
            by_moved,
            by_weights[0],
            torch.stack(by_weights[1:-1]) if len(w_hidden) else None,
            torch.stack(by_biases[1:-1]).sum(-1) if len(w_hidden) else None,
            by_weights[-1],
            by_biases[-1].sum(-1),
        )


def network_chain(
    loops: Loops,
    option: float,
    z: Tensor,
    mixing: Tensor,
    moved: Tensor,
    w_in: Tensor,
    b_in: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    w_hidden: tuple[Tensor, ...],
    b_hidden: tuple[Tensor, ...],
) -> tuple[Tensor, Tensor]:
    """Apply `NetworkChain` to the arguments of `flows.coupling.coupling_networks`.

    It cannot see that gradients are off, and would keep what only they need.
    """
    stacked = torch.stack([*w_hidden]) if w_hidden else z.new_empty(0, 0, 0, 0)
    biases = torch.stack([*b_hidden]) if b_hidden else z.new_empty(0, 0, 0)
    tensors = (z, b_in, mixing, moved, w_in, stacked, biases, w_out, b_out)
    return NetworkChain.apply(loops, option, *(x if torch.is_grad_enabled() else x.detach() for x in tensors))


@compiled(**PART)
def mix_and_say(k, b_in, mixing, moved, w_in, w_hidden, b_hidden, w_out, b_out, z, came, given, hidden, said):
    """Fill given (D, B) with mixed z (D, B), and hidden (L, H, B) and said (n, B) by step k's network.

    Of matrices, came (D, B) is filled with z.
    """
    first = w_in.shape[2]
    if mixing.ndim == 3:
        copy(came, z)
        latent, images = z.shape
        for d in range(latent):
            for i in range(images):
                given[d, i] = moved[k, d]
        add_product(given, mixing[k], z)
    else:
        mix(given, mixing[k], z)
    copy(hidden[0], b_in[k])
    add_product(hidden[0], w_in[k], given[:first])
    squash(hidden[0])
    for layer in range(len(w_hidden)):
        copy(hidden[layer + 1], b_hidden[layer, k])
        add_product(hidden[layer + 1], w_hidden[layer, k], hidden[layer])
        squash(hidden[layer + 1])
    copy(said, b_out[k])
    add_product(said, w_out[k], hidden[-1])


@compiled(**PART)
def gradients_of_step(k, mixing, w_in, w_hidden, w_out, hidden, grad_said, z, grad_given, grad_hidden):
    """Turn z (D, B) from the gradient of given, so far as it went not by the network, into that of z_{k−1}.

    Fills grad_given (D, B) and grad_hidden (L, H, B).
    """
    first = w_in.shape[2]
    grad_hidden[:] = 0
    add_product(grad_hidden[-1], w_out[k].T, grad_said)
    unsquash(grad_hidden[-1], hidden[-1])
    for layer in range(len(w_hidden) - 1, -1, -1):
        add_product(grad_hidden[layer], w_hidden[layer, k].T, grad_hidden[layer + 1])
        unsquash(grad_hidden[layer], hidden[layer])
    add_product(z[:first], w_in[k].T, grad_hidden[0])
    copy(grad_given, z)
    unmix(z, mixing[k], grad_given)
