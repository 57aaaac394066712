"""The compiled chains of RealNVP, Glow and splines against the plain formulas, forward and backward."""

import copy
import hashlib
import math

import pytest
import torch

from nfstudy.flows import make_flow
from nfstudy.flows.coupling import CouplingFlow
from nfstudy.flows.kernel_coupling import NetworkChain
from nfstudy.flows.spline.kernel import WIDTH
from nfstudy.study.sections import FlowSpec

CHOICES = {
    "realnvp": {"family": "realnvp"},
    "realnvp, deep": {"family": "realnvp", "coupling_layers": 3, "coupling_pass": 0.3, "coupling_log_scale": 10},
    "glow": {"family": "glow"},
    "glow, deep": {"family": "glow", "coupling_layers": 2, "coupling_pass": 0.8},
    "spline": {"family": "spline"},
    "spline, deep": {"family": "spline", "coupling_layers": 3, "spline_bins": 2, "spline_bound": 2.5},
    "spline, many bins": {"family": "spline", "spline_bins": 30, "coupling_amortised": False},
}
FAMILIES = pytest.mark.parametrize("choice", CHOICES)


def stream(name):
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big"))


def draw(*shape, seed, scale=1.0, dtype=torch.float64):
    return (scale * torch.randn(*shape, generator=stream(seed), dtype=torch.float64)).to(dtype)


def chain(choice, latent, length, features, scale, hidden=7):
    """A chain in float64 whose weights lie `scale` from where they start: far out, units and scales are saturated."""
    flow = make_flow(FlowSpec(length=length, coupling_hidden=hidden, **CHOICES[choice]), latent, features).double()
    flow.initialise(stream)
    with torch.no_grad():
        for name, weights in flow.named_parameters():
            # Glow's matrices are products of these, or exp of these: they would be singular.
            size = min(scale, 0.3) if "triangles" in name or "gain" in name else scale
            weights.add_(draw(*weights.shape, seed=name, scale=size))
    return flow


def results_and_gradients(flow, z, images):
    """Return z_K, log det, and the gradients of a random function of both by z_0 and all weights."""
    z = z.clone().requires_grad_()
    z_k, log_det = flow(z, flow.parameters_from(images))
    loss = (z_k * draw(*z_k.shape, seed="a", dtype=z.dtype)).sum()
    loss = loss + (log_det * draw(*log_det.shape, seed="b", dtype=z.dtype)).sum()
    leaves = [z, *(x for x in flow.parameters() if x.numel())]
    return z_k.detach(), log_det.detach(), *torch.autograd.grad(loss, leaves)


def plain(monkeypatch, *arguments):
    with monkeypatch.context() as patched:
        patched.setattr(CouplingFlow, "fits_loops", lambda *_: False)
        return results_and_gradients(*arguments)


def largest_difference(ours, reference):
    """Of all results, relative to the largest number of each."""
    pairs = [(a, b) for a, b in zip(ours, reference, strict=True) if b.numel()]
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1e-300)).item() for a, b in pairs)


@FAMILIES
@pytest.mark.parametrize("features", [0, 5], ids=["shared", "features"])
@pytest.mark.parametrize("scale", [0.3, 3.0, 100.0], ids=lambda scale: f"scale={scale:g}")
def test_the_loop_is_the_plain_formula(monkeypatch, scale, features, choice):
    flow = chain(choice, 5, 3, features, scale)
    z = draw(2, WIDTH + 9, 5, seed="z", scale=3.0)
    images = draw(WIDTH + 9, features, seed="images") if features else draw(0, seed="images")
    with monkeypatch.context() as only_the_loop:
        for family in ("realnvp", "glow", "spline"):
            only_the_loop.delattr(f"nfstudy.flows.{family}.flow.{family}_flow")
        ours = results_and_gradients(flow, z, images)
    reference = plain(monkeypatch, flow, z, images)
    # Steep steps amplify rounding, in both.
    assert largest_difference(ours, reference) < {0.3: 1e-11, 3.0: 1e-8, 100.0: 1e-5}[scale]


@FAMILIES
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0], ids=lambda scale: f"scale={scale:g}")
@pytest.mark.parametrize(("latent", "length", "hidden"), [(40, 2, 40), (2, 8, 11)], ids=str)
def test_in_float32_the_loop_is_as_exact_as_the_plain_formula(monkeypatch, latent, length, hidden, scale, choice):
    flow = chain(choice, latent, length, 5, scale, hidden).float()
    z, images = draw(1, 100, latent, seed="z", dtype=torch.float32), draw(100, 5, seed="x", dtype=torch.float32)
    ours, rounded = results_and_gradients(flow, z, images), plain(monkeypatch, flow, z, images)
    exact = plain(monkeypatch, copy.deepcopy(flow).double(), z.double(), images.double())
    assert all(x.dtype == torch.float32 for x in ours)
    for a, b, c in zip(ours, rounded, exact, strict=True):
        assert largest_difference([a], [c]) < 20 * largest_difference([b], [c]) + 1e-5


@FAMILIES
def test_gradients_are_those_of_finite_differences(choice):
    flow = chain(choice, 4, 2, 3, 0.5, hidden=3)
    z, images = draw(2, 3, 4, seed="z").requires_grad_(), draw(3, 3, seed="images")
    names = [name for name, x in flow.named_parameters() if x.numel()]

    def of_what_is_given(z, *weights):
        class Given(torch.nn.Module):
            def forward(self, z):
                return flow(z, flow.parameters_from(images))

        given = Given()
        given.flow = flow
        named = {f"flow.{name}": x for name, x in zip(names, weights, strict=True)}
        return torch.func.functional_call(given, named, (z,))

    weights = [x for x in flow.parameters() if x.numel()]
    assert torch.autograd.gradcheck(of_what_is_given, [z, *weights])


@FAMILIES
def test_without_gradients_one_step_is_kept_and_the_result_is_the_same(monkeypatch, choice):
    flow = chain(choice, 5, 3, 4, 1.0)
    z, images = draw(2, 6, 5, seed="z"), draw(6, 4, seed="images")
    with_gradients = flow(z, flow.parameters_from(images))
    kept = []
    forward = NetworkChain.forward

    def watch(ctx, loops, *arguments):
        def loop(*arrays):
            kept.append([len(x) for x in arrays[-5:-2]])
            loops.forward(*arrays)

        return forward(ctx, loops._replace(forward=loop), *arguments)

    monkeypatch.setattr(NetworkChain, "forward", staticmethod(watch))
    with torch.no_grad():
        without = flow(z, flow.parameters_from(images))
    assert kept == [[1, 1, 1]]
    assert all(torch.equal(a, b) for a, b in zip(with_gradients, without, strict=True))


@FAMILIES
def test_many_samples_of_a_shared_coupling_are_done_in_pieces(monkeypatch, choice):
    flow = chain(choice, 5, 2, 0, 1.0)
    z, parameters = draw(50, 5, seed="z"), flow.parameters_from(torch.empty(0, dtype=torch.float64))
    whole = flow(z, parameters)
    monkeypatch.setattr("nfstudy.flows.base.LANES", 16)
    torch.testing.assert_close(flow(z, parameters), whole)


@FAMILIES
@pytest.mark.parametrize("what", ["z", "said", "hidden"])
def test_what_is_not_finite_stays_so(what, choice):
    flow = chain(choice, 5, 3, 4, 0.5).requires_grad_(False)
    z, images = draw(4, 5, seed="z", scale=0.3), draw(4, 4, seed="images")
    parameters = tuple(x.clone() for x in flow.parameters_from(images))
    if what == "z":
        z[3, :] = math.nan
    elif what == "hidden":
        if not flow.amortised:
            pytest.skip("shared biases are of all images")
        parameters[0][3] = math.nan
    else:
        flow.b_out[-1] = math.nan
    z_k, _ = flow(z, parameters)
    if what == "said":
        assert z_k.isnan().any(-1).all()
    else:
        assert z_k[:3].isfinite().all()
        assert z_k[3].isnan().any()
