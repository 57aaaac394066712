"""Flows that follow the gradient of a log joint: geometry, weights, and a model around them."""

import hashlib
import math

import numpy as np
import pytest
import torch
from support.families import GUIDED
from torch.distributions import Normal

from nfstudy.core.errors import UserError
from nfstudy.flows import make_flow
from nfstudy.flows.guided import slope_of, step_size
from nfstudy.flows.hamiltonian.flow import leapfrog
from nfstudy.flows.langevin.flow import langevin
from nfstudy.flows.standalone import standalone_flow
from nfstudy.inference.models.ais import Annealing, ais_likelihood
from nfstudy.inference.models.dlgm import DLGM
from nfstudy.inference.models.evaluation import evaluate_likelihood
from nfstudy.inference.models.objective import bound_terms
from nfstudy.study.reader import parse_study
from nfstudy.study.sections import FlowSpec, ModelSpec


def draw(*shape, seed=0, scale=1.0, dtype=torch.float64):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def stream(name):
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big"))


def bent(z):
    """An unnormalised log density with correlations and no constant curvature."""
    return -0.25 * z.pow(4).sum(-1) + (1.5 * z[..., 0] + z.sum(-1)).sin()


def one_leapfrog(z, momentum, step, gradient):
    """As printed in every text on Hamiltonian Monte Carlo."""
    momentum = momentum + step / 2 * gradient(z)
    z = z + step * momentum
    return z, momentum + step / 2 * gradient(z)


def gradient_of_bent(z):
    slope = -z.pow(3) + (1.5 * z[..., :1] + z.sum(-1, keepdim=True)).cos()
    slope[..., 0] += 1.5 * (1.5 * z[..., 0] + z.sum(-1)).cos()
    return slope


def test_the_slope_is_the_derivative_with_and_without_gradients_and_in_inference_mode():
    z = draw(7, 4)
    torch.testing.assert_close(slope_of(bent, z), gradient_of_bent(z))
    with torch.no_grad():
        slope = slope_of(bent, z)
    assert not slope.requires_grad
    torch.testing.assert_close(slope, gradient_of_bent(z))
    with torch.inference_mode():
        inside = z + 0
        torch.testing.assert_close(slope_of(bent, inside), gradient_of_bent(z))


@pytest.mark.parametrize("length", [1, 4, 8])
def test_a_trajectory_is_its_leapfrog_steps(length):
    z, momentum, step = draw(7, 4), draw(7, 4, seed=1), 0.1 * draw(7, 4, seed=2).exp()
    ours = leapfrog(z, momentum, step, length, bent)
    for _ in range(length):
        z, momentum = one_leapfrog(z, momentum, step, gradient_of_bent)
    torch.testing.assert_close(ours, (z, momentum), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [0.1, 0.5, 2.0])
def test_it_preserves_volume_and_goes_back_by_the_reversed_momentum(size):
    z, momentum, step = draw(1, 3), draw(1, 3, seed=1), size * draw(1, 3, seed=2).exp().clamp(max=1)

    def trajectory(both):
        return torch.cat(leapfrog(both[None, :3], both[None, 3:], step, 4, bent), dim=-1)[0]

    start = torch.cat([z, momentum], dim=-1)[0]
    jacobian = torch.autograd.functional.jacobian(trajectory, start)
    uncertain = torch.linalg.cond(jacobian).item() * torch.finfo(torch.float64).eps
    assert torch.linalg.slogdet(jacobian).logabsdet.item() == pytest.approx(0, abs=1e-10 + 100 * uncertain)
    if size < 1:
        end, momentum = leapfrog(z, momentum, step, 4, bent)
        back, _ = leapfrog(end, -momentum, step, 4, bent)
        torch.testing.assert_close(back, z, rtol=0, atol=1e-8)


def test_short_trajectories_keep_the_energy():
    z, momentum, step = draw(50, 3), draw(50, 3, seed=1), torch.full((3,), 0.01, dtype=torch.float64)
    z_k, momentum_k = leapfrog(z, momentum, step, 20, bent)
    before, after = (-bent(z) + 0.5 * momentum.square().sum(-1), -bent(z_k) + 0.5 * momentum_k.square().sum(-1))
    assert (before - after).abs().max() < 2e-2
    assert (z_k - z).norm(dim=-1).min() > 0.01


def test_a_langevin_step_has_the_ratio_of_its_kernels():
    """Σ ln N(z_{k−1}; z_k + ½ ε² ∇(z_k), ε²) − ln N(z_k; z_{k−1} + ½ ε² ∇(z_{k−1}), ε²), with torch's densities."""
    z, noise, steps = draw(6, 4), draw(6, 3, 4, seed=1), 0.3 * draw(6, 3, 4, seed=2).exp()
    z_k, c = langevin(z, noise, steps, bent)
    expected = torch.zeros(6, dtype=torch.float64)
    for xi, step in zip(noise.unbind(-2), steps.unbind(-2), strict=True):
        there = Normal(z + 0.5 * step**2 * gradient_of_bent(z), step)
        new = there.mean + step * xi
        back = Normal(new + 0.5 * step**2 * gradient_of_bent(new), step)
        expected += (back.log_prob(z) - there.log_prob(new)).sum(-1)
        z = new
    torch.testing.assert_close((z_k, c), (z, expected), rtol=1e-9, atol=1e-9)


def test_a_langevin_step_is_a_leapfrog_step_whose_momentum_is_then_forgotten():
    z, noise, step = draw(6, 4), draw(6, 4, seed=1), 0.3 * draw(6, 4, seed=2).exp()
    z_k, momentum = leapfrog(z, noise, step, 1, bent)
    forgotten = Normal(0, 1).log_prob(momentum).sum(-1) - Normal(0, 1).log_prob(noise).sum(-1)
    torch.testing.assert_close(langevin(z, noise[:, None], step[:, None], bent), (z_k, forgotten))


def test_step_sizes_stay_within_a_factor_of_e_squared():
    sizes = step_size(0.05, torch.tensor([-1e6, -1e-3, 0.0, 1e-3, 1e6]))
    expected = torch.tensor([math.exp(-2), math.exp(-1e-3), 1, math.exp(1e-3), math.exp(2)]) * 0.05
    torch.testing.assert_close(sizes, expected)


@pytest.mark.parametrize("family", GUIDED)
@pytest.mark.parametrize("features", [0, 16])
def test_it_starts_near_the_identity_with_a_small_correction(family, features):
    flow = make_flow(FlowSpec(family=family, length=8), 5, features).double()
    flow.initialise(stream)
    images = draw(40, features) if features else torch.zeros(0, dtype=torch.float64)
    z, noise = draw(40, 5, scale=0.5), draw(40, flow.further_noise, seed=1)
    z_k, c = flow.guided(z, flow.parameters_from(images), noise, lambda z: Normal(0, 0.5).log_prob(z).sum(-1))
    assert 0.05 < (z_k - z).norm(dim=-1).mean() < 1.5
    assert c.mean().abs() < 1.5
    with pytest.raises(TypeError, match="follows a model's gradient"):
        flow(z, flow.parameters_from(images))


def model_of(family, length=3, **model):
    network = DLGM(
        6,
        ModelSpec(**{"latent": 2, "hidden": 8, "layers": 1, "maxout": 2} | model),
        FlowSpec(family=family, length=length, leapfrog_step=0.2),
    )
    network = network.double()
    network.initialise(1, 1)
    return network


@pytest.mark.parametrize("family", GUIDED)
def test_the_gradient_of_the_bound_is_that_of_differences_through_the_models_own_gradient(family):
    """By a weight of the generative network, the inference network, and the flow: second derivatives of ln p(x|z)."""
    model = model_of(family)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.3 * draw(*weights.shape, seed=weights.numel()))
    x = (draw(4, 6) > 0).double()
    noise = draw(4, model.noise_size, seed=1)

    def bound():
        return bound_terms(model, x, noise).elbo.sum()

    named = dict(model.named_parameters())
    assert model.noise_size == {"hamiltonian": 4, "langevin": 8}[family]
    for name in ("likelihood.logits.weight", "decoder.0.pieces.weight", "encoder.0.pieces.weight", "flow.head.bias"):
        weights = named[name]
        (gradient,) = torch.autograd.grad(bound(), weights)
        place = int(gradient.reshape(-1).abs().argmax())
        ends = []
        for move in (1e-6, -2e-6):
            with torch.no_grad():
                weights.view(-1)[place] += move
                ends.append(bound().item())
        with torch.no_grad():
            weights.view(-1)[place] += 1e-6
        assert gradient.reshape(-1)[place].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5), name


@pytest.fixture(params=GUIDED)
def known(request):
    """A model with two latent variables, bits, and their mean −ln p(x) by quadrature over the plane."""
    model = model_of(request.param)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.2 * draw(*weights.shape, seed=weights.numel()))
        model.log_variance.bias.fill_(0.3)
    x = np.random.default_rng(0).integers(2, size=(10, 6), dtype=np.uint8)
    axis = torch.linspace(-7, 7, 281, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)[:, None]
    with torch.no_grad():
        joint = model.log_likelihood(torch.tensor(x).double(), z) + Normal(0, 1).log_prob(z).sum(-1)
    return model, x, -(joint.logsumexp(0) + 2 * math.log(axis[1] - axis[0])).mean().item()


def test_importance_weights_meet_the_exact_ln_p(known):
    model, x, exact = known
    estimates = evaluate_likelihood(model, x, 20_000, seed=1)
    assert estimates.nll_mc_se < 0.02
    assert abs(estimates.nll - exact) < 4 * estimates.nll_mc_se
    assert -estimates.elbo > exact


@pytest.mark.parametrize("path", ["prior", "q"])
def test_annealing_meets_the_exact_ln_p_from_the_prior_and_from_the_flow(known, path):
    model, x, exact = known
    found = ais_likelihood(model, x, Annealing(40, 16, 3, path), seed=2)
    assert found.mean_se < 0.1
    assert abs(float(found.nll.mean()) - exact) < 4 * found.mean_se


@pytest.mark.parametrize("family", GUIDED)
def test_without_gradients_the_numbers_are_those_with_them(family):
    model, x = model_of(family), (draw(4, 6) > 0).double()
    noise = draw(3, 4, model.noise_size, seed=1)
    with_them = bound_terms(model, x, noise)
    with torch.inference_mode():
        without = bound_terms(model, x.clone(), noise.clone())
    torch.testing.assert_close([*without], [term.detach() for term in with_them], rtol=1e-12, atol=1e-12)


STUDY = """\
study: guided
title: Guided
energy: {name: u1}
grid: {flow.family: [FAMILY], flow.length: [2]}
exhibits: [summary]
"""


@pytest.mark.parametrize("family", GUIDED)
def test_where_there_is_no_model_of_images_it_is_refused(family):
    with pytest.raises(UserError, match=rf"flow.family: got {family}; expected: none, .* on the plane"):
        parse_study(STUDY.replace("FAMILY", family), "guided.yaml").under().cells  # noqa: B018
    with pytest.raises(UserError, match=f"flow {family}: follows the gradient of a model of images"):
        standalone_flow(family, dim=2, length=2)
