"""Names for people: of flow families, settings, rows and curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nfstudy.core import registry
from nfstudy.study.cells import Cell

SETTING_NAMES = {
    "data.name": "data",
    "data.train_images": "training images",
    "energy.name": "energy",
    "drawn.density": "q0",
    "model.latent": "D",
    "flow.length": "K",
    "flow.family": "flow",
    "flow.coupling_hidden": "coupling units",
    "flow.coupling_layers": "coupling layers",
    "flow.coupling_pass": "share that passes",
    "flow.coupling_scaling": "final scaling",
    "flow.coupling_log_scale": "most |ln scale|",
    "flow.leapfrog_step": "first step size",
    "flow.spline_bins": "bins",
    "flow.spline_bound": "spline bound",
    "flow.autoregressive_hidden": "autoregressive units",
    "flow.autoregressive_layers": "autoregressive layers",
    "flow.sylvester_columns": "M",
    "train.schedule.name": "schedule",
    "objective.beta_start": "β start",
}
"""Dotted paths whose last part does not make a good name."""

FLOW_PATHS = ("flow.family", "flow.length")


@dataclass(frozen=True)
class Label:
    """What a cell is called: its flow, and whatever else differs among the study's cells."""

    family: str
    length: int
    variant: tuple[tuple[str, Any], ...] = ()
    """(dotted path, value) of the other settings that differ among the cells."""
    searched: tuple[str, ...] = ()
    """Which of the flow's family and length a search chooses: the cell has none of its own."""

    @property
    def row(self) -> str:
        """The cell's name in a table, such as `NF (planar), K = 40, D = 2`."""
        if len(self.searched) == len(FLOW_PATHS):
            return ", ".join(("flow and K as searched", *self._variant_names()))
        length = "K as searched" if self.searched == ("flow.length",) else f"K = {self.length}"
        return ", ".join((self._flow, length, *self._variant_names()))

    @property
    def curve(self) -> str:
        """The name of the curve it lies on, such as `NF (planar), D = 2`."""
        return ", ".join((self._flow, *self._variant_names()))

    @property
    def _flow(self) -> str:
        return "flow as searched" if "flow.family" in self.searched else family_name(self.family)

    @property
    def variant_text(self) -> str:
        """The differing settings alone, such as `D = 2`; empty where none differ."""
        return ", ".join(self._variant_names())

    def _variant_names(self) -> tuple[str, ...]:
        return tuple(f"{setting_name(path)} = {setting_text(value)}" for path, value in self.variant)


def family_name(family: str) -> str:
    """Return the name of a flow family in tables and legends; of one that is not declared here, the word itself."""
    found = registry.all_of("flows").get(family)
    return found.title if found else family


def setting_name(path: str) -> str:
    """Return the name of a setting for people: `train.learning_rate` -> `learning rate`."""
    return SETTING_NAMES.get(path) or path.rsplit(".", 1)[-1].replace("_", " ")


def setting_text(value: Any) -> str:
    """Return a setting's value for people: `500000` -> `500,000`, `None` -> `null` as in a study file.

    A number has all its digits: two that differ are two names.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return text if float(text := f"{value:g}") == value else repr(value)
    return str(value)


def varied_settings(cells: Sequence[Cell]) -> tuple[str, ...]:
    """List the dotted paths, other than the flow's family and length, that take several values among the cells.

    A setting that only some cells use counts where those differ among themselves.
    """
    seen: dict[str, set[Any]] = {}
    for cell in cells:
        for path, value in cell.flat().items():
            seen.setdefault(path, set()).add(value)
    return tuple(path for path, values in seen.items() if len(values) > 1 and path not in FLOW_PATHS)


def label_cells(cells: Sequence[Cell]) -> list[Label]:
    """Return a label for each cell, distinct for distinct cells."""
    varied = varied_settings(cells)
    labels = []
    for cell in cells:
        flat, space = cell.flat(), cell.search.space if cell.search else {}
        variant = tuple((path, flat[path]) for path in varied if path in flat)
        searched = tuple(path for path in FLOW_PATHS if path in space)
        labels.append(Label(cell.settings.flow.family, cell.settings.flow.length, variant, searched))
    return labels


def on_curve(label: Label, curve: Label) -> bool:
    """Say whether a cell lies on a curve.

    A curve is a family with one variant; a cell of length 0 is the diagonal Gaussian that every family starts from, so
    it lies on each curve with whose variant it agrees.
    """
    if label.length > 0 or curve.length == 0:
        return label.family == curve.family and label.variant == curve.variant
    there = dict(curve.variant)
    return all(there.get(path, value) == value for path, value in label.variant)
