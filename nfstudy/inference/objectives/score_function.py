"""F by the score function, and what is taken off its learning signal (Williams 1992; Mnih & Gregor 2014)."""

from __future__ import annotations

import torch
from torch import Tensor

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
from nfstudy.study.sections import ObjectiveSpec


class ScoreFunction(Estimator):
    """∇_φ E_q[F(x, z)] = E_q[(F(x, z) − b) ∇_φ ln q_K(z|x)], z held; of p, E_q[∇_θ F(x, z)].

    The score ∇_φ ln q_K(z|x) at a held z is the gradient along the sample without its path (`sticking_the_landing`).
    E_q[∇_φ F] is E_q[∇_φ ln q] = 0 and left out. b must not depend on the sample it is taken off (Mnih & Gregor 2014):

        none            0
        running         m, the running mean of F over minibatches of before
        input           m + wᵀ x, w by normalised least mean squares on minibatches of before
        leave-one-out   the mean F of the other S − 1 samples of the same example (Mnih & Rezende 2016, as a VIMCO
                        for the plain bound; Kool et al. 2019)
    """

    def __init__(self, objective: ObjectiveSpec, inputs: int = 0, device: str = "cpu") -> None:
        super().__init__(objective, inputs, device)
        if objective.baseline in ("running", "input"):
            self.state = {"count": torch.zeros((), device=device), "mean": torch.zeros((), device=device)}
        if objective.baseline == "input":
            self.state["weights"] = torch.zeros(inputs, device=device)

    def __call__(self, batch: Minibatch, beta: Beta) -> Estimate:
        """Return the estimate at β; the baseline has then learned from this minibatch."""
        draws = batch.draw()
        terms = terms_at(batch, draws, draws.z.detach())
        signal = self.energies(terms, beta).detach()
        score = draws.log_q - along_path(batch.slope(), draws)
        weighted = (signal - self._baseline(batch, signal)) * score
        of_p = self.energies(terms._replace(log_q0=terms.log_q0.detach(), log_det=terms.log_det.detach()), beta)
        self._learn(batch, signal.mean(0))
        return Estimate(over_samples(terms), with_gradient_of(signal, weighted + of_p).mean(0))

    def _baseline(self, batch: Minibatch, signal: Tensor) -> Tensor | float:
        """Return b, which broadcasts to the signal (S, B)."""
        kind = self.objective.baseline
        if kind == "leave-one-out":
            return (signal.sum(0) - signal) / (len(signal) - 1)
        if kind == "none":
            return 0.0
        return self._learned(batch).to(signal)

    def _learned(self, batch: Minibatch) -> Tensor:
        mean = self.state["mean"]
        return mean + batch.inputs.to(mean) @ self.state["weights"] if "weights" in self.state else mean

    @torch.no_grad()
    def _learn(self, batch: Minibatch, energies: Tensor) -> None:
        if not self.state:
            return
        energies = energies.to(self.state["mean"])
        errors = energies - self._learned(batch)
        count = self.state["count"] + 1
        rate = torch.clamp(1 / count, min=self.objective.baseline_rate)
        state = {"count": count, "mean": self.state["mean"] + rate * errors.mean()}
        if "weights" in self.state:
            x = batch.inputs.to(errors)
            steps = (errors - errors.mean()).unsqueeze(-1) * x / (1 + x.square().sum(-1, keepdim=True))
            state["weights"] = self.state["weights"] + self.objective.baseline_rate * steps.mean(0)
        self.state = state
