"""The chain of `flows.iaf.iaf_flow` in one loop, with its backward pass derived by hand.

Names are those of `flows.iaf`. Within a step the variables stand in its order; of what its network says, m and s of one
variable come before those of the next. The gradients of the weights, which all images share, are products over the
images, which then have to be an axis of columns: hidden units are transposed for that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from nfstudy.core.kernels import COMPILED, PART, differentiable_once
from nfstudy.core.kernels.cache import compiled
from nfstudy.core.kernels.elementary import log, sigmoid
from nfstudy.flows.iaf.kernel_masked import (
    add_product,
    add_sums,
    bounds,
    copy_unmasked,
    invert,
    pack,
    transpose,
    unpack,
)
from nfstudy.flows.nice.kernel import copy, mix, squash, unmix, unsquash

FACTORS = 512
"""Of numbers from ½ to 1, at most so many are multiplied before a logarithm is taken: a product is at least 2⁻⁵¹²."""


def autoregressive_chain(*arguments: Tensor | float) -> tuple[Tensor, Tensor]:
    """Apply `AutoregressiveChain`, which cannot see that gradients are off, and would keep what only they need."""
    kept = torch.is_grad_enabled()
    return AutoregressiveChain.apply(*(x if kept or isinstance(x, float) else x.detach() for x in arguments))


class AutoregressiveChain(torch.autograd.Function):
    """Apply K gated autoregressive steps whose networks have L hidden layers.

    Arguments:
        z: z_0, (S, D, B).
        b_in: (K, H, B); where its last axis was expanded, it is not copied.
        order: the place of each variable in each step's order, whole numbers (K, D).
        seen: how many variables each hidden unit sees, whole numbers below D that do not fall, (H,).
        w_in: (K, H, D).
        w_hidden: W_2, ..., W_L, (L − 1, K, H, H).
        b_hidden: b_2, ..., b_L, (L − 1, K, H).
        w_out: (K, 2D, H).
        b_out: (K, 2D).
        opening: a gate is σ(opening + s), over σ(opening).

    Returns:
        z_K, (S, D, B), and Σ_k ln|det ∂f_k/∂z_{k−1}| in nats, (S, B).
    """

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        b_in: Tensor,
        order: Tensor,
        seen: Tensor,
        w_in: Tensor,
        w_hidden: Tensor,
        b_hidden: Tensor,
        w_out: Tensor,
        b_out: Tensor,
        opening: float,
    ) -> tuple[Tensor, Tensor]:
        """Run the chain; where a gradient will be asked for, keep what each network was given and what it said."""
        samples, latent, images = z.shape
        length, units, _ = w_in.shape
        slots = samples * length if any(ctx.needs_input_grad) else 1
        given, said = z.new_empty(slots, latent, images), z.new_empty(slots, 2 * latent, images)
        hidden = z.new_empty(slots, len(w_hidden) + 1, units, images)
        end, log_det = z.clone(memory_format=torch.contiguous_format), z.new_empty(samples, images)
        weights = [order, seen, *(x.contiguous() for x in (w_in, w_hidden, w_out))]
        b_first = b_in[..., :1] if b_in.stride(-1) == 0 else b_in
        biases = [x.contiguous() for x in (b_first, b_hidden.unsqueeze(-1), b_out)]
        chain(*(x.numpy() for x in (*weights, *biases, given, hidden, said, end, log_det)), opening)
        ctx.save_for_backward(*weights, given, hidden, said)
        ctx.opening = opening
        return end, log_det

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_z: Tensor, grad_log_det: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of z, b_in, and the weights and biases that all images share."""
        _, _, w_in, w_hidden, w_out, *_ = ctx.saved_tensors
        grad_z = grad_z.clone(memory_format=torch.contiguous_format)
        grad_b_in = w_in.new_zeros(*w_in.shape[:2], grad_z.shape[-1])
        grad_b_hidden, grad_b_out = w_in.new_zeros(w_hidden.shape[:-1]), w_in.new_zeros(w_out.shape[:-1])
        grad_weights = [torch.zeros_like(x) for x in (w_in, w_hidden, w_out)]
        arrays = (*ctx.saved_tensors, grad_log_det.contiguous(), grad_z, *grad_weights)
        chain_backward(*(x.numpy() for x in (*arrays, grad_b_in, grad_b_hidden, grad_b_out)), ctx.opening)
        grad_w_in, grad_w_hidden, grad_w_out = grad_weights
        shared = (grad_w_in, grad_w_hidden, grad_b_hidden, grad_w_out, grad_b_out)
        return grad_z, grad_b_in, None, None, *shared, None


@compiled(**PART)
def gate(said, x, sequence, gain, z, log_gates):
    """Fill z (D, B) with gain (g x + (1 − g) m), and add ln g to log_gates (B,); x and said are in the step's order."""
    latent, images = x.shape
    product = np.ones(images)
    for place in range(latent):
        variable = sequence[place]
        for i in range(images):
            s = np.float64(said[2 * place + 1, i])
            opened, closed = sigmoid(s)
            # ln σ(s) = min(s, 0) + ln σ(|s|), and the σ(|s|), at least ½ each, share one logarithm.
            log_gates[i] += 0.0 if s > 0 else s
            product[i] *= opened if s > 0 else closed
            gated = opened * np.float64(x[place, i]) + closed * np.float64(said[2 * place, i])
            z[variable, i] = z.dtype.type(gain * gated)
        if place % FACTORS == FACTORS - 1 or place == latent - 1:
            for i in range(images):
                log_gates[i] += log(product[i])
                product[i] = 1


@compiled(**PART)
def gate_backward(said, x, sequence, gain, grad_z, grad_log_det, grad_said, grad_x):
    """Fill grad_said (2D, B) and grad_x (D, B), of what stands in the step's order, from the step's gradients."""
    latent, images = x.shape
    kind = x.dtype.type
    opened, closed = np.empty(images), np.empty(images)
    for place in range(latent):
        variable = sequence[place]
        # In three loops: LLVM gives up on one with more arrays to write to, as any of them might overlap with the rest.
        for i in range(images):
            opened[i], closed[i] = sigmoid(np.float64(said[2 * place + 1, i]))
        for i in range(images):
            grad = gain * np.float64(grad_z[variable, i])
            grad_x[place, i] = kind(grad * opened[i])
            grad_said[2 * place, i] = kind(grad * closed[i])
        for i in range(images):
            apart = np.float64(x[place, i]) - np.float64(said[2 * place, i])
            grad_gate = gain * np.float64(grad_z[variable, i]) * apart * opened[i] + np.float64(grad_log_det[i])
            grad_said[2 * place + 1, i] = kind(grad_gate * closed[i])


@compiled(**COMPILED)
def chain(order, seen, w_in, w_hidden, w_out, b_in, b_hidden, b_out, given, hidden, said, end, log_det, opening):
    """Turn end (S, D, B) from z_0 into z_K, and fill log_det (S, B).

    Into given (K S, D, B) goes each z_{k−1}, in the order of the step, into hidden (K S, L, H, B) the hidden units, and
    into said (K S, 2D, B) m and opening + s; if there is room for one alone, each takes the place of the one before.
    """
    length, units, latent = w_in.shape
    samples, _, images = end.shape
    heard, _, high, none, _, _, all_images = bounds(seen, latent, images)
    packed_in, packed_out = np.empty((units, latent), end.dtype), np.empty((2 * latent, units), end.dtype)
    packed_hidden = np.zeros((len(w_hidden), units, units), end.dtype)
    sequence, gain, log_gates = np.empty(latent, np.int64), 1 / sigmoid(opening)[0], np.zeros((samples, images))
    for k in range(length):
        invert(order[k], sequence)
        pack(w_in[k], w_out[k], sequence, seen, heard, packed_in, packed_out)
        copy_unmasked(w_hidden[:, k], high, packed_hidden)
        for s in range(samples):
            slot = k * samples + s if len(given) > 1 else 0
            x, h, out = given[slot], hidden[slot], said[slot]
            mix(x, sequence, end[s])
            copy(h[0], b_in[k])
            add_product(h[0], packed_in, x, none, seen, all_images)
            squash(h[0])
            for layer in range(len(w_hidden)):
                copy(h[layer + 1], b_hidden[layer, k])
                add_product(h[layer + 1], packed_hidden[layer], h[layer], none, high, all_images)
                squash(h[layer + 1])
            for place in range(latent):
                m, opened = b_out[k, sequence[place]], b_out[k, latent + sequence[place]] + end.dtype.type(opening)
                for i in range(images):
                    out[2 * place, i] = m
                    out[2 * place + 1, i] = opened
            add_product(out, packed_out, h[-1], none, heard, all_images)
            gate(out, x, sequence, gain, end[s], log_gates[s])
    for s in range(samples):
        for i in range(images):
            log_det[s, i] = end.dtype.type(log_gates[s, i] + length * latent * log(gain))


@compiled(**COMPILED)
def chain_backward(
    order,
    seen,
    w_in,
    w_hidden,
    w_out,
    given,
    hidden,
    said,
    grad_log_det,
    grad_z,
    grad_w_in,
    grad_w_hidden,
    grad_w_out,
    grad_b_in,
    grad_b_hidden,
    grad_b_out,
    opening,
):
    """Turn grad_z (S, D, B) from the gradient of z_K into that of z_0, and add to the other gradients."""
    length, units, latent = w_in.shape
    samples, _, images = grad_z.shape
    kind = grad_z.dtype
    heard, low, high, none, all_units, all_said, all_images = bounds(seen, latent, images)
    packed_in, packed_out = np.empty((units, latent), kind), np.empty((2 * latent, units), kind)
    packed_hidden = np.zeros((len(w_hidden), units, units), kind)
    sums_in, sums_hidden = np.empty((latent, units), kind), np.empty_like(packed_hidden)
    sums_out, sum_said = np.empty_like(packed_out), np.empty(2 * latent, kind)
    grad_said, grad_x = np.empty((2 * latent, images), kind), np.empty((latent, images), kind)
    grad_hidden, turned = np.empty((len(w_hidden) + 1, units, images), kind), np.empty((images, units), kind)
    sequence, gain = np.empty(latent, np.int64), 1 / sigmoid(opening)[0]
    for k in range(length - 1, -1, -1):
        invert(order[k], sequence)
        pack(w_in[k], w_out[k], sequence, seen, heard, packed_in, packed_out)
        copy_unmasked(w_hidden[:, k], high, packed_hidden)
        sums_in[:], sums_out[:], sums_hidden[:], sum_said[:] = 0, 0, 0, 0
        for s in range(samples):
            x, h, z = given[k * samples + s], hidden[k * samples + s], grad_z[s]
            gate_backward(said[k * samples + s], x, sequence, gain, z, grad_log_det[s], grad_said, grad_x)
            grad_hidden[:] = 0
            add_sums(sum_said, grad_said)
            transpose(turned, h[-1])
            add_product(sums_out, grad_said, turned, none, all_images, heard)
            add_product(grad_hidden[-1], packed_out.T, grad_said, 2 * seen, all_said, all_images)
            unsquash(grad_hidden[-1], h[-1])
            for layer in range(len(w_hidden) - 1, -1, -1):
                grad = grad_hidden[layer + 1]
                add_sums(grad_b_hidden[layer, k], grad)
                transpose(turned, h[layer])
                add_product(sums_hidden[layer], grad, turned, none, all_images, high)
                add_product(grad_hidden[layer], packed_hidden[layer].T, grad, low, all_units, all_images)
                unsquash(grad_hidden[layer], h[layer])
            for j in range(units):
                for i in range(images):
                    grad_b_in[k, j, i] += grad_hidden[0, j, i]
            # From the last unit to the first, those that see a variable are the first too.
            transpose(turned, grad_hidden[0, ::-1])
            add_product(sums_in, x, turned, none, all_images, units - heard[::2])
            add_product(grad_x, packed_in.T, grad_hidden[0], heard[::2], all_units, all_images)
            unmix(z, sequence, grad_x)
        for place in range(latent):
            grad_b_out[k, sequence[place]] = sum_said[2 * place]
            grad_b_out[k, latent + sequence[place]] = sum_said[2 * place + 1]
        unpack(sums_in, sums_out, sequence, seen, heard, grad_w_in[k], grad_w_out[k])
        copy_unmasked(sums_hidden, high, grad_w_hidden[:, k])
