"""Chains of many samples of each image, as −ln p(x) is estimated with, against the formulas in float64."""

import pytest
import torch

from nfstudy.flows.base import NoFlow
from nfstudy.flows.layered import LayeredFlow
from nfstudy.flows.nice.flow import NiceOrthFlow, NicePermFlow
from nfstudy.flows.planar.flow import PlanarFlow


def made(flow, scale=0.1):
    """Return a flow with weights away from their start."""
    flow.initialise(lambda part: torch.Generator().manual_seed(len(part)))
    stream = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weights in flow.parameters():
            weights.add_(scale * torch.randn(weights.shape, generator=stream))
    return flow


CHAINS = {
    "none": lambda: NoFlow(4, 0, 5),
    "planar": lambda: PlanarFlow(40, 20, 5),
    "planar, three variables": lambda: PlanarFlow(3, 9, 5),
    "planar, free": lambda: PlanarFlow(6, 3, 5, constraint=False),
    "nice-perm": lambda: NicePermFlow(40, 10, 5, 40),
    "nice-perm, odd sizes": lambda: NicePermFlow(7, 5, 5, 9, coupling_layers=3, coupling_pass=0.3),
    "nice-perm, shared, scaled": lambda: NicePermFlow(
        6, 4, 5, 8, coupling_amortised=False, coupling_layers=2, coupling_scaling=True
    ),
    "nice-orth": lambda: NiceOrthFlow(6, 3, 5, 8),
    "layers": lambda: LayeredFlow([PlanarFlow(4, 3, 5), PlanarFlow(3, 3, 5)]),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize(("samples", "images"), [(16, 3), (5, 4), (33, 1)])
@torch.no_grad()
def test_they_are_the_formula_but_for_rounding(name, samples, images):
    flow = made(CHAINS[name]())
    stream = torch.Generator().manual_seed(1)
    z = torch.randn(samples, images, flow.latent, generator=stream)
    parameters = flow.parameters_from(torch.randn(images, flow.features, generator=stream))
    before = z.clone()
    run = flow.for_samples(parameters)
    ends, log_det = run(z)
    again, _ = run(z.transpose(0, 1).contiguous().transpose(0, 1))
    exact, exact_log_det = flow.double()(z.double(), tuple(x.double() for x in parameters))
    assert torch.equal(z, before)
    assert torch.equal(ends, again)
    assert ends.dtype == torch.float32
    torch.testing.assert_close(ends.double(), exact, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(log_det.double(), exact_log_det, rtol=2e-5, atol=2e-5)


@torch.no_grad()
def test_a_sample_is_the_same_whatever_its_neighbours():
    for flow in (made(PlanarFlow(8, 5, 5)), made(NicePermFlow(8, 5, 5, 12))):
        z, features = torch.randn(40, 7, 8), torch.randn(7, 5)
        ends, log_det = flow.for_samples(flow.parameters_from(features))(z)
        parameters = tuple(x[3:4] for x in flow.parameters_from(features))
        alone, alone_log_det = flow.for_samples(parameters)(z[20:23, 3:4])
        assert torch.equal(alone, ends[20:23, 3:4])
        assert torch.equal(alone_log_det, log_det[20:23, 3:4])


@pytest.mark.parametrize("wu", [-300.0, -20.0, 50.0, 1e4])
@torch.no_grad()
def test_planar_determinants_far_from_1(wu):
    """wᵀu from where M = ln(1 + exp(wᵀu)) is no number of float32 to where it is large."""
    flow = PlanarFlow(2, 12, 5)
    u, w, b = torch.tensor([wu, 0.3]), torch.tensor([1.0, 0.0]), torch.tensor([0.1])
    steps = torch.cat([u, w, b]).expand(3, 12, 5).contiguous()
    z = torch.randn(16, 3, 2, generator=torch.Generator().manual_seed(0))
    ends, log_det = flow.for_samples((steps,))(z)
    exact, exact_log_det = flow(z.double(), (steps.double(),))
    scale = exact.abs().max()
    torch.testing.assert_close(ends.double() / scale, exact / scale, rtol=1e-4, atol=1e-4)
    rounded = flow(z, (steps,))[1].double()
    allowed = 10 * (rounded - exact_log_det).abs().max() + 1e-4 * exact_log_det.abs().max()
    assert (log_det - exact_log_det).abs().max() <= allowed


@torch.no_grad()
def test_a_nan_stays_in_its_sample():
    for flow in (made(PlanarFlow(8, 5, 5)), made(NicePermFlow(8, 5, 5, 12))):
        z = torch.randn(20, 3, 8)
        z[4, 1, 2] = torch.nan
        ends, _ = flow.for_samples(flow.parameters_from(torch.randn(3, 5)))(z)
        wrong = ends.isnan().any(-1)
        assert wrong[4, 1]
        assert wrong.sum() == 1


@pytest.mark.parametrize("slope", [1e4, 1e9, 1e12, 1e16, 1e20, 1e28])
@torch.no_grad()
def test_a_steep_planar_step_far_from_its_bend_changes_no_volume(slope):
    flow = PlanarFlow(2, 1, 0)
    # u = (slope, 0), w = (1, 0), b = 30, of which softplus makes no other number.
    flow.head.bias.copy_(torch.tensor([slope, 0.0, 1.0, 0.0, 30.0]))
    z = torch.zeros(16, 1, 2)
    parameters = flow.parameters_from(torch.empty(0))
    assert flow(z, parameters)[1].abs().max() < 1e-6
    assert flow.for_samples(parameters)(z)[1].abs().max() < 1e-6
