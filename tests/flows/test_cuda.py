"""The kernels for a GPU against the plain formulas in float64, forward and backward.

Without a GPU they run by Triton's interpreter, which has to be asked for before Triton is imported: in a process of its
own, by the last test here. Without Triton, which torch's builds for a CPU do not bring, nothing of this runs.
"""

import os
import subprocess
import sys

import pytest
import torch

from nfstudy.core.cuda import has_triton

INTERPRETED = has_triton() and os.environ.get("TRITON_INTERPRET") == "1"
ON_GPU = has_triton() and torch.cuda.is_available() and not INTERPRETED
DEVICE = "cuda" if ON_GPU else "cpu"
NO_TRITON = "Triton is not installed, as on a machine of CI, where this never runs; torch's builds for CUDA bring it"
kernels_run = pytest.mark.skipif(
    not (INTERPRETED or ON_GPU),
    reason="no GPU here: run by the interpreter, in the process of the last test" if has_triton() else NO_TRITON,
)
constrained = pytest.mark.parametrize("constraint", [True, False], ids=["constrained", "free"])
amortised = pytest.mark.parametrize("shared", [False, True], ids=["amortised", "shared"])
scaled = pytest.mark.parametrize("scale", [1.0, 5.0, 30.0], ids=lambda scale: f"scale={scale:g}")


@pytest.fixture(autouse=True, scope="module")
def mended_interpreter():
    """Have the interpreter count: it makes an int of an array of one number, which newer releases of numpy refuse."""
    if INTERPRETED:
        from triton.runtime import interpreter

        patch = interpreter._patch_lang_tensor

        def mended(tensor, scope):
            patch(tensor, scope)
            scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

        interpreter._patch_lang_tensor = mended


def draw(*shape, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    numbers = scale * torch.randn(*shape, generator=generator, dtype=torch.float64)
    return numbers.to(DEVICE, torch.float32).requires_grad_()


def results_and_gradients(function, *inputs):
    """Return what a function returns of inputs, and the gradients by the inputs of a random function of that."""
    outputs = function(*inputs)
    weights = [draw(*output.shape, seed=90 + i).detach().to(output) for i, output in enumerate(outputs)]
    loss = sum((output * weight).sum() for output, weight in zip(outputs, weights, strict=True))
    return [output.detach() for output in outputs] + list(torch.autograd.grad(loss, inputs))


def in_float64(inputs):
    return [x.detach().double().requires_grad_() for x in inputs]


def assert_alike(kernel, plain, *inputs):
    """Assert that both do the same of inputs within 1e-4 of the largest, or what the plain formula keeps in float32.

    Steps as large as some here amplify rounding, by the same factors in any order of sums.
    """
    exact = results_and_gradients(plain, *in_float64(inputs))
    rounded = results_and_gradients(plain, *inputs)
    ours = results_and_gradients(kernel, *inputs)
    slack = max(distance(x, y) for x, y in zip(rounded, exact, strict=True))
    for mine, theirs in zip(ours, exact, strict=True):
        assert mine.shape == theirs.shape
        assert torch.isfinite(mine).all()
        assert distance(mine, theirs) <= 1e-4 + 10 * slack
    for once, again in zip(ours, results_and_gradients(kernel, *inputs), strict=True):
        assert torch.equal(once, again)


def distance(x, exact):
    return ((x.double() - exact).abs().max() / exact.abs().max().clamp(min=1)).item()


def draw_steps(images, length, size, shared, scale, seed=1):
    """Return numbers of all steps, (K, n), or (B, K, n) and batch-last in memory, as a head gives them."""
    if shared:
        return draw(length, size, scale=scale, seed=seed)
    return draw(length, size, images, scale=scale, seed=seed).detach().permute(2, 0, 1).requires_grad_()


SHAPES = [(3, 3, 1, 7), (3, 2, 5, 2), (1, 2, 40, 7), (18, 1, 3, 2)]
if ON_GPU:  # The interpreter would take minutes.
    SHAPES = [(s, 37, d, k) for s in (1, 3) for d in (1, 2, 5, 40, 64) for k in (1, 2, 7, 80)] + [(40, 100, 2, 32)]


@kernels_run
@constrained
@amortised
@scaled
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_planar(shape, scale, shared, constraint):
    from nfstudy.flows.planar.cuda import planar_chain
    from nfstudy.flows.planar.flow import free_planar_flow, planar_flow

    samples, images, latent, length = shape
    z = draw(samples, images, latent)
    steps = draw_steps(images, length, 2 * latent + 1, shared, scale / latent**0.5)

    def plain(z, steps):
        u, w, b = steps.split([latent, latent, 1], -1)
        return (planar_flow if constraint else free_planar_flow)(z, u, w, b.squeeze(-1))

    assert_alike(lambda z, steps: planar_chain(z, steps, constraint), plain, z, steps)


@kernels_run
@pytest.mark.parametrize("vanishing", [0.0, 1e-12, 1e-8], ids=lambda size: f"size={size:g}")
def test_planar_steps_of_next_to_no_direction(vanishing):
    from nfstudy.flows.planar.cuda import planar_chain
    from nfstudy.flows.planar.flow import planar_flow

    z, u, w, b = draw(2, 3, 4), draw(3, 2, 4, seed=1), draw(3, 2, 4, scale=vanishing, seed=2), draw(3, 2, seed=3)

    def kernel(z, u, w, b):
        return planar_chain(z, torch.cat([u, w, b.unsqueeze(-1)], -1), True)

    ours, exact = (
        results_and_gradients(f, *x) for f, x in ((kernel, (z, u, w, b)), (planar_flow, in_float64((z, u, w, b))))
    )
    for mine, theirs in zip(ours, exact, strict=True):
        if vanishing == 1e-12:  # Which counts as 0 in float32 alone.
            assert torch.isfinite(mine).all()
        else:
            assert distance(mine, theirs) <= 1e-4


@kernels_run
def test_planar_determinants_that_underflow():
    from nfstudy.flows.planar.cuda import planar_chain
    from nfstudy.flows.planar.flow import planar_flow

    # On the hyperplane, or all but on it, a = 0, and the determinant is ln(1 + exp(wᵀu)), down to e⁻⁴⁰⁰.
    offsets = torch.tensor([0.0, 1e-30, -1e-20, 1e-3]).view(1, 4, 1)
    z = (offsets * torch.ones(2)).to(DEVICE).requires_grad_()
    w = torch.tensor([1.0, 0.0])
    u = torch.tensor([[[-400.0, 1.0]], [[-100.0, 0.0]], [[-20.0, 3.0]], [[-400.0, 0.0]]])
    steps = torch.cat([u, w.expand(4, 1, 2), torch.zeros(4, 1, 1)], -1).to(DEVICE).requires_grad_()
    z_k, log_det = planar_chain(z, steps, True)
    exact, exact_log_det = planar_flow(
        z.detach().double(), *(x.detach().double() for x in (steps[..., :2], steps[..., 2:4], steps[..., 4]))
    )
    torch.testing.assert_close(z_k.double(), exact, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(log_det.double(), exact_log_det, rtol=1e-5, atol=1e-6)
    for gradient in torch.autograd.grad(log_det.sum() + z_k.sum(), [z, steps]):
        assert torch.isfinite(gradient).all()


@kernels_run
@pytest.mark.parametrize("rows", [2, 1000], ids=lambda rows: f"rows={rows}")
def test_planar_of_any_strides_and_without_gradients(rows, monkeypatch):
    from nfstudy.core import cuda
    from nfstudy.flows.planar import cuda as planar

    monkeypatch.setattr(cuda, "PIECE", rows)
    z = draw(4, 3, 5, 2).detach().permute(3, 1, 0, 2)  # (2, 3, 4, 5)
    steps = draw(4, 3, 22, seed=1).detach()[..., ::2]
    with_gradient = planar.planar_chain(z.requires_grad_(), steps, True)
    with torch.no_grad():
        without = planar.planar_chain(z, steps, True)
        gapless = planar.planar_chain(z.contiguous(), steps.contiguous(), True)
    for x, y, w in zip(with_gradient, without, gapless, strict=True):
        assert torch.equal(x, y)
        assert torch.equal(x, w)


@kernels_run
@constrained
@amortised
@scaled
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_radial(shape, scale, shared, constraint):
    from nfstudy.flows.radial.cuda import radial_chain

    samples, images, latent, length = shape
    z = draw(samples, images, latent)
    steps = draw_steps(images, length, latent + 2, shared, scale)
    assert_alike(lambda z, steps: radial_chain(z, steps, constraint), plain_radial(constraint), z, steps)


@kernels_run
def test_radial_at_a_reference_point_and_where_numbers_underflow():
    from nfstudy.flows.radial.cuda import radial_chain

    # At z0 or next to it, with α down to e⁻²⁰⁰ and p down to e⁻¹⁰⁰.
    z = torch.tensor([0.0, 0.0, 1e-20, 1.0, 0.0]).view(1, 5, 1).expand(1, 5, 2).to(DEVICE).requires_grad_()
    alpha_beta = torch.tensor([[0.5, -100.0], [-20.0, 3.0], [-3.0, -100.0], [-200.0, -100.0], [-40.0, -60.0]])
    steps = torch.cat([torch.zeros(5, 1, 2), alpha_beta.unsqueeze(1)], -1).to(DEVICE).requires_grad_()
    ours = results_and_gradients(lambda *x: radial_chain(*x, True), z, steps)
    exact = results_and_gradients(plain_radial(True), *in_float64((z, steps)))
    for mine, theirs in zip(ours[:2], exact[:2], strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-5)
    assert all(torch.isfinite(x).all() for x in ours)


def plain_radial(constraint):
    from nfstudy.flows.radial.flow import RadialFlow, free_radial_flow, radial_flow

    def plain(z, steps):
        flow = RadialFlow(z.shape[-1], steps.shape[-2], 0, constraint)
        return (radial_flow if constraint else free_radial_flow)(z, *flow.split(steps))

    return plain


@kernels_run
@amortised
@pytest.mark.parametrize("matrices", [False, True], ids=["permutations", "matrices"])
@pytest.mark.parametrize("layers", [1, 3], ids=lambda layers: f"layers={layers}")
@pytest.mark.parametrize(
    "shape",
    [(1, 2, 2, 1, 4), (2, 2, 7, 3, 5), (1, 1, 40, 5, 20)] + [(3, 37, 64, 80, 40), (2, 5, 128, 2, 128)] * ON_GPU,
    ids=str,
)
def test_nice(shape, layers, matrices, shared):
    from nfstudy.flows.nice.cuda import fits, nice_chain
    from nfstudy.flows.nice.flow import nice_flow

    samples, images, latent, length, units = shape
    first = latent // 2 - (latent == 7)
    generator = torch.Generator().manual_seed(3)
    if matrices:
        mixing = torch.linalg.qr(torch.randn(length, latent, latent, generator=generator, dtype=torch.float64)).Q
        mixing = mixing.to(DEVICE, torch.float32)
    else:
        mixing = torch.stack([torch.randperm(latent, generator=generator) for _ in range(length)]).to(DEVICE)
    weights = [
        draw(samples, images, latent),
        draw_steps(images, length, units, shared, 0.5),
        draw(length, units, first, scale=first**-0.5, seed=4),
        draw(layers - 1, length, units, units, scale=1.5 * units**-0.5, seed=5),
        draw(layers - 1, length, units, seed=6),
        draw(length, latent - first, units, scale=0.5 * units**-0.5, seed=7),
        draw(length, latent - first, seed=8),
    ]
    if layers == 1:
        del weights[3:5]
    assert fits(mixing, weights[2])

    def arguments(z, b_in, w_in, *rest):
        w_hidden, b_hidden = rest[:-2] or (z.new_empty(0, 0, 0, 0), z.new_empty(0, 0, 0))
        return z, b_in, w_in, w_hidden, b_hidden, *rest[-2:]

    def kernel(*weights):
        z, b_in, *others = arguments(*weights)
        return (nice_chain(z, b_in, mixing, *others),)

    def plain(*weights):
        z, b_in, w_in, w_hidden, b_hidden, w_out, b_out = arguments(*weights)
        q = mixing.to(z) if matrices else mixing
        return nice_flow(z, q, w_in, b_in, w_out, b_out, tuple(w_hidden), tuple(b_hidden))[:1]

    assert_alike(kernel, plain, *weights)
    with torch.no_grad():
        assert torch.equal(kernel(*weights)[0], kernel(*weights)[0])
        assert distance(kernel(*weights)[0], plain(*in_float64(weights))[0]) < 1e-4


@kernels_run
@pytest.mark.parametrize("shape", [(3, 4, 2, 1), (5, 7, 3, 4), (100, 30, 40, 4)], ids=str)
def test_maxout(shape):
    from nfstudy.inference.models.maxout import _MaxoutOnGPU, plain_maxout

    images, inputs, units, window = shape
    weights = draw(images, inputs), draw(units * window, inputs, seed=1), draw(units * window, seed=2)
    options = window, torch.float32
    assert_alike(lambda *x: (_MaxoutOnGPU.apply(*x, *options),), lambda *x: (plain_maxout(*x, *options),), *weights)

    def squared_slopes(layer, *weights):
        slopes = torch.autograd.grad(layer(*weights, *options).square().sum(), weights, create_graph=True)
        return [torch.stack([slope.square().sum() for slope in slopes])]

    ours = results_and_gradients(lambda *x: squared_slopes(_MaxoutOnGPU.apply, *x), *weights)
    exact = results_and_gradients(lambda *x: squared_slopes(plain_maxout, *x), *in_float64(weights))
    for mine, theirs in zip(ours, exact, strict=True):
        assert distance(mine, theirs) <= 1e-4


@kernels_run
def test_maxout_takes_the_first_of_equals_and_a_nan():
    from nfstudy.core.cuda.maxout import largest

    pieces = torch.tensor([[1.0, 2.0, 2.0], [torch.nan, 3.0, 1.0], [1.0, torch.nan, 5.0]], device=DEVICE)
    units, winner = largest(pieces, torch.zeros(3, device=DEVICE), 3)
    assert winner.tolist() == [[1], [0], [1]]
    assert units[0].item() == 2
    assert units[1:].isnan().all()


@kernels_run
@pytest.mark.parametrize("shape", [(1, 3, 5), (2, 3, 40), (3, 2, 1500), (1, 7, 784)], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e4], ids=lambda scale: f"scale={scale:g}")
def test_log_mass_of_bits(shape, scale):
    from nfstudy.inference.likelihoods.bernoulli import _LogMassOnGPU, plain_log_mass

    samples, images, pixels = shape
    x = (draw(images, pixels, seed=3).detach() > 0).float()
    weights = draw(samples * images, pixels, scale=scale), draw(pixels, seed=1)

    def kernel(logits, bias):
        return (_LogMassOnGPU.apply(logits, bias, x),)

    def plain(logits, bias):
        return (plain_log_mass((logits + bias).unflatten(0, (samples, images)), x.to(logits)).flatten(),)

    assert_alike(kernel, plain, *weights)
    assert_same_second_derivatives(kernel, plain, *weights)


@kernels_run
@pytest.mark.parametrize("shape", [(1, 3, 1), (3, 5, 40), (2, 1, 600), (40, 2, 3)], ids=str)
def test_start_of_a_chain(shape):
    from nfstudy.inference.models.gaussian import _StartOnGPU, plain_start

    samples, images, latent = shape
    noise = draw(samples, images, latent, seed=3).detach()
    # Of any strides.
    weights = draw(latent, images).detach().T.requires_grad_(), draw(images, latent, seed=1)

    def kernel(mean, log_variance):
        return _StartOnGPU.apply(mean, log_variance, noise)

    def plain(mean, log_variance):
        return plain_start(mean, log_variance, noise.to(mean))

    assert_alike(kernel, plain, *weights)
    assert_same_second_derivatives(kernel, plain, *weights)


@kernels_run
@pytest.mark.parametrize("shape", [(1, 1), (37, 40), (3, 600)], ids=str)
def test_log_normal(shape):
    from nfstudy.inference.models.gaussian import _LogNormalOnGPU, plain_log_normal

    def kernel(z):
        return (_LogNormalOnGPU.apply(z),)

    def plain(z):
        return (plain_log_normal(z),)

    z = draw(*reversed(shape)).detach().T.requires_grad_()
    assert_alike(kernel, plain, z)
    assert_same_second_derivatives(kernel, plain, z)


def assert_same_second_derivatives(kernel, plain, *inputs):
    """Assert that both have the same gradient of a function of the gradients, within 1e-4 of the largest."""

    def squared_slopes(function, *inputs):
        value = sum(output.square().mean() for output in function(*inputs))
        slopes = torch.autograd.grad(value, inputs, create_graph=True)
        return [torch.stack([slope.square().sum() for slope in slopes])]

    ours = results_and_gradients(lambda *x: squared_slopes(kernel, *x), *inputs)
    exact = results_and_gradients(lambda *x: squared_slopes(plain, *x), *in_float64(inputs))
    for mine, theirs in zip(ours, exact, strict=True):
        assert distance(mine, theirs) <= 1e-4


@kernels_run
@pytest.mark.parametrize("sizes", [(1,), (5000,), (1, 1025, 16, 2049, 1024), (3,) * 70], ids=lambda sizes: len(sizes))
def test_rmsprop(sizes):
    from nfstudy.core.cuda.rmsprop import update

    ours = [draw(size, seed=i).detach() for i, size in enumerate(sizes)]
    weights = [torch.nn.Parameter(each.double()) for each in ours]
    squares, velocities = ([torch.zeros_like(each) for each in ours] for _ in range(2))
    reference = torch.optim.RMSprop(weights, lr=1e-2, alpha=0.9, eps=1e-4, momentum=0.8)
    rate = torch.full((), 1e-2, device=DEVICE)
    for step in range(3):
        gradients = [draw(size, seed=100 * step + i).detach() for i, size in enumerate(sizes)]
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient.double()
        reference.step()
        update(ours, gradients, squares, velocities, rate, 0.9, 1e-4, 0.8)
    for i, weight in enumerate(weights):
        state = reference.state[weight]
        for mine, theirs in (
            (ours[i], weight.detach()),
            (squares[i], state["square_avg"]),
            (velocities[i], state["momentum_buffer"]),
        ):
            torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not ON_GPU, reason="no GPU with Triton here; the kernels themselves are tested without")
class TestOnTheGPU:
    """What chooses the kernels; on a CPU, nothing does."""

    def test_planar_flow_takes_the_kernel(self):
        from nfstudy.flows.planar.flow import PlanarFlow

        flow = PlanarFlow(4, 3, 5).cuda()
        z_k, _ = flow(draw(2, 3, 4), flow.parameters_from(draw(3, 5)))
        assert "_PlanarChain" in names_behind(z_k)

    def test_radial_flow_takes_the_kernel(self):
        from nfstudy.flows.radial.flow import RadialFlow

        flow = RadialFlow(4, 3, 5).cuda()
        z_k, _ = flow(draw(2, 3, 4), flow.parameters_from(draw(3, 5)))
        assert "_RadialChain" in names_behind(z_k)

    @pytest.mark.parametrize("latent", [4, 300])
    def test_nice_flow_takes_the_kernel_where_it_fits(self, latent):
        from nfstudy.flows.nice.flow import NicePermFlow

        flow = NicePermFlow(latent, 3, 5, coupling_hidden=6, coupling_layers=2)
        flow.initialise(lambda name: torch.Generator().manual_seed(len(name)))
        flow.cuda()
        z = draw(2, 3, latent)
        z_k, _ = flow(z, flow.parameters_from(draw(3, 5)))
        assert ("_NiceChain" in names_behind(z_k)) == (latent == 4)

    def test_maxout_takes_the_kernel(self):
        from nfstudy.inference.models.maxout import Maxout

        assert "_MaxoutOnGPU" in names_behind(Maxout(3, 4, 2).cuda()(draw(5, 3)))

    def test_rmsprop_is_torchs(self):
        from nfstudy.inference.training.optimisers import FusedRMSprop

        pairs = [[torch.nn.Parameter(draw(*shape).detach()) for shape in ((3, 4), (5,))] for _ in range(2)]
        rate = torch.full((), 1e-2, device="cuda")
        ours = FusedRMSprop(pairs[0], lr=1e-2, alpha=0.9, eps=1e-4, momentum=0.8)
        ours.param_groups[0]["lr"] = rate
        reference = torch.optim.RMSprop(pairs[1], lr=1e-2, alpha=0.9, eps=1e-4, momentum=0.8)
        for step in range(3):
            for mine, theirs in zip(*pairs, strict=True):
                mine.grad = draw(*mine.shape, seed=step).detach()
                theirs.grad = mine.grad.clone()
            ours.step()
            reference.step()
        for mine, theirs in zip(*pairs, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def names_behind(output):
    """Return the names of the nodes of a result's graph, one after the other."""
    nodes, names = [output.grad_fn], ""
    while nodes:
        node = nodes.pop()
        if node is not None:
            names += f" {node.name()}"
            nodes += [before for before, _ in node.next_functions]
    return names


@pytest.mark.skipif(
    INTERPRETED or ON_GPU or not has_triton(), reason=NO_TRITON if not has_triton() else "the tests above run here"
)
def test_the_kernels_by_the_interpreter():
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
