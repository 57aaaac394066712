"""What every likelihood owes its users, checked: `check-plugin` and `run` do it of those from outside."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nfstudy.core.declarations import Likelihood as Declaration
from nfstudy.core.declarations import load
from nfstudy.core.errors import UserError
from nfstudy.core.seeds import derive_seed
from nfstudy.inference.likelihoods.base import Likelihood
from nfstudy.study.sections import ModelSpec

FEATURES, SAMPLES, IMAGES, LEVELS = 5, 2, 3, 4
PIXELS, OF_PATCHES = 28 * 28, 8 * 8 * 3
"""The paper's, as an implementation may lay them out in rows, columns and colours."""

TOLERANCE = (1e-5, 1e-3)
"""Of two ways to ln p(x|z) in float32, relative and in nats."""
INPUT_TOLERANCE = (1e-4, 1e-4)
"""Of what the inference network is given of an image among others and alone, in float32, relative and absolute."""
MASS_TOLERANCE = 0.02
REACH, NODES, FEW_NODES = 12.0, 200_001, 801
"""Of the integrals: real numbers to ±8·10⁴, numbers within (0, 1) to 6·10⁻⁶ of its ends, in float32."""
DENSITIES = ("real", "patches")
DRAWS, DISTANCE = 20_000, 0.06
"""Between p(x|z) and so many draws. Of draws of p(x|z) the total variation over 64 x is some 0.02, and the largest
difference of the cumulative shares of real numbers half of that."""

EXAMPLES: dict[str, Callable[[torch.Generator], Tensor]] = {
    "bits": lambda generator: torch.randint(2, (IMAGES, PIXELS), generator=generator).float(),
    "levels": lambda generator: torch.randint(2, (IMAGES, PIXELS), generator=generator).float(),
    "patches": lambda generator: 0.01 + 0.98 * torch.rand(IMAGES, OF_PATCHES, generator=generator),
    "real": lambda generator: torch.randn(IMAGES, PIXELS, generator=generator),
    "categories": lambda generator: torch.randint(LEVELS, (IMAGES, PIXELS), generator=generator).float(),
}
"""Kind of numbers -> examples x (B, N), as a model is given them. Of a kind that a plug-in names there are none."""


def check_likelihood(declaration: Declaration) -> int:
    """Check a likelihood's implementation at its defaults; return of how many kinds of numbers.

    The same weights from the same generators; of small examples a picture, an input of the inference network that
    depends on each alone, and one finite number ln p(x|z) each, in float32 and the same again; the same by
    `of_samples` and by `probabilities`, where there are such. Where it can be made for a few pixels, a total mass
    ∑ p(x|z), or ∫ p(x|z) dx, of 1 over all their x, and `draw` draws from that.

    Raises:
        UserError: something does not hold, or its code fails.
    """
    for values in declaration.values:
        try:
            mistake = _mistake(declaration, values)
        except (Exception, SystemExit) as error:  # Somebody else's code: it may raise anything.
            mistake = f"{type(error).__name__}: {error}"
        if mistake:
            raise UserError(f"likelihood {declaration.name}, of {values}: {mistake}")
    return len(declaration.values)


def _mistake(declaration: Declaration, values: str) -> str:
    """Return what is wrong with a likelihood of some numbers; empty where nothing is."""
    made, other = (_make(declaration, values) for _ in range(2))
    if declaration.draws and not _can_draw(made):
        return "draws: got True, and it has no `draw`; expected: that method, or False"
    torch.rand(1)  # What is left to torch's own generator comes out otherwise now.
    before = torch.get_rng_state()
    for likelihood in (made, other):
        likelihood.initialise(_generator)
    if not torch.equal(torch.get_rng_state(), before):
        words = "it draws from torch's own generator; expected: draws from `generator(part)` alone"
        return f"initialise is not reproducible: {words}"
    weights = other.state_dict()
    if changed := [name for name, value in made.state_dict().items() if not torch.equal(value, weights[name])]:
        words = "expected: every weight set by `initialise`, with draws from `generator(part)` alone"
        return f"initialise is not reproducible: {changed[0]} of another one differs; {words}"
    features = torch.randn(SAMPLES, IMAGES, FEATURES, generator=_generator("features"))
    with torch.no_grad():
        expected = (IMAGES, _pixels(values))
        if (picture := made.picture(features[0])).shape != expected:
            return f"picture: got {tuple(picture.shape)}; expected: {expected}, as x"
        x = EXAMPLES.get(values, EXAMPLES["bits"])(_generator("examples"))
        before_x = x.clone()
        if mistake := _input_mistake(made, x.clone(), values in EXAMPLES):
            return f"encoder_input: {mistake}"
        try:
            log_p, again = (made(x, features) for _ in range(2))
        except Exception:
            if values in EXAMPLES:
                raise
            return ""  # Of a kind that a plug-in names, 0 and 1 need be none.
        made.eval()
        at_rest = made(x, features)
    if not torch.equal(x, before_x):
        return "ln p(x|z): changes its x; expected: other tensors for what it returns"
    if log_p.shape != (SAMPLES, IMAGES) or log_p.dtype != torch.float32:
        got = f"{tuple(log_p.shape)} in {log_p.dtype}"
        return f"ln p(x|z): got {got}; expected: {(SAMPLES, IMAGES)} in torch.float32, one number an example"
    if values in EXAMPLES and not log_p.isfinite().all():
        return "ln p(x|z): got numbers that are not finite; expected: finite ones"
    if not torch.equal(log_p, again):
        return "ln p(x|z): other numbers of the same x and h(z); expected: the same"
    if not torch.equal(log_p, at_rest):
        return "ln p(x|z): other numbers when it trains than when it is evaluated; expected: the same"
    return _other_ways(made, x, features, log_p) or _mistake_of_few_pixels(declaration, values)


def _input_mistake(likelihood: Likelihood, x: Tensor, known: bool) -> str:
    """Return what is wrong with what the inference network is given of x (B, N); empty where nothing is.

    Arguments:
        likelihood: after `initialise`.
        x: may be changed by it.
        known: whether these x are such as it is for; of others, its numbers may be infinite or none.
    """
    given = x.clone()
    seen = likelihood.encoder_input(x)
    if not torch.equal(x, given):
        return "changes its x; expected: other tensors for what it returns"
    if seen.shape != x.shape or seen.dtype != torch.float32:
        return f"got {tuple(seen.shape)} in {seen.dtype}; expected: {tuple(x.shape)} in torch.float32, as x"
    if known and not seen.isfinite().all():
        return "got numbers that are not finite; expected: finite ones"
    if not torch.allclose(likelihood.encoder_input(x), seen, rtol=0, atol=0, equal_nan=True):
        return "other numbers of the same x; expected: the same"
    for image, own in enumerate(seen):
        alone = likelihood.encoder_input(x[image : image + 1])
        if alone.shape != (1, *own.shape) or not torch.allclose(alone[0], own, *INPUT_TOLERANCE, equal_nan=True):
            return f"image {image}: got other numbers without the other images; expected: the same, of its own x"
    return ""


@torch.no_grad()
def _other_ways(likelihood: Likelihood, x: Tensor, features: Tensor, log_p: Tensor) -> str:
    """Return which other way to ln p(x|z) leads elsewhere; empty where none does."""
    ways = {"of_samples": likelihood.of_samples(x, features)}
    if likelihood.levels:
        each = likelihood.probabilities(features)
        chosen = x.long().expand(SAMPLES, -1, -1).unsqueeze(-1)
        ways["probabilities"] = each.gather(-1, chosen).squeeze(-1).log().sum(-1)
    for name, found in ways.items():
        if found.shape != log_p.shape or not torch.allclose(found, log_p, *TOLERANCE, equal_nan=True):
            return f"{name}: gives other numbers than `forward`; expected: ln p(x|z) of the same x and h(z)"
    return ""


@torch.no_grad()
def _mistake_of_few_pixels(declaration: Declaration, values: str) -> str:
    """Return what the total mass is if it is not 1, or that draws are not of it; empty where that cannot be found."""
    found = (_mass_and_draws(declaration, values, *nodes()) for nodes in ALL_OF.get(values, ()))
    return next(filter(None, found), "")


def _mass_and_draws(declaration: Declaration, values: str, pixels: int, x: Tensor, log_width: Tensor) -> str:
    """Return what is wrong with the total mass of so many pixels by these nodes, or with draws of them."""
    try:
        likelihood = _make(declaration, values, pixels)
        likelihood.initialise(_generator)
        likelihood.eval()
        features = torch.randn(1, FEATURES, generator=_generator("mass"))
        log_p = likelihood(x, features.expand(len(x), -1))
    except (Exception, SystemExit):  # One that lays pixels out in rows and columns has no use of so few.
        return ""
    shares = (log_p.double() + log_width).exp()
    mass = shares.sum().item()
    if abs(mass - 1) <= MASS_TOLERANCE:
        drawn = _can_draw(likelihood) and not (values in DENSITIES and pixels > 1)
        return _draws_mistake(likelihood, features, x, shares, values in DENSITIES) if drawn else ""
    total = "∑ p(x|z) over all x"
    if values in DENSITIES:
        total = "∫ p(x|z) dx"
        # Every third node along an axis says the same where they are dense enough; else not all three phases can agree.
        side = round(len(shares) ** (1 / pixels))
        grid = shares.view(*[side] * pixels)
        places = [(axis, torch.arange(first, side, 3)) for axis in range(pixels) for first in range(3)]
        thirds = [3 * grid.index_select(*place).sum().item() for place in places]
        if mass < MASS_TOLERANCE or max(thirds) - min(thirds) > MASS_TOLERANCE * mass:
            return ""  # Of so narrow a density the nodes say nothing.
    return f"ln p(x|z): {total} of {pixels} pixels is {mass:.4g}; expected: 1, as of every probability or density"


def _can_draw(likelihood: Likelihood) -> bool:
    return getattr(type(likelihood), "draw", Likelihood.draw) is not Likelihood.draw


def _draws_mistake(likelihood: Likelihood, features: Tensor, x: Tensor, shares: Tensor, density: bool) -> str:
    """Return what is wrong with draws at one h(z) (1, F), where all x (M, pixels) have these shares (M,)."""
    many = features.expand(DRAWS, -1)
    drawn, again = (likelihood.draw(many, _generator("draws")) for _ in range(2))
    if drawn.shape != (DRAWS, x.shape[-1]) or drawn.dtype != torch.float32:
        got = f"{tuple(drawn.shape)} in {drawn.dtype}"
        return f"draw: got {got}; expected: {(DRAWS, x.shape[-1])} in torch.float32, images as x"
    if not torch.equal(drawn, again):
        return "draw: other images by the same generator; expected: draws from `generator` alone"
    if density:
        below = torch.searchsorted(x[:, 0].contiguous(), drawn[:, 0].sort().values)
        cumulative = torch.cat([shares.new_zeros(1), shares.cumsum(0)])
        distance = (cumulative[below] - torch.linspace(0, 1, DRAWS, dtype=shares.dtype)).abs().max().item()
    else:
        frequencies = (drawn.unsqueeze(1) == x).all(-1).double().mean(0)
        distance = (shares - frequencies).clamp(min=0).sum().item()
    if distance <= DISTANCE:
        return ""
    return f"draw: {DRAWS:,} draws are {distance:.2f} from the probabilities of `forward`; expected: draws of p(x|z)"


def _whole_numbers(levels: int, pixels: int) -> tuple[int, Tensor, Tensor]:
    """Return so many pixels, all x of them, and ln 1 for each."""
    x = torch.cartesian_prod(*[torch.arange(levels).float()] * pixels)
    return pixels, x, torch.zeros(len(x), dtype=torch.float64)


def _nodes(pixels: int, count: int, unit: bool) -> tuple[int, Tensor, Tensor]:
    """Return so many pixels, nodes of the trapezoid rule, and ln of their weights.

    Of real numbers x = sinh t, dx = cosh t dt; of those within (0, 1) x = σ(t), dx = x (1 − x) dt.
    """
    t = torch.linspace(-REACH, REACH, count, dtype=torch.float64)
    slope = t.sigmoid() * (-t).sigmoid() if unit else t.cosh()
    log_width = (slope * (t[1] - t[0])).log()
    x = (t.sigmoid() if unit else t.sinh()).float()
    if pixels == 1:
        return 1, x.unsqueeze(-1), log_width
    return 2, torch.cartesian_prod(x, x), torch.cartesian_prod(log_width, log_width).sum(-1)


ALL_OF: dict[str, tuple[Callable[[], tuple[int, Tensor, Tensor]], ...]] = {
    "bits": (lambda: _whole_numbers(2, 4),),
    "levels": (lambda: _whole_numbers(2, 4),),
    "categories": (lambda: _whole_numbers(LEVELS, 3),),
    "real": (lambda: _nodes(1, NODES, False), lambda: _nodes(2, FEW_NODES, False)),
    "patches": (lambda: _nodes(1, NODES, True), lambda: _nodes(2, FEW_NODES, True)),
}
"""Kind of numbers -> each time how many pixels, x (M, pixels), and the logarithm of what each x stands for."""


def _make(declaration: Declaration, values: str, pixels: int | None = None) -> Likelihood:
    further = {"levels": LEVELS} if values == "categories" else {}
    made: Likelihood = load(declaration.implementation)(pixels or _pixels(values), FEATURES, ModelSpec(), **further)
    return made


def _pixels(values: str) -> int:
    return OF_PATCHES if values == "patches" else PIXELS


def _generator(part: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(0, "contract of likelihoods", part))
