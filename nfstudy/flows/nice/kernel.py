"""The chain of `flows.nice.nice_flow` in one loop, with its backward pass derived by hand.

Names are those of `flows.nice`. The loop keeps what went into every matrix product; the gradients of the weights, which
all images share, are then one batched product each. Steps that use permutations and matrices compile to two loops.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from nfstudy.core.kernels import COMPILED, PART, differentiable_once
from nfstudy.core.kernels.cache import compiled
from nfstudy.core.kernels.elementary import tanh_alike
from nfstudy.core.kernels.layout import from_lanes, lanes


def coupling_chain(*tensors: Tensor) -> Tensor:
    """Apply `CouplingChain`, which cannot see that gradients are off, and would keep what only they need."""
    return CouplingChain.apply(*(x if torch.is_grad_enabled() else x.detach() for x in tensors))


class CouplingChain(torch.autograd.Function):
    """Apply K additive coupling steps whose networks have L hidden layers.

    Arguments:
        z: z_0, (..., B, D).
        b_in: (B, K, H); not copied where it is batch-last in memory, or its first axis was expanded.
        mixing: orthogonal matrices, (K, D, D), or the indices of permutations, (K, D).
        w_in: (K, H, d).
        w_hidden: W_2, ..., W_L, (L − 1, K, H, H).
        b_hidden: b_2, ..., b_L, (L − 1, K, H).
        w_out: (K, D − d, H).
        b_out: (K, D − d).

    Returns:
        z_K, (..., B, D), batch-last in memory.
    """

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        b_in: Tensor,
        mixing: Tensor,
        w_in: Tensor,
        w_hidden: Tensor,
        b_hidden: Tensor,
        w_out: Tensor,
        b_out: Tensor,
    ) -> Tensor:
        """Run the chain; where a gradient will be asked for, keep every step's z_A and hidden units."""
        end, b_in = lanes(z, own=True), b_in.permute(1, 2, 0)
        length, units, first = w_in.shape
        samples, _, images = end.shape
        slots = samples * length if any(ctx.needs_input_grad) else 1
        z_a = np.empty((slots, first, images), end.dtype)
        hidden = np.empty((slots, len(w_hidden) + 1, units, images), end.dtype)
        b_first = b_in[..., :1] if b_in.stride(-1) == 0 else b_in
        inputs = (b_first, mixing, w_in, w_hidden, b_hidden.unsqueeze(-1), w_out, b_out)
        chain(*(np.ascontiguousarray(x.numpy()) for x in inputs), z_a, hidden, end)
        ctx.save_for_backward(mixing, w_in, w_hidden, w_out, torch.from_numpy(z_a), torch.from_numpy(hidden))
        return from_lanes(end, z.shape)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_z: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of all that has one."""
        mixing, w_in, w_hidden, w_out, z_a, hidden = ctx.saved_tensors
        length, rest, _ = w_out.shape
        grad_start = lanes(grad_z, own=True)
        grad_shift, grad_hidden = z_a.new_empty(len(z_a), rest, z_a.shape[-1]), torch.empty_like(hidden)
        inputs = (np.ascontiguousarray(x.numpy()) for x in (mixing, w_in, w_hidden, w_out, hidden))
        chain_backward(*inputs, grad_start, grad_shift.numpy(), grad_hidden.numpy())
        # A layer's pre-activations are its weights times what came in, plus its biases.
        came_in = (z_a, *hidden.unbind(1))
        grads = (*grad_hidden.unbind(1), grad_shift)
        by_weights = [over_samples(torch.bmm(grad, x.mT), length) for grad, x in zip(grads, came_in, strict=True)]
        by_biases = [over_samples(grad, length) for grad in grads]
        return (
            from_lanes(grad_start, grad_z.shape),
            by_biases[0].permute(2, 0, 1),
            None,
            by_weights[0],
            torch.stack(by_weights[1:-1]) if len(w_hidden) else None,
            torch.stack(by_biases[1:-1]).sum(-1) if len(w_hidden) else None,
            by_weights[-1],
            by_biases[-1].sum(-1),
        )


def over_samples(x: Tensor, length: int) -> Tensor:
    """Return the sum over samples, (K, ...), of (S K, ...); without a copy where S = 1."""
    return x if len(x) == length else x.unflatten(0, (-1, length)).sum(0)


@compiled(**PART)
def add_product(out, weights, x):
    """Add weights (M, N) times x (N, B) to out (M, B), in blocks of 4 × 4 weights, which stay in registers."""
    rows, depth = weights.shape
    images = out.shape[1]
    for j in range(0, rows - rows % 4, 4):
        for d in range(0, depth - depth % 4, 4):
            a0, a1, a2, a3 = weights[j, d], weights[j, d + 1], weights[j, d + 2], weights[j, d + 3]
            b0, b1, b2, b3 = weights[j + 1, d], weights[j + 1, d + 1], weights[j + 1, d + 2], weights[j + 1, d + 3]
            c0, c1, c2, c3 = weights[j + 2, d], weights[j + 2, d + 1], weights[j + 2, d + 2], weights[j + 2, d + 3]
            e0, e1, e2, e3 = weights[j + 3, d], weights[j + 3, d + 1], weights[j + 3, d + 2], weights[j + 3, d + 3]
            for i in range(images):
                x0, x1, x2, x3 = x[d, i], x[d + 1, i], x[d + 2, i], x[d + 3, i]
                out[j, i] += a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3
                out[j + 1, i] += b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3
                out[j + 2, i] += c0 * x0 + c1 * x1 + c2 * x2 + c3 * x3
                out[j + 3, i] += e0 * x0 + e1 * x1 + e2 * x2 + e3 * x3
        for d in range(depth - depth % 4, depth):
            a, b, c, e = weights[j, d], weights[j + 1, d], weights[j + 2, d], weights[j + 3, d]
            for i in range(images):
                out[j, i] += a * x[d, i]
                out[j + 1, i] += b * x[d, i]
                out[j + 2, i] += c * x[d, i]
                out[j + 3, i] += e * x[d, i]
    for j in range(rows - rows % 4, rows):
        for d in range(depth):
            a = weights[j, d]
            for i in range(images):
                out[j, i] += a * x[d, i]


@compiled(**PART)
def squash(hidden):
    """Turn pre-activations (H, B) into their tanh."""
    units, images = hidden.shape
    for j in range(units):
        for i in range(images):
            hidden[j, i] = tanh_alike(hidden[j, i])


@compiled(**PART)
def unsquash(grad, hidden):
    """Turn the gradient of tanh units (H, B) into that of their pre-activations."""
    units, images = hidden.shape
    for j in range(units):
        for i in range(images):
            grad[j, i] *= 1 - hidden[j, i] * hidden[j, i]


@compiled(**PART)
def copy(out, x):
    """Fill out (N, B) with x (N, B), or with x (N, 1) in every lane."""
    rows, images = out.shape
    for j in range(rows):
        if x.shape[1] == images:
            for i in range(images):
                out[j, i] = x[j, i]
        else:
            for i in range(images):
                out[j, i] = x[j, 0]


@compiled(**PART)
def mix(out, mixing, z):
    """Fill out (D, B) with Qz, where mixing is the matrix Q, (D, D), or the indices of a permutation, (D,)."""
    latent, images = z.shape
    if mixing.ndim == 1:
        for d in range(latent):
            row = z[mixing[d]]  # Looked up once, as out might overlap the indices for all that the compiler knows.
            for i in range(images):
                out[d, i] = row[i]
    else:
        out[:] = 0
        add_product(out, mixing, z)


@compiled(**PART)
def unmix(out, mixing, z):
    """Fill out (D, B) with Qᵀz."""
    latent, images = z.shape
    if mixing.ndim == 1:
        for d in range(latent):
            row = out[mixing[d]]
            for i in range(images):
                row[i] = z[d, i]
    else:
        out[:] = 0
        add_product(out, mixing.T, z)


@compiled(**COMPILED)
def chain(b_in, mixing, w_in, w_hidden, b_hidden, w_out, b_out, z_a, hidden, end):
    """Turn end (S, D, B) from z_0 into z_K; fill z_a (S K, d, B) and hidden (S K, L, H, B), or the one slot they have.

    b_in may be (K, H, 1), as b_hidden is, (L − 1, K, H, 1).
    """
    length, _, first = w_in.shape
    keeps = len(hidden) > 1
    mixed = np.empty(end.shape[1:], end.dtype)
    for s in range(len(end)):
        z = end[s]
        for k in range(length):
            slot = s * length + k if keeps else 0
            h = hidden[slot]
            mix(mixed, mixing[k], z)
            copy(z_a[slot], mixed[:first])
            copy(h[0], b_in[k])
            add_product(h[0], w_in[k], z_a[slot])
            squash(h[0])
            for layer in range(len(w_hidden)):
                copy(h[layer + 1], b_hidden[layer, k])
                add_product(h[layer + 1], w_hidden[layer, k], h[layer])
                squash(h[layer + 1])
            add_product(mixed[first:], w_out[k], h[-1])
            copy(z, mixed)
            for j in range(first, len(z)):
                for i in range(z.shape[1]):
                    z[j, i] += b_out[k, j - first]


@compiled(**COMPILED)
def chain_backward(mixing, w_in, w_hidden, w_out, hidden, grad_z, grad_shift, grad_hidden):
    """Turn grad_z (S, D, B) from the gradient of z_K into that of z_0.

    Fill grad_shift (S K, D − d, B) with the gradients of g(z_A), and grad_hidden (S K, L, H, B) with those of the
    hidden units' pre-activations.
    """
    length, _, first = w_in.shape
    mixed = np.empty(grad_z.shape[1:], grad_z.dtype)
    for s in range(len(grad_z)):
        z = grad_z[s]
        for k in range(length - 1, -1, -1):
            slot = s * length + k
            h, grad = hidden[slot], grad_hidden[slot]
            copy(grad_shift[slot], z[first:])
            grad[:] = 0
            add_product(grad[-1], w_out[k].T, grad_shift[slot])
            unsquash(grad[-1], h[-1])
            for layer in range(len(w_hidden) - 1, -1, -1):
                add_product(grad[layer], w_hidden[layer, k].T, grad[layer + 1])
                unsquash(grad[layer], h[layer])
            add_product(z[:first], w_in[k].T, grad[0])
            unmix(mixed, mixing[k], z)
            copy(z, mixed)
