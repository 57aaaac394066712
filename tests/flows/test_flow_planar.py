import math

import pytest
import torch

from nfstudy.flows.planar.flow import PlanarFlow, constrain_u, free_planar_flow, invert_planar_flow, planar_flow


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
    u, w, b = flow.split(*flow.parameters_from(torch.zeros(1, 16, dtype=torch.float64)))
    torch.testing.assert_close(w.norm(dim=-1), torch.ones(1, 3, dtype=torch.float64))
    torch.testing.assert_close(constrain_u(u, w)[0], torch.zeros_like(u), rtol=0, atol=1e-15)
    torch.testing.assert_close((w * u).sum(-1), torch.full_like(b, math.log(math.e - 1)))
    assert not b.any()


def test_the_inverse_of_one_step_by_hand():
    # With wᵀu = ln(e² − 1), w = (1, 0): wᵀû = 1, û = (1, 3), and tanh ½ = (e − 1)/(e + 1).
    u, w, b = double(math.log(math.e**2 - 1), 3)[None], double(1, 0)[None], double(0)
    half = (math.e - 1) / (math.e + 1)
    z_0 = invert_planar_flow(double(0.5 + half, -1 + 3 * half)[None], u, w, b)
    torch.testing.assert_close(z_0, double(0.5, -1)[None], rtol=0, atol=1e-15)


def step_along(wu, norm, latent):
    """u, w and b of one step with this wᵀu and ‖w‖, and a part of u across w."""
    w = draw(latent, seed=1)
    w *= norm / w.norm()
    u = draw(latent, seed=2)
    return (u + (wu - w @ u) / norm**2 * w)[None], w[None], double(0.3)


@pytest.mark.parametrize("latent", [1, 2, 5, 40])
@pytest.mark.parametrize("norm", [0.1, 1.0, 50.0], ids=lambda norm: f"w={norm:g}")
@pytest.mark.parametrize("wu", [-30.0, -5.0, 0.0, 30.0], ids=lambda wu: f"wu={wu:g}")
def test_the_inverse_at_large_parameters(wu, norm, latent):
    parameters = step_along(wu, norm, latent)
    z = draw(500, latent, seed=3)
    z = z[(z @ parameters[1][0] + parameters[2]).abs() > 0.05]  # off the plane that the next test is about
    z_1, _ = planar_flow(z, *parameters)
    torch.testing.assert_close(invert_planar_flow(z_1, *parameters), z, rtol=0, atol=1e-9)
    again, _ = planar_flow(invert_planar_flow(z, *parameters), *parameters)
    torch.testing.assert_close(again, z, rtol=0, atol=1e-9)


@pytest.mark.parametrize("wu", [-30.0, -800.0], ids=lambda wu: f"wu={wu:g}")
def test_where_the_map_is_all_but_flat_a_comes_back_to_the_cube_root_of_rounding(wu):
    """At wᵀû = −1 a step maps a to a − tanh a = a³/3 + …, so results within δ come from a within (12 δ)^⅓."""
    a = torch.logspace(-9, 0, 200, dtype=torch.float64)
    z = torch.stack([torch.cat([a, -a]), torch.ones(400, dtype=torch.float64)], dim=-1)
    u, w, b = double(wu, 0)[None], double(1, 0)[None], double(0)
    z_1, _ = planar_flow(z, u, w, b)
    back = invert_planar_flow(z_1, u, w, b)
    rounding = 4 * torch.finfo(torch.float64).eps
    assert (back - z).abs().max() < (12 * rounding) ** (1 / 3)
    torch.testing.assert_close(planar_flow(back, u, w, b)[0], z_1, rtol=0, atol=rounding)


def test_the_inverse_without_a_direction_is_a_shift():
    z, u, b = draw(5, 3), double(1, -30, 2)[None], double(0.4)
    z_0 = invert_planar_flow(z, u, torch.zeros(1, 3, dtype=torch.float64), b)
    torch.testing.assert_close(z_0, z - u * math.tanh(0.4), rtol=0, atol=1e-14)


@pytest.mark.parametrize("latent", [1, 2, 5, 40])
def test_a_free_chain_has_the_log_det_of_autograd_where_steps_fold_space_too(latent):
    z, u, w, b = draw(50, latent), draw(3, latent, seed=1), draw(3, latent, seed=2), draw(3, seed=3)
    u = u + (double(-3, 2, -8) - (w * u).sum(-1))[:, None] * w / w.square().sum(-1, keepdim=True)
    jacobian = torch.autograd.functional.jacobian(lambda rows: free_planar_flow(rows, u, w, b)[0].sum(0), z)
    sign, expected = torch.linalg.slogdet(jacobian.movedim(1, 0))
    assert sign.min() == -1
    assert sign.max() == 1
    torch.testing.assert_close(free_planar_flow(z, u, w, b)[1], expected, rtol=1e-9, atol=1e-9)


def test_a_free_step_by_hand():
    # w = (1, 0), u = (-3, 2), a = ½ ln 3: tanh a = ½, sech²a = ¾, so the determinant is 1 − 9/4.
    z, log_det = free_planar_flow(
        double(0.5 * math.log(3), 1)[None], double(-3, 2)[None], double(1, 0)[None], double(0)
    )
    assert z[0].tolist() == pytest.approx([0.5 * math.log(3) - 1.5, 2], rel=1e-15)
    assert log_det.item() == pytest.approx(math.log(1.25), rel=1e-14)


def test_the_free_chain_at_u_hat_is_the_constrained_one_at_u():
    z, u, w, b = draw(7, 5), draw(4, 5, seed=1), draw(4, 5, seed=2), draw(4, seed=3)
    torch.testing.assert_close(
        free_planar_flow(z, constrain_u(u, w)[0], w, b), planar_flow(z, u, w, b), rtol=1e-12, atol=1e-12
    )


def test_a_free_step_starts_at_the_identity_exactly_where_no_feature_moves_it():
    flow = PlanarFlow(latent=40, length=3, features=0, constraint=False).double()
    flow.initialise(lambda name: torch.Generator().manual_seed(int(name.removeprefix("step "))))
    z, parameters = draw(5, 40), flow.parameters_from(torch.zeros(0, dtype=torch.float64))
    z_k, log_det = flow(z, parameters)
    assert torch.equal(z_k, z)
    assert not log_det.any()
    assert (flow.split(*parameters)[1].norm(dim=-1) >= 1).all()


def test_the_example_that_is_worked_by_hand_in_the_documents():
    z, u, w = (torch.tensor([pair], dtype=torch.float64) for pair in ((1.0, 2.0), (0.5, -0.3), (1.0, 0.5)))
    b = torch.tensor([0.1], dtype=torch.float64)
    # a = wᵀz + b = 2.1, tanh a = 0.970452, wᵀu = 0.35, sech²a = 0.058223.
    out, log_det = free_planar_flow(z, u, w, b)
    torch.testing.assert_close(out, torch.tensor([[1.48523, 1.70886]], dtype=torch.float64), atol=5e-6, rtol=0)
    assert log_det.exp().item() == pytest.approx(1.020378, abs=5e-7)
    # m(wᵀu) = −1 + ln(1 + e^0.35) = −0.116618: û = u + (m − wᵀu) w/‖w‖².
    u_hat, _ = constrain_u(u, w)
    torch.testing.assert_close(u_hat, torch.tensor([[0.1267, -0.4866]], dtype=torch.float64), atol=1e-4, rtol=0)
    out, log_det = planar_flow(z, u, w, b)
    torch.testing.assert_close(out, torch.tensor([[1.12296, 1.52773]], dtype=torch.float64), atol=5e-6, rtol=0)
    assert log_det.exp().item() == pytest.approx(0.99321, abs=5e-6)
