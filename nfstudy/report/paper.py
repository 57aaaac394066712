"""The published numbers of Rezende & Mohamed (2015), each with its source and how sure the reading is.

Table 2 prints the values of Figure 4(c) cut, not rounded, to one decimal. Its '≤' marks the importance-sampling
estimate of −ln p(x), which is itself a bound; it is not the free energy F of Figure 4(a), some 4 to 7 nats higher.
All numbers are in nats per image of the MNIST test set, statically binarised, with 40 latent variables.
"""

from __future__ import annotations

from dataclasses import dataclass

from nfstudy.report.labels import setting_name, setting_text
from nfstudy.settings import Settings

CITATION = "Rezende & Mohamed (2015), Variational Inference with Normalizing Flows, arXiv:1505.05770"

TWO_SOURCES = "the proceedings and arXiv v6 agree"
VECTOR = "read off the figure's vector drawing, reading error below 0.005"


@dataclass(frozen=True)
class Published:
    """One published number, in nats per image."""

    value: float
    source: str
    """Table and row, or figure and panel."""
    confidence: str
    half_bar: float | None = None
    """Half the length of the drawn error bar; the paper does not say whether it is a standard error."""
    printed: str = ""
    """As a table of the paper prints it, such as `≤ 85.7`; empty for a point of a figure."""

    @property
    def display(self) -> str:
        """The number as printed, or to two decimals with its half error bar, such as `85.76 ± 0.22`."""
        return self.printed or f"{self.value:.2f} ± {self.half_bar:.2f}"


@dataclass(frozen=True)
class Table2Row:
    """A row of Table 2: −ln p(x), or a bound on it."""

    name: str
    published: Published
    family: str | None = None
    """None for the rows that the paper quotes from others."""
    length: int = 0
    quoted_from: str = ""


def _own(name: str, family: str, length: int, value: float) -> Table2Row:
    return Table2Row(name, Published(value, f"Table 2, {name}", TWO_SOURCES, printed=f"≤ {value}"), family, length)


def _quoted(name: str, quoted_from: str, value: str) -> Table2Row:
    return Table2Row(
        name, Published(float(value), f"Table 2, {name}", TWO_SOURCES, printed=value), quoted_from=quoted_from
    )


_HVI, _DARN = "Salimans et al. (2015)", "Gregor et al. (2014)"

TABLE_2 = (
    _own("DLGM diagonal covariance", "none", 0, 89.9),
    *(
        _own(f"DLGM+NF (k = {length})", "planar", length, value)
        for length, value in ((10, 87.5), (20, 86.5), (40, 85.7), (80, 85.1))
    ),
    *(
        _own(f"DLGM+NICE (k = {length})", "nice-perm", length, value)
        for length, value in ((10, 88.6), (20, 87.9), (40, 87.3), (80, 87.2))
    ),
    _quoted("DLGM + HVI (1 leapfrog step)", _HVI, "88.08"),
    _quoted("DLGM + HVI (4 leapfrog steps)", _HVI, "86.40"),
    _quoted("DLGM + HVI (8 leapfrog steps)", _HVI, "85.51"),
    _quoted("DARN n_h = 500", _DARN, "84.71"),
    _quoted("DARN n_h = 500, adaNoise", _DARN, "84.13"),
)
"""Table 2, complete, in its order."""

# family, K: F, KL, −ln p(x), each with its half error bar; NICE has no point at K = 0.
_FIGURE_4 = {
    ("none", 0): ((96.747, 0.052), (6.828, 0.338), (89.920, 0.334)),
    ("planar", 10): ((93.565, 0.037), (6.038, 0.273), (87.527, 0.271)),
    ("planar", 20): ((91.958, 0.035), (5.424, 0.260), (86.535, 0.258)),
    ("planar", 40): ((90.620, 0.037), (4.859, 0.225), (85.761, 0.222)),
    ("planar", 80): ((89.576, 0.055), (4.427, 0.135), (85.149, 0.123)),
    ("nice-perm", 10): ((94.889, 0.036), (6.266, 0.245), (88.624, 0.242)),
    ("nice-perm", 20): ((93.931, 0.058), (6.015, 0.287), (87.917, 0.282)),
    ("nice-perm", 40): ((93.015, 0.083), (5.692, 0.312), (87.322, 0.301)),
    ("nice-perm", 80): ((92.829, 0.221), (5.564, 0.418), (87.265, 0.355)),
}
_PANELS = (("F", "a"), ("KL", "b"), ("−ln p(x)", "c"))

FIGURE_4: dict[tuple[str, int, str], Published] = {
    (family, length, quantity): Published(value, f"Figure 4({panel}), K = {length}", VECTOR, half_bar)
    for (family, length), values in _FIGURE_4.items()
    for (quantity, panel), (value, half_bar) in zip(_PANELS, values, strict=True)
}
"""(flow family, K, quantity's name) -> the point of Figure 4."""

STATED_SETTINGS = {
    "model.latent": 40,
    "model.hidden": 400,
    "model.maxout": 4,
    "objective.annealing": "energy",
    "objective.beta_start": 0.01,
    "objective.anneal_updates": 10_000,
    "train.updates": 500_000,
    "train.batch": 100,
    "train.optimiser": "rmsprop",
    "train.learning_rate": 1e-5,
    "train.momentum": 0.9,
    "evaluation.samples": 200,
}
"""Dotted path -> what Section 6 of the paper states; of all other settings it says nothing."""

STATED_REPETITIONS = 100


def why_not_comparable(settings: Settings) -> str:
    """Say why a cell's numbers are of another quantity than the paper's; empty where they can be compared."""
    data, latent = settings.data, settings.model.latent
    if data.name != "mnist":
        return f"not comparable: data {data.name}, the paper's is mnist"
    if data.binarisation != "static":
        return f"not comparable: {data.binarisation} binarisation, the paper's is static"
    if latent != STATED_SETTINGS["model.latent"]:
        return f"not comparable: D = {latent}, the paper's is {STATED_SETTINGS['model.latent']}"
    if settings.evaluation.test_images is not None:
        return f"not comparable: {settings.evaluation.test_images:,} test images, the paper's are all"
    return ""


def departures(settings: Settings) -> list[str]:
    """List the settings in use that are not as the paper states, such as `updates 20,000 (paper: 500,000)`."""
    flat = settings.flat()
    found = [
        f"{setting_name(path)} {setting_text(flat[path])} (paper: {setting_text(stated)})"
        for path, stated in STATED_SETTINGS.items()
        if path in flat and flat[path] != stated
    ]
    if settings.data.train_images is not None:
        found.append(f"training images {settings.data.train_images:,} (paper: all)")
    return found
