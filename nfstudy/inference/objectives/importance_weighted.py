"""The importance-weighted bound by the reparametrised gradient (Burda et al. 2016)."""

from __future__ import annotations

from nfstudy.inference.models.minibatch import Minibatch
from nfstudy.inference.objectives.base import Beta, Estimate, Estimator, log_mean, over_samples


class ImportanceWeighted(Estimator):
    """−E ln (1/S) Σ_s w_s, z_s ~ q_K(·|x), ln w_s = −F(x, z_s), F annealed as of one sample (Burda et al. 2016, eq. 8).

    At β = 1, w is p(x, z)/q_K(z|x) and the bound is on ln p(x); under `energy` annealing, w is p(x, z)^β/q_K(z|x), and
    under `kl` p(x|z) (p(z)/q_K(z|x))^β. Of one sample it is the annealed F itself.
    """

    def __call__(self, batch: Minibatch, beta: Beta) -> Estimate:
        """Return the estimate at β."""
        terms = batch.terms()
        energies = self.energies(terms, beta)
        if batch.samples > 1:
            energies = -log_mean(-energies)
        return Estimate(over_samples(terms), energies)
