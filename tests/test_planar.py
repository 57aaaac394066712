import math

import pytest
import torch

from nfstudy.flows.planar import PlanarFlow, constrain_u, planar_flow


def plain_planar(z, u, w, b):
    """The paper's formulas as printed: one image (z: (B, D), parameters (K, D) and (K,)), no care for rounding."""
    log_det = 0.0
    for u_k, w_k, b_k in zip(u, w, b, strict=True):
        m = -1 + torch.log(1 + torch.exp(w_k @ u_k))
        u_hat = u_k + (m - w_k @ u_k) * w_k / (w_k @ w_k)
        a = z @ w_k + b_k
        psi = (1 - torch.tanh(a) ** 2)[:, None] * w_k
        log_det = log_det + torch.log(torch.abs(1 + psi @ u_hat))
        z = z + u_hat * torch.tanh(a)[:, None]
    return z, log_det


def draw(*shape, seed=0, scale=1.0, dtype=torch.float64):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def test_one_step_has_the_values_worked_with_mpmath():
    # Appendix A and eqs. (10)-(13) at 40 digits in mpmath, from u = (-2, 1/2), w = (3/2, -1), so wᵀu = -7/2.
    u, w = double(-2, 0.5), double(1.5, -1)
    z, log_det = planar_flow(double(0.2, -0.7)[None], u[None], w[None], double(0.3))
    assert constrain_u(u, w)[0].tolist() == pytest.approx([-0.83242288387417512, -0.27838474408388325], rel=1e-15)
    assert z[0].tolist() == pytest.approx([-0.51731807737674773, -0.93989058117659015], rel=1e-15)
    assert log_det.item() == pytest.approx(-0.28738138622764047, rel=1e-14)


# wᵀu, and 1 + wᵀû = ln(1 + exp(wᵀu)) with mpmath.
@pytest.mark.parametrize(
    ("wu", "margin"),
    [
        (-120, math.exp(-120)),
        (-5, 0.0067153484891180686),
        (0, 0.69314718055994531),
        (3, 3.0485873515737421),
        (120, 120),
    ],
)
def test_the_constraint_keeps_wu_above_minus_one(wu, margin):
    w = double(0.6, -0.8) * 2
    u = wu * w / (w @ w) + 0.7 * double(0.8, 0.6)
    u_hat, log_margin = constrain_u(u, w)
    assert (w @ u_hat).item() == pytest.approx(margin - 1, abs=1e-13)
    assert log_margin.item() == pytest.approx(math.log(margin), rel=1e-13)
    assert (u_hat @ double(0.8, 0.6)).item() == pytest.approx(0.7)  # across w, u is left alone


@pytest.mark.parametrize("latent", [1, 2, 5, 40])
def test_values_and_gradients_equal_the_plain_formula(latent):
    inputs = [draw(7, latent), draw(4, latent, seed=1), draw(4, latent, seed=2), draw(4, seed=3)]
    inputs[1] *= latent**-0.5
    for tensor in inputs:
        tensor.requires_grad_()
    ours, plain = planar_flow(*inputs), plain_planar(*inputs)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-13)
    gradients = [torch.autograd.grad(z.sin().sum() + 2 * log_det.sum(), inputs) for z, log_det in (ours, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


# ln(tanh²a + sech²a ln(1 + eˣ)) with mpmath; in float32 the determinant of most of these is 0, 1 or rounded to noise.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(
    ("wu", "a", "log_det"),
    [
        (-120, 0, -120),
        (-120, 1e-20, -92.103403719761827),
        (-120, 0.5, -1.5438736658106095),
        (-200, 0, -200),
        (-200, 1e-30, -138.15510557964274),
        (120, 0, 4.787491742782046),
        (120, 0.5, 4.5495230084862409),
        (120, 30, 0),
    ],
)
def test_log_det_at_extreme_parameters(wu, a, log_det, dtype):
    w, u = torch.tensor([[0.5, 0]], dtype=dtype), torch.tensor([[2 * wu, 1]], dtype=dtype)
    _, ours = planar_flow(torch.zeros(1, 2, dtype=dtype), u, w, torch.tensor([a], dtype=dtype))
    assert ours.item() == pytest.approx(log_det, rel=1e-5 if dtype is torch.float32 else 1e-13, abs=1e-7)


@pytest.mark.parametrize("size", [0.0, 1.0, 1e4], ids=lambda size: f"z={size:g}")
@pytest.mark.parametrize("bias", [0.0, 0.4])
@pytest.mark.parametrize("wu", [-120.0, 0.0, 120.0], ids=lambda wu: f"wu={wu:g}")
@pytest.mark.parametrize("norm", [0.0, 1e-25, 1e-20, 4e-10, 1.0, 100.0], ids=lambda norm: f"w={norm:g}")
def test_values_and_gradients_are_finite_in_float32(norm, wu, bias, size):
    direction = torch.tensor([0.6, -0.8, 0.0])
    u = wu * direction / (norm if norm > 1e-10 else 1) + torch.tensor([0.0, 0.0, 1.0])
    z = size * torch.tensor([[0.8, 0.6, 0.0], [0.6, -0.8, 0.0], [0.0, 0.0, 1.0]])
    inputs = [z, u.repeat(3, 2, 1), (norm * direction).repeat(3, 2, 1), torch.full((3, 2), bias)]
    for tensor in inputs:
        tensor.requires_grad_()
    z_k, log_det = planar_flow(*inputs)
    assert z_k.isfinite().all()
    assert log_det.isfinite().all()
    for gradient in torch.autograd.grad(z_k.sum() + log_det.sum(), inputs):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("norm", [0.0, 1e-25], ids=["w=0", "w=1e-25"])
def test_without_a_direction_a_step_is_a_shift(norm):
    z, u, b = draw(5, 3, dtype=torch.float32), torch.tensor([[1.0, -30.0, 2.0]]), torch.tensor([0.4])
    z_k, log_det = planar_flow(z, u, torch.full((1, 3), norm), b)
    torch.testing.assert_close(z_k, z + u * math.tanh(0.4))
    torch.testing.assert_close(log_det, torch.zeros(5), atol=1e-6, rtol=0)


@pytest.mark.parametrize("wu", [-50.0, -1.5, 4.0], ids=lambda wu: f"wu={wu:g}")
def test_a_step_is_injective_along_w(wu):
    w = double(1.2, -1.6)
    along = torch.linspace(-5, 5, 2001, dtype=torch.float64)[:, None] * w
    image, _ = planar_flow(along, (wu * w / (w @ w))[None], w[None], double(0.0))
    assert (image @ w).diff().min() > 0


def test_a_step_starts_where_the_constraint_does_nothing():
    flow = PlanarFlow(latent=40, length=3, features=16).double()
    flow.initialise(lambda name: torch.Generator().manual_seed(int(name.removeprefix("step "))))
    u, w, b = flow.parameters_from(torch.zeros(1, 16, dtype=torch.float64))
    torch.testing.assert_close(w.norm(dim=-1), torch.ones(1, 3, dtype=torch.float64))
    torch.testing.assert_close(constrain_u(u, w)[0], torch.zeros_like(u), rtol=0, atol=1e-15)
    torch.testing.assert_close((w * u).sum(-1), torch.full_like(b, math.log(math.e - 1)))
    assert not b.any()
