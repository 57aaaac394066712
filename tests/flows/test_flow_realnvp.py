import math

import pytest
import torch

from nfstudy.core.errors import UserError
from nfstudy.flows.realnvp.flow import invert_realnvp_flow, realnvp_flow
from nfstudy.flows.standalone import standalone_flow


def draw(*shape, seed=0, scale=1.0, dtype=torch.float64):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def networks(*images, latent, first, length=3, hidden=6, scale=1.0, dtype=torch.float64):
    shapes = [
        (length, hidden, first),
        (*images, length, hidden),
        (length, 2 * (latent - first), hidden),
        (length, 2 * (latent - first)),
    ]
    return [draw(*shape, seed=seed, scale=scale, dtype=dtype) for seed, shape in enumerate(shapes, 1)]


def orders(latent, length=3):
    return torch.stack([torch.randperm(latent, generator=torch.Generator().manual_seed(k)) for k in range(length)])


def plain_realnvp(z, c, mixing, w_in, b_in, w_out, b_out):
    """Dinh et al.'s eqs. (4), (5) element by element, one sample z (D,)."""
    log_det = 0.0
    for k, order in enumerate(mixing):
        z = z[order]
        first = w_in.shape[-1]
        numbers = w_out[k] @ torch.tanh(w_in[k] @ z[:first] + b_in[k]) + b_out[k]
        changed = []
        for i, (t, r) in enumerate(zip(*numbers.chunk(2), strict=True)):
            s = c * torch.tanh(r / c)
            changed.append(z[first + i] * torch.exp(s) + t)
            log_det = log_det + s
        z = torch.cat([z[:first], torch.stack(changed)])
    return z, log_det


def test_one_step_by_hand():
    # z = (3, 5) is permuted to (5, 3); the network says t = 2 and r = 2 atanh(½), so s = 2 · ½ = 1: 3 e + 2.
    w_out, b_out = torch.zeros(1, 2, 1).double(), double([2, 2 * math.atanh(0.5)])
    z, log_det = realnvp_flow(
        double([3, 5]), 2.0, torch.tensor([[1, 0]]), torch.ones(1, 1, 1).double(), double([0]), w_out, b_out
    )
    torch.testing.assert_close(z, double([5, 3 * math.e + 2]))
    assert log_det.item() == pytest.approx(1, rel=1e-14)


@pytest.mark.parametrize(("latent", "first"), [(2, 1), (5, 2), (5, 4), (40, 20)])
@pytest.mark.parametrize("c", [0.5, 2.0])
def test_values_and_gradients_equal_the_plain_formula(latent, first, c):
    inputs = [draw(latent), *networks(latent=latent, first=first)]
    for tensor in inputs:
        tensor.requires_grad_()
    mixing = orders(latent)
    z, log_det = realnvp_flow(inputs[0][None], c, mixing, *inputs[1:])
    ours, plain = (z[0], log_det[0]), plain_realnvp(inputs[0], c, mixing, *inputs[1:])
    torch.testing.assert_close(ours, plain, rtol=1e-11, atol=1e-12)
    gradients = [torch.autograd.grad(z.sin().sum() + 2 * log_det, inputs) for z, log_det in (ours, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e6], ids=lambda scale: f"{scale:g}")
@pytest.mark.parametrize("c", [0.5, 2.0])
def test_no_step_scales_by_more_than_its_bound_and_all_is_finite_in_float32(c, scale):
    sizes = {"latent": 6, "first": 5, "length": 1}
    inputs = [draw(50, 6, dtype=torch.float32), *networks(50, **sizes, scale=scale, dtype=torch.float32)]
    for tensor in inputs:
        tensor.requires_grad_()
    z, log_det = realnvp_flow(inputs[0], c, orders(6, 1), *inputs[1:])
    assert log_det.abs().max() <= c * (1 + 1e-6)
    assert scale == 1 or log_det.abs().max() > 0.99 * c
    assert z.isfinite().all()
    for gradient in torch.autograd.grad(z.sum() + log_det.sum(), inputs):
        assert gradient.isfinite().all()


def test_the_inverse_at_large_parameters():
    z, arguments = draw(2, 100, 40), networks(100, latent=40, first=20, scale=10.0)
    z_k, _ = realnvp_flow(z, 2.0, orders(40), *arguments)
    torch.testing.assert_close(invert_realnvp_flow(z_k, 2.0, orders(40), *arguments), z, rtol=0, atol=1e-8)


@pytest.mark.parametrize("family", ["realnvp", "glow"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coupling_log_scale": 0.0}, "coupling_log_scale: got 0.0; expected: .*greater than 0"),
        ({"coupling_log_scale": 11.0}, "coupling_log_scale: got 11.0; expected: .*less than or equal to 10"),
        ({"coupling_scaling": True}, "coupling_scaling: no such setting; expected: coupling_hidden"),
    ],
)
def test_what_no_affine_coupling_can_have_is_refused(family, settings, message):
    with pytest.raises(UserError, match=message):
        standalone_flow(family, dim=2, length=1, **settings)
