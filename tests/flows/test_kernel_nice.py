"""The compiled coupling chain against the plain formula, forward and backward."""

import hashlib
import math

import numpy as np
import pytest
import torch

from nfstudy.flows import make_flow
from nfstudy.flows.nice.flow import NiceOrthFlow, NicePermFlow, nice_flow
from nfstudy.flows.nice.kernel import CouplingChain, add_product, chain, coupling_chain
from nfstudy.study.sections import FlowSpec

MIXINGS = pytest.mark.parametrize("family", [NicePermFlow, NiceOrthFlow], ids=["perm", "orth"])


def draw(*shape, scale=1.0, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)


def arguments(family, samples, images, latent, length, hidden, layers=1, first=None, scale=1.0, dtype=torch.float64):
    """Those of `CouplingChain`; the weights' spread is `scale` times that which keeps pre-activations of size 1."""
    first = first or latent // 2
    generator = torch.Generator().manual_seed(8)
    mixing = torch.stack([family.draw_mixing(latent, generator) for _ in range(length)])
    tensors = [
        draw(samples, images, latent, dtype=dtype),
        draw(images, length, hidden, scale=scale, dtype=dtype, seed=1),
        mixing.to(dtype) if mixing.is_floating_point() else mixing,
        draw(length, hidden, first, scale=scale * first**-0.5, dtype=dtype, seed=2),
        draw(layers - 1, length, hidden, hidden, scale=scale * hidden**-0.5, dtype=dtype, seed=3),
        draw(layers - 1, length, hidden, scale=scale, dtype=dtype, seed=4),
        draw(length, latent - first, hidden, scale=scale * hidden**-0.5, dtype=dtype, seed=5),
        draw(length, latent - first, scale=scale, dtype=dtype, seed=6),
    ]
    return [x.requires_grad_() if number != 2 else x for number, x in enumerate(tensors)]


def plain(z, b_in, mixing, w_in, w_hidden, b_hidden, w_out, b_out):
    """`nice_flow` of the same arguments."""
    z_k, _ = nice_flow(z, mixing, w_in, b_in, w_out, b_out, (*w_hidden,), (*b_hidden,))
    return z_k


def result_and_gradients(chain, tensors):
    """Return z_K and the gradients of a random function of it by all that has one."""
    z_k = chain(*tensors)
    loss = (z_k * draw(*z_k.shape, dtype=z_k.dtype, seed=9)).sum()
    leaves = [x for x in tensors if x.requires_grad and x.numel()]
    return z_k.detach(), *torch.autograd.grad(loss, leaves)


def in_double(tensors):
    return [x.detach().double().requires_grad_(x.requires_grad) if x.is_floating_point() else x for x in tensors]


def largest_difference(ours, reference):
    """Of all results, relative to the largest number of each."""
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, reference, strict=True))


@MIXINGS
@pytest.mark.parametrize("layers", [1, 3], ids=["shallow", "deep"])
@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0, 30.0], ids=lambda scale: f"scale={scale:g}")
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 2, 1, 1), (1, 37, 5, 7, 7), (3, 100, 40, 2, 40), (1, 100, 2, 8, 32), (2, 1, 5, 3, 6)],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_loop_is_the_plain_formula(dtype, shape, scale, layers, family):
    samples, images, latent, length, hidden = shape
    tensors = arguments(family, samples, images, latent, length, hidden, layers, scale=scale, dtype=dtype)
    ours = result_and_gradients(coupling_chain, tensors)
    # Steep steps one after another amplify rounding, and so do the slopes 1 − h² of saturated units, in both: the plain
    # formula in float32 sets what can be asked.
    if dtype == torch.float32:
        exact = result_and_gradients(plain, in_double(tensors))
        rounded = result_and_gradients(plain, tensors)
        assert largest_difference(ours, exact) < 20 * largest_difference(rounded, exact) + 2e-6
    else:
        assert largest_difference(ours, result_and_gradients(plain, tensors)) < {5.0: 1e-6, 30.0: 1e-2}.get(
            scale, 1e-11
        )


@MIXINGS
@pytest.mark.parametrize("scale", [5.0, 1e4], ids=lambda scale: f"scale={scale:g}")
def test_saturated_units_give_the_values_of_the_plain_formula(scale, family):
    tensors = arguments(family, 2, 37, 40, 1, 40, scale=scale)
    torch.testing.assert_close(coupling_chain(*tensors), plain(*tensors), rtol=1e-10, atol=1e-10)


@MIXINGS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_chain_of_the_papers_length(dtype, family):
    tensors = arguments(family, 1, 100, 40, 80, 40, scale=0.3, dtype=dtype)
    ours = result_and_gradients(coupling_chain, tensors)
    exact = result_and_gradients(plain, in_double(tensors))
    assert largest_difference(ours, exact) < (1e-12 if dtype == torch.float64 else 1e-5)


@MIXINGS
@pytest.mark.parametrize(("layers", "first"), [(1, 1), (1, 4), (2, 2)])
def test_gradients_are_those_of_finite_differences(layers, first, family):
    tensors = arguments(family, 2, 3, 5, 3, 4, layers, first)
    used = [x for x in tensors if x.requires_grad and x.numel()]

    def of_what_is_used(*values):
        values = iter(values)
        return CouplingChain.apply(*(next(values) if x.requires_grad and x.numel() else x.detach() for x in tensors))

    assert torch.autograd.gradcheck(of_what_is_used, used)


@pytest.mark.parametrize("images", [1, 5, 100])
@pytest.mark.parametrize("rows", [1, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("depth", [1, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("transposed", [False, True])
def test_the_product_of_every_size_is_numpys(transposed, depth, rows, images):
    random = np.random.default_rng(0)
    weights = random.standard_normal((depth, rows)).T if transposed else random.standard_normal((rows, depth))
    x, out = random.standard_normal((depth, images)), random.standard_normal((rows, images))
    expected = out + weights @ x
    add_product(out, weights, x)
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-13)


def stream(name):
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big"))


CHOICES = {
    "perm": {"family": "nice-perm"},
    "orth": {"family": "nice-orth"},
    "not amortised": {"family": "nice-perm", "coupling_amortised": False},
    "deep": {"family": "nice-orth", "coupling_layers": 3, "coupling_pass": 0.3, "coupling_scaling": True},
}


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("features", [0, 16], ids=["shared", "features"])
def test_the_module_runs_the_loop_and_gets_the_gradients_of_the_plain_formula(monkeypatch, choice, features):
    flow = make_flow(FlowSpec(length=4, coupling_hidden=7, **CHOICES[choice]), 5, features).double()
    flow.initialise(stream)
    with torch.no_grad():
        flow.w_out.mul_(1000)
    z, images = draw(2, 3, 6, 5).requires_grad_(), draw(6, features, seed=1) if features else draw(0)
    leaves = [z, *(x for x in flow.parameters() if x.numel())]

    def gradients():
        z_k, log_det = flow(z, flow.parameters_from(images))
        assert log_det.shape == (2, 3, 6)
        return z_k, log_det, *torch.autograd.grad(z_k.sin().sum() + log_det.sum(), leaves)

    with monkeypatch.context() as only_the_loop:
        only_the_loop.delattr("nfstudy.flows.nice.flow.nice_flow")
        ours = gradients()
    monkeypatch.setattr("nfstudy.flows.nice.flow.fits_lanes", lambda z, steps: False)
    torch.testing.assert_close(ours, gradients(), rtol=1e-9, atol=1e-12)


def test_many_samples_of_a_shared_coupling_are_done_in_pieces(monkeypatch):
    flow = make_flow(FlowSpec(family="nice-perm", length=3, coupling_hidden=7), 2, 0)
    flow.initialise(stream)
    z, parameters = draw(50, 2, dtype=torch.float32), flow.parameters_from(torch.empty(0))
    whole = flow(z, parameters)
    monkeypatch.setattr("nfstudy.flows.base.LANES", 16)
    torch.testing.assert_close(flow(z, parameters), whole)


@MIXINGS
def test_without_gradients_one_step_is_kept_and_the_result_is_the_same(monkeypatch, family):
    tensors = arguments(family, 3, 10, 5, 4, 7, layers=2)
    kept = []

    def watch(*arrays):
        kept.append([len(x) for x in arrays[-3:-1]])
        chain(*arrays)

    monkeypatch.setattr("nfstudy.flows.nice.kernel.chain", watch)
    with_gradients = coupling_chain(*tensors)
    with torch.inference_mode():
        without = coupling_chain(*tensors)
    assert kept == [[12, 12], [1, 1]]
    assert torch.equal(with_gradients, without)


@MIXINGS
def test_what_is_not_finite_stays_so(family):
    tensors = [x.detach() for x in arguments(family, 1, 4, 5, 3, 7)]
    tensors[1][3, 1, 2] = math.nan
    z_k = coupling_chain(*tensors)
    assert z_k[0, :3].isfinite().all()
    assert z_k[0, 3].isnan().any()
