"""An energy on the plane: a diagonal Gaussian, pushed through a flow, is fitted to p(z) ∝ exp(−U(z)) (Section 6.1)."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Iterator
from functools import cached_property, lru_cache

import torch
from torch import Tensor, nn

from nfstudy.core.seeds import derive_seed
from nfstudy.films.arrays import PlaneFilm
from nfstudy.films.fits import PlaneFits
from nfstudy.flows import make_flow
from nfstudy.inference.models.hmc import Sampling
from nfstudy.inference.models.minibatch import Draws, density_slope
from nfstudy.inference.models.objective import BoundTerms
from nfstudy.inference.problems.base import Diagnosis
from nfstudy.inference.problems.density_grid import CELLS, array_file, window_mass
from nfstudy.inference.problems.drawing import in_blocks, normal
from nfstudy.inference.problems.energies import WINDOW, energy, log_density, log_normaliser, reach_of, window_grid
from nfstudy.inference.problems.films import CELLS as FILM_CELLS
from nfstudy.inference.problems.films import SAMPLES, plane_film
from nfstudy.inference.problems.fits import CHAINS, Target, plane_fits, study_target
from nfstudy.inference.problems.image_grid import image_grid
from nfstudy.study.sections import ENERGY_EPOCH, EnergySpec, FlowSpec, Q0Spec
from nfstudy.study.settings import Settings

VALIDATION_SAMPLES = 2000
SAMPLES_AT_ONCE = 10_000
FIT_SAMPLING = Sampling(burn_in=300, draws=4000, leapfrog=6)
"""Of the energies by MCMC: many short trajectories, as what lets a chain cross from mode to mode is a new momentum."""
FIT_NODES = 24
FIT_SAMPLES = 5000
"""Of q_K, to know where it reaches."""


class PlaneFlow(nn.Module):
    """q_K(z): q0 = N(mean, diag(exp(log_variance))) on the plane, pushed through K steps; eqs. (6), (7).

    The paper does not say whether q0 is learned. It is here: NICE preserves volume, and could not fit a density of
    another spread otherwise.
    """

    def __init__(self, flow: FlowSpec, q0: Q0Spec) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(2))
        self.log_variance = nn.Parameter(torch.full((2,), 2 * math.log(q0.deviation)))
        self.flow = make_flow(flow, 2, 0)

    def initialise(self, base_seed: int, repetition: int) -> None:
        """Draw the flow's parameters anew from streams of the seed and the repetition; q0 starts as it was made."""

        def generator(part: str) -> torch.Generator:
            return torch.Generator().manual_seed(derive_seed(base_seed, "initialisation", repetition, f"flow {part}"))

        self.flow.initialise(generator)

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map noise (S, 2) from N(0, I) to z_K (S, 2), ln q0(z_0) (S,) and Σ_k ln|det ∂f_k/∂z_{k−1}| (S,), in nats."""
        z_K, log_det = self.flow(self.start(noise), self.flow_parameters())
        return z_K, self._log_q0(noise), log_det

    def start(self, noise: Tensor) -> Tensor:
        """Return z_0 (..., 2) of noise (..., 2) from N(0, I)."""
        return self.mean + (0.5 * self.log_variance).exp() * noise

    def log_q0(self, z_0: Tensor) -> Tensor:
        """Return ln q0(z_0) (...) in nats at points z_0 (..., 2)."""
        return self._log_q0((z_0 - self.mean) * (-0.5 * self.log_variance).exp())

    @torch.no_grad()
    def log_density(self, z: Tensor) -> Tensor:
        """Return ln q_K(z) (...) in nats at any points z (..., 2), by the inverse of the flow; without gradients."""
        parameters = self.flow_parameters()
        z_0 = self.flow.inverse(z, parameters)
        _, log_det = self.flow(z_0, parameters)
        return self.log_q0(z_0) - log_det

    def flow_parameters(self) -> tuple[Tensor, ...]:
        """Return what the flow takes beside z."""
        return self.flow.parameters_from(self.mean.new_empty(0))

    def _log_q0(self, noise: Tensor) -> Tensor:
        return -0.5 * (noise.square() + self.log_variance + math.log(2 * math.pi)).sum(-1)


class PlaneMinibatch:
    """A `Minibatch` on the plane: B groups of S samples, −U for ln p(x|z), and 0 for the prior that there is not.

    Arguments:
        model: q.
        target: p.
        noise: (S, B, 2).
    """

    latent = 2

    def __init__(self, model: PlaneFlow, target: EnergySpec, noise: Tensor) -> None:
        self.model, self.target, self.noise = model, target, noise
        self.samples = len(noise)

    @property
    def inputs(self) -> Tensor:
        """None of each, (B, 0)."""
        return self.noise.new_zeros(self.noise.shape[1], 0)

    def terms(self) -> BoundTerms:
        """Return the terms of the bound along the path, (B,) where S is 1 and (S, B) else."""
        z, log_q0, log_det = self.model.sample(self.noise[0] if self.samples == 1 else self.noise)
        return BoundTerms(*self.log_joint(z), log_q0, log_det)

    def draw(self) -> Draws:
        """Return the samples."""
        return Draws(*self.model.sample(self.noise))

    def slope(self) -> Tensor:
        """Return ∂ ln q_K(z)/∂z at the samples, (S, B, 2) without gradients."""
        at_start = -self.noise * (-0.5 * self.model.log_variance).exp()
        return density_slope(self.model.flow, self.model.flow_parameters(), self.model.start(self.noise), at_start)

    def log_joint(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return −U(z) and 0, (S, B) each."""
        minus_energy = log_density(self.target, z)
        return minus_energy, torch.zeros_like(minus_energy)

    def latent_kl(self) -> None:
        """Return None: there is no prior."""

    def dream(self) -> Tensor:
        """Raise TypeError: there is no model to dream."""
        raise TypeError("an energy on the plane draws no examples; expected: an estimator without a sleep phase")


class EnergyProblem:
    """A `Problem`: a `PlaneFlow` fitted to a confined energy. Noise comes from CPU generators, as for images."""

    epoch_updates = ENERGY_EPOCH

    def __init__(self, settings: Settings, repetition: int, device: str) -> None:
        self.settings = settings
        assert settings.energy is not None
        self.target = settings.energy
        self.repetition = repetition
        self.device = device
        self.model = PlaneFlow(settings.flow, settings.q0)
        self.model.initialise(settings.seed, repetition)
        self.model.to(device)

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Return those of q0 and of the flow."""
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.numel()}

    def parameters(self) -> list[nn.Parameter]:
        """Return those of q0 and of the flow."""
        return list(self.named_parameters().values())

    @property
    def inputs(self) -> int:
        """0: there are no examples."""
        return 0

    def minibatches(self, epoch: int, updates: int, start: int = 0) -> Iterator[PlaneMinibatch]:
        """Yield `train.batch` groups of fresh samples, an update each; see `Problem`."""
        for update, (noise,) in enumerate(self.draws(epoch, updates)):
            if update >= start:
                yield self.minibatch((noise.to(self.device),))

    def draws(self, epoch: int, updates: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield each update's noise (S, B, 2); see `Problem`."""
        for (noise,) in self.blocks(epoch, updates, 1):
            yield (noise[0],)

    def blocks(self, epoch: int, updates: int, at_once: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield what `draws` does of many updates, on a first axis; see `Problem`."""
        return self._noise(epoch, updates, self.settings.objective.samples, at_once)

    def minibatch(self, drawn: tuple[Tensor, ...]) -> PlaneMinibatch:
        """Return the minibatch of what `draws` yielded, on the problem's device; see `Problem`."""
        return PlaneMinibatch(self.model, self.target, *drawn)

    def repeated_minibatch(self, count: int, samples: int) -> Iterator[PlaneMinibatch]:
        """Yield as many batches of fresh samples; see `Problem`."""
        for (noise,) in self._noise(0, count, samples, 1):
            yield self.minibatch((noise[0].to(self.device),))

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Return the bound over samples that are the same every time."""
        noise = torch.randn(VALIDATION_SAMPLES, 2, generator=self._generator("evaluation", "valid"))
        terms, _ = self._terms(noise)
        return BoundTerms(*(term.double().mean() for term in terms)).numbers()

    def held_out(self) -> dict[str, float]:
        """Return nothing: there are no images."""
        return {}

    @torch.inference_mode()
    def test(self) -> dict[str, float]:
        """Return the true KL and what it is made of, over `evaluation.samples` samples.

        F = E_q[ln q_K(z) + U(z)] and KL(q_K‖p) = F + ln Z, of the confined energy; elbo = −F, with the standard error
        `elbo_mc_se`, which is KL's too. `elbo_table_1` is −E_q[ln q_K(z) + U(z)] with U as in Table 1, unconfined.
        `mass_left` is the share of samples with z1 < 0, ½ for u1; `window_mass` the integral of q_K over the window.
        """
        samples, noise = self.settings.evaluation.samples, self._test_noise()
        elbos, confinements, left = [], [], 0
        for part in noise.split(SAMPLES_AT_ONCE):
            terms, z = self._terms(part)
            elbos.append(terms.elbo.double())
            confinements.append((terms.log_likelihood + energy(self.target.name, z)).double())
            left += int((z[:, 0] < 0).sum().item())
        elbo, confinement = torch.cat(elbos), torch.cat(confinements)
        mean, log_z = elbo.mean().item(), log_normaliser(self.target)
        return {
            "elbo": mean,
            "elbo_mc_se": (elbo.std() / math.sqrt(samples)).item(),
            "elbo_table_1": mean - confinement.mean().item(),
            "log_z": log_z,
            "kl": log_z - mean,
            "mass_left": left / samples,
            "window_mass": window_mass(self._window_density),
        }

    def diagnose(self) -> Diagnosis:
        """Return nothing: `test` says it all."""
        return Diagnosis()

    def files(self) -> dict[str, bytes]:
        """Return the parameters; q_K(z) and p(z) on the window's grid, per unit area, as arrays and as a picture."""
        checkpoint = io.BytesIO()
        torch.save(self.model.state_dict(), checkpoint)
        q = self._window_density
        p = (log_density(self.target, window_grid(CELLS)) - log_normaliser(self.target)).exp()
        return {
            "checkpoint.pt": checkpoint.getvalue(),
            "density.npy": array_file(q),
            "target.npy": array_file(p),
            "density.png": image_grid((torch.stack([p, q]) / p.max()).numpy(), columns=2),
        }

    def film(self) -> PlaneFilm:
        """Return what the flow does step by step to q0, in float64; its samples are the first that `test` draws."""
        model = copy.deepcopy(self.model).cpu().double()
        noise = self._test_noise()[:SAMPLES].double()
        return plane_film(
            model.flow,
            model.flow_parameters(),
            lambda z_0: model.log_q0(z_0).detach(),
            model.start,
            model.start(noise).detach(),
            log_density(self.target, window_grid(FILM_CELLS)) - log_normaliser(self.target),
        )

    def fits(self) -> PlaneFits:
        """Return the energy's density beside draws by MCMC, the best Gaussians, and q_K; in float64.

        What does not depend on the flow is the same for all runs of an energy and a seed.
        """
        model = copy.deepcopy(self.model).cpu().double().requires_grad_(False)
        samples = model.sample(self._test_noise()[:FIT_SAMPLES].double())[0]
        return plane_fits(
            _target(self.target, self.settings.seed),
            lambda z: model.log_density(z.squeeze(-2)).unsqueeze(-1),
            samples.unsqueeze(1),
            torch.tensor([[0.0, 0.0, WINDOW]], dtype=torch.float64),
        )

    @cached_property
    def _window_density(self) -> Tensor:
        """q_K at `window_grid`; asked for only when the training is over."""
        return copy.deepcopy(self.model).cpu().double().log_density(window_grid(CELLS)).exp()

    def _noise(self, epoch: int, updates: int, samples: int, at_once: int) -> Iterator[tuple[Tensor]]:
        stream = self._generator("posterior noise", self.repetition, epoch)
        shape = (samples, self.settings.train.batch, 2)
        for count in in_blocks(updates, at_once, math.prod(shape)):
            yield (normal(count, shape, stream),)

    def _terms(self, noise: Tensor) -> tuple[BoundTerms, Tensor]:
        z, log_q0, log_det = self.model.sample(noise.to(self.device))
        return BoundTerms(log_density(self.target, z), torch.zeros_like(log_q0), log_q0, log_det), z

    def _test_noise(self) -> Tensor:
        samples = self.settings.evaluation.samples
        return torch.randn(samples, 2, generator=self._generator("evaluation", "test"))

    def _generator(self, purpose: str, *axes: str | int) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.settings.seed, purpose, *axes))


@lru_cache
def _target(spec: EnergySpec, seed: int) -> Target:
    """Return an energy's density, studied; its chains start evenly over the window."""
    stream = torch.Generator().manual_seed(derive_seed(seed, "mcmc", spec.name))
    starts = WINDOW * (2 * torch.rand(CHAINS, 1, 2, generator=stream, dtype=torch.float64) - 1)
    return study_target(lambda z: log_density(spec, z), starts, reach_of(spec), FIT_SAMPLING, FIT_NODES, stream)
