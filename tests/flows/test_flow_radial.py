import math

import pytest
import torch

from nfstudy.flows.radial.flow import RadialFlow, constrain_beta, free_radial_flow, invert_radial_flow, radial_flow


def plain_radial(z, z0, alpha, beta):
    """The paper's formulas as printed: one image (z: (B, D), parameters (K, D) and (K,)), no care for rounding."""
    log_det = 0.0
    for z0_k, alpha_k, beta_k in zip(z0, alpha, beta, strict=True):
        beta_hat = -alpha_k + torch.log(1 + torch.exp(beta_k))
        r = ((z - z0_k) ** 2).sum(-1).sqrt()
        h, slope = 1 / (alpha_k + r), -1 / (alpha_k + r) ** 2
        det = (1 + beta_hat * h) ** (z.shape[-1] - 1) * (1 + beta_hat * h + beta_hat * slope * r)
        log_det = log_det + torch.log(det)
        z = z + (beta_hat * h)[:, None] * (z - z0_k)
    return z, log_det


def draw(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def test_one_step_has_the_values_worked_with_mpmath():
    # Appendix A and eq. (14) at 40 digits in mpmath, from α = 0.8 and β = -1.5.
    z, log_det = radial_flow(double(0.2, -0.7, 1.1)[None], double(0.5, -1, 2)[None], double(0.8), double(-1.5))
    assert constrain_beta(double(-1.5), double(0.8)).item() == pytest.approx(-0.59858672201724759, rel=1e-15)
    assert z[0].tolist() == pytest.approx([0.30004304926759646, -0.80004304926759646, 1.4001291478027894], rel=1e-14)
    assert log_det.item() == pytest.approx(-0.97226429797294379, rel=1e-14)


# β, and β̂ + α = ln(1 + e^β) with mpmath; at -50 it is e⁻⁵⁰, which α = 0.8 swallows.
@pytest.mark.parametrize(
    ("beta", "margin"),
    [(-50, 0.0), (-5, 0.0067153484891180686), (0, 0.69314718055994531), (3, 3.0485873515737421), (120, 120)],
)
def test_the_constraint_keeps_beta_above_minus_alpha(beta, margin):
    assert constrain_beta(double(beta), double(0.8)).item() == pytest.approx(margin - 0.8, abs=1e-15, rel=1e-15)


@pytest.mark.parametrize("latent", [1, 2, 5, 40])
def test_values_and_gradients_equal_the_plain_formula(latent):
    inputs = [draw(7, latent), draw(4, latent, seed=1), draw(4, seed=2).exp(), draw(4, seed=3)]
    for tensor in inputs:
        tensor.requires_grad_()
    ours, plain = radial_flow(*inputs), plain_radial(*inputs)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-13)
    gradients = [torch.autograd.grad(z.sin().sum() + 2 * log_det.sum(), inputs) for z, log_det in (ours, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


# At z = z0 the map is the scaling by ln(1 + e^β)/α in all 3 directions: 3 ln(ln(1 + e^β)/0.8) with mpmath.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(
    ("beta", "log_det"), [(-120, -360 - 3 * math.log(0.8)), (0, -0.43010810780236371), (120, 15.031905882288767)]
)
def test_log_det_at_the_reference_point(beta, log_det, dtype):
    z0 = torch.tensor([[0.5, -1, 2]], dtype=dtype)
    z, ours = radial_flow(z0.clone(), z0, torch.tensor([0.8], dtype=dtype), torch.tensor([beta], dtype=dtype))
    assert ours.item() == pytest.approx(log_det, rel=1e-6 if dtype is torch.float32 else 1e-14)
    assert torch.equal(z, z0)


@pytest.mark.parametrize("distance", [0.0, 1e-25, 1.0, 1e4], ids=lambda distance: f"r={distance:g}")
@pytest.mark.parametrize("beta", [-120.0, 0.0, 120.0], ids=lambda beta: f"beta={beta:g}")
@pytest.mark.parametrize("alpha", [1e-6, 1.0, 1e4], ids=lambda alpha: f"alpha={alpha:g}")
def test_values_and_gradients_are_finite_in_float32(alpha, beta, distance):
    z0 = torch.zeros(2, 2, 3)
    z = distance * torch.tensor([[0.6, -0.8, 0.0], [0.0, 0.0, 1.0]])
    inputs = [z, z0, torch.full((2, 2), alpha), torch.full((2, 2), beta)]
    for tensor in inputs:
        tensor.requires_grad_()
    z_k, log_det = radial_flow(*inputs)
    assert z_k.isfinite().all()
    assert log_det.isfinite().all()
    for gradient in torch.autograd.grad(z_k.sum() + log_det.sum(), inputs):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("beta", [-30.0, -1.0, 5.0], ids=lambda beta: f"beta={beta:g}")
def test_a_step_is_injective_along_a_ray(beta):
    ray = torch.linspace(0, 5, 1001, dtype=torch.float64)[:, None] * double(0.6, -0.8)
    image, _ = radial_flow(ray, double(0.0, 0.0)[None], double(0.5), double(beta))
    assert (image @ double(0.6, -0.8)).diff().min() > 0


def test_a_step_starts_where_beta_hat_is_zero_and_alpha_the_usual_distance():
    flow = RadialFlow(latent=36, length=3, features=16).double()
    flow.initialise(lambda name: torch.Generator().manual_seed(int(name.removeprefix("step "))))
    z0, alpha, beta = flow.split(*flow.parameters_from(torch.zeros(1, 16, dtype=torch.float64)))
    assert alpha.flatten().tolist() == pytest.approx([6, 6, 6])
    assert constrain_beta(beta, alpha).flatten().tolist() == pytest.approx([0, 0, 0], abs=1e-14)
    assert z0.std().item() == pytest.approx(1, abs=4 / (2 * 108) ** 0.5)


# r′ = r (r + p)/(α + r), p = ln(1 + e^β): solved for r by hand.
@pytest.mark.parametrize(
    ("alpha", "beta", "r_out", "r"),
    [
        pytest.param(1.0, math.log(math.e**2 - 1), 1.5, 1.0, id="p=2"),
        pytest.param(1.0, -800.0, 0.5, 1.0, id="p=0"),
        pytest.param(1.0, -800.0, 1e-200, 1e-100, id="p=0, near z0"),
        pytest.param(1e-12, math.log(math.e**2 - 1), 3.0, 1.0, id="hardly any alpha, beyond p"),
        pytest.param(1e-12, math.log(math.e**2 - 1), 1.0, 1e-12, id="hardly any alpha, within p"),
        pytest.param(1.0, 700.0, 700.0, math.sqrt(700), id="at p"),
    ],
)
def test_the_inverse_of_one_step_by_hand(alpha, beta, r_out, r):
    z0, direction = double(0, 0), double(0.6, -0.8)
    z = invert_radial_flow((z0 + r_out * direction)[None], z0[None], double(alpha), double(beta))
    assert z[0].tolist() == pytest.approx((z0 + r * direction).tolist(), rel=1e-11)


@pytest.mark.parametrize("beta", [-800.0, -1.0, 5.0], ids=lambda beta: f"beta={beta:g}")
def test_the_inverse_keeps_the_reference_point(beta):
    z0 = double(0.5, -1, 2)[None]
    assert torch.equal(invert_radial_flow(z0.clone(), z0, double(0.8), double(beta)), z0)


@pytest.mark.parametrize("latent", [1, 2, 5, 40])
@pytest.mark.parametrize("beta", [-800.0, -30.0, 0.0, 120.0], ids=lambda beta: f"beta={beta:g}")
@pytest.mark.parametrize("alpha", [1e-12, 1.0, 100.0], ids=lambda alpha: f"alpha={alpha:g}")
def test_the_inverse_at_large_parameters(alpha, beta, latent):
    parameters = (draw(1, latent, seed=1), double(alpha), double(beta))
    z = draw(500, latent, seed=3)
    z_1, _ = radial_flow(z, *parameters)
    torch.testing.assert_close(invert_radial_flow(z_1, *parameters), z, rtol=0, atol=1e-9)
    # About 0, where numbers hold distances as small as those that α = 1e-12 maps to everyday ones.
    about_0 = (torch.zeros(1, latent, dtype=torch.float64), double(alpha), double(beta))
    again, _ = radial_flow(invert_radial_flow(z, *about_0), *about_0)
    torch.testing.assert_close(again, z, rtol=0, atol=1e-9)


@pytest.mark.parametrize("latent", [1, 2, 5, 40])
def test_a_free_chain_has_the_log_det_of_autograd_where_steps_fold_space_too(latent):
    z, z0, alpha, beta = draw(50, latent), draw(3, latent, seed=1), draw(3, seed=2).exp(), double(-6, 2, -3)
    alpha, beta = alpha * latent**0.5, beta * latent**0.5  # as distances grow
    jacobian = torch.autograd.functional.jacobian(lambda rows: free_radial_flow(rows, z0, alpha, beta)[0].sum(0), z)
    sign, expected = torch.linalg.slogdet(jacobian.movedim(1, 0))
    assert (sign == -1).any()
    torch.testing.assert_close(free_radial_flow(z, z0, alpha, beta)[1], expected, rtol=1e-8, atol=1e-9)


def test_a_free_step_by_hand():
    # z0 = 0, α = 1, β = -8, r = 1: h = ½, so z is scaled by −3; 1 + αβ/(α + r)² = −1: |det| = 3 · 1 in two dimensions.
    z, log_det = free_radial_flow(double(0.6, 0.8)[None], double(0, 0)[None], double(1), double(-8))
    assert z[0].tolist() == pytest.approx([-1.8, -2.4], rel=1e-15)
    assert log_det.item() == pytest.approx(math.log(3), rel=1e-14)


def test_the_free_chain_at_beta_hat_is_the_constrained_one_at_beta():
    z, z0, alpha, beta = draw(7, 5), draw(4, 5, seed=1), draw(4, seed=2).exp(), draw(4, seed=3)
    torch.testing.assert_close(
        free_radial_flow(z, z0, alpha, constrain_beta(beta, alpha)),
        radial_flow(z, z0, alpha, beta),
        rtol=1e-12,
        atol=1e-12,
    )


def test_a_free_step_starts_at_the_identity_exactly_where_no_feature_moves_it():
    flow = RadialFlow(latent=36, length=3, features=0, constraint=False).double()
    flow.initialise(lambda name: torch.Generator().manual_seed(int(name.removeprefix("step "))))
    z = draw(5, 36)
    z_k, log_det = flow(z, flow.parameters_from(torch.zeros(0, dtype=torch.float64)))
    assert torch.equal(z_k, z)
    assert not log_det.any()


@pytest.mark.parametrize("raw", [-80.0, -90.0, -800.0, -1e4], ids=lambda raw: f"alpha of {raw:g}")
@pytest.mark.parametrize("constraint", [True, False], ids=["constrained", "free"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_at_its_own_centre_is_finite_however_small_alpha_is(raw, constraint, dtype):
    flow = RadialFlow(3, 1, 0, constraint)
    for beta in (0.5, 30.0, -50.0, -1000.0):
        steps = torch.tensor([[[0.0, 0.0, 0.0, raw, beta]]], dtype=dtype).requires_grad_()
        z = torch.zeros(1, 3, dtype=dtype, requires_grad=True)
        plain = radial_flow if constraint else free_radial_flow
        for out, log_det in (flow(z, (steps,)), plain(z, *flow.split(steps))):
            gradients = torch.autograd.grad(out.sum() + log_det.sum(), [z, steps])
            assert all(torch.isfinite(each).all() for each in (out, log_det, *gradients))
            assert not out.any()
        if constraint:
            assert not flow.inverse(torch.zeros(1, 3, dtype=dtype), (steps,)).any()
