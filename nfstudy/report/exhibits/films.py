"""Films: what each flow does step by step, and the latent map; drawn from the arrays that runs have logged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from nfstudy.core.errors import ReportError
from nfstudy.films import ARRAYS, GIF, PAGE, Film, read_film, strip_of
from nfstudy.films.arrays import PosteriorFilm
from nfstudy.report.exhibits.base import (
    SHORT_ID,
    Drawing,
    Exhibit,
    FilmDrawing,
    cell_row,
    stamped,
)
from nfstudy.report.labels import Label, family_name
from nfstudy.report.plots.maps import draw_latent_map
from nfstudy.report.statistics.estimates import CellResult, Results
from nfstudy.report.tables import Entry, Table
from nfstudy.runs.frame import LoggedRuns

MAX_FILMS = 8
"""Of a report; each holds one row a family."""
WHY_NONE = "run without a film"
"""Of a finished run that has logged none: it was made before its study had this exhibit, or before there were films."""


class Shot(NamedTuple):
    """A cell's first finished run with its film."""

    result: CellResult
    run_id: str
    """Empty where none has finished."""
    film: Film | None


def films(results: Results) -> Exhibit:
    """Show the longest chain of each family, by whatever else differs among the cells; list where the films are."""
    shots = [shot for cell in results.cells if cell.label.length and (shot := _shot(results.store, cell))]
    table = _table(results, shots)
    groups: dict[tuple[object, ...], dict[str, Shot]] = {}
    for shot in shots:
        longest = groups.setdefault(shot.result.label.variant, {})
        family = shot.result.label.family
        if shot.film and (family not in longest or longest[family].result.label.length < shot.result.label.length):
            longest[family] = shot
    filmed = [(variant, [*found.values()]) for variant, found in groups.items() if found]
    drawings = [_drawing(results, place, found) for place, (_, found) in enumerate(filmed[:MAX_FILMS], start=1)]
    finished, without = (
        sum(bool(shot.run_id) for shot in shots),
        sum(bool(shot.run_id and not shot.film) for shot in shots),
    )
    texts = []
    if not shots:
        texts.append("The study has no chain of steps to show.")
    elif not finished:
        texts.append("No repetition with a flow has finished, so there is nothing to show.")
    elif without:
        texts.append(
            f"{without} of {finished} cells have runs without a film: they were made when the study had not yet this "
            "exhibit, or by a version without films, and their numbers are as good. A run that is made now logs one."
        )
    if drawings:
        texts.append("Of each family, the first repetition of the longest chain; the table says where all films are.")
    if len(filmed) > MAX_FILMS:
        texts.append(f"The first {MAX_FILMS} of {len(filmed)} films.")
    shown = tuple(shot.run_id for _, found in filmed[:MAX_FILMS] for shot in found)
    return Exhibit(
        "films", "What the flows do, step by step", " ".join(texts), (table,), run_ids=shown, films=tuple(drawings)
    )


def latent_map(results: Results) -> Exhibit:
    """Draw what the model makes of the plane of its two latent variables, and where test images lie in it."""
    drawings: list[Drawing] = []
    run_ids, missing = [], 0
    shots = [shot for cell in results.cells if (shot := _shot(results.store, cell)) and shot.run_id]
    for shot in shots:
        if not isinstance(shot.film, PosteriorFilm) or not shot.film.decoded.size:
            missing += 1
            continue
        film, name = shot.film, shot.result.label.row
        figure: Figure = draw_latent_map(
            f"Latent map: {name}", film.decoded, film.thumbnails, film.places, results.stamp
        )
        caption = (
            f"{name}, run {shot.run_id[:SHORT_ID]}. Left: the model's images over (−3, 3)² of its two latent "
            f"variables. Right: {len(film.places)} test images, each at one sample of its posterior."
        )
        drawings.append(Drawing(f"latent-map-{len(drawings) + 1}", figure, stamped(caption, results)))
        run_ids.append(shot.run_id)
    text = "No repetition has finished, so there is nothing to show." if not shots else ""
    if missing:
        text = (
            f"{missing} of {len(shots)} cells have no run with a latent map: it needs D = 2, and a run that was made "
            "when the study had an exhibit with films."
        )
    return Exhibit("latent-map", "The latent map", text, (), tuple(drawings), tuple(run_ids))


def _shot(store: LoggedRuns, result: CellResult) -> Shot:
    finished = result.state.finished
    for run_id in finished:
        if (content := store.artifact(run_id, ARRAYS)) is not None:
            try:
                return Shot(result, run_id, read_film(content))
            except ValueError as error:
                raise ReportError(f"run {run_id}, {ARRAYS}: {error}") from None
    return Shot(result, next(iter(finished), ""), None)


def _drawing(results: Results, place: int, shots: Sequence[Shot]) -> FilmDrawing:
    strips = [strip_of(shot.film, _title(shot.result.label)) for shot in shots if shot.film]
    films = [shot.film for shot in shots if shot.film]
    name = shots[0].result.label.variant_text
    caption = f"{name}. {films[0].caption}" if name else films[0].caption
    return FilmDrawing(f"film-{place}", name, strips, stamped(caption, results))


def _title(label: Label) -> str:
    return f"{family_name(label.family)}, K = {label.length}"


def _table(results: Results, shots: Sequence[Shot]) -> Table:
    rows = []
    for shot in shots:
        moments = f"{len(shot.film.steps)} of {shot.result.label.length + 1}" if shot.film else "–"
        entries = (
            Entry(moments),
            Entry("" if shot.film else WHY_NONE if shot.run_id else shot.result.note or "not run"),
            Entry(shot.run_id[:SHORT_ID], run_ids=(shot.run_id,)) if shot.run_id else Entry("–"),
        )
        rows.append(cell_row(shot.result, entries))
    caption = (
        "Which runs have a film, and how many of the moments k = 0 ... K it shows. Among a run's files, "
        f"{ARRAYS} has its arrays, {GIF} plays, and {PAGE} has a slider."
    )
    return Table("films", stamped(caption, results), ("cell", "moments", "note", "run"), tuple(rows))
