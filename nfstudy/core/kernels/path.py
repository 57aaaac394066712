"""What chains have in common whose backward loop needs every z_{k−1} and the numbers of the steps, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def apply_chain(ctx: Any, loop: Callable[..., None], z: Tensor, steps: Tensor, option: object) -> tuple[Tensor, Tensor]:
    """Run a chain; where a gradient will be asked for, keep its path for `gradients_of_chain`.

    Arguments:
        ctx: of the `torch.autograd.Function` that this is the forward pass of.
        loop: takes the arrays of steps, the option, and those of the path (K, S, D, B), or (0, S, D, B) where it is not
            to be kept, of z_0 (S, D, B), which it turns into z_K, and of the log-determinants (S, B), and fills them.
        z: z_0, (S, D, B).
        steps: the numbers of all steps, (K, n, B).
        option: what the loop is told beside.

    Returns:
        z_K, (S, D, B), and Σ_k ln|det ∂f_k/∂z_{k−1}| in nats, (S, B).
    """
    z, steps = z.contiguous(), steps.contiguous()
    path = z.new_empty(len(steps) if any(ctx.needs_input_grad) else 0, *z.shape)
    end, log_det = z.clone(), z.new_empty(z.shape[0], z.shape[2])
    loop(steps.numpy(), option, path.numpy(), end.numpy(), log_det.numpy())
    ctx.save_for_backward(path, steps)
    ctx.option = option
    return end, log_det


def gradients_of_chain(
    ctx: Any, loop: Callable[..., None], grad_z: Tensor, grad_log_det: Tensor
) -> tuple[Tensor, Tensor, None]:
    """Return the gradients of z_0, of steps and of the option, which has none.

    Arguments:
        ctx: as `apply_chain` left it.
        loop: takes the arrays of the path, the steps, the gradient of z_K, which it turns into that of z_0, the
            gradient of the log-determinants, zeros to which it adds the gradient of steps, and the option.
        grad_z: of z_K, (S, D, B).
        grad_log_det: of the log-determinants, (S, B).
    """
    path, steps = ctx.saved_tensors
    grad_z = grad_z.clone(memory_format=torch.contiguous_format)
    grad_steps = torch.zeros_like(steps)
    arrays = (x.numpy() for x in (path, steps, grad_z, grad_log_det.contiguous(), grad_steps))
    loop(*arrays, ctx.option)
    return grad_z, grad_steps, None
