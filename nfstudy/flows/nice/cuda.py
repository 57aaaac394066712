"""The chain of `flows.nice.nice_flow` as two kernels, forward and backward.

Names are those of `flows.nice`. A program takes one sample through all steps. With permutations its numbers never move:
the i-th of a step's mixed variables lies at p_k(i) = p_{k−1}(π_k(i)), and the program knows of each number the
*place* i that it has, p_k⁻¹, which goes from step to step by one look-up: π_k⁻¹ forward, and π_k backward. The kernels
keep what went into every matrix product; the gradients of the weights, which all samples share, are then one batched
product each.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from nfstudy.core.cuda import launch, power_of_two
from nfstudy.core.cuda.elementary import tanh
from nfstudy.core.kernels import differentiable_once

MOST_LATENT, MOST_UNITS, MOST_WEIGHTS = 256, 128, 32768
"""Most variables, hidden units, and numbers of one matrix, each filled up to a power of two, that registers hold."""


def fits(mixing: Tensor, w_in: Tensor) -> bool:
    """Return whether the kernels take chains with this mixing, (K, D, D) or (K, D), and W_in (K, H, d)."""
    width, units = power_of_two(mixing.shape[-1], 16), power_of_two(w_in.shape[1], 16)
    largest = width * (max(units, width) if mixing.dim() == 3 else units)
    return width <= MOST_LATENT and units <= MOST_UNITS and largest <= MOST_WEIGHTS


def nice_chain(
    z: Tensor,
    b_in: Tensor,
    mixing: Tensor,
    w_in: Tensor,
    w_hidden: Tensor,
    b_hidden: Tensor,
    w_out: Tensor,
    b_out: Tensor,
) -> Tensor:
    """Return z_K, (..., B, D), of `nice_flow`.

    Arguments:
        z: z_0, (..., B, D), of any strides.
        b_in: (B, K, H), or (K, H) for all samples; of any strides.
        mixing: orthogonal matrices, (K, D, D), or the indices of permutations, (K, D).
        w_in: (K, H, d).
        w_hidden: W_2, ..., W_L, (L − 1, K, H, H).
        b_hidden: b_2, ..., b_L, (L − 1, K, H).
        w_out: (K, D − d, H).
        b_out: (K, D − d).
    """
    rows = z.reshape(-1, 1 if b_in.dim() == 2 else len(b_in), z.shape[-1])
    tensors = (rows, b_in, mixing, w_in, w_hidden, b_hidden, w_out, b_out)
    # The function cannot see that gradients are off, and would keep what only they need.
    return _NiceChain.apply(*(x if torch.is_grad_enabled() else x.detach() for x in tensors)).view(z.shape)


class _NiceChain(torch.autograd.Function):
    """Apply K additive couplings to z_0 (S, B, D)."""

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
        (samples, images, latent), (length, units, first) = z.shape, w_in.shape
        rows, layers = samples * images, len(w_hidden) + 1
        keeps = any(ctx.needs_input_grad)
        z_a = z.new_empty(length if keeps else 1, rows if keeps else 1, first)
        hidden = z.new_empty(layers, length if keeps else 1, rows if keeps else 1, units)
        end, places = z.new_empty(z.shape), mixing.new_empty(latent, dtype=torch.int32)
        by_variable = w_in.mT.contiguous()  # (K, d, H): what a kernel reads side by side lies side by side.
        weights = [x.contiguous() for x in (w_hidden, b_hidden, w_out, b_out)]
        b_strides = b_in.stride() if b_in.dim() == 3 else (0, *b_in.stride())
        launch(
            _forward,
            rows,
            *(z, b_in, mixing.contiguous() if mixing.dim() == 3 else _inverse(mixing), by_variable, *weights),
            *(z_a, hidden, end, places, images, latent, units, first, length, layers - 1),
            *(*z.stride(), *b_strides, z_a.stride(0), hidden.stride(1), hidden.stride(0), length * units * units),
            **{"KEEPS": keeps, **_shape(mixing, units, layers)},
        )
        ctx.save_for_backward(mixing, by_variable, weights[0], weights[2], z_a, hidden, places)
        ctx.shared = b_in.dim() == 2
        return end

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_z: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of all that has one."""
        mixing, by_variable, w_hidden, w_out, z_a, hidden, places = ctx.saved_tensors
        (samples, images, latent), (length, first, units) = grad_z.shape, by_variable.shape
        layers = len(hidden)
        grad_start, grad_hidden = grad_z.new_empty(grad_z.shape), torch.empty_like(hidden)
        grad_shift = z_a.new_empty(length, samples * images, latent - first)
        kept, filled = hidden[-1, -1], grad_hidden[-1, -1]
        launch(
            _backward,
            samples * images,
            *(grad_z, mixing.contiguous()[-1], by_variable[-1], w_hidden[-1, -1] if len(w_hidden) else w_out),
            *(w_out[-1], kept, grad_start, places, grad_shift[-1], filled),
            *(images, latent, units, first, length, layers - 1, *grad_z.stride()),
            *(grad_shift.stride(0), hidden.stride(1), hidden.stride(0), length * units * units),
            **_shape(mixing, units, layers),
        )
        # A layer's pre-activations are its weights times what came in, plus its biases.
        came_in, grads = (z_a, *hidden), (*grad_hidden, grad_shift)
        by_weights = [torch.bmm(grad.mT, x) for grad, x in zip(grads, came_in, strict=True)]
        by_biases = [grad.sum(1) for grad in grads[1:]]
        by_b_in = grads[0].sum(1) if ctx.shared else grads[0].unflatten(1, (samples, images)).sum(1).transpose(0, 1)
        return (
            grad_start,
            by_b_in,
            None,
            by_weights[0],
            torch.stack(by_weights[1:-1]) if layers > 1 else None,
            torch.stack(by_biases[:-1]) if layers > 1 else None,
            by_weights[-1],
            by_biases[-1],
        )


def _inverse(permutations: Tensor) -> Tensor:
    """Return the indices (K, D) of the inverse permutations; torch's scatter takes thirty kernels for the same."""
    indices = permutations.contiguous()
    found = torch.empty_like(indices)
    length, latent = indices.shape
    launch(_invert, length, indices, found, latent, WIDTH=power_of_two(latent, 16), num_warps=1)
    return found


def _shape(mixing: Tensor, units: int, layers: int) -> dict[str, Any]:
    """Return what the kernels are compiled for."""
    width, padded = power_of_two(mixing.shape[-1], 16), power_of_two(units, 16)
    largest = width * (max(padded, width) if mixing.dim() == 3 else padded)
    return {
        "MATRICES": mixing.dim() == 3,
        "DEEP": layers > 1,
        "WIDTH": width,
        "UNITS": padded,
        "num_warps": min(16, max(4, largest // 512)),
    }


@triton.jit
def _invert(indices_ptr, found_ptr, D, WIDTH: tl.constexpr):
    """Invert the permutation of a program's step: where index i leads, put i."""
    step = tl.program_id(0) * D
    i = tl.arange(0, WIDTH)
    has = i < D
    tl.store(found_ptr + step + tl.load(indices_ptr + step + i, mask=has, other=0), i, mask=has)


@triton.jit(do_not_specialize=["B", "K", "L", "z_s", "z_b", "z_d", "i_b", "i_k", "i_h", "a_k", "h_k", "h_l", "w_l"])
def _forward(
    z_ptr, b_in_ptr, mixing_ptr, w_in_ptr, w_hidden_ptr, b_hidden_ptr, w_out_ptr, b_out_ptr,
    z_a_ptr, hidden_ptr, end_ptr, places_ptr,
    B, D, H, first, K, L, z_s, z_b, z_d, i_b, i_k, i_h, a_k, h_k, h_l, w_l,
    KEEPS: tl.constexpr, MATRICES: tl.constexpr, DEEP: tl.constexpr, WIDTH: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """Turn z_0 into z_K; fill z_A (K, S B, d), hidden (L + 1, K, S B, H) and, with permutations, the last places.

    Of permutations, mixing has the inverses, and of W_in (K, d, H) the columns.
    """
    row = tl.program_id(0).to(tl.int64)
    j = tl.arange(0, WIDTH)[:, None]
    across = tl.arange(0, WIDTH)[None, :]
    h = tl.arange(0, UNITS)[None, :]
    out = tl.arange(0, UNITS)[:, None]
    has_j, has_h = j < D, h < H
    z = tl.load(z_ptr + (row // B) * z_s + (row % B) * z_b + j * z_d, mask=has_j, other=0.0)
    b_in_ptr += (row % B) * i_b
    z_a_ptr += row * first
    hidden_ptr += row * H
    place = j
    if not MATRICES:
        place = tl.load(mixing_ptr + place, mask=has_j, other=0).to(tl.int32)
    w_in = tl.load(w_in_ptr + place * H + h, mask=has_j & (place < first) & has_h, other=0.0)
    x = tl.load(b_in_ptr + h * i_h, mask=has_h, other=0.0)
    for k in range(K):
        more = k + 1 < K
        moved = has_j & (place >= first)
        if MATRICES:
            q = tl.load(mixing_ptr + j * D + across, mask=has_j & (across < D), other=0.0)
            z = tl.sum(q * tl.trans(z), axis=1, keep_dims=True)
            mixing_ptr += D * D
            next_place = place
        else:
            mixing_ptr += D
            next_place = tl.load(mixing_ptr + place, mask=has_j & more, other=0).to(tl.int32)
        w_out = tl.load(w_out_ptr + (place - first) * H + h, mask=moved & has_h, other=0.0)
        b_out = tl.load(b_out_ptr + (place - first), mask=moved, other=0.0)
        w_in_ptr += first * H
        next_w_in = tl.load(w_in_ptr + next_place * H + h, mask=has_j & (next_place < first) & has_h & more, other=0.0)
        b_in_ptr += i_k
        next_x = tl.load(b_in_ptr + h * i_h, mask=has_h & more, other=0.0)
        if KEEPS:
            tl.store(z_a_ptr + place, z, mask=has_j & (place < first))
            z_a_ptr += a_k
        x = tanh(x + tl.sum(w_in * z, axis=0, keep_dims=True))
        if KEEPS:
            tl.store(hidden_ptr + h, x, mask=has_h)
        if DEEP:
            weights_at, biases_at, hidden_at = w_hidden_ptr, b_hidden_ptr, hidden_ptr
            for _ in range(L):
                weights = tl.load(weights_at + out * H + h, mask=(out < H) & has_h, other=0.0)
                biases = tl.load(biases_at + h, mask=has_h, other=0.0)
                x = tanh(biases + tl.trans(tl.sum(weights * x, axis=1, keep_dims=True)))
                weights_at += w_l
                biases_at += K * H
                hidden_at += h_l
                if KEEPS:
                    tl.store(hidden_at + h, x, mask=has_h)
            w_hidden_ptr += H * H
            b_hidden_ptr += H
        hidden_ptr += h_k
        z += tl.sum(w_out * x, axis=1, keep_dims=True) + b_out
        w_out_ptr += (D - first) * H
        b_out_ptr += D - first
        place = tl.where(more, next_place, place)
        w_in, x = next_w_in, next_x
    tl.store(end_ptr + row * D + place, z, mask=has_j)
    tl.store(places_ptr + j, place, mask=has_j & (row == 0))


@triton.jit(do_not_specialize=["B", "K", "L", "g_s", "g_b", "g_d", "s_k", "h_k", "h_l", "w_l"])
def _backward(
    grad_ptr, mixing_ptr, w_in_ptr, w_hidden_ptr, w_out_ptr, hidden_ptr,
    grad_start_ptr, places_ptr, grad_shift_ptr, grad_hidden_ptr,
    B, D, H, first, K, L, g_s, g_b, g_d, s_k, h_k, h_l, w_l,
    MATRICES: tl.constexpr, DEEP: tl.constexpr, WIDTH: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """Turn the gradient of z_K into that of z_0.

    Fill those of g(z_A), (K, S B, D − d), and of the hidden units' pre-activations, (L + 1, K, S B, H). Of all that has
    a row a step, the last step is pointed to, and the last layer.
    """
    row = tl.program_id(0).to(tl.int64)
    j = tl.arange(0, WIDTH)[:, None]
    across = tl.arange(0, WIDTH)[None, :]
    h = tl.arange(0, UNITS)[None, :]
    out = tl.arange(0, UNITS)[:, None]
    has_j, has_h = j < D, h < H
    place = tl.load(places_ptr + j, mask=has_j, other=0)
    g = tl.load(grad_ptr + (row // B) * g_s + (row % B) * g_b + place * g_d, mask=has_j, other=0.0)
    hidden_ptr += row * H
    grad_hidden_ptr += row * H
    grad_shift_ptr += row * (D - first)
    w_out = tl.load(w_out_ptr + (place - first) * H + h, mask=has_j & (place >= first) & has_h, other=0.0)
    x = tl.load(hidden_ptr + h, mask=has_h, other=0.0)
    for k in range(K):
        more = k + 1 < K
        moved = has_j & (place >= first)
        if MATRICES:
            q = tl.load(mixing_ptr + j * D + across, mask=has_j & (across < D), other=0.0)
            mixing_ptr -= D * D
            next_place = place
        else:
            next_place = tl.load(mixing_ptr + place, mask=has_j, other=0).to(tl.int32)
            mixing_ptr -= D
        w_in = tl.load(w_in_ptr + place * H + h, mask=has_j & (place < first) & has_h, other=0.0)
        w_in_ptr -= first * H
        w_out_ptr -= (D - first) * H
        next_w_out = tl.load(
            w_out_ptr + (next_place - first) * H + h, mask=has_j & (next_place >= first) & has_h & more, other=0.0
        )
        next_x = tl.load(hidden_ptr - h_k + h, mask=has_h & more, other=0.0)
        tl.store(grad_shift_ptr + (place - first), g, mask=moved)
        grad_shift_ptr -= s_k
        y = tl.sum(w_out * g, axis=0, keep_dims=True) * (1.0 - x * x)
        tl.store(grad_hidden_ptr + h, y, mask=has_h)
        if DEEP:
            weights_at, hidden_at, grad_at = w_hidden_ptr, hidden_ptr, grad_hidden_ptr
            for _ in range(L):
                weights = tl.load(weights_at + out * H + h, mask=(out < H) & has_h, other=0.0)
                weights_at -= w_l
                hidden_at -= h_l
                grad_at -= h_l
                below = tl.load(hidden_at + h, mask=has_h, other=0.0)
                y = tl.sum(weights * tl.trans(y), axis=0, keep_dims=True) * (1.0 - below * below)
                tl.store(grad_at + h, y, mask=has_h)
            w_hidden_ptr -= H * H
        hidden_ptr -= h_k
        grad_hidden_ptr -= h_k
        g += tl.sum(w_in * y, axis=1, keep_dims=True)
        if MATRICES:
            g = tl.trans(tl.sum(q * g, axis=0, keep_dims=True))
        place, w_out, x = next_place, next_w_out, next_x
    tl.store(grad_start_ptr + row * D + place, g, mask=has_j)
