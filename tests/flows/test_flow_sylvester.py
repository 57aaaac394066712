import hashlib
import math

import pytest
import torch

from nfstudy.flows import make_flow
from nfstudy.flows.sylvester.flow import invert_sylvester_flow, orthonormal_columns, sylvester_flow
from nfstudy.study.sections import FlowSpec


def draw(*shape, seed=0, scale=1.0, dtype=torch.float64):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def parameters(*leading, latent, columns, scale=1.0, dtype=torch.float64):
    shapes = [(latent, columns), (columns, columns), (columns,)]
    return [draw(*leading, *shape, seed=seed, scale=scale, dtype=dtype) for seed, shape in enumerate(shapes, 1)]


def stream(name):
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big"))


def flow_of(latent, features=16, **choices):
    flow = make_flow(FlowSpec(**{"family": "sylvester", "length": 4, **choices}), latent, features).double()
    flow.initialise(stream)
    return flow


def reflections(packed):
    """H_1 ⋯ H_M of one step as printed: one matrix I − 2 v vᵀ/‖v‖² after another, and its first M columns."""
    latent, columns = packed.shape
    product = torch.eye(latent, dtype=packed.dtype)
    for j in range(columns):
        v = torch.cat([torch.zeros(j, dtype=packed.dtype), torch.ones(1, dtype=packed.dtype), packed[j + 1 :, j]])
        product = product @ (torch.eye(latent, dtype=packed.dtype) - 2 * torch.outer(v, v) / v.dot(v))
    return product[:, :columns]


def plain_sylvester(z, packed, r_tilde, b):
    """Van den Berg et al.'s formulas as printed: shared parameters (K, ...), z (B, D), no care for rounding."""
    log_det = 0.0
    for packed_k, r_tilde_k, b_k in zip(packed, r_tilde, b, strict=True):
        top = packed_k[: len(b_k)]
        r = top.triu(1) + torch.diag(torch.tanh(top.diagonal()))
        r_tilde_k = r_tilde_k.triu(1) + torch.diag(torch.tanh(r_tilde_k.diagonal()))
        q = reflections(packed_k)
        a = z @ q @ r_tilde_k.T + b_k
        log_det = log_det + torch.log(1 + (1 - torch.tanh(a) ** 2) * r.diagonal() * r_tilde_k.diagonal()).sum(-1)
        z = z + torch.tanh(a) @ r.T @ q.T
    return z, log_det


@pytest.mark.parametrize(("latent", "columns"), [(1, 1), (2, 1), (2, 2), (5, 3), (40, 8), (6, 6)])
def test_the_columns_are_those_of_the_reflections_and_orthonormal(latent, columns):
    packed = draw(3, latent, columns, scale=2.0)
    q = orthonormal_columns(packed)
    torch.testing.assert_close(q, torch.stack([reflections(one) for one in packed]), rtol=0, atol=1e-13)
    torch.testing.assert_close(q.mT @ q, torch.eye(columns, dtype=torch.float64).expand_as(q.mT @ q))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e6], ids=lambda scale: f"{scale:g}")
def test_the_columns_are_orthonormal_whatever_the_reflectors(scale, dtype):
    q = orthonormal_columns(draw(20, 40, 8, scale=scale, dtype=dtype))
    error = (q.mT @ q - torch.eye(8, dtype=dtype)).abs().max().item()
    assert error < 200 * torch.finfo(dtype).eps


def test_every_set_of_orthonormal_columns_is_one_of_the_reflections_up_to_signs():
    gaussian = draw(7, 3)
    q, _ = torch.linalg.qr(gaussian)
    ours = orthonormal_columns(torch.geqrf(gaussian).a)
    torch.testing.assert_close((q.T @ ours).abs(), torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-13)


def test_one_step_by_hand():
    # v = (1, 1) reflects (1, 0) to (0, −1) = Q. tanh p = ½, tanh q = −½, b = atanh(½) − ½: with z = (7, −1), Qᵀz = 1,
    # a = −½ + b, which is −1 + ln(3)/2; then z moves by −½ tanh(a) along the second axis.
    half = math.atanh(0.5)
    z, log_det = sylvester_flow(
        double(7, -1)[None], double(half, 1)[None, :, None], double(-half)[None, None], double(half - 0.5)[None]
    )
    t = math.tanh(half - 1)
    torch.testing.assert_close(z, double(7, -1 - 0.5 * t)[None], rtol=0, atol=1e-15)
    assert log_det.item() == pytest.approx(math.log(1 - 0.25 * (1 - t * t)), rel=1e-14)


@pytest.mark.parametrize(("latent", "columns"), [(1, 1), (2, 2), (5, 1), (5, 3), (40, 8)])
def test_values_and_gradients_equal_the_plain_formula(latent, columns):
    inputs = [draw(7, latent), *parameters(4, latent=latent, columns=columns)]
    for tensor in inputs:
        tensor.requires_grad_()
    ours, plain = sylvester_flow(*inputs), plain_sylvester(*inputs)
    torch.testing.assert_close(ours, plain, rtol=1e-11, atol=1e-12)
    gradients = [torch.autograd.grad(z.sin().sum() + 2 * log_det.sum(), inputs) for z, log_det in (ours, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("leading", [(), (3,)], ids=["shared", "amortised"])
def test_gradients_are_those_of_finite_differences(leading):
    inputs = [draw(2, 3, 4), *parameters(*leading, 2, latent=4, columns=2)]
    for tensor in inputs:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(sylvester_flow, inputs)


def test_equal_parameters_of_all_images_are_shared_ones():
    shared, z = parameters(4, latent=5, columns=3), draw(2, 6, 5)
    amortised = [tensor.expand(6, *tensor.shape) for tensor in shared]
    torch.testing.assert_close(sylvester_flow(z, *amortised), sylvester_flow(z, *shared))


def test_float32_is_float64_to_rounding():
    exact = sylvester_flow(draw(50, 40), *parameters(10, latent=40, columns=8))
    single = sylvester_flow(*(t.float() for t in (draw(50, 40), *parameters(10, latent=40, columns=8))))
    torch.testing.assert_close(single, tuple(t.float() for t in exact), rtol=1e-3, atol=1e-3)


# ln(tanh²a + sech²a (1 + tanh p tanh q)) with mpmath at 60 digits; a float32 determinant of most of these is 0.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(
    ("p", "q", "a", "log_det"),
    [
        (0, 5, 0.3, 0),
        (20, 20, 0, 0.693147180559945),
        (20, -20, 0, -38.6137056388801),
        (60, -50, 0, -99.3068528173789),
        (60, -50, 1e-10, -46.0517018598809),
        (60, -60, 0.5, -1.54387366581061),
    ],
)
def test_log_det_at_extreme_parameters(p, q, a, log_det, dtype):
    packed = torch.tensor([[[p], [0.0]]], dtype=dtype)
    z = torch.zeros(1, 2, dtype=dtype)
    _, ours = sylvester_flow(z, packed, torch.tensor([[[q]]], dtype=dtype), torch.tensor([[a]], dtype=dtype))
    assert ours.item() == pytest.approx(log_det, rel=1e-5 if dtype is torch.float32 else 1e-12, abs=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1.0, 100.0, 1e6], ids=lambda scale: f"{scale:g}")
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4], ids=lambda size: f"z={size:g}")
def test_values_and_gradients_are_finite_in_float32(size, scale):
    inputs = [
        draw(6, 5, scale=size, dtype=torch.float32),
        *parameters(6, 3, latent=5, columns=3, scale=scale, dtype=torch.float32),
    ]
    for tensor in inputs:
        tensor.requires_grad_()
    z, log_det = sylvester_flow(*inputs)
    assert z.isfinite().all()
    assert log_det.isfinite().all()
    for gradient in torch.autograd.grad(z.sum() + log_det.sum(), inputs):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("diagonal", [-3.0, 0.0, 3.0], ids=lambda x: f"p={x:g}")
@pytest.mark.parametrize(("latent", "columns"), [(1, 1), (2, 2), (5, 3), (40, 8)])
def test_the_inverse_at_large_parameters(latent, columns, diagonal):
    packed, r_tilde, b = parameters(2, latent=latent, columns=columns)
    packed.diagonal(dim1=-2, dim2=-1).fill_(diagonal)
    r_tilde.diagonal(dim1=-2, dim2=-1).fill_(3.0)
    z = draw(100, latent, seed=9)
    z_k, _ = sylvester_flow(z, packed, 4 * r_tilde, b)
    # With p = −3 each of the M rows of a step may be as flat as 1 − tanh(3) tanh(12) = 0.005.
    back = invert_sylvester_flow(z_k, packed, 4 * r_tilde, b)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-5 if diagonal < 0 else 1e-9)
    again, _ = sylvester_flow(invert_sylvester_flow(z, packed, 4 * r_tilde, b), packed, 4 * r_tilde, b)
    torch.testing.assert_close(again, z, rtol=0, atol=1e-9)


@pytest.mark.parametrize("features", [0, 16])
def test_a_step_starts_at_the_identity_with_columns_of_its_own(features):
    flow = flow_of(10, features, sylvester_columns=4)
    images = torch.zeros(1, features, dtype=torch.float64) if features else torch.zeros(0, dtype=torch.float64)
    (steps,) = flow.parameters_from(images)
    packed, r_tilde, b = flow.split(steps)
    assert not packed[..., :4, :].triu().any()
    torch.testing.assert_close(r_tilde, torch.eye(4, dtype=torch.float64).expand_as(r_tilde))
    assert bool(b.any()) is (features == 0)
    q = orthonormal_columns(packed)
    assert len(q.reshape(4, -1).unique(dim=0)) == 4
    z = draw(5, 10) if not features else draw(1, 10)
    torch.testing.assert_close(flow(z, (steps,))[0], z, rtol=0, atol=1e-15)


def test_the_columns_are_drawn_uniformly_up_to_their_signs():
    """The mean of q qᵀ over uniform directions q in D dimensions is I/D, and its entries vary by less than 1/D²."""
    flow = flow_of(6, 0, length=3000, sylvester_columns=2)
    with torch.no_grad():
        q = orthonormal_columns(flow.split(*flow.parameters_from(torch.zeros(0, dtype=torch.float64)))[0])
    for column in q.unbind(-1):
        second_moment = column.T @ column / 3000
        torch.testing.assert_close(second_moment, torch.eye(6, dtype=torch.float64) / 6, rtol=0, atol=5 / 6 / 3000**0.5)


def test_no_more_columns_than_variables():
    assert flow_of(2, sylvester_columns=8).columns == 2
    assert flow_of(40).columns == 8
    assert flow_of(40).head.size == 8 * 40 + 36 + 8


def test_the_numbers_of_the_head_fill_the_triangle_row_by_row():
    flow = flow_of(3, 0, length=1, sylvester_columns=3)
    with torch.no_grad():
        flow.head.bias.copy_(torch.arange(18))
    packed, r_tilde, b = flow.split(*flow.parameters_from(torch.zeros(0, dtype=torch.float64)))
    assert packed.tolist() == [[[0, 1, 2], [3, 4, 5], [6, 7, 8]]]
    assert r_tilde.tolist() == [[[9, 10, 11], [0, 12, 13], [0, 0, 14]]]
    assert b.tolist() == [[15, 16, 17]]
