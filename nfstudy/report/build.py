"""Build a report: gather a study's runs, refuse if some are missing, make the exhibits, write them with a manifest."""

from __future__ import annotations

import hashlib
import json
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from posixpath import normpath
from typing import Any, TypeVar

from nfstudy.core import registry
from nfstudy.core.atomic import swap_files_in, swap_in
from nfstudy.core.declarations import Function, load_function
from nfstudy.core.errors import ReportError, untold
from nfstudy.core.hints import misfit
from nfstudy.films import film_gif, film_player
from nfstudy.report.answers import answers_of
from nfstudy.report.claims.inequalities import read_claims
from nfstudy.report.claims.judge import bodies_of
from nfstudy.report.claims.ledger import ledger
from nfstudy.report.claims.verdicts import concerns
from nfstudy.report.exhibits.base import Exhibit, stamped
from nfstudy.report.folder import MANIFEST as MANIFEST
from nfstudy.report.folder import require_report_folder
from nfstudy.report.latex import to_latex
from nfstudy.report.pages.study_page import Page, render_html, render_markdown
from nfstudy.report.plots.curves import render
from nfstudy.report.statistics.estimates import Results, gather_results
from nfstudy.report.tables import Entry, Row, Table, to_csv, to_markdown
from nfstudy.runs.code import UNKNOWN
from nfstudy.runs.frame import LoggedRuns
from nfstudy.study.plan import StudyPlan

_Made = TypeVar("_Made", Exhibit, Table)

LIBRARIES = ("jinja2", "matplotlib", "numpy", "pandas", "pillow", "seaborn")
"""Those whose version can change the bytes of a report."""


@dataclass(frozen=True)
class Report:
    """A study's report, made and not yet written."""

    page: Page
    files: Mapping[str, bytes]
    """Name relative to the report's folder -> content; the manifest is the last."""


def build_report(
    plan: StudyPlan,
    runs: LoggedRuns,
    folder: Path,
    partial: bool = False,
    active: bool = False,
    tell: Callable[[str], None] = untold,
) -> Path:
    """Write a study's report into a folder of its own and return the path of its `index.html`.

    The same runs give the same bytes. The files of an earlier report there are replaced or removed, others are left
    alone. Files are swapped in only after all of them have been made, and the manifest last.

    Arguments:
        plan: the study under one of its budgets.
        runs: its logged runs.
        folder: where to write, such as `reports/mnist`.
        partial: build although cells are missing, running or failed; the report says so everywhere.
        active: whether a coordinator is at work now, so that runs marked running are.
        tell: is told what people should know of the runs, such as those that are left out.

    Raises:
        ReportError: nothing has run, cells are unfinished without `partial`, or the folder
            holds something else than an earlier report of the study, or cannot be written.
    """
    there = require_report_folder(folder, plan.study.study)
    results = gather_results(plan, runs, active)
    for note in results.notes:
        tell(note)
    if results.runs.empty and there:  # Not even in part: somebody may look into another store than before.
        raise ReportError(
            f"study {plan.study.study}, budget {plan.budget}: no runs in this store, and {folder} holds an earlier "
            "report; hint: name the store that has the runs with --tracking-uri, or another folder with --output"
        )
    _refuse_unfinished(results, partial)
    write_files(folder, make_report(results).files, plan.study.study)
    return folder / "index.html"


def make_report(results: Results, others: Mapping[str, str] | None = None, home: str = "../") -> Report:
    """Make a study's exhibits and pages, whether or not all its cells are there.

    Arguments:
        results: the study under a budget.
        others: other budget that has a page -> its folder, as an address relative to this one's.
        home: the address of the folder of all reports, relative to this page's.
    """
    searched = bool(results.plan.search or results.plan.sampling)
    shown = [entry for entry in results.study.shown if searched or not registry.find("exhibits", entry[0]).of_search]
    exhibits = [make_exhibit(name, results, options) for name, options in shown]
    shown_exhibits = (*exhibits, *_impossible(results), *_claims(results))
    _check_names(shown_exhibits)
    page = Page(results, shown_exhibits, version("nfstudy"), answers_of(results, exhibits), others or {}, home)
    files = _render_files(page)
    return Report(page, {**files, MANIFEST: _manifest(page, files)})


def make_exhibit(name: str, results: Results, options: Mapping[str, Any] | None = None) -> Exhibit:
    """Make an exhibit, with what the study file says beside its name.

    Raises:
        ReportError: one from outside cannot be imported, fails, or is none.
    """
    declaration = registry.find("exhibits", name)
    given = (declaration.options.model_validate(options or {}),) if declaration.options else ()
    return call_exhibit(name, declaration.make, results, *given)


def call_exhibit(name: str, function: Function, *given: Any) -> Exhibit:
    """Call a function of an exhibit's declaration; raises as `make_exhibit` does.

    Arguments:
        name: the exhibit's.
        function: `make` or `bodies`.
        given: what it is called with.
    """
    return _called(name, Exhibit, function, *given)


def call_readme(name: str, function: Function, results: Results) -> Table:
    """Call `readme` of an exhibit's declaration; raises as `make_exhibit` does."""
    return _called(name, Table, function, results)


def _called(name: str, kind: type[_Made], function: Function, *given: Any) -> _Made:
    origin = registry.origin_of("exhibits", name)
    if origin == registry.BUILT_IN:
        own: _Made = load_function(function)(*given)
        return own
    try:
        made = load_function(function)(*given)
    except (Exception, SystemExit) as error:  # Somebody else's code: it may raise anything.
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise ReportError(
            f"{origin}: exhibit {name}: {type(error).__name__}: {error} ({place.filename}:{place.lineno}); "
            "no run is lost: fix it and rebuild the report"
        ) from error
    if not isinstance(made, kind):
        allowed = "an Exhibit of report.exhibits.base" if kind is Exhibit else "a Table of report.tables"
        raise ReportError(f"{origin}: exhibit {name}: got {type(made).__name__}; expected: {allowed}")
    if wrong := misfit(made):
        raise ReportError(f"{origin}: exhibit {name}: its {wrong}")
    return made


def _claims(results: Results) -> Iterator[Exhibit]:
    """Yield the ledger of those claims of the study's paper that concern its cells, under each budget that has runs."""
    others = [body for body in bodies_of(results.study, results.store) if body.budget != results.budget]
    bodies = [results, *others]
    if claims := [claim for claim in read_claims(results.paper) if any(concerns(claim, body) for body in bodies)]:
        yield ledger(claims, bodies)


def _impossible(results: Results) -> Iterator[Exhibit]:
    """Yield the exhibit of the points of the grid that cannot be run, where there are any."""
    if results.impossible:
        rows = [Row(point.label, (Entry(text=point.reason),)) for point in results.impossible]
        caption = "Points of the grid at which the settings are impossible together; nothing was run there."
        table = Table("impossible", stamped(caption, results), ("cell", "reason"), tuple(rows))
        yield Exhibit("impossible", "Impossible cells", "", (table,))


def _refuse_unfinished(results: Results, partial: bool) -> None:
    study, budget = results.study.study, results.budget
    if not results.cells:
        raise ReportError(f"study {study}, budget {budget}: no runs yet; hint: run the study first")
    lines = [f"  {r.label.row}: {r.state.state} ({r.state.note})" for r in results.unfinished]
    lines += [f"  {point.label}: impossible ({point.reason})" for point in results.impossible]
    if lines and not partial:
        cells = len(results.cells) + len(results.impossible)
        raise ReportError(
            f"study {study}, budget {budget}: {len(lines)} of {cells} cells are unfinished; "
            "hint: finish the study, or use --partial\n" + "\n".join(lines)
        )


def _check_names(exhibits: Sequence[Exhibit]) -> None:
    """Raise ReportError where a file of an exhibit could not be written, or would take another's place."""
    owners: dict[tuple[str, str], str] = {}
    for exhibit in exhibits:
        named = [("tables", table.id) for table in exhibit.tables]
        named += [("figures", drawing.id) for drawing in exhibit.drawings]
        named += [("films", film.id) for film in exhibit.films]
        for place in named:
            where = f"exhibit {exhibit.name}: {place[0]}: got the id {place[1]!r}"
            leads_out = f"{normpath(place[1])}/".startswith(("/", "../", "./"))
            if leads_out or place[1].endswith("/") or not place[1].isprintable():
                raise ReportError(f"{where}; expected: a file's name, or a path that stays within the report's folder")
            if place in owners:
                raise ReportError(f"{where}; expected: one that exhibit {owners[place]} does not have")
            owners[place] = exhibit.name


def _render_files(page: Page) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    drawings: dict[str, bytes] = {}
    players: dict[str, str] = {}
    for exhibit in page.exhibits:
        for drawing in exhibit.drawings:
            files[f"figures/{drawing.id}.png"] = render(drawing.figure, "png")
            drawings[drawing.id] = files[f"figures/{drawing.id}.svg"] = render(drawing.figure, "svg")
        for film in exhibit.films:
            files[f"films/{film.id}.gif"] = film_gif(film.strips, film.title)
            players[film.id] = film_player(film.strips, film.caption)
        for table in exhibit.tables:
            for ending, write in (("csv", to_csv), ("md", to_markdown), ("tex", to_latex)):
                files[f"tables/{table.id}.{ending}"] = write(table).encode()
    files["index.html"] = render_html(page, drawings, players).encode()
    files["index.md"] = render_markdown(page).encode()
    return files


def _manifest(page: Page, files: Mapping[str, bytes]) -> bytes:
    results = page.results
    return manifest(
        {
            "study": results.study.study,
            "title": results.study.title,
            "budget": results.budget,
            "cells": {"finished": len(results.cells) - len(results.unfinished), "of": len(results.cells)},
            "exhibits": {exhibit.name: _sources(results, exhibit) for exhibit in page.exhibits},
        },
        files,
    )


def manifest(content: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    """Return the file `manifest.json`: what is told of a report, what made it, and the SHA-256 of its files."""
    made_by = {"nfstudy": version("nfstudy"), "libraries": {name: version(name) for name in LIBRARIES}}
    digests = {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}
    return (json.dumps({**content, **made_by, "files": digests}, indent=2, ensure_ascii=False) + "\n").encode()


def _sources(results: Results, exhibit: Exhibit) -> dict[str, Any]:
    """Say which files an exhibit is, and which runs, commits and data it comes from."""
    entries = (entry for table in exhibit.tables for row in table.rows for entry in row.entries)
    run_ids = {run_id for entry in entries for run_id in entry.run_ids} | set(exhibit.run_ids)
    runs = results.runs[results.runs["run_id"].isin(run_ids)]
    code = runs[["commit", "dirty", "code_known"]].drop_duplicates()
    pictures = [f"figures/{drawing.id}.{ending}" for drawing in exhibit.drawings for ending in ("png", "svg")]
    tables = [f"tables/{table.id}.{ending}" for table in exhibit.tables for ending in ("csv", "md", "tex")]
    return {
        "files": [*pictures, *(f"films/{film.id}.gif" for film in exhibit.films), *tables],
        "runs": sorted(run_ids),
        "commits": sorted({_commit(*each) for each in code.itertuples(index=False)}),
        "data": {data: sorted(set(group)) for data, group in runs.groupby("data")["data_fingerprint"]},
    }


def _commit(commit: str, dirty: bool, known: bool) -> str:
    return f"{commit or UNKNOWN}{'+dirty' if dirty else ''}{'' if known or commit == UNKNOWN else '+unknown'}"


def write_files(folder: Path, files: Mapping[str, bytes], study: str | None) -> None:
    """Have a report's folder hold these files in place of those of an earlier one.

    Arguments:
        folder: where to write.
        files: name relative to the folder -> content, its manifest last.
        study: whose report, swapped in at once; None for the page over all of them, in whose folder others write
            meanwhile: then files are swapped in one by one.

    Raises:
        ReportError: the folder holds something else (`require_report_folder`), or cannot be written.
    """
    stale = require_report_folder(folder, study) - set(files)
    try:
        (swap_in if study else swap_files_in)(folder, files, stale)
    except OSError as error:
        raise ReportError(
            f"{folder}: cannot be written: {error.strerror or error}; no run is lost: rebuild the report"
        ) from None
