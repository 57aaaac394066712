"""The annealed free energy in one kernel each way: those of `models.objective.free_energy`.

It is a sum of four terms, each by 1 or by β.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from nfstudy.core.cuda import launch

BLOCK = 256


def energies(terms: Sequence[Tensor], beta: Tensor, annealing: str) -> Tensor:
    """Return the free energies, of the shape of each of the terms, which are in the order of `BoundTerms`.

    Arguments:
        terms: four of one shape.
        beta: β, a tensor of one number.
        annealing: energy, kl or none.
    """
    gapless = [term.contiguous() for term in terms]
    found = gapless[0].new_empty(gapless[0].shape)
    count = found.numel()
    launch(_energies, -(-count // BLOCK), *gapless, beta, found, count, **_shape(annealing))
    return found


def slopes(grad: Tensor, beta: Tensor, annealing: str) -> tuple[Tensor, ...]:
    """Return the gradients of the terms, for that of the free energies, which has the same shape."""
    grad = grad.contiguous()
    found = grad.new_empty(4, *grad.shape)
    count = grad.numel()
    launch(_slopes, -(-count // BLOCK), grad, beta, found, count, **_shape(annealing))
    return found.unbind()


def _shape(annealing: str) -> dict[str, int | bool]:
    """Return what the kernels are compiled for: whether β is a factor of ln p(x|z), ln p(z) and ln q."""
    return {
        "OF_LIKELIHOOD": annealing == "energy",
        "OF_PRIOR": annealing in ("energy", "kl"),
        "OF_Q": annealing == "kl",
        "BLOCK": BLOCK,
        "num_warps": 4,
    }


@triton.jit(
    do_not_specialize=["count"],
    do_not_specialize_on_alignment=["log_likelihood_ptr", "log_prior_ptr", "log_q0_ptr", "log_det_ptr", "beta_ptr"],
)
def _energies(
    log_likelihood_ptr, log_prior_ptr, log_q0_ptr, log_det_ptr, beta_ptr, found_ptr, count,
    OF_LIKELIHOOD: tl.constexpr, OF_PRIOR: tl.constexpr, OF_Q: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    has = i < count
    beta = tl.load(beta_ptr)
    log_likelihood = tl.load(log_likelihood_ptr + i, mask=has, other=0.0)
    log_prior = tl.load(log_prior_ptr + i, mask=has, other=0.0)
    log_q = tl.load(log_q0_ptr + i, mask=has, other=0.0) - tl.load(log_det_ptr + i, mask=has, other=0.0)
    if OF_LIKELIHOOD:
        log_likelihood *= beta
    if OF_PRIOR:
        log_prior *= beta
    if OF_Q:
        log_q *= beta
    tl.store(found_ptr + i, log_q - log_prior - log_likelihood, mask=has)


@triton.jit(do_not_specialize=["count"], do_not_specialize_on_alignment=["grad_ptr", "beta_ptr"])
def _slopes(
    grad_ptr, beta_ptr, found_ptr, count,
    OF_LIKELIHOOD: tl.constexpr, OF_PRIOR: tl.constexpr, OF_Q: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    has = i < count
    grad = tl.load(grad_ptr + i, mask=has, other=0.0)
    annealed = tl.load(beta_ptr) * grad
    by_likelihood, by_prior, by_q = -grad, -grad, grad
    if OF_LIKELIHOOD:
        by_likelihood = -annealed
    if OF_PRIOR:
        by_prior = -annealed
    if OF_Q:
        by_q = annealed
    n = tl.cast(count, tl.int64)
    tl.store(found_ptr + i, by_likelihood, mask=has)
    tl.store(found_ptr + n + i, by_prior, mask=has)
    tl.store(found_ptr + 2 * n + i, by_q, mask=has)
    tl.store(found_ptr + 3 * n + i, -by_q, mask=has)
