"""The exhibits of the plane: the energies of Table 1, Figures 1 and 3; pictures come from the runs' `*.npy` files."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from nfstudy.core.errors import ReportError
from nfstudy.papers.rezende2015.published import FIGURE_3
from nfstudy.report.exhibits.base import Drawing, Exhibit, cell_row, measured, remark, runs_behind, stamped
from nfstudy.report.labels import Label, family_name
from nfstudy.report.plots.curves import Curve, Panel, draw_curves
from nfstudy.report.plots.densities import DensityRow, Heading, draw_densities
from nfstudy.report.statistics.estimates import KL_ON_PLANE, CellResult, Results
from nfstudy.report.tables import Entry, Row, Table, format_number
from nfstudy.runs.frame import LoggedRuns
from nfstudy.runs.metrics import FREE_ENERGY, LOG_Z, MASS_LEFT, UNCONFINED, WINDOW_MASS
from nfstudy.study.sections import EnergySpec

F = dataclasses.replace(FREE_ENERGY, heading="Free energy F", unit="nats", decimals=3)
TRUE_KL = dataclasses.replace(KL_ON_PLANE, unit="nats", decimals=3)

MAIN_FAMILIES = ("planar", "nice-perm")
"""Those of Figure 3(b) and (c); the paper does not say which mixing its NICE pictures have."""
FORMULAS = {
    "u1": "½((‖z‖ − 2)/0.4)² − ln(exp(−½((z1 − 2)/0.6)²) + exp(−½((z1 + 2)/0.6)²))",
    "u2": "½((z2 − w1)/0.4)²",
    "u3": "−ln(exp(−½((z2 − w1)/0.35)²) + exp(−½((z2 − w1 + w2)/0.35)²))",
    "u4": "−ln(exp(−½((z2 − w1)/0.4)²) + exp(−½((z2 − w1 + w3)/0.35)²))",
}
"""Table 1, for the eye; `nfstudy.inference.problems.energies` computes them."""


def energies(results: Results) -> Exhibit:
    """List Table 1 with each energy's −ln Z, and of every cell F, the true KL and where its mass is."""
    return Exhibit(
        "energies",
        "Table 1: the energies, and how near each flow comes",
        "w1 = sin(2πz1/4), w2 = 3 exp(−½((z1 − 1)/0.6)²), w3 = 3σ((z1 − 1)/0.3). Nothing confines U2, U3 and U4 along "
        "z1: their exp(−U) is multiplied by σ((L + z1)/s) σ((L − z1)/s), which the paper does not do.",
        (_definitions(results), _cells_table(results)),
    )


def _definitions(results: Results) -> Table:
    rows = []
    for name, cells in _by_energy(results).items():
        energy = _energy(cells[0])
        confined = "as it is" if name == "u1" else f"L = {energy.half_width:g}, s = {energy.edge:g}"
        floor = next((entry for cell in cells if (entry := measured(cell, LOG_Z)).value is not None), Entry("not run"))
        rows.append(Row(name.upper(), (Entry(FORMULAS[name]), Entry(confined), floor)))
    caption = (
        "The energies U(z) of Table 1, p(z) = exp(−U(z))/Z, and −ln Z of the confined density by quadrature, in nats: "
        "the least value that F can have."
    )
    return Table("table-1", caption, ("energy", "U(z)", "confined", "−ln Z"), tuple(rows))


def _cells_table(results: Results) -> Table:
    rows = []
    for name, cells in _by_energy(results).items():
        for result in cells:
            entries = [measured(result, quantity) for quantity in (F, UNCONFINED, TRUE_KL, MASS_LEFT, WINDOW_MASS)]
            kl = entries[2]
            shown = (Entry(name.upper()), *entries, _range(result), remark([kl]), runs_behind(kl))
            rows.append(cell_row(result, shown, _flow(result).row))
    caption = (
        "Mean ± standard error (number of runs). F = E_q[ln q(z) + U(z)] and the true KL(q‖p) = F + ln Z of the "
        "confined energy, in nats, lower is better; F with U as in Table 1, unconfined, which has no "
        "least value; the share of q with z1 < 0, which is ½ for U1, with its range over "
        "the runs (0 or 1 would be a lost mode); the integral of q over (−4, 4)², found by the inverse of the flow."
    )
    header = (
        "flow",
        "energy",
        "F",
        "F, unconfined",
        "KL",
        "z1 < 0",
        "mass in window",
        "range of z1 < 0",
        "note",
        "runs",
    )
    return Table("energies", stamped(caption, results), header, tuple(rows))


def _range(result: CellResult) -> Entry:
    finished = result.repetitions[result.repetitions["outcome"] == "finished"]
    if finished.empty:
        return Entry("–")
    share = finished[MASS_LEFT.name]
    return Entry(f"{format_number(share.min(), 2)} to {format_number(share.max(), 2)}")


def figure_3(results: Results) -> Exhibit:
    """Draw the true densities, each flow's at each length, and F over the length with the paper's points."""
    by_energy = _by_energy(results)
    families = list(dict.fromkeys(cell.label.family for cells in by_energy.values() for cell in cells))
    main = [family for family in MAIN_FAMILIES if family in families]
    rest = [family for family in families if family not in main]
    where = (
        "Each picture is the window (−4, 4)² with z2 pointing down, as in the paper; colours run from 0 to the peak "
        "of the row's true density."
    )
    drawings = []
    for id_, shown, text in (
        ("figure-3", main, "Figure 3(a-c): the true densities and what flows of K steps make of them"),
        ("figure-3-others", rest, "As Figure 3(b) and (c): the other flows"),
    ):
        if shown:
            figure = _draw_pictures(results, by_energy, shown, text)
            caption = f"{text}; the first repetition of each. {where}"
            drawings.append(Drawing(id_, figure, stamped(caption, results)))
    caption = (
        "F over the flow length, mean and standard error over repetitions. Hollow: the paper's Figure 3(d). Its level "
        "holds a constant that the text does not explain, so its points are moved, by one constant a panel, until the "
        "longest planar chain lies on ours: only differences compare. Dotted: −ln Z, the least F possible. U4 is "
        "drawn in the paper's file, but outside of what its page shows."
    )
    panels = [_panel(name, cells) for name, cells in by_energy.items()]
    panels = [panel for panel in panels if panel.curves]
    if panels:
        curves = draw_curves(
            "Figure 3(d): the bound over the flow length", "flow length K", panels, results.stamp, columns=2
        )
        drawings.append(Drawing("figure-3-d", curves, stamped(caption, results)))
    text = "" if "nice-perm" in main else "This study has no NICE-perm, which stands for NICE in Figure 3(c)."
    return Exhibit(
        "figure-3",
        "Figure 3: approximating four densities",
        text,
        (_differences(results),),
        tuple(drawings),
        tuple(run for cells in by_energy.values() for cell in cells if (run := _first_run(cell))),
    )


def _draw_pictures(
    results: Results, by_energy: dict[str, list[CellResult]], families: Sequence[str], title: str
) -> Figure:
    lengths = sorted({cell.label.length for cells in by_energy.values() for cell in cells})
    rows = []
    for name, cells in by_energy.items():
        found = _pictures(results.store, cells)
        targets = (_array(results.store, _first_run(cell), "target.npy") for cell in cells)
        target = next((picture for picture in targets if picture is not None), None)
        peak = 1.0 if target is None else float(target.max())
        rows.append(DensityRow(name.upper(), [target, *(found.get((f, k)) for f in families for k in lengths)], peak))
    headings = [Heading("true", 1), *(Heading(family_name(family), len(lengths)) for family in families)]
    columns = ["", *(f"K = {length}" for _ in families for length in lengths)]
    return draw_densities(title, headings, columns, rows, results.stamp)


def _panel(energy: str, cells: Sequence[CellResult]) -> Panel:
    shift = _shift(energy, cells)
    curves = []
    for name in dict.fromkeys(_flow(cell).curve for cell in cells):
        own = sorted((cell for cell in cells if _flow(cell).curve == name), key=lambda cell: cell.label.length)
        family = own[0].label.family
        estimates = [(cell.label.length, cell.estimate(F)) for cell in own]
        points = [(k, found.mean, found.se) for k, found in estimates if found.mean is not None]
        if points:
            ours = ([k for k, _, _ in points], [mean for _, mean, _ in points], [se for _, _, se in points])
            curves.append(Curve(f"{name}, ours", *ours, family))
        paper = [(k, point) for (at, of, k), point in FIGURE_3.items() if (at, of) == (energy, family)]
        if paper and shift is not None:
            moved = ([k for k, _ in paper], [p.value + shift for _, p in paper], [p.half_bar for _, p in paper])
            curves.append(Curve(f"{family_name(family)}, paper (moved)", *moved, family, published=True))
    floor = next((value for cell in cells if (value := cell.estimate(LOG_Z).mean) is not None), None)
    return Panel(energy.upper(), "F (nats)", curves, floor)


def _shift(energy: str, cells: Sequence[CellResult]) -> float | None:
    """Return what to add to the paper's F for its longest planar chain to lie on ours; None without that cell."""
    anchor = _anchor(energy, cells)
    level = anchor.estimate(F).mean if anchor else None
    return None if anchor is None or level is None else level - FIGURE_3[energy, "planar", anchor.label.length].value


def _anchor(energy: str, cells: Sequence[CellResult]) -> CellResult | None:
    shared = [
        cell
        for cell in cells
        if cell.label.family == "planar"
        and (energy, "planar", cell.label.length) in FIGURE_3
        and cell.estimate(F).mean is not None
    ]
    return max(shared, key=lambda cell: cell.label.length, default=None)


def _differences(results: Results) -> Table:
    rows = [row for name, cells in _by_energy(results).items() for row in _difference_rows(name, cells)]
    caption = (
        "The points of Figure 3(d), in nats. Ours: mean ± standard error (number of runs); the paper's: as read off "
        "its vector drawing ± half its error bar. 'Above planar': F less that of the longest planar chain on the same "
        "energy, ours and the paper's, in which the unexplained constant of the paper's level cancels."
    )
    header = ("flow", "energy", "paper", "ours", "paper above planar", "ours above planar", "note", "runs")
    return Table("figure-3", stamped(caption, results), header, tuple(rows))


def _difference_rows(energy: str, cells: Sequence[CellResult]) -> Iterator[Row]:
    anchor = _anchor(energy, cells)
    level = anchor.estimate(F).mean if anchor else None
    for result in cells:
        paper = FIGURE_3.get((energy, result.label.family, result.label.length))
        ours = measured(result, F)
        above = [Entry("–"), Entry("–")]
        if anchor is not None and paper:
            of_paper = paper.value - FIGURE_3[energy, "planar", anchor.label.length].value
            above[0] = Entry(format_number(of_paper, 2, signed=True), reference=paper)
        if level is not None and ours.value is not None:
            of_ours = ours.value - level
            above[1] = Entry(format_number(of_ours, 2, signed=True), reference=paper, run_ids=ours.run_ids)
        shown = Entry(paper.display, reference=paper, note=paper.source) if paper else Entry("–")
        entries = (Entry(energy.upper()), shown, ours, *above, remark([ours]), runs_behind(ours))
        yield cell_row(result, entries, _flow(result).row)


def figure_1(results: Results) -> Exhibit:
    """Draw what planar and radial steps make of a Gaussian and of a uniform density."""
    by_density: dict[str, list[CellResult]] = {}
    for cell in results.cells:
        if drawn := cell.cell.settings.drawn:
            by_density.setdefault(drawn.density, []).append(cell)
    families = [f for f in dict.fromkeys(cell.label.family for cell in results.cells) if f != "none"]
    lengths = sorted({cell.label.length for cell in results.cells if cell.label.length})
    rows = []
    for density, cells in by_density.items():
        found = _pictures(results.store, cells)
        start = found.get(("none", 0))
        peak = 1.0 if start is None else 1.5 * float(start.max())
        name = "unit Gaussian" if density == "normal" else density
        rows.append(DensityRow(name, [start, *(found.get((f, k)) for f in families for k in lengths)], peak))
    headings = [Heading("q0", 1), *(Heading(family_name(family), len(lengths)) for family in families)]
    title = "Figure 1: what K steps make of a density"
    figure = draw_densities(
        title, headings, ["", *(f"K = {k}" for _ in families for k in lengths)], rows, results.stamp
    )
    caption = (
        "Densities q_K on (−4, 4)² after K planar or radial steps from a unit Gaussian, and from a uniform density on "
        "[−2, 2]². Nothing is trained: the paper gives no parameters, so these are drawn, and a longer chain begins "
        "with the steps of the shorter. Colours run from 0 to one and a half times the peak of the row's q0."
    )
    table_rows = [
        cell_row(cell, (mass := measured(cell, WINDOW_MASS), remark([mass]), runs_behind(mass)))
        for cell in results.cells
    ]
    table = Table(
        "figure-1",
        stamped(
            "The integral of each density over the window, by the midpoint rule: what is missing to 1 lies outside.",
            results,
        ),
        ("picture", "mass in window", "note", "runs"),
        tuple(table_rows),
    )
    drawing = Drawing("figure-1", figure, stamped(caption, results))
    return Exhibit("figure-1", "Figure 1: planar and radial steps", "", (table,), (drawing,))


def _by_energy(results: Results) -> dict[str, list[CellResult]]:
    """Return the cells by energy, both in the study's order."""
    found: dict[str, list[CellResult]] = {}
    for result in results.cells:
        found.setdefault(_energy(result).name, []).append(result)
    return found


def _energy(result: CellResult) -> EnergySpec:
    """Return what a cell approximates: every exhibit here but Figure 1 needs an energy."""
    energy = result.cell.settings.energy
    assert energy is not None
    return energy


def _flow(result: CellResult) -> Label:
    """Return the cell's label without its energy."""
    variant = tuple((path, value) for path, value in result.label.variant if path != "energy.name")
    return dataclasses.replace(result.label, variant=variant)


def _first_run(result: CellResult) -> str:
    """Return the id of the first finished repetition, empty without one."""
    return next(iter(result.state.finished), "")


def _pictures(store: LoggedRuns, cells: Sequence[CellResult]) -> dict[tuple[str, int], np.ndarray | None]:
    """Return (family, K) -> the density of the first run of the first cell there."""
    return {
        (cell.label.family, cell.label.length): _array(store, _first_run(cell), "density.npy")
        for cell in reversed(cells)
    }


def _array(store: LoggedRuns, run_id: str, name: str) -> np.ndarray | None:
    """Return a run's picture with z2 pointing down, as the paper draws it; None where there is none."""
    content = store.artifact(run_id, name) if run_id else None
    if content is None:
        return None
    try:
        array: np.ndarray = np.load(io.BytesIO(content), allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise ReportError(f"run {run_id}, {name}: not a readable array ({error}); expected: a .npy file") from None
    return np.flipud(array)
