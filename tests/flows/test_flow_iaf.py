import hashlib
import math

import pytest
import torch

from nfstudy.flows import make_flow
from nfstudy.flows.iaf.flow import IafFlow, autoregressive_masks, iaf_flow, invert_iaf_flow
from nfstudy.study.sections import FlowSpec

OPEN = 1 / (1 + math.exp(-1))
"""σ(1)."""


def draw(*shape, seed=0, scale=1.0, dtype=torch.float64):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def orders(latent, length):
    return torch.stack([torch.randperm(latent, generator=torch.Generator().manual_seed(k)) for k in range(length)])


def weights(latent, length, hidden, images=(), layers=1, scale=1.0, dtype=torch.float64):
    """Every argument of `iaf_flow` after the order, with lists of tensors as tuples."""
    shapes = [(length, hidden, latent), (*images, length, hidden), (length, 2 * latent, hidden), (length, 2 * latent)]
    first = [draw(*shape, seed=seed, scale=scale, dtype=dtype) for seed, shape in enumerate(shapes, 1)]
    deeper = [[(length, hidden, hidden), (length, hidden)][i] for i in (0, 1)]
    w_hidden, b_hidden = (
        tuple(draw(*shape, seed=10 * layer + i, scale=scale, dtype=dtype) for layer in range(2, layers + 1))
        for i, shape in enumerate(deeper)
    )
    return *first, w_hidden, b_hidden


def stream(name):
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big"))


def flow_of(latent, features=16, **choices):
    spec = FlowSpec(**{"family": "iaf", "length": 4, "autoregressive_hidden": 7, **choices})
    flow = make_flow(spec, latent, features).double()
    flow.initialise(stream)
    return flow


def plain_iaf(z, order, w_in, b_in, w_out, b_out, w_hidden=(), b_hidden=()):
    """Kingma et al.'s step, one variable after another, each with the network of those before it; over σ(1)."""
    log_det, (latent, hidden) = 0.0, (z.shape[-1], w_in.shape[1])
    seen = [unit * latent // hidden for unit in range(hidden)]
    for k in range(len(order)):
        columns = []
        for i, place in enumerate(order[k].tolist()):
            layer = torch.zeros(*z.shape[:-1], hidden, dtype=z.dtype)
            for unit in range(hidden):
                earlier = [j for j in range(latent) if order[k, j] < seen[unit]]
                layer[..., unit] = torch.tanh(z[..., earlier] @ w_in[k, unit, earlier] + b_in[..., k, unit])
            for w, b in zip(w_hidden, b_hidden, strict=True):
                below = [[low for low in range(hidden) if seen[low] <= seen[unit]] for unit in range(hidden)]
                layer = torch.stack(
                    [torch.tanh(layer[..., below[u]] @ w[k, u, below[u]] + b[k, u]) for u in range(hidden)], -1
                )
            heard = [unit for unit in range(hidden) if seen[unit] <= place]
            m = layer[..., heard] @ w_out[k, i, heard] + b_out[k, i]
            s = layer[..., heard] @ w_out[k, latent + i, heard] + b_out[k, latent + i]
            gate = 1 / (1 + torch.exp(-1 - s))
            columns.append((gate * z[..., i] + (1 - gate) * m) / OPEN)
            log_det = log_det + torch.log(gate / OPEN)
        z = torch.stack(columns, -1)
    return z, log_det


def test_one_step_has_the_values_worked_by_hand():
    # The second variable is first: m = 4·tanh(atanh ½) = 2 with s = −1, so its gate is ½ and it becomes (6 + 2)/2. The
    # first sees z_2 = 6 in the second unit: tanh(6/6 + atanh(½) − 1) = ½, m = 4·½ + 10·½ = 7, s = 2·½ − 2 = −1.
    half = math.atanh(0.5)
    z, log_det = iaf_flow(
        double(3, 6)[None],
        order=torch.tensor([[1, 0]]),
        w_in=double([9, 9], [9, 1 / 6])[None],
        b_in=double(half, half - 1)[None],
        w_out=double([4, 10], [4, 9], [0, 2], [0, 9])[None],
        b_out=double(0, 0, -2, -1)[None],
    )
    torch.testing.assert_close(z, double(5, 4)[None] / OPEN, rtol=1e-14, atol=0)
    assert log_det.item() == pytest.approx(2 * math.log(0.5 / OPEN), rel=1e-14)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("images", [(), (6,)], ids=["shared", "amortised"])
@pytest.mark.parametrize(("latent", "hidden"), [(2, 5), (5, 3), (5, 12)])
def test_values_and_gradients_equal_one_variable_after_another(latent, hidden, images, layers):
    arguments = weights(latent, 3, hidden, images, layers)
    inputs = [draw(6, latent), *arguments[:4], *arguments[4], *arguments[5]]
    for tensor in inputs:
        tensor.requires_grad_()
    results = [flow(inputs[0], orders(latent, 3), *arguments) for flow in (iaf_flow, plain_iaf)]
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(z.sin().sum() + 2 * log_det.sum(), inputs) for z, log_det in results]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("images", [(), (3,)], ids=["shared", "amortised"])
def test_gradients_are_those_of_finite_differences(images):
    order, (w_in, b_in, w_out, b_out, *_) = orders(4, 2), weights(4, 2, 5, images)
    inputs = [draw(2, 3, 4), w_in, b_in, w_out, b_out]
    for tensor in inputs:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda z, *rest: iaf_flow(z, order, *rest), inputs)


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_variable_depends_on_those_before_it_alone(layers, scale):
    order, arguments = orders(5, 1), weights(5, 1, 9, layers=layers, scale=scale)
    jacobian = torch.autograd.functional.jacobian(lambda z: iaf_flow(z[None], order, *arguments)[0][0], draw(5))
    later = order[0][None, :] > order[0][:, None]
    assert (jacobian[later] == 0).all()
    if scale == 1.0:
        assert (jacobian[~later] != 0).all()


def test_the_masks_by_hand():
    # Four units of three variables see 0, 0, 1 and 2 of them, in the order 2, 0, 1.
    see, below, hear = autoregressive_masks(torch.tensor([[1, 2, 0]]), 4)
    assert see.int().tolist() == [[[0, 0, 0], [0, 0, 0], [0, 0, 1], [1, 0, 1]]]
    assert below.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    rows = [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]
    assert hear.int().tolist() == [rows + rows]


def test_equal_biases_of_all_images_are_shared_ones():
    order, (w_in, b_in, *rest), z = orders(5, 4), weights(5, 4, 7), draw(2, 6, 5)
    amortised = iaf_flow(z, order, w_in, b_in.expand(6, 4, 7), *rest)
    torch.testing.assert_close(amortised, iaf_flow(z, order, w_in, b_in, *rest))


def test_float32_is_float64_to_rounding():
    order, arguments = orders(40, 10), weights(40, 10, 20, scale=0.3)
    exact = iaf_flow(draw(50, 40), order, *arguments)
    single = iaf_flow(draw(50, 40).float(), order, *(tensor.float() for tensor in arguments[:4]))
    torch.testing.assert_close(single, tuple(tensor.float() for tensor in exact), rtol=1e-3, atol=1e-3)


# ln[σ(1 + s)/σ(1)] and [σ(1 + s) 3 + (1 − σ(1 + s)) 2]/σ(1) with mpmath.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(
    ("s", "log_gate", "z_k"),
    [
        (-1000, -998.686738312481, 2.73575888234288),
        (-200, -198.686738312482, 2.73575888234288),
        (0, 0, 3.73575888234288),
        (200, 0.313261687518223, 4.10363832351433),
    ],
)
def test_gates_that_all_but_close_or_open(s, log_gate, z_k, dtype):
    z, log_det = iaf_flow(
        torch.full((1, 2), 3.0, dtype=dtype),
        torch.tensor([[0, 1]]),
        torch.zeros(1, 1, 2, dtype=dtype),
        torch.zeros(1, 1, dtype=dtype),
        torch.zeros(1, 4, 1, dtype=dtype),
        torch.tensor([[2.0, 2.0, s, s]], dtype=dtype),
    )
    torch.testing.assert_close(z, torch.full_like(z, z_k), rtol=1e-6, atol=0)
    assert log_det.item() == pytest.approx(2 * log_gate, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1.0, 100.0, 1e6], ids=lambda scale: f"{scale:g}")
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4], ids=lambda size: f"z={size:g}")
def test_values_and_gradients_are_finite_in_float32(size, scale):
    arguments = weights(5, 3, 7, (6,), layers=2, scale=scale, dtype=torch.float32)
    inputs = [draw(6, 5, scale=size, dtype=torch.float32), *arguments[:4], *arguments[4], *arguments[5]]
    for tensor in inputs:
        tensor.requires_grad_()
    z, log_det = iaf_flow(inputs[0], orders(5, 3), *arguments)
    assert z.isfinite().all()
    assert log_det.isfinite().all()
    for gradient in torch.autograd.grad(z.sum() + log_det.sum(), inputs):
        assert gradient.isfinite().all()


def test_the_inverse_of_one_step_by_hand():
    half = math.atanh(0.5)
    z = invert_iaf_flow(
        double(5, 4)[None] / OPEN,
        order=torch.tensor([[1, 0]]),
        w_in=double([9, 9], [9, 1 / 6])[None],
        b_in=double(half, half - 1)[None],
        w_out=double([4, 10], [4, 9], [0, 2], [0, 9])[None],
        b_out=double(0, 0, -2, -1)[None],
    )
    torch.testing.assert_close(z, double(3, 6)[None], rtol=1e-14, atol=0)


@pytest.mark.parametrize("closing", [-10.0, 0.0, 10.0])
def test_the_inverse_loses_no_more_than_the_gates_let_through(closing):
    order, (w_in, b_in, w_out, b_out, *_) = orders(2, 1), weights(2, 1, 6)
    b_out = torch.cat([b_out[:, :2], torch.full_like(b_out[:, 2:], closing)], dim=-1)
    w_out = torch.cat([w_out[:, :2], torch.zeros_like(w_out[:, 2:])], dim=1)
    z = draw(500, 2)
    z_k, log_det = iaf_flow(z, order, w_in, b_in, w_out, b_out)
    back = invert_iaf_flow(z_k, order, w_in, b_in, w_out, b_out)
    # The first variable's rounding grows by 1/g; the second's by m's slope times that, and again by 1/g.
    gate = OPEN * (log_det[0] / 2).exp().item()
    torch.testing.assert_close(back, z, rtol=0, atol=100 * torch.finfo(torch.float64).eps / min(gate, 1) ** 2)


def test_the_order_is_reversed_in_every_other_step():
    flow = flow_of(4, length=3)
    assert flow.order.tolist() == [[0, 1, 2, 3], [3, 2, 1, 0], [0, 1, 2, 3]]
    assert "order" in flow.state_dict()
    assert "order" not in dict(flow.named_parameters())


def test_the_image_moves_the_first_variable_too():
    flow = flow_of(4)
    with torch.no_grad():
        flow.w_out.mul_(1000)
    z = torch.zeros(2, 4, dtype=torch.float64)
    z_k, _ = flow(z, flow.parameters_from(draw(2, 16, seed=1)))
    assert (z_k[0] != z_k[1]).all()


def test_without_features_the_biases_are_shared_and_spread():
    (b_in,) = flow_of(4, 0).parameters_from(double())
    assert b_in.shape == (4, 7)
    assert len(b_in.flatten().unique()) == 28


def test_the_hidden_units_start_full_sized():
    flow = flow_of(40, autoregressive_hidden=60, autoregressive_layers=3)
    see, below, _ = autoregressive_masks(flow.order, 60)
    assert [tuple(w.shape) for w in flow.w_hidden] == [(4, 60, 60)] * 2
    # The mean square of a pre-activation, over the units, from variables or units of mean square 1.
    assert (flow.w_in * see).square().sum(-1).mean().item() == pytest.approx(1, rel=0.1)
    for w in flow.w_hidden:
        assert (w * below).square().sum(-1).mean().item() == pytest.approx(1, rel=0.1)
    assert not flow.b_out.any()
    assert not any(b.any() for b in flow.b_hidden)


def test_initialising_again_undoes_what_was_learned():
    flow = flow_of(5, autoregressive_layers=2)
    before = {name: tensor.clone() for name, tensor in flow.state_dict().items()}
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(1)
    flow.initialise(stream)
    for name, tensor in flow.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_one_variable_has_none_before_it():
    with pytest.raises(ValueError, match=r"latent 1: .* at least 2"):
        IafFlow(latent=1, length=2, features=3, autoregressive_hidden=5)
    with pytest.raises(ValueError, match=r"latent 1: .* at least 2"):
        iaf_flow(draw(6, 1), torch.zeros(1, 1, dtype=torch.long), *weights(1, 1, 3))
    with pytest.raises(ValueError, match=r"latent 1: .* at least 2"):
        invert_iaf_flow(draw(6, 1), torch.zeros(1, 1, dtype=torch.long), *weights(1, 1, 3))


def test_parameters_of_different_numbers_of_steps_or_layers_are_refused():
    order, (w_in, b_in, w_out, b_out, *_) = orders(4, 2), weights(4, 2, 3)
    for wrong in (
        (order, w_in, b_in[:1], w_out, b_out),
        (order, w_in, b_in, w_out, b_out, (draw(2, 3, 3),), ()),
        (order, w_in, b_in, w_out, b_out, (draw(3, 3, 3),), (draw(3, 3),)),
    ):
        with pytest.raises(ValueError, match=r"zip\(\) argument"):
            iaf_flow(draw(6, 4), *wrong)
        with pytest.raises(ValueError, match=r"zip\(\) argument"):
            invert_iaf_flow(draw(6, 4), *wrong)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_inverse_of_a_long_chain_with_large_weights_is_finite(dtype):
    latent, length, hidden = 40, 80, 24
    places, stream = torch.arange(latent), torch.Generator().manual_seed(0)
    order = torch.stack([places.flip(0) if k % 2 else places for k in range(length)])
    for scale in (3.0, 50.0):
        shapes = ((length, hidden, latent), (length, hidden), (length, 2 * latent, hidden), (length, 2 * latent))
        weights = [scale * torch.randn(shape, generator=stream, dtype=dtype) for shape in shapes]
        found = invert_iaf_flow(torch.randn(2, latent, generator=stream, dtype=dtype), order, *weights)
        assert found.dtype == dtype
        assert torch.isfinite(found).all()
