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

    The same weights from the same generators; of small examples a picture, and one finite number ln p(x|z) each, in
    float32 and the same again.

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
        if values not in EXAMPLES:
            return ""
        x = EXAMPLES[values](_generator("examples"))
        log_p, again = (made(x, features) for _ in range(2))
    if log_p.shape != (SAMPLES, IMAGES) or log_p.dtype != torch.float32:
        got = f"{tuple(log_p.shape)} in {log_p.dtype}"
        return f"ln p(x|z): got {got}; expected: {(SAMPLES, IMAGES)} in torch.float32, one number an example"
    if not log_p.isfinite().all():
        return "ln p(x|z): got numbers that are not finite; expected: finite ones"
    return "" if torch.equal(log_p, again) else "ln p(x|z): other numbers of the same x and h(z); expected: the same"


def _make(declaration: Declaration, values: str) -> Likelihood:
    further = {"levels": LEVELS} if values == "categories" else {}
    made: Likelihood = load(declaration.implementation)(_pixels(values), FEATURES, ModelSpec(), **further)
    return made


def _pixels(values: str) -> int:
    return OF_PATCHES if values == "patches" else PIXELS


def _generator(part: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(0, "contract of likelihoods", part))
