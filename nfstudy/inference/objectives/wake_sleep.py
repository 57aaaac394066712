"""Wake-sleep (Hinton et al. 1995) and reweighted wake-sleep (Bornschein & Bengio 2015): losses of q and p apart."""

from __future__ import annotations

import torch
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


class WakeSleep(Estimator):
    """Wake: p by −E_{q(z|x)}[ln p(x, z)], x from the data. Sleep: q by −E_{p(x, z)}[ln q_K(z|x)] (Hinton et al. 1995).

    The two have no function in common; `objective` is their sum, each with its own parameters. As many dreams as
    examples are drawn for each update, of q_K's density at them by the flow's inverse.
    """

    def __call__(self, batch: Minibatch, beta: Beta) -> Estimate:
        """Return the estimate; β is 1, as there is no annealing."""
        with torch.no_grad():
            draws = batch.draw()
        terms = terms_at(batch, draws, draws.z)
        objective = -(terms.log_likelihood + terms.log_prior).mean(0) - batch.dream()
        return Estimate(over_samples(terms), objective)


class ReweightedWakeSleep(Estimator):
    """p by −ln (1/S) Σ_s w_s of held z_s ~ q_K; q by what `q_update` says (Bornschein & Bengio 2015, eqs. 5, 9, 10).

        wake    −Σ_s w̃_s ln q_K(z_s|x), w̃ normalised and held: as S grows, the gradient of KL(p(z|x)‖q)
        sleep   −ln q_K(z|x) of dreams, as in `WakeSleep`
        both    the mean of the two

    `objective` is the sum of p's loss and q's.
    """

    def __call__(self, batch: Minibatch, beta: Beta) -> Estimate:
        """Return the estimate; β is 1, as there is no annealing."""
        update = self.objective.q_update
        with torch.set_grad_enabled(torch.is_grad_enabled() and update != "sleep"):
            draws = batch.draw()
        terms = terms_at(batch, draws, draws.z.detach())
        weights = terms.elbo.detach().softmax(0)
        bound = log_mean(terms.elbo.detach())
        of_p = with_gradient_of(-bound, -(weights * (terms.log_likelihood + terms.log_prior)).sum(0))
        of_q: list[Tensor] = []
        if update != "sleep":
            score = draws.log_q - along_path(batch.slope(), draws)
            of_q.append(-(weights * with_gradient_of(draws.log_q, score)).sum(0))
        if update != "wake":
            of_q.append(-batch.dream())
        return Estimate(over_samples(terms), of_p + torch.stack(of_q).mean(0))
