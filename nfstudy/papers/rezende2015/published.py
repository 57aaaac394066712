"""The published numbers of Rezende & Mohamed (2015), each with its source and how sure the reading is.

Table 2 prints the values of Figure 4(c) cut, not rounded, to one decimal. Its '≤' marks the importance-sampling
estimate of −ln p(x), which is itself a bound; it is not the free energy F of Figure 4(a), some 4 to 7 nats higher.
These are in nats per image of the MNIST test set, statically binarised, with 40 latent variables; Figure 3(d) is in
nats, with an additive constant that the paper does not explain; Table 3 is in nats per 8x8 colour patch of CIFAR-10.

Of numbers of stochastic layers the paper has none; those of Burda et al. (2016) stand at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from nfstudy.papers.rezende2015.stated import why_not_comparable
from nfstudy.report.paper import Published

TWO_SOURCES = "the proceedings and arXiv v6 agree"
VECTOR = "read off the figure's vector drawing, reading error below 0.005"
CLIPPED = f"{VECTOR}; a panel that is drawn outside of what the page shows"

MNIST, CIFAR10, ENERGIES = (
    partial(why_not_comparable, experiment=experiment) for experiment in ("mnist", "cifar10", "energies")
)
"""settings -> why the numbers of a cell are of another quantity than those of each experiment."""


@dataclass(frozen=True)
class Table2Row:
    """A row of Table 2: −ln p(x), or a bound on it."""

    name: str
    published: Published
    family: str | None = None
    """None for the rows that the paper quotes from others, and for which there is no family here."""
    length: int = 0
    quoted_from: str = ""


def _own(name: str, family: str, length: int, value: float) -> Table2Row:
    published = Published(value, f"Table 2, {name}", TWO_SOURCES, printed=f"≤ {value}", why_not_comparable=MNIST)
    return Table2Row(name, published, family, length)


def _quoted(name: str, quoted_from: str, value: str, family: str | None = None, length: int = 0) -> Table2Row:
    published = Published(float(value), f"Table 2, {name}", TWO_SOURCES, printed=value, why_not_comparable=MNIST)
    return Table2Row(name, published, family, length, quoted_from)


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
    _quoted("DLGM + HVI (1 leapfrog step)", _HVI, "88.08", "hamiltonian", 1),
    _quoted("DLGM + HVI (4 leapfrog steps)", _HVI, "86.40", "hamiltonian", 4),
    _quoted("DLGM + HVI (8 leapfrog steps)", _HVI, "85.51", "hamiltonian", 8),
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
    (family, length, quantity): Published(
        value, f"Figure 4({panel}), K = {length}", VECTOR, half_bar, why_not_comparable=MNIST
    )
    for (family, length), values in _FIGURE_4.items()
    for (quantity, panel), (value, half_bar) in zip(_PANELS, values, strict=True)
}
"""(flow family, K, quantity's name) -> the point of Figure 4."""

# energy, family: F at each of the lengths, with its half error bar; the legend's "NICE-perp" is a misprint.
_FIGURE_3_LENGTHS = (2, 8, 32)
_FIGURE_3 = {
    ("u1", "planar"): ((0.062, 0.008), (-0.212, 0.005), (-0.259, 0.001)),
    ("u1", "nice-orth"): ((2.944, 0.079), (0.442, 0.004), (-0.023, 0.110)),
    ("u1", "nice-perm"): ((2.943, 0.070), (0.065, 0.056), (0.058, 0.114)),
    ("u1", "radial"): ((0.078, 0.010), (-0.163, 0.043), (-0.246, 0.004)),
    ("u2", "planar"): ((-0.635, 0.413), (-1.077, 0.166), (-1.269, 0.006)),
    ("u2", "nice-orth"): ((0.443, 0.086), (-0.630, 0.024), (-1.192, 0.012)),
    ("u2", "nice-perm"): ((0.407, 0.041), (-0.958, 0.002), (-1.208, 0.016)),
    ("u2", "radial"): ((-0.309, 0.011), (-1.051, 0.006), (-1.153, 0.004)),
    ("u3", "planar"): ((-0.311, 0.176), (-0.909, 0.087), (-1.091, 0.006)),
    ("u3", "nice-orth"): ((0.233, 0.006), (-0.514, 0.043), (-0.929, 0.011)),
    ("u3", "nice-perm"): ((0.227, 0.012), (-0.573, 0.010), (-0.936, 0.017)),
    ("u3", "radial"): ((-0.271, 0.009), (-0.870, 0.013), (-1.011, 0.002)),
    ("u4", "planar"): ((-0.365, 0.311), (-1.073, 0.075), (-1.244, 0.004)),
    ("u4", "nice-orth"): ((0.161, 0.023), (-0.648, 0.019), (-1.024, 0.002)),
    ("u4", "nice-perm"): ((0.146, 0.022), (-0.660, 0.005), (-1.189, 0.017)),
    ("u4", "radial"): ((-0.266, 0.010), (-0.849, 0.004), (-0.924, 0.005)),
}

FIGURE_3: dict[tuple[str, str, int], Published] = {
    (energy, family, length): Published(
        value,
        f"Figure 3(d), energy {energy[1:]}, K = {length}",
        CLIPPED if energy == "u4" else VECTOR,
        half_bar,
        why_not_comparable=ENERGIES,
    )
    for (energy, family), points in _FIGURE_3.items()
    for length, (value, half_bar) in zip(_FIGURE_3_LENGTHS, points, strict=True)
}
"""(energy, flow family, K) -> the point of Figure 3(d), F in nats up to a constant of each energy.

The constant is unexplained: on energy 1 the least possible F is −ln Z = −1.88, far below the paper's longest chains,
and were ln 2π dropped it would be −0.04, which they undercut. So differences on one energy compare, levels do not.
"""

_PRESUMED_PLANAR = f"{TWO_SOURCES}; that the flow is planar is presumed"

TABLE_3: dict[tuple[str, int], Published] = {
    (family, length): Published(
        value,
        f"Table 3, K = {length}",
        TWO_SOURCES if length == 0 else _PRESUMED_PLANAR,
        printed=f"−{-value}",
        why_not_comparable=CIFAR10,
    )
    for family, length, value in (
        ("none", 0, -293.7),
        ("planar", 2, -308.6),
        ("planar", 5, -317.9),
        ("planar", 10, -320.7),
    )
}
"""(flow family, K) -> −ln p(x) of Table 3, complete."""


@dataclass(frozen=True)
class LayersRow:
    """A model of Burda et al. (2016) with one or two stochastic layers."""

    method: str
    """`VAE` or `IWAE`."""
    samples: int
    """k, of the bound that it is trained by."""
    layers: int
    published: Published
    """−ln p(x), by 5000 samples."""
    active: int | None
    """Active units, of one layer, as the table prints them; of two layers they are not among our notes."""


_BURDA = {
    ("static", 1): ((88.71, 88.83, 89.05), (88.71, 87.63, 87.10)),
    ("static", 2): ((88.08, 87.63, 87.86), (88.08, 86.17, 85.32)),
    ("dynamic", 1): ((86.76, 86.47, 86.35), (86.76, 85.54, 84.78)),
    ("dynamic", 2): ((85.33, 85.01, 84.78), (85.33, 83.89, 82.90)),
}
_BURDA_ACTIVE = {("VAE", 1): 19, ("VAE", 5): 19, ("VAE", 50): 20, ("IWAE", 1): 19, ("IWAE", 5): 22, ("IWAE", 50): 24}
"""(Method, k) -> active units of the model with one layer, fixed binarisation."""

BURDA_2016: dict[str, tuple[LayersRow, ...]] = {
    binarisation: tuple(
        LayersRow(
            method,
            k,
            layers,
            Published(
                value,
                f"Burda et al. (2016), {method}, k = {k}, {layers} stochastic layer{'s' if layers > 1 else ''}",
                "one source, a copy of the paper",
                printed=f"{value:.2f}",
            ),
            _BURDA_ACTIVE[method, k] if (binarisation, layers) == ("static", 1) else None,
        )
        for (kind, layers), methods in _BURDA.items()
        if kind == binarisation
        for method, values in zip(("VAE", "IWAE"), methods, strict=True)
        for k, value in zip((1, 5, 50), values, strict=True)
        if (method, k) != ("IWAE", 1)
    )
    for binarisation in ("static", "dynamic")
}
"""Binarisation of MNIST -> the rows of their tables; at k = 1 the IWAE is the VAE."""


def find_published(where: Mapping[str, Any], quantity: str, family: str, length: int) -> Published | None:
    """Return the paper's number for a quantity of one cell, None where it gives none.

    Arguments:
        where: dotted path -> value of the settings that say which experiment it is: `data.name` or `energy.name`.
        quantity: its name in tables: `F`, `KL` or `−ln p(x)`.
        family: the flow's family, `none` for length 0.
        length: K.
    """
    if "energy.name" in where:
        return FIGURE_3.get((where["energy.name"], family, length)) if quantity == "F" else None
    if where.get("data.name") == "cifar10":
        return TABLE_3.get((family, length)) if quantity == "−ln p(x)" else None
    return FIGURE_4.get((family, length, quantity)) if where.get("data.name") == "mnist" else None
