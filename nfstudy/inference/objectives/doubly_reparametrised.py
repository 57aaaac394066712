"""The importance-weighted bound by the doubly reparametrised gradient (Tucker et al. 2019)."""

from __future__ import annotations

from torch import Tensor

from nfstudy.inference.models.minibatch import Minibatch
from nfstudy.inference.objectives.base import (
    Beta,
    Estimate,
    Estimator,
    along_path,
    log_mean,
    over_samples,
    terms_at,
    with_gradient_of,
)


class DoublyReparametrised(Estimator):
    """∇_φ of the bound of `ImportanceWeighted` as E[Σ_s a_s (∂ ln w_s/∂z_s)ᵀ ∂z_s/∂φ] (Tucker et al. 2019, eq. 8).

    The reparametrised gradient is Σ_s w̃_s d ln w_s/dφ, w̃ the normalised weights, and holds w̃_s times −c times the
    score of q, c being what F multiplies ln q_K by: β under `kl` annealing, and else 1. Reparametrised once more,

        E[w̃_s ∂ ln q_K(z_s; φ)/∂φ] = E[(w̃_s − w̃_s²) (∂ ln w_s/∂z_s)ᵀ ∂z_s/∂φ],   so   a_s = (1 − c) w̃_s + c w̃_s².

    At β = 1, a_s = w̃_s². The gradient of p's parameters is Σ_s w̃_s ∂ ln w_s/∂θ, as before.
    """

    def __call__(self, batch: Minibatch, beta: Beta) -> Estimate:
        """Return the estimate at β."""
        draws = batch.draw()
        z = draws.z.view_as(draws.z)
        terms = terms_at(batch, draws, z)
        log_weights = -self.energies(terms, beta).detach()
        weights = log_weights.softmax(0)
        share = self.share_of_q(beta)
        factor = (1 - share) + share * weights  # a_s / w̃_s

        if z.requires_grad:
            # Backward, the joint's gradient arrives here as w̃_s ∂ ln p/∂z_s: p's own parameters have had theirs.
            def to_path(gradient: Tensor) -> Tensor:
                return gradient * factor.unsqueeze(-1)

            z.register_hook(to_path)
        path = (weights * factor).detach() * along_path(batch.slope(), draws)
        held = terms._replace(log_q0=terms.log_q0.detach(), log_det=terms.log_det.detach())
        surrogate = (weights * self.energies(held, beta) + share * path).sum(0)
        return Estimate(over_samples(terms), with_gradient_of(-log_mean(log_weights), surrogate))
