"""The compiled autoregressive chain and its products of masked weights against plain formulas, forward and backward."""

import math

import numpy as np
import pytest
import torch

from nfstudy.flows.iaf import kernel
from nfstudy.flows.iaf.flow import OPEN, IafFlow, autoregressive_masks, count_seen, iaf_flow
from nfstudy.flows.iaf.kernel import autoregressive_chain
from nfstudy.flows.iaf.kernel_masked import add_product, bounds


def draw(*shape, scale=1.0, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()


def arguments(samples, images, latent, length, hidden, layers=1, scale=1.0, dtype=torch.float64):
    """Those of `AutoregressiveChain`; weights spread `scale` times as far as keeps pre-activations of size 1."""
    streams = [torch.Generator().manual_seed(k) for k in range(length)]
    shapes = {
        "z": ((samples, latent, images), 1.0),
        "b_in": ((length, hidden, images), scale),
        "w_in": ((length, hidden, latent), scale * latent**-0.5),
        "w_hidden": ((layers - 1, length, hidden, hidden), scale * hidden**-0.5),
        "b_hidden": ((layers - 1, length, hidden), scale),
        "w_out": ((length, 2 * latent, hidden), scale * hidden**-0.5),
        "b_out": ((length, 2 * latent), scale),
    }
    drawn = [draw(*shape, scale=size, dtype=dtype, seed=seed) for seed, (shape, size) in enumerate(shapes.values())]
    order = torch.stack([torch.randperm(latent, generator=stream) for stream in streams])
    return [*drawn[:2], order, count_seen(latent, hidden), *drawn[2:], OPEN]


def plain(z, b_in, order, seen, w_in, w_hidden, b_hidden, w_out, b_out, opening):
    """`iaf_flow` of the same arguments."""
    images_first = z.transpose(1, 2), b_in.permute(2, 0, 1)
    z_k, log_det = iaf_flow(images_first[0], order, w_in, images_first[1], w_out, b_out, (*w_hidden,), (*b_hidden,))
    return z_k.transpose(1, 2), log_det


def is_leaf(argument):
    return isinstance(argument, torch.Tensor) and argument.requires_grad and argument.numel() > 0


def results_and_gradients(chain, tensors):
    """Return z_K, Σ log det, and the gradients of a random function of both by all that has one."""
    z_k, log_det = chain(*tensors)
    weights = [draw(*x.shape, seed=20 + i, dtype=x.dtype).detach() for i, x in enumerate((z_k, log_det))]
    loss = (z_k * weights[0]).sum() + (log_det * weights[1]).sum()
    leaves = [x for x in tensors if is_leaf(x)]
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    pairs = zip(gradients, leaves, strict=True)
    return z_k.detach(), log_det.detach(), *(torch.zeros_like(x) if grad is None else grad for grad, x in pairs)


def in_double(tensors):
    return [x.detach().double().requires_grad_() if is_leaf(x) else x for x in tensors]


def largest_difference(ours, reference):
    """Of all results, relative to the largest number of each, or 1e-3 where that is less."""
    for mine in ours:
        assert torch.isfinite(mine).all()
    pairs = zip(ours, reference, strict=True)
    return max(((a - b).abs().max() / b.abs().max().clamp_min(1e-3)).item() for a, b in pairs)


@pytest.mark.parametrize("layers", [1, 3], ids=["shallow", "deep"])
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0], ids=lambda scale: f"scale={scale:g}")
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 2, 1, 1), (1, 37, 5, 7, 12), (3, 100, 40, 2, 120), (1, 100, 2, 8, 33), (2, 1, 6, 3, 3), (2, 33, 9, 3, 19)],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_loop_is_the_plain_formula(dtype, shape, scale, layers):
    samples, images, latent, length, hidden = shape
    tensors = arguments(samples, images, latent, length, hidden, layers, scale, dtype)
    ours = results_and_gradients(autoregressive_chain, tensors)
    exact = results_and_gradients(plain, in_double(tensors))
    if dtype == torch.float32:
        # Steep steps one after another amplify rounding: the plain formula in float32 sets what can be asked.
        slack = largest_difference(results_and_gradients(plain, tensors), exact)
        assert largest_difference(ours, exact) < 20 * slack + 2e-6
    else:
        assert largest_difference(ours, exact) < 1e-10


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_chain_of_the_papers_length(dtype):
    tensors = arguments(1, 100, 40, 80, 120, scale=0.3, dtype=dtype)
    exact = results_and_gradients(plain, in_double(tensors))
    ours = results_and_gradients(autoregressive_chain, tensors)
    assert largest_difference(ours, exact) < (1e-12 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("layers", [1, 2])
def test_gradients_are_those_of_finite_differences(layers):
    tensors = arguments(2, 3, 4, 2, 5, layers)
    leaves = [x for x in tensors if is_leaf(x)]

    def of_leaves(*values):
        values = iter(values)
        return autoregressive_chain(*(next(values) if is_leaf(x) else x for x in tensors))

    assert torch.autograd.gradcheck(of_leaves, leaves)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("features", [0, 4], ids=["shared", "amortised"])
@pytest.mark.parametrize("shape", [(20, 6), (3, 20, 6)], ids=["rows", "samples"])
def test_a_flow_goes_through_the_loop_and_by_the_plain_formula_alike(shape, features, layers, monkeypatch):
    flow = IafFlow(6, 3, features, 10, layers).double()
    flow.initialise(lambda name: torch.Generator().manual_seed(len(name)))
    with torch.no_grad():
        flow.w_out.mul_(300)
    z, b_in = draw(*shape), draw(*((20,) if features else ()), 3, 10, seed=1)
    leaves = [z, b_in, *(x for name, x in flow.named_parameters() if not name.startswith("head"))]

    def run():
        z_k, log_det = flow(z, (b_in,))
        return z_k.detach(), log_det.detach(), *torch.autograd.grad(z_k.sin().sum() + 2 * log_det.sum(), leaves)

    calls = []
    monkeypatch.setattr(
        "nfstudy.flows.iaf.flow.autoregressive_chain", lambda *x: calls.append(len(x)) or autoregressive_chain(*x)
    )
    ours = run()
    assert len(calls) == 1
    monkeypatch.setattr("nfstudy.flows.iaf.flow.fits_lanes", lambda *tensors: False)
    assert largest_difference(ours, run()) < 1e-12
    assert len(calls) == 1


def test_without_gradients_nothing_is_kept(monkeypatch):
    kept, chain = [], kernel.chain

    def spy(*arrays):
        kept.append(arrays[-5].shape[0])
        chain(*arrays)

    monkeypatch.setattr(kernel, "chain", spy)
    tensors = arguments(3, 10, 5, 4, 7, 2)
    with_gradients = autoregressive_chain(*tensors)
    with torch.no_grad():
        without = autoregressive_chain(*tensors)
    torch.testing.assert_close(without, with_gradients, rtol=0, atol=0)
    assert kept == [12, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("s", [-1000.0, -200.0, 0.0, 200.0])
def test_gates_that_all_but_close_or_open(s, dtype):
    tensors = arguments(1, 5, 3, 1, 2, scale=0.0, dtype=dtype)
    tensors[8] = torch.tensor([[2.0, 2.0, 2.0, s, s, s]], dtype=dtype, requires_grad=True)
    ours = results_and_gradients(autoregressive_chain, tensors)
    exact = results_and_gradients(plain, in_double(tensors))
    assert largest_difference(ours, exact) < (1e-12 if dtype == torch.float64 else 1e-6)


def test_the_logarithm_of_many_closed_gates():
    """ln(σ(s)/σ(1)) of 1,200 variables, whose gates' product is no number."""
    tensors = arguments(1, 3, 1200, 1, 2, scale=0.0)
    tensors[8] = torch.cat([torch.zeros(1, 1200), torch.full((1, 1200), -1.0)], dim=1).double()
    _, log_det = autoregressive_chain(*tensors)
    expected = 1200 * (math.log(0.5) + math.log1p(math.exp(-1)))
    assert log_det[0].tolist() == pytest.approx([expected] * 3, rel=1e-13)


@pytest.mark.parametrize("scale", [0.0, 1e-20, 100.0, 1e6], ids=lambda scale: f"{scale:g}")
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4], ids=lambda size: f"z={size:g}")
def test_values_and_gradients_are_finite_in_float32(size, scale):
    tensors = arguments(2, 6, 5, 3, 7, 2, scale, torch.float32)
    tensors[0] = draw(2, 5, 6, scale=size, dtype=torch.float32)
    for x in results_and_gradients(autoregressive_chain, tensors):
        assert x.isfinite().all()


def test_what_is_not_finite_reaches_what_depends_on_it():
    tensors = arguments(1, 2, 6, 1, 12)
    with torch.no_grad():
        order = tensors[2][0]
        tensors[0][0, order.argmin(), 1] = torch.nan
    z_k, log_det = autoregressive_chain(*tensors)
    assert torch.isfinite(z_k[0, :, 0]).all()
    assert z_k[0, :, 1].isnan().all()
    assert log_det[0].isnan().tolist() == [False, True]


def test_a_network_whose_bias_is_not_finite_says_so():
    tensors = arguments(1, 2, 6, 2, 12)
    with torch.no_grad():
        tensors[1][0, 0, 1] = torch.nan
    z_k, log_det = autoregressive_chain(*tensors)
    assert torch.isfinite(z_k[0, :, 0]).all()
    assert z_k[0, :, 1].isnan().all()
    assert log_det[0].isnan().tolist() == [False, True]


@pytest.mark.parametrize("images", [1, 5, 100])
@pytest.mark.parametrize("depth", [1, 4, 7, 12])
@pytest.mark.parametrize("rows", [1, 3, 4, 5, 11])
def test_a_product_leaves_out_no_more_than_it_is_told(rows, depth, images):
    generator = np.random.default_rng(0)
    first, last = np.sort(generator.integers(0, depth + 1, (2, rows)), axis=0)
    columns = np.arange(depth)
    inside = (first[:, None] <= columns) & (columns < last[:, None])
    lanes = generator.integers(1, images + 1, rows)
    weights, x = inside * generator.standard_normal((rows, depth)), generator.standard_normal((depth, images))
    out = np.ones((rows, images))
    add_product(out, weights, x, first, last, lanes)
    counted = np.arange(images) < lanes[:, None]
    np.testing.assert_allclose(out[counted], (1 + weights @ x)[counted], rtol=0, atol=1e-13)


@pytest.mark.parametrize(("latent", "hidden"), [(2, 1), (2, 5), (5, 3), (5, 12), (7, 7), (40, 120)])
def test_bounds_are_the_masks(latent, hidden):
    seen = count_seen(latent, hidden)
    see, below, hear = (mask.numpy() for mask in autoregressive_masks(torch.arange(latent).unsqueeze(0), hidden))
    heard, low, high, *_ = bounds(seen.numpy(), latent, 3)
    np.testing.assert_array_equal(see[0], np.arange(latent) < seen.numpy()[:, None])
    np.testing.assert_array_equal(hear[0, :latent], np.arange(hidden) < heard[::2, None])
    np.testing.assert_array_equal(heard[::2], heard[1::2])
    np.testing.assert_array_equal(below, np.arange(hidden) < high[:, None])
    np.testing.assert_array_equal(below.T, np.arange(hidden) >= low[:, None])
