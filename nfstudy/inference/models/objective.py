"""The free energy and its terms, and how it is annealed; all in nats an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from nfstudy.core import cuda
from nfstudy.inference.models.gaussian import log_normal
from nfstudy.study.sections import ObjectiveSpec


class LatentVariableModel(Protocol):
    """What the bound needs of a model with prior p(z) = N(0, I); `DLGM` is one.

    Where −ln p(x) is estimated, `weigh_samples` takes the place of `bound_terms` if there is one: of many samples an
    image and without gradients, it may be faster, and differ in the last bits.
    """

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return its weights, as `nn.Module` does: the images take their dtype and device."""

    def infer(self, x: Tensor) -> Any:
        """Return the posterior's parameters for images (B, N)."""

    def sample(self, posterior: Any, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map noise (..., B, D) to z_K (..., B, D), ln q0 (..., B) and Σ log det (..., B)."""

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return ln p(x|z) (..., B)."""


def map_tensors(function: Callable[[Tensor], Tensor], posterior: Any) -> Any:
    """Return a posterior with each of its tensors replaced by a function of it; these may lie in tuples within it."""
    if isinstance(posterior, Tensor):
        return function(posterior)
    if isinstance(posterior, tuple):
        parts = [map_tensors(function, part) for part in posterior]
        return type(posterior)(*parts) if hasattr(posterior, "_fields") else tuple(parts)
    return posterior


def tensors_of(posterior: Any) -> list[Tensor]:
    """Return a posterior's tensors, in the order of `map_tensors`."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(note, posterior)
    return found


def of_each_image(model: LatentVariableModel, x: Tensor) -> tuple[bool, ...]:
    """Say of each tensor of a posterior, in the order of `map_tensors`, whether it has a row for each image.

    A flow may have parameters that all images share, which have none. Shapes of one posterior do not tell: a chain of K
    steps may have K rows.

    Arguments:
        model: whose posteriors they are.
        x: images (B, N), of which the first is looked at; B at least 1.
    """
    one, two = (tensors_of(model.infer(x[:1].expand(count, -1).contiguous())) for count in (1, 2))
    return tuple(a.shape != b.shape for a, b in zip(one, two, strict=True))


def rows_of(posterior: Any, own: Sequence[bool], rows: Any) -> Any:
    """Return the posterior of some of its images.

    Arguments:
        posterior: of B images.
        own: as `of_each_image` says.
        rows: which of the B, as a tensor is indexed.
    """
    each = iter(own)
    return map_tensors(lambda tensor: tensor[rows] if next(each) else tensor, posterior)


class BoundTerms(NamedTuple):
    """The terms of the variational bound at single posterior samples, each (..., B) in nats."""

    log_likelihood: Tensor
    """ln p(x|z_K)."""
    log_prior: Tensor
    """ln p(z_K)."""
    log_q0: Tensor
    """ln q0(z_0|x)."""
    log_det: Tensor
    """Σ_k ln|det ∂f_k/∂z_{k−1}|; of a `flows.guided.GuidedFlow`, its c."""

    @property
    def elbo(self) -> Tensor:
        """−F at each sample, ln p(x|z_K) + ln p(z_K) − ln q_K(z_K|x); also the log importance weight. Eq. (15)."""
        return self.log_likelihood + self.log_prior - self.log_q0 + self.log_det

    def numbers(self) -> dict[str, float]:
        """Return elbo and the terms by name, where each has one element, such as a mean."""
        return {"elbo": self.elbo.item()} | {name: term.item() for name, term in self._asdict().items()}


def bound_terms(
    model: LatentVariableModel,
    x: Tensor,
    noise: Tensor,
    posterior: Any = None,
    log_likelihood: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> BoundTerms:
    """Return the terms of the bound, one sample for each noise vector; eq. (15).

    Arguments:
        model: the model, with prior N(0, I).
        x: (B, N) images.
        noise: (..., B, n) draws from N(0, I), n being D, or as `DLGM.noise_size` says.
        posterior: `model.infer(x)` where it is known already.
        log_likelihood: in place of the model's.
    """
    log_likelihood = log_likelihood or model.log_likelihood
    z_K, log_q0, log_det = model.sample(model.infer(x) if posterior is None else posterior, noise)
    return BoundTerms(log_likelihood(x, z_K), log_normal(z_K), log_q0, log_det)


def beta_at(update: int, objective: ObjectiveSpec) -> float:
    """Return β_t = min(1, beta_start + t / anneal_updates), t updates done; 1 without annealing. Eq. (20)."""
    if objective.annealing == "none":
        return 1.0
    return min(1.0, objective.beta_start + update / objective.anneal_updates)


def free_energy(terms: BoundTerms, beta: float | Tensor, annealing: Literal["energy", "kl", "none"]) -> Tensor:
    """Return the annealed free energy (..., B) in nats; the mean over samples estimates what is minimised.

    energy: ln q0(z_0|x) − Σ log det − β · (ln p(x|z_K) + ln p(z_K)), eq. (20)
    kl:     −ln p(x|z_K) + β · (ln q0(z_0|x) − Σ log det − ln p(z_K))
    none:   −(ln p(x|z_K) + ln p(z_K)) + ln q0(z_0|x) − Σ log det, eq. (15)

    At β = 1 all three are the same.
    """
    alike = len({term.shape for term in terms}) == 1 and terms.log_q0.numel()
    if alike and cuda.runs_here(*terms):
        on_device = beta if isinstance(beta, Tensor) else torch.full((), beta, device=terms.log_q0.device)
        found: Tensor = _FreeEnergyOnGPU.apply(on_device, annealing, *terms)
        return found
    return plain_free_energy(terms, beta, annealing)


def plain_free_energy(terms: BoundTerms, beta: float | Tensor, annealing: Literal["energy", "kl", "none"]) -> Tensor:
    """Return what `free_energy` does, without the kernels."""
    log_q = terms.log_q0 - terms.log_det
    if annealing == "energy":
        return log_q - beta * (terms.log_likelihood + terms.log_prior)
    if annealing == "kl":
        return beta * (log_q - terms.log_prior) - terms.log_likelihood
    return -terms.elbo


class _FreeEnergyOnGPU(torch.autograd.Function):
    """`plain_free_energy` of terms of one shape, in one kernel each way."""

    @staticmethod
    def forward(ctx: Any, beta: Tensor, annealing: str, *terms: Tensor) -> Tensor:
        from nfstudy.core.cuda import free_energy  # It imports Triton, which few machines have.

        ctx.save_for_backward(beta)
        ctx.annealing = annealing
        return free_energy.energies(terms, beta, annealing)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from nfstudy.core.cuda import free_energy

        (beta,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # A derivative of this is asked for.
            by_likelihood = -(beta if ctx.annealing == "energy" else 1) * grad
            by_prior = -(1 if ctx.annealing == "none" else beta) * grad
            by_q = (beta if ctx.annealing == "kl" else 1) * grad
            return None, None, by_likelihood, by_prior, by_q, -by_q
        return None, None, *free_energy.slopes(grad, beta, ctx.annealing)
