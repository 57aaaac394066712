"""Matrix products and optimisers that go by other libraries than torch's first choice, against torch's own."""

import copy

import pytest
import torch
from support.families import FAMILIES, GUIDED
from torch.nn import functional

from nfstudy.core import registry
from nfstudy.core.kernels import linear as kernels
from nfstudy.core.kernels.linear import Linear, linear, linear_batch_last, product
from nfstudy.inference.models.dlgm import DLGM
from nfstudy.inference.models.maxout import Maxout, _Maxout, plain_maxout
from nfstudy.inference.training.optimisers import FusedRMSprop, make_optimiser
from nfstudy.study.sections import FlowSpec, ModelSpec, TrainSpec


def draw(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def gradients(function, *inputs):
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    return out.detach(), *torch.autograd.grad((out * draw(*out.shape, dtype=out.dtype, seed=9)).sum(), leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (100, 784, 1600), (100, 400, 6480), (37, 5, 3)])
def test_a_linear_layer_is_torchs_forward_and_backward(shape, dtype):
    rows, inputs, outputs = shape
    x, weight, bias = (
        draw(rows, inputs, dtype=dtype),
        draw(outputs, inputs, dtype=dtype, seed=1),
        draw(outputs, dtype=dtype),
    )
    exact = gradients(functional.linear, x.double(), weight.double(), bias.double())
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    for ours, batch_last, reference in zip(
        gradients(linear, x, weight, bias), gradients(linear_batch_last, x, weight, bias), exact, strict=True
    ):
        size = reference.abs().max()
        torch.testing.assert_close(ours.double() / size, reference / size, rtol=0, atol=tolerance)
        batch_last = batch_last.T if batch_last.shape != reference.shape else batch_last
    out = linear_batch_last(x, weight, bias)
    assert out.is_contiguous()
    torch.testing.assert_close(
        out.T.double() / exact[0].abs().max(), exact[0] / exact[0].abs().max(), rtol=0, atol=tolerance
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_batch_last_gradients_are_those_of_the_transpose(dtype):
    inputs = draw(37, 8, dtype=dtype), draw(24, 8, dtype=dtype, seed=1), draw(24, dtype=dtype, seed=2)
    ours = gradients(linear_batch_last, *inputs)
    reference = gradients(lambda *leaves: functional.linear(*leaves).T, *inputs)
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", [lambda z: z, lambda z: z.T], ids=["rows", "columns"])
def test_columns_of_a_wider_matrix_are_multiplied_as_a_matrix_of_their_own(way):
    # By oneDNN's reference in place of its fast product, they had other last bits, and took up to 3000 times as long.
    z = draw(50, 18)[:, 12:]
    other = draw(256, way(z).shape[1], seed=1)
    assert torch.equal(product(other, way(z)), product(other, way(z.contiguous())))


def test_a_linear_layer_takes_leading_axes():
    layer, x = Linear(5, 3), draw(2, 4, 5)
    assert layer(x).shape == (2, 4, 3)
    torch.testing.assert_close(layer(x), functional.linear(x, layer.weight, layer.bias))


@pytest.fixture(params=["as this processor has it", "without AVX-512"])
def bfloat16(request, monkeypatch):
    """How operands of bfloat16 are multiplied: by oneDNN where it can, and as where it cannot."""
    if request.param == "without AVX-512":
        monkeypatch.setattr(kernels, "_multiplies_bfloat16", lambda: False)


@pytest.mark.usefixtures("bfloat16")
def test_bfloat16_rounds_the_operands_and_nothing_else():
    a, b, bias = draw(64, 300), draw(32, 300, seed=1), draw(32, seed=2)
    rounded = (a.bfloat16().double() @ b.bfloat16().double().T).float().bfloat16().float() + bias
    result = product(a, b, bias, torch.bfloat16)
    assert result.dtype == torch.float32
    # Sums in float32 may fall on the other side of a rounding boundary: by one step of bfloat16, 2⁻⁸.
    torch.testing.assert_close(result, rounded, rtol=2**-7, atol=1e-3)
    assert not torch.equal(result, product(a, b, bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("window", [1, 2, 4, 5])
@pytest.mark.parametrize("batch", [1, 7, 100])
def test_the_loops_of_maxout_are_torchs_pooling(batch, window, dtype):
    # Small whole numbers have exact sums and many ties, of which the first has the gradient.
    shapes = ((batch, 11), (6 * window, 11), (6 * window,))
    inputs = [draw(*shape, dtype=dtype, seed=seed).round() for seed, shape in enumerate(shapes)]

    def run(function):
        return gradients(lambda x, weight, bias: function(x, weight, bias, window, torch.float32), *inputs)

    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(run(_Maxout.apply), run(plain_maxout), rtol=tolerance, atol=tolerance)


def test_a_nan_piece_makes_its_unit_nan():
    layer = Maxout(2, 3, 4)
    layer.initialise("he", torch.Generator().manual_seed(1))
    for piece in (0, 5, 11):
        with torch.no_grad():
            layer.pieces.bias.zero_()[piece] = torch.nan
        assert layer(draw(5, 2)).isnan().any(0).tolist() == [piece // 4 == unit for unit in range(3)]


@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rmsprop_is_torchs(dtype, momentum):
    constants = {"lr": 1e-2, "alpha": 0.9, "eps": 1e-8, "momentum": momentum}
    ours, theirs = (
        [torch.nn.Parameter(draw(7, 3, dtype=dtype)), torch.nn.Parameter(draw(5, dtype=dtype))] for _ in "ab"
    )
    mine, reference = FusedRMSprop(ours, **constants), torch.optim.RMSprop(theirs, **constants)
    for step in range(20):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = b.grad = draw(*a.shape, dtype=dtype, seed=step) * 10.0 ** (step % 5 - 2)
        mine.step()
        reference.step()
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(
        mine.state_dict()["state"], reference.state_dict()["state"], rtol=tolerance, atol=tolerance
    )


def test_rmsprop_goes_on_from_torchs_state():
    a, b = torch.nn.Parameter(draw(4)), torch.nn.Parameter(draw(4))
    reference, ours = torch.optim.RMSprop([a], momentum=0.9), FusedRMSprop([b], momentum=0.9)
    a.grad = draw(4, seed=1)
    reference.step()
    ours.load_state_dict(copy.deepcopy(reference.state_dict()))
    b.data.copy_(a.data)
    a.grad = b.grad = draw(4, seed=2)
    reference.step()
    ours.step()
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_weight_decay_shrinks_matrices_alone_and_none_is_plain_adam():
    def trained(decay, optimiser=None):
        named = {"weight": torch.nn.Parameter(draw(3, 2)), "bias": torch.nn.Parameter(draw(3))}
        parameters = list(named.values())
        train = TrainSpec(optimiser="adam", learning_rate=0.01, weight_decay=decay)
        optimiser = optimiser(parameters, lr=0.01) if optimiser else make_optimiser(named, train)
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimiser.step()
        return [parameter.detach() for parameter in parameters]

    matrix, bias = trained(0.0)
    torch.testing.assert_close([matrix, bias], trained(0.0, torch.optim.Adam))
    decayed, same = trained(0.5)
    torch.testing.assert_close(decayed, matrix - 0.01 * 0.5 * draw(3, 2))
    assert torch.equal(same, bias)


@pytest.mark.parametrize("family", [*FAMILIES, *GUIDED])
def test_no_bias_of_any_family_decays_and_families_say_whether_one_could(family):
    flow = FlowSpec(family=family, length=2, autoregressive_hidden=8, autoregressive_layers=2, coupling_layers=2)
    model = DLGM(6, ModelSpec(latent=4, hidden=8, layers=1, maxout=2), flow)
    named = dict(model.named_parameters())

    def decaying(**settings):
        train = TrainSpec(optimiser="adam", weight_decay=0.1, **settings)
        groups = make_optimiser(named, train).param_groups
        inside = {id(weight) for group in groups if group["weight_decay"] for weight in group["params"]}
        return {name for name, weight in named.items() if id(weight) in inside}

    assert decaying() == {n for n in named if n.endswith("weight") or n.split(".")[1].startswith("w_")}
    assert decaying(decay_biases=True) == {n for n, weight in named.items() if weight.dim() > 1}
    could = registry.find("flows", family).matrix_biases
    assert could == (decaying() != decaying(decay_biases=True))


def halved(tensor):
    """Round to bfloat16, and compute on in float64."""
    return tensor.detach().bfloat16().double()


def test_a_batch_last_layer_rounds_the_operands_of_each_of_its_three_products():
    x, weight, bias = (
        draw(*shape, seed=seed).requires_grad_() for seed, shape in enumerate([(20, 30), (50, 30), (50,)])
    )
    numbers = linear_batch_last(x, weight, bias, torch.bfloat16)
    grad = draw(50, 20, seed=3)
    numbers.backward(grad)
    close = {"rtol": 2**-7, "atol": 1e-2}
    torch.testing.assert_close(
        numbers.double(), halved(weight) @ halved(x).T + bias.detach().double()[:, None], **close
    )
    torch.testing.assert_close(x.grad.double(), halved(grad).T @ halved(weight), **close)
    torch.testing.assert_close(weight.grad.double(), halved(grad) @ halved(x), **close)
    torch.testing.assert_close(bias.grad, grad.sum(-1))
    assert {tensor.grad.dtype for tensor in (x, weight, bias)} == {torch.float32}
    assert not torch.equal(numbers, linear_batch_last(x, weight, bias))


@pytest.mark.usefixtures("bfloat16")
def test_maxout_in_bfloat16_rounds_the_operands_of_each_of_its_three_products():
    layer = Maxout(30, 10, 4, torch.bfloat16)
    x = draw(20, 30).requires_grad_()
    grad = draw(20, 10, seed=3)
    units = layer(x)
    units.backward(grad)
    weight, bias = layer.pieces.weight, layer.pieces.bias.detach().double()
    pieces = (halved(x) @ halved(weight).T).bfloat16().double() + bias
    best = pieces.view(20, 10, 4).max(-1)
    sparse = torch.zeros(20, 10, 4, dtype=torch.float64).scatter(2, best.indices[..., None], grad.double()[..., None])
    close = {"rtol": 2**-7, "atol": 1e-2}
    torch.testing.assert_close(units.double(), best.values, **close)
    torch.testing.assert_close(x.grad.double(), halved(sparse.flatten(1)) @ halved(weight), **close)
    torch.testing.assert_close(weight.grad.double(), halved(sparse.flatten(1)).T @ halved(x), **close)
    assert torch.equal(layer.eval()(x), Maxout.forward(layer, x))
    assert not torch.equal(layer.eval()(x), units)
