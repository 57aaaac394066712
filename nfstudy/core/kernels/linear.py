"""Matrix products: where the time of a training step goes, and so where their precision and library are chosen.

On a CPU, torch multiplies float32 matrices by MKL, which leaves half the speed of other makers' processors unused.
oneDNN, which torch brings along and calls itself for other types and compiled models, does not. So float32 and bfloat16
products go to oneDNN, and all others to torch. On x86 processors without AVX-512, most desktops and laptops among them,
oneDNN has no bfloat16, and torch's own takes ten times as long as float32: there the rounded operands are multiplied
in float32, which holds each product of two of them exactly, so that the numbers are those of other processors but for
the order of their sums.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


def product(a: Tensor, b: Tensor, bias: Tensor | None = None, precision: torch.dtype = torch.float32) -> Tensor:
    """Return a bᵀ + bias, (M, N), without a gradient.

    Arguments:
        a: (M, F).
        b: (N, F).
        bias: (N,), or none.
        precision: float32, which changes no operand, or bfloat16, to which float32 operands are rounded. Sums are in
            float32 either way, and so is the result, which in bfloat16 is rounded before the bias is added.
    """
    kind = a.dtype
    if precision == torch.bfloat16 and kind == torch.float32:
        rounded = _product(operand(a, precision), operand(b, precision), None).to(kind)
        return rounded if bias is None else rounded.add_(bias)
    return _product(a, b, bias)


def operand(tensor: Tensor, precision: torch.dtype) -> Tensor:
    """Return what `product` multiplies in place of a tensor in a precision: what is used twice is rounded once."""
    rounds = precision == torch.bfloat16 and tensor.dtype == torch.float32
    return tensor.bfloat16() if rounds else tensor


@cache
def _multiplies_bfloat16() -> bool:
    """Whether oneDNN has bfloat16 products on this processor, by AVX-512 or what stands in for it elsewhere."""
    return not torch.backends.mkldnn.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _product(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    if a.dtype == torch.bfloat16 and a.device.type == "cpu" and not _multiplies_bfloat16():
        return _product(a.float(), b.float(), None if bias is None else bias.float()).bfloat16()
    sizeable = a.numel() and b.numel()  # Of nothing, oneDNN makes no product.
    if (
        sizeable
        and a.device.type == "cpu"
        and a.dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()
    ):
        # Of columns of a wider matrix, such as one layer's variables among those of all, oneDNN multiplies number by
        # number: 20 of 60 columns of 100 rows took 3000 times as long.
        b = b if b.is_contiguous() or b.T.is_contiguous() else b.contiguous()
        return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    if a.is_cuda and bias is not None:
        # Of a hundred rows and few columns, cuBLAS has slow kernels where a bias goes with the product: 14 µs for 5.
        return functional.linear(a, b).add_(bias)
    return functional.linear(a, b, bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, precision: torch.dtype) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.precision = precision
        return product(x, weight, bias, precision)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        multiply = product_with_gradient if torch.is_grad_enabled() else product
        return (
            multiply(grad, weight.T, precision=ctx.precision) if needs_x else None,
            multiply(grad.T, x.T, precision=ctx.precision) if needs_weight else None,
            grad.sum(0) if needs_bias else None,
            None,
        )


def product_with_gradient(
    a: Tensor, b: Tensor, bias: Tensor | None = None, precision: torch.dtype = torch.float32
) -> Tensor:
    """Return a bᵀ + bias, (M, N), as `product` does, with gradients of any order: for derivatives of derivatives."""
    return _Linear.apply(a, b, bias, precision)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, precision: torch.dtype = torch.float32) -> Tensor:
    """Return x Wᵀ + b, (..., N), of x (..., F), weight W (N, F) and bias b (N,); precision as in `product`."""
    return _Linear.apply(x.flatten(0, -2), weight, bias, precision).unflatten(0, x.shape[:-1])


class _BatchLast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, precision: torch.dtype) -> Tensor:
        operands = operand(weight, precision), operand(x, precision)
        ctx.save_for_backward(*operands)
        ctx.precision = precision
        return product(*operands).to(x.dtype).add_(bias.unsqueeze(-1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, x = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        rounded = operand(grad, ctx.precision)
        return (
            product(rounded.T, weight.T).to(grad.dtype) if needs_x else None,
            product(rounded, x.T).to(grad.dtype) if needs_weight else None,
            grad.sum(-1) if needs_bias else None,
            None,
        )


def linear_batch_last(x: Tensor, weight: Tensor, bias: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
    """Return (x Wᵀ + b)ᵀ = W xᵀ + b, (N, B), of x (B, F), whose images lie side by side in memory; see `kernels`."""
    return _BatchLast.apply(x, weight, bias, precision)


class Linear(nn.Linear):
    """torch's linear layer, by `linear`; while it trains (`nn.Module.train`), in its precision."""

    precision = torch.float32

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        return linear(x, self.weight, self.bias, self.precision if self.training else torch.float32)
