import hashlib
import math

import pytest
import torch

from nfstudy.core.errors import UserError
from nfstudy.flows import make_flow
from nfstudy.flows.spline.flow import invert_rational_quadratic, rational_quadratic
from nfstudy.flows.standalone import standalone_flow
from nfstudy.study.sections import FlowSpec


def draw(*shape, seed=0, scale=1.0, dtype=torch.float64):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def stream(name):
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big"))


# By nflows 0.14, `unconstrained_rational_quadratic_spline` with linear tails beyond ±3 and three bins.
@pytest.mark.parametrize(
    ("x", "y", "log_slope"),
    [
        (-7.0, -7.0, 0.0),
        (-2.9, -2.917330604736239, -0.36856003597145715),
        (-1.5, 2.0697017488164753, -1.8568267612785516),
        (-0.2, 2.2027072465086768, -2.467081397653703),
        (0.4, 2.2559298851593015, -2.3517015215810204),
        (2.5, 2.6655825412882046, -0.8021822190491199),
        (3.5, 3.5, 0.0),
    ],
)
def test_a_spline_is_that_of_nflows(x, y, log_slope):
    widths, heights, derivatives = [0.5, -1.0, 2.0], [-0.3, 1.5, 0.0], [1.0, -2.0]
    numbers = double(*widths, *heights, *derivatives)
    ours = rational_quadratic(double(x)[0], numbers, 3.0)
    torch.testing.assert_close(torch.stack(ours), double(y, log_slope), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(invert_rational_quadratic(double(y)[0], numbers, 3.0), double(x)[0], rtol=0, atol=1e-12)


def test_a_spline_of_two_bins_by_hand():
    # Knots (−1, −1), (0, 0), (1, 1), derivative d in the middle: at ξ = ½ of the right bin s = 1 and
    # q = 1 + (1 + d − 2)/4 = (3 + d)/4, so g = (1/4 + d/4)/q = (1 + d)/(3 + d), g′ = (1/4 + 1/2 + d/4)/q² = 4/(3 + d).
    raw = 1.3
    d = 1e-3 + math.log1p(math.exp(raw + math.log(math.expm1(1 - 1e-3))))
    y, log_slope = rational_quadratic(double(0.5)[0], double(0, 0, 0, 0, raw), 1.0)
    assert y.item() == pytest.approx((1 + d) / (3 + d), rel=1e-14)
    assert log_slope.item() == pytest.approx(math.log(4 / (3 + d)), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("bins", [2, 8, 30])
def test_without_numbers_it_is_the_identity(bins, dtype):
    x = torch.linspace(-7, 7, 501, dtype=dtype)
    y, log_slope = rational_quadratic(x, torch.zeros(501, 3 * bins - 1, dtype=dtype), 5.0)
    error = 50 * torch.finfo(dtype).eps
    torch.testing.assert_close(y, x, rtol=0, atol=error)
    torch.testing.assert_close(log_slope, torch.zeros_like(x), rtol=0, atol=4 * bins * error)


@pytest.mark.parametrize("scale", [0.1, 2.0, 10.0], ids=lambda scale: f"{scale:g}")
def test_the_slope_is_that_of_autograd_and_positive(scale):
    x, numbers = draw(2000, seed=1, scale=3.0).requires_grad_(), draw(2000, 23, scale=scale)
    y, log_slope = rational_quadratic(x, numbers, 5.0)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert slope.min() > 0
    torch.testing.assert_close(log_slope, slope.log(), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("scale", [0.1, 2.0, 10.0], ids=lambda scale: f"{scale:g}")
def test_the_inverse_is_off_by_no_more_than_rounding(scale):
    """An error in x of ε R / g′ is what rounding of y leaves; g′ is down to 1e-8 at the largest numbers."""
    x, numbers = draw(20_000, seed=1, scale=3.0), draw(20_000, 23, scale=scale)
    y, log_slope = rational_quadratic(x, numbers, 5.0)
    back = invert_rational_quadratic(y, numbers, 5.0)
    torch.testing.assert_close(rational_quadratic(back, numbers, 5.0)[0], y, rtol=0, atol=1e-13)
    least = torch.finfo(x.dtype).eps * 5 * (1 + (-log_slope).exp())
    assert ((back - x).abs() / least).max() < 20


def test_it_is_continuous_with_its_slope_at_every_knot_and_at_the_ends():
    numbers = draw(1, 11, seed=4)
    widths, _, _ = numbers.split([4, 4, 3], dim=-1)
    knots = 10 * (1e-3 + (1 - 4e-3) * widths.softmax(-1)).cumsum(-1) - 5
    for knot in (-5.0, *knots.flatten().tolist()):
        sides = [rational_quadratic(double(knot + step)[0], numbers[0], 5.0) for step in (-1e-10, 1e-10)]
        torch.testing.assert_close(*map(torch.stack, sides), rtol=0, atol=1e-7)


@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0, 1e6, 1e30], ids=lambda scale: f"{scale:g}")
def test_values_and_gradients_are_finite_in_float32(scale):
    x = draw(2000, seed=1, scale=3.0, dtype=torch.float32).requires_grad_()
    numbers = draw(2000, 23, scale=scale, dtype=torch.float32).requires_grad_()
    y, log_slope = rational_quadratic(x, numbers, 5.0)
    assert y.isfinite().all()
    assert log_slope.isfinite().all()
    for gradient in torch.autograd.grad(y.sum() + log_slope.sum(), (x, numbers)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize(("bins", "bound"), [(8, 5.0), (3, 1.5)])
def test_beyond_the_bound_a_variable_passes_unchanged(bins, bound):
    flow = make_flow(FlowSpec(family="spline", length=1, spline_bins=bins, spline_bound=bound), 4, 0).double()
    flow.initialise(stream)
    with torch.no_grad():
        flow.b_out.copy_(draw(*flow.b_out.shape))
    far, near = torch.full((1, 4), bound + 0.1).double(), torch.full((1, 4), 0.5 * bound).double()
    assert flow.b_out.shape == (1, 2 * (3 * bins - 1))
    z, log_det = flow(far, flow.parameters_from(torch.zeros(0).double()))
    assert torch.equal(z, far)
    assert log_det.item() == 0
    assert not torch.allclose(flow(near, flow.parameters_from(torch.zeros(0).double()))[0], near)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"spline_bins": 1}, "spline_bins: got 1; expected: .*greater than or equal to 2"),
        ({"spline_bound": 0.0}, "spline_bound: got 0.0; expected: .*greater than 0"),
        ({"spline_bins": 2.5}, "spline_bins: got 2.5; expected: .*integer"),
        ({"bins": 4}, "bins: no such setting; expected: coupling_hidden"),
    ],
)
def test_what_no_spline_can_have_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        standalone_flow("spline", dim=2, length=1, **settings)
