"""F by the reparametrised gradient (Rezende & Mohamed 2015, eq. 20), and with free bits (Kingma et al. 2016)."""

from __future__ import annotations

from nfstudy.inference.models.minibatch import Minibatch
from nfstudy.inference.models.objective import BoundTerms
from nfstudy.inference.objectives.base import Beta, Estimate, Estimator, over_samples


class Pathwise(Estimator):
    """∇ E_ε[F(x, z_K(ε))] = E_ε[∇ F(x, z_K(ε))], mean over S samples.

    With `free_bits` λ, what is minimised is E_q[−ln p(x|z_K)] + β Σ_g max(λ n_g, E_batch KL_g) (Kingma et al. 2016,
    eq. 15), β being 1 without annealing. Without a flow a group g is a latent variable, n_g = 1 and KL_g is the
    Gaussian's in closed form. With one, q_K is no product: all D variables are the one group, n_g = D and KL_g is the
    mean of ln q_K(z_K|x) − ln p(z_K) over the minibatch and its samples. Below its floor a group's KL has no gradient.
    """

    def __call__(self, batch: Minibatch, beta: Beta) -> Estimate:
        """Return the estimate at β."""
        terms = batch.terms()
        if self.objective.free_bits is not None:
            return self._floored(batch, terms, beta, self.objective.free_bits)
        energies = self.energies(terms, beta)
        if energies.dim() > 1:
            energies = energies.mean(0)
        return Estimate(over_samples(terms), energies)

    def _floored(self, batch: Minibatch, terms: BoundTerms, beta: Beta, free: float) -> Estimate:
        of_each = batch.latent_kl()
        if of_each is None:
            kl = (terms.log_q0 - terms.log_det - terms.log_prior).mean().clamp(min=free * batch.latent)
        else:
            kl = of_each.mean(0).clamp(min=free).sum()
        terms = over_samples(terms)
        return Estimate(terms, self.share_of_q(beta) * kl - terms.log_likelihood)
