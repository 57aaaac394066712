"""F by the path alone: where q is the posterior, this gradient has no variance (Roeder et al. 2017)."""

from __future__ import annotations

import torch

from nfstudy.inference.models.minibatch import Minibatch
from nfstudy.inference.objectives.base import (
    Beta,
    Estimate,
    Estimator,
    along_path,
    over_samples,
    terms_at,
    with_gradient_of,
)


class StickingTheLanding(Estimator):
    """The reparametrised gradient of F without the score of q.

    With φ the parameters of q and z_K = z_K(ε, φ), the gradient of ln q_K(z_K; φ) along a sample has two parts:

        d/dφ ln q_K(z_K(ε, φ); φ) = sᵀ ∂z_K/∂φ + ∂/∂φ ln q_K(z; φ) at z = z_K,   s = ∂ ln q_K(z; φ)/∂z at z_K

    The second, the score, has mean 0 and is left out (Roeder et al. 2017, eq. 7). Without a flow that is ln q with its
    parameters stopped. Of a chain, s solves D linear equations (`minibatch.density_slope`), and sᵀ z_K, s held, has
    the gradient that is kept; no inverse is needed.
    """

    def __call__(self, batch: Minibatch, beta: Beta) -> Estimate:
        """Return the estimate at β."""
        draws = batch.draw()
        terms = terms_at(batch, draws, draws.z)
        path = along_path(batch.slope(), draws)
        kept = terms._replace(log_q0=path, log_det=torch.zeros_like(path))
        objective = with_gradient_of(self.energies(terms, beta), self.energies(kept, beta))
        return Estimate(over_samples(terms), objective.mean(0))
