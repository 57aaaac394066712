"""The compiled Sylvester chain against the plain formula, forward and backward."""

import pytest
import torch

from nfstudy.flows.sylvester.flow import COPIED, SylvesterFlow, sylvester_flow
from nfstudy.flows.sylvester.kernel import SylvesterChain


def draw(*shape, scale=1.0, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()


def count_numbers(latent, columns):
    """Those of one step."""
    return latent * columns + columns * (columns + 1) // 2 + columns


def results_and_gradients(chain, z, steps, seed=9):
    """Return z_K, Σ log det, and the gradients of a random function of both."""
    z_k, log_det = chain(z, steps)
    weights = [draw(*x.shape, seed=seed + i, dtype=x.dtype).detach() for i, x in enumerate((z_k, log_det))]
    loss = (z_k * weights[0]).sum() + (log_det * weights[1]).sum()
    return z_k.detach(), log_det.detach(), *torch.autograd.grad(loss, [z, steps])


def of_flow(latent, columns, features=4):
    """Return the chain through the loop and through the plain formula, each of z and steps."""
    flow = SylvesterFlow(latent, 1, features, columns)
    return lambda z, steps: flow(z, (steps,)), lambda z, steps: sylvester_flow(z, *flow.split(steps))


def largest_difference(ours, reference):
    """Of all results, relative to the largest number of each."""
    for mine in ours:
        assert torch.isfinite(mine).all()
    pairs = zip(ours, reference, strict=True)
    return max(((a - b).abs().max() / b.abs().max().clamp_min(1e-3)).item() for a, b in pairs)


def one_step(diagonals, a, dtype=torch.float64):
    """Return z = 0, D = 2, and one step, M = 1, bent at a, with diagonals tanh p and tanh q of each image."""
    steps = torch.tensor([[[p, 0.0, q, a]] for p, q in diagonals], dtype=dtype, requires_grad=True)
    return torch.zeros(1, len(diagonals), 2, dtype=dtype, requires_grad=True), steps


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0], ids=lambda scale: f"scale={scale:g}")
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 1, 1), (1, 37, 5, 3, 7), (3, 100, 40, 8, 10), (1, 100, 2, 2, 32), (2, 1, 6, 1, 4), (2, 33, 6, 6, 5)],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_loop_is_the_plain_formula(dtype, shape, scale):
    samples, images, latent, columns, length = shape
    z = draw(samples, images, latent, dtype=dtype)
    steps = draw(images, length, count_numbers(latent, columns), scale=scale, dtype=dtype, seed=1)
    loop, plain = of_flow(latent, columns)
    ours = results_and_gradients(loop, z, steps)
    exact = results_and_gradients(plain, *(x.detach().double().requires_grad_() for x in (z, steps)))
    if dtype == torch.float32:
        # Long chains of large steps amplify rounding: the plain formula in float32 sets what can be asked.
        slack = largest_difference(results_and_gradients(plain, z, steps), exact)
        assert largest_difference(ours, exact) < 20 * slack + 2e-6
    else:
        assert largest_difference(ours, exact) < 1e-10


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_chain_of_the_papers_length(dtype):
    z, steps = draw(1, 100, 40, dtype=dtype), draw(100, 80, count_numbers(40, 8), scale=0.3, dtype=dtype, seed=1)
    loop, plain = of_flow(40, 8)
    exact = results_and_gradients(plain, *(x.detach().double().requires_grad_() for x in (z, steps)))
    assert largest_difference(results_and_gradients(loop, z, steps), exact) < (
        1e-12 if dtype == torch.float64 else 2e-4
    )


@pytest.mark.parametrize(("latent", "columns"), [(1, 1), (4, 2), (3, 3)])
def test_gradients_are_those_of_finite_differences(latent, columns):
    z, steps = draw(2, latent, 3), draw(4, count_numbers(latent, columns), 3, seed=1)
    assert torch.autograd.gradcheck(lambda *inputs: SylvesterChain.apply(*inputs, columns), (z, steps))


@pytest.mark.parametrize("columns", [2, 9], ids=["copied", "formed"])
def test_shared_steps_are_those_of_every_sample(columns):
    z, steps = draw(3, 20, 9), draw(4, count_numbers(9, columns), seed=1)
    assert (steps.shape[-1] <= COPIED) is (columns == 2)
    loop, plain = of_flow(9, columns, features=0)
    ours, reference = (results_and_gradients(chain, z, steps) for chain in (loop, plain))
    assert largest_difference(ours, reference) < 1e-11


def test_many_numbers_of_shared_steps_are_not_copied(monkeypatch):
    copied = []
    monkeypatch.setattr("nfstudy.flows.sylvester.flow.over_lanes", lambda *arguments: copied.append(1))
    for columns, features, shape in ((2, 0, (4,)), (9, 0, (4,)), (9, 4, (20, 4))):
        of_flow(9, columns, features)[0](draw(20, 9), draw(*shape, count_numbers(9, columns)))
    assert len(copied) == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("a", [0.0, 1e-30, 3.0, 400.0])
def test_determinants_that_underflow_keep_their_logarithm(a, dtype):
    loop, plain = of_flow(2, 1)
    diagonals = [(500, -400), (-400, 500), (-400, -400), (60, -50), (1e-30, -300), (0, 0)]
    z, steps = one_step(diagonals, a, dtype)
    exact = results_and_gradients(plain, *(x.detach().double().requires_grad_() for x in (z, steps)))
    assert largest_difference(results_and_gradients(loop, z, steps), exact) < (
        1e-10 if dtype == torch.float64 else 1e-6
    )


# ln(1 + tanh p tanh q) and its slopes by p and q, with mpmath at 900 digits.
@pytest.mark.parametrize(
    ("p", "q", "log_det", "by_p", "by_q"),
    [
        (500.0, -400.0, -799.306852819440055, -2.76779305347347506e-87, 2.0),
        (400.0, -400.5, -798.993591131921832, -1.46211715726000976, 0.537882842739990241),
        (0.5, -0.25, -0.120114506958277525, -0.217198494856300629, 0.489837324807418259),
        (30.0, 0.75, 0.4917339025771929, 1.36053382277491927e-26, 0.364851047612712681),
    ],
)
def test_the_margin_of_a_determinant_and_its_slopes(p, q, log_det, by_p, by_q):
    z, steps = one_step([(p, q)], 0.0)
    _, ours = of_flow(2, 1)[0](z, steps)
    (slopes,) = torch.autograd.grad(ours.sum(), steps)
    assert ours.item() == pytest.approx(log_det, rel=1e-13, abs=0)
    assert slopes[0, 0, [0, 2]].tolist() == pytest.approx([by_p, by_q], rel=1e-13, abs=1e-80)


@pytest.mark.parametrize("scale", [0.0, 1e-20, 100.0, 1e6], ids=lambda scale: f"{scale:g}")
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4], ids=lambda size: f"z={size:g}")
def test_values_and_gradients_are_finite_in_float32(size, scale):
    z = draw(2, 6, 5, scale=size, dtype=torch.float32)
    steps = draw(6, 3, count_numbers(5, 3), scale=scale, dtype=torch.float32, seed=1)
    for x in results_and_gradients(of_flow(5, 3)[0], z, steps):
        assert x.isfinite().all()


@pytest.mark.parametrize("number", [0, 3, 6, 9], ids=["p", "reflector", "q", "b"])
def test_what_is_not_finite_stays_so(number):
    steps = torch.ones(2, 3, count_numbers(3, 2))
    steps[1, 2, number] = torch.nan
    z_k, log_det = of_flow(3, 2)[0](torch.zeros(2, 3), steps)
    assert torch.isfinite(z_k[0]).all()
    assert torch.isfinite(log_det[0])
    assert z_k[1].isnan().any()
    assert log_det[1].isnan()


def test_without_gradients_the_values_are_the_same():
    z, steps = draw(20, 5), draw(20, 4, count_numbers(5, 2), seed=1)
    with torch.no_grad():
        without = of_flow(5, 2)[0](z, steps)
    torch.testing.assert_close(without, of_flow(5, 2)[0](z, steps), rtol=0, atol=0)
