import hashlib
import math

import pytest
import torch

from nfstudy.flows import make_flow
from nfstudy.flows.glow.flow import glow_flow, invert_glow_flow
from nfstudy.study.sections import FlowSpec


def draw(*shape, seed=0, scale=1.0, dtype=torch.float64):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def stream(name):
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big"))


def flow_of(latent, features=16, **choices):
    flow = make_flow(FlowSpec(**{"family": "glow", "length": 4, **choices}), latent, features).double()
    flow.initialise(stream)
    return flow


def still_networks(latent, length=1, hidden=1):
    """Coupling networks that say nothing: the coupling is the identity."""
    first = latent // 2
    shapes = [(length, hidden, first), (length, hidden), (length, 2 * (latent - first), hidden)]
    return [torch.zeros(*shape).double() for shape in (*shapes, (length, 2 * (latent - first)))]


def linear_maps(latent, length, scale):
    order = torch.stack([torch.randperm(latent, generator=torch.Generator().manual_seed(k)) for k in range(length)])
    sign = draw(length, latent, seed=1).sign()
    triangles = draw(length, latent, latent, seed=2, scale=scale)
    return order, sign, triangles, draw(length, latent, seed=3, scale=scale), draw(length, latent, seed=4, scale=scale)


def matrix_of(order, sign, triangles):
    """W = P L U of one step, written out."""
    latent = len(order)
    lower = triangles.tril(-1) + torch.eye(latent).double()
    upper = triangles.triu(1) + torch.diag(sign * triangles.diagonal().exp())
    permutation = torch.zeros(latent, latent).double()
    for row, column in enumerate(order.tolist()):
        permutation[row, column] = 1
    return permutation @ lower @ upper


def test_one_step_by_hand():
    # y = (2·3 + 1, 5 − 1) = (7, 4); U y = (−3·7 + 2·4, 4) = (−13, 4); L: (−13, −13·½ + 4) = (−13, −2.5); P swaps.
    triangles = double([[math.log(3), 2], [0.5, 0]])
    z, log_det = glow_flow(
        double([3, 5]),
        2.0,
        torch.tensor([[1, 0]]),
        double([-1, 1]),
        triangles,
        double([math.log(2), 0]),
        double([1, -1]),
        *still_networks(2),
    )
    torch.testing.assert_close(z, double([-2.5, -13]))
    assert log_det.item() == pytest.approx(math.log(6), rel=1e-14)


# Large triangles of 40 variables are too ill-conditioned for a determinant that is computed from their product.
@pytest.mark.parametrize(("latent", "scale"), [(2, 0.1), (2, 3.0), (5, 1.0), (5, 3.0), (40, 0.1)])
def test_the_linear_part_is_its_matrices_one_after_another(latent, scale):
    order, sign, triangles, gain, shift = linear_maps(latent, 3, scale)
    networks = still_networks(latent, 3)
    z, log_det = glow_flow(draw(7, latent), 2.0, order, sign, triangles, gain, shift, *networks)
    plain, total = draw(7, latent), 0.0
    for k in range(3):
        matrix = matrix_of(order[k], sign[k], triangles[k]) @ torch.diag(gain[k].exp())
        plain = plain @ matrix.T + shift[k] @ matrix_of(order[k], sign[k], triangles[k]).T
        total += torch.linalg.slogdet(matrix).logabsdet
    torch.testing.assert_close(z, plain, rtol=1e-9, atol=1e-9 * plain.abs().max().item())
    torch.testing.assert_close(log_det, total.expand(7), rtol=1e-9, atol=1e-9)


def test_gradients_are_those_of_finite_differences():
    order, sign, *numbers = linear_maps(4, 2, 0.5)
    networks = [0.5 * draw(*x.shape, seed=9 + i) for i, x in enumerate(still_networks(4, 2, hidden=3))]
    inputs = [draw(2, 3, 4), *numbers, *networks]
    for tensor in inputs:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda z, *rest: glow_flow(z, 2.0, order, sign, *rest), inputs)


def test_the_inverse_is_that_of_ill_conditioned_matrices_to_their_rounding():
    maps, networks = linear_maps(10, 2, 1.0), still_networks(10, 2)
    z = draw(50, 10, seed=5)
    back = invert_glow_flow(glow_flow(z, 2.0, *maps, *networks)[0], 2.0, *maps, *networks)
    worst = math.prod(
        float(torch.linalg.cond(matrix_of(*(x[k] for x in maps[:3])) @ torch.diag(maps[3][k].exp()))) for k in range(2)
    )
    assert 1e3 < worst < 1e12
    assert (back - z).abs().max() < 10 * worst * torch.finfo(z.dtype).eps


@pytest.mark.parametrize("latent", [2, 7, 40])
def test_it_starts_at_rotations_of_its_own_without_scale(latent):
    flow = flow_of(latent)
    for k in range(4):
        w = matrix_of(flow.order[k], flow.sign[k], flow.w_triangles[k].detach())
        torch.testing.assert_close(w @ w.T, torch.eye(latent).double(), rtol=0, atol=1e-12)
        assert flow.w_triangles[k].diagonal().sum().item() == pytest.approx(0, abs=1e-12)
    assert len(flow.w_triangles.detach().unique(dim=0)) == 4
    assert not flow.b_log_gain.any()
    assert not flow.b_shift.any()


def test_in_float32_it_starts_at_rotations_too():
    flow = make_flow(FlowSpec(family="glow", length=2), 40, 16)
    flow.initialise(stream)
    w = matrix_of(flow.order[0], flow.sign[0].double(), flow.w_triangles[0].detach().double())
    torch.testing.assert_close(w @ w.T, torch.eye(40).double(), rtol=0, atol=1e-5)
