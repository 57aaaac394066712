"""What is approximated beside draws by MCMC and what is fitted to it: energies on the plane, posteriors at D = 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from nfstudy.core.declarations import Metric
from nfstudy.core.errors import ReportError
from nfstudy.films.fits import FITS, PlaneFits, read_fits
from nfstudy.report.exhibits.base import (
    SHORT_ID,
    CurveGroup,
    Drawing,
    Exhibit,
    cell_row,
    drawn_groups,
    remark,
    stamped,
)
from nfstudy.report.labels import family_name
from nfstudy.report.plots.contours import SHARES, Tile, draw_contours
from nfstudy.report.statistics.estimates import KL_ON_PLANE, CellResult, Results, estimate
from nfstudy.report.tables import Entry, Row, Table

MAX_ROWS = 8
"""Of the figure of energies."""
MAX_FIGURES = 6
"""Of posteriors, one a cell."""
MIXED = 1.01
"""R-hat up to which chains count as mixed (Vehtari et al. 2021)."""
WHOLE = 0.01
"""Of a fit's mass, so much may be missing from the grid before its KLs are marked."""
WHY_NONE = "run without draws"
"""Of a finished run that has no such file: it was made before its study had this exhibit."""
NO_INVERSE = "no inverse,\nso no density"
REVERSE, FORWARD, FLOW = range(3)
"""Fits, by their order in the file."""
NAMES = ("Gaussian, least KL(q‖p)", "Gaussian, least KL(p‖q)")
SHORT = ("q_K", "reverse Gaussian", "forward Gaussian")
CAPTION = (
    "KL divergences in nats, both by quadrature on a grid, of the run's own q_K and of two Gaussians with full "
    "covariances: the reverse one of least KL(q‖p), the lowest of several descents, and the forward one of least "
    "KL(p‖q), which has p's mean and covariance. {of} Hamiltonian Monte Carlo: the greatest R-hat (rank-normalised, "
    "split and folded), and the mean probability of acceptance. Mean ± standard error (number of runs)."
)
MARKED = f"† R-hat above {MIXED}: the chains have not mixed, or some of a fit's mass lies outside of the grid."
PICTURE = (
    "Grey: the true density, its regions that hold "
    + ", ".join(f"{share:.0%}" for share in SHARES)
    + " of its mass. Dots: draws by Hamiltonian Monte Carlo. Lines: what was fitted, the same regions. Below: KL(q‖p) "
    "| KL(p‖q) in nats."
)


class Beside(NamedTuple):
    """A cell with the files of its finished runs."""

    result: CellResult
    fits: dict[str, PlaneFits]
    """Run id -> its file."""

    @property
    def first(self) -> PlaneFits | None:
        """That of the first run that has one."""
        return next(iter(self.fits.values()), None)


def mcmc_energies(results: Results) -> Exhibit:
    """Draw each energy with MCMC, both Gaussians and the flows; list both KLs of all."""
    found = [_beside(results, cell) for cell in results.cells]
    by_key = {each.result.cell.key: each for each in found}
    groups, more = drawn_groups(results)
    lengths = sorted({cell.label.length for group in groups for cell in group.cells})
    rows = []
    for group in groups[:MAX_ROWS]:
        cells = {cell.label.length: by_key[cell.cell.key] for cell in group.cells}
        if any(each.first for each in cells.values()):
            rows.append((_row_name(group, groups), _energy_tiles(cells, lengths)))
    drawings = []
    if rows:
        columns = ("MCMC", *(name.replace(", ", ",\n") for name in NAMES), *(f"q_K, K = {k}" for k in lengths))
        figure = draw_contours("Beside MCMC: energies", columns, rows, results.stamp)
        drawings.append(Drawing("mcmc-energies", figure, stamped(PICTURE, results)))
    return _exhibit(
        "mcmc-energies", "Beside MCMC: the energies", results, found, drawings, more if len(groups) > MAX_ROWS else ""
    )


def mcmc_posteriors(results: Results) -> Exhibit:
    """Draw true posteriors of some images with MCMC, both Gaussians and q_K, a figure a cell; list the mean KLs."""
    found = [_beside(results, cell) for cell in results.cells]
    drawings: list[Drawing] = []
    shown = [each for each in found if each.first and each.first.images.size]
    for each in shown[:MAX_FIGURES]:
        name = each.result.label.row
        figure = draw_contours(
            f"Beside MCMC: posteriors of {name}",
            [f"image {number}" for number in range(1, len(_first(each).images) + 1)],
            _posterior_rows(_first(each)),
            results.stamp,
        )
        run_id = next(iter(each.fits))
        caption = f"{name}, run {run_id[:SHORT_ID]}: p(z|x) of single test images. {PICTURE}"
        drawings.append(Drawing(f"mcmc-posteriors-{len(drawings) + 1}", figure, stamped(caption, results)))
    more = f"The figures are of the first {MAX_FIGURES} of {len(shown)} cells." if len(shown) > MAX_FIGURES else ""
    return _exhibit("mcmc-posteriors", "Beside MCMC: posteriors", results, found, drawings, more)


def _exhibit(
    name: str, title: str, results: Results, found: Sequence[Beside], drawings: Sequence[Drawing], more: str
) -> Exhibit:
    finished = [each for each in found if each.result.state.finished]
    without = sum(not each.fits for each in finished)
    texts = [more] if more else []
    if not finished:
        texts.append("No repetition has finished, so there is nothing to show.")
    elif without:
        texts.append(
            f"{without} of {len(finished)} cells have runs without draws: these need two dimensions, and a run that "
            "was made when the study had an exhibit with them."
        )
    of_images = any(each.first and each.first.images.size for each in found)
    of = "Of images, means over those that the figures show." if of_images else ""
    rows = tuple(_table_row(each) for each in found)
    columns = [f"{name}: {direction}" for name in SHORT for direction in ("KL(q‖p)", "KL(p‖q)")]
    caption = CAPTION.format(of=of)
    if any(entry.marked for row in rows for entry in row.entries):
        caption += f" {MARKED}"
    header = ("row", *columns, "R-hat", "accepted", "note")
    run_ids = tuple(run_id for each in found for run_id in each.fits)
    return Exhibit(
        name, title, " ".join(texts), (Table(name, stamped(caption, results), header, rows),), tuple(drawings), run_ids
    )


def _beside(results: Results, result: CellResult) -> Beside:
    fits = {}
    for run_id in result.state.finished:
        if (content := results.store.artifact(run_id, FITS)) is not None:
            try:
                fits[run_id] = read_fits(content)
            except ValueError as error:
                raise ReportError(f"run {run_id}, {FITS}: {error}") from None
    return Beside(result, fits)


def _first(each: Beside) -> PlaneFits:
    assert each.first
    return each.first


def _row_name(group: CurveGroup, groups: Sequence[CurveGroup]) -> str:
    """Return what tells a row from the others: its settings, and its family where there are several."""
    several = len({each.label.family for each in groups}) > 1
    parts = (group.label.variant_text, family_name(group.label.family) if several else "")
    return "\n".join(filter(None, parts)) or family_name(group.label.family)


def _energy_tiles(cells: dict[int, Beside], lengths: Sequence[int]) -> list[Tile | str]:
    first = next(each.first for each in cells.values() if each.first)
    tiles: list[Tile | str] = [_tile(first, 0, None), _tile(first, 0, REVERSE), _tile(first, 0, FORWARD)]
    for length in lengths:
        each = cells.get(length)
        if each is None:
            tiles.append("no such cell")
        else:
            tiles.append(_tile(each.first, 0, FLOW) if each.first else each.result.note or WHY_NONE)
    return tiles


def _posterior_rows(fits: PlaneFits) -> list[tuple[str, list[Tile | str]]]:
    names = ("MCMC", *(name.replace(", ", ",\n") for name in NAMES), "q_K")
    places = range(len(fits.images))
    return [
        (name, [_tile(fits, place, fit) for place in places])
        for name, fit in zip(names, (None, REVERSE, FORWARD, FLOW), strict=True)
    ]


def _tile(fits: PlaneFits, target: int, fit: int | None) -> Tile | str:
    """Return the tile of a target with a fit over it; with draws where there is no fit."""
    if fit == FLOW and not fits.log_flow.size:
        return NO_INVERSE
    x, y, half = (float(value) for value in fits.windows[target])
    log_p = fits.log_target[target].astype(np.float64)
    if fit is None:
        mixed = max(fits.r_hat[target].tolist())
        image = fits.images[target] if fits.images.size else None
        draws = fits.draws[target].reshape(-1, 2)
        return Tile((x, y, half), log_p, draws=draws, below=f"R-hat {mixed:.3f}", image=image)
    reverse, forward = (float(value) for value in fits.kl[target, fit])
    log_q = fits.log_flow[target] if fit == FLOW else _gaussian(fits, target, fit, len(log_p))
    below = f"{reverse:.2f} | {forward:.2f}"
    return Tile((x, y, half), log_p, log_q.astype(np.float64), below=below, colour=(3, 2, 0)[fit])


def _gaussian(fits: PlaneFits, target: int, fit: int, cells: int) -> np.ndarray:
    """Return ln N(z; m, C), up to a constant, at the window's cells."""
    x, y, half = fits.windows[target].astype(np.float64)
    ticks = (np.arange(cells) + 0.5) * (2 * half / cells) - half
    z = np.stack(np.meshgrid(x + ticks, y - ticks), -1) - fits.means[target, fit]
    inverse = np.linalg.inv(fits.covariances[target, fit].astype(np.float64))
    found: np.ndarray = -0.5 * np.einsum("...a,ab,...b", z, inverse, z)
    return found


def _table_row(each: Beside) -> Row:
    quantity = replace(KL_ON_PLANE, unit="nats", decimals=3)
    entries = []
    for fit in (FLOW, REVERSE, FORWARD):
        for direction, label in enumerate(("KL(q‖p)", "KL(p‖q)")):
            own = {run: f for run, f in each.fits.items() if f.kl.shape[1] > fit}
            values = {run: float(fits.kl[:, fit, direction].astype(np.float64).mean()) for run, fits in own.items()}
            lost = any(np.abs(fits.mass[:, fit] - 1).max() > WHOLE for fits in own.values())
            why = NO_INVERSE.replace("\n", " ") if each.fits else _why_none(each)
            entries.append(_entry(replace(quantity, label=label), values, why, lost))
    rates = {run: float(fits.r_hat.max()) for run, fits in each.fits.items()}
    accepted = {run: float(fits.accepted.mean()) for run, fits in each.fits.items()}
    unmixed = any(rate > MIXED for rate in rates.values())
    plain = replace(quantity, unit="1", better="none")
    entries.append(_entry(replace(plain, label="R-hat"), rates, _why_none(each), unmixed))
    entries.append(_entry(replace(plain, label="accepted", decimals=2), accepted, _why_none(each), False))
    return cell_row(each.result, [*entries, remark(entries)])


def _why_none(each: Beside) -> str:
    return WHY_NONE if each.result.state.finished else each.result.note or "not run"


def _entry(quantity: Metric, values: dict[str, float], why: str, marked: bool) -> Entry:
    found = estimate(values)
    note = "" if found.n else why
    return Entry(quantity=quantity, estimate=found, note=note, run_ids=found.run_ids, marked=marked)
