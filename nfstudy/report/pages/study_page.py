"""A report's pages: `index.html`, which needs no other file (and a script for films only), and `index.md`."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from nfstudy.films.pages import player_script, player_style
from nfstudy.report.exhibits.base import SHORT_ID, Answer, Exhibit
from nfstudy.report.labels import setting_name, setting_text
from nfstudy.report.pages.drawings import dark_rules, embed
from nfstudy.report.statistics.estimates import CellResult, Results
from nfstudy.report.tables import Entry, markdown_text, to_markdown
from nfstudy.runs.code import UNKNOWN
from nfstudy.runs.frame import RUN_COLUMNS
from nfstudy.runs.original import CHECKED

NOT_KNOWN = "not known"
_RUN_COLUMNS = {name: name for name in ("outcome", "attempts", "commit", "data", "machine", "settings")}
_SHORT = 10
"""Digits of a commit or a fingerprint that are shown."""


MOST_LISTED = 60
"""Runs in the page in Markdown, which code hosts show whole."""


@dataclass(frozen=True)
class RunRow:
    """A line of the provenance table."""

    id: str
    link: str | None
    """The run's page on a tracking server."""
    cell: str
    trial: str
    """`repetition 1` or `search 7`."""
    outcome: str
    """With its reason, where it has one."""
    attempts: int
    commit: str
    data: str
    machine: str
    settings: str


@dataclass(frozen=True)
class RerunRow:
    """A line of the table of runs that were trained again."""

    id: str
    run: str
    """The id of the run that it was held to."""
    cell: str
    trial: str
    verdict: str
    """Identical, within tolerances, or differs."""
    commit: str
    machine: str


@dataclass(frozen=True)
class Page:
    """All that both templates show."""

    results: Results
    exhibits: Sequence[Exhibit]
    version: str
    """Of nfstudy."""
    answers: Sequence[Answer] = ()
    """What it begins with."""
    others: Mapping[str, str] = field(default_factory=dict)
    """Other budget that the study is shown under -> the folder of its page, as an address relative to this one's."""
    home: str = "../"
    """The address of the folder of all reports, relative to this page's."""

    @property
    def title(self) -> str:
        """The study's, with the budget where there are pages of others."""
        return f"{self.results.study.title}{f' (budget {self.results.budget})' if self.others else ''}"

    @property
    def facts(self) -> list[tuple[str, str]]:
        """(name, text) of the lines under the title."""
        return [*self.sources, ("Report", f"nfstudy {self.version}")]

    @property
    def sources(self) -> list[tuple[str, str]]:
        """(name, text) of the facts about the runs: budget, how complete, outcomes, data, code."""
        results, runs = self.results, self.results.runs
        done = len(results.cells) - len(results.unfinished)
        repetitions = results.plan.repetitions
        each = f"{repetitions} repetition{'s' if repetitions > 1 else ''} each"
        complete = f"{done} of {len(results.cells)} cells, {each}"
        if sampling := results.plan.sampling:
            complete += f"; the cells are those visited by {sampling.name} in up to {sampling.trials:,} trials"
        outcomes = runs["outcome"].value_counts().sort_index()
        return [
            ("Budget", _budget(results)),
            ("Complete", complete),
            ("Runs", ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()) or "none"),
            ("Data", "; ".join(_data_sets(runs)) or "–"),
            ("Code", "; ".join(_commits(runs)) or "–"),
            *([("Origin", _origin(runs))] if (runs["imported"] != "").any() else []),
        ]

    @property
    def warnings(self) -> list[str]:
        """Say what makes the runs hard to reproduce or to compare with each other."""
        runs, found = self.results.runs, [f"{line[:1].upper()}{line[1:]}." for line in self.results.notes]
        commits = runs.loc[runs["code_known"].astype(bool), "commit"].nunique()
        if commits > 1:
            found.append(f"The runs come from {commits} commits.")
        dirty = int(runs["dirty"].astype(bool).sum())
        if dirty:
            found.append(f"{dirty} of {len(runs)} runs were made with uncommitted changes.")
        for count, words in (
            (int((~runs["code_known"].astype(bool)).sum()), "are of code that is not known, as git could not be asked"),
            (int((runs["earlier_code"] != "").sum()), "went on from checkpoints of other code"),
            *((int(n), f"were imported {mark}") for mark, n in _unchecked(runs).value_counts().sort_index().items()),
        ):
            if count:
                found.append(f"{count} of {len(runs)} runs {words}.")
        for data, prints in runs.groupby("data")["data_fingerprint"].nunique().items():
            if prints > 1:
                found.append(f"The runs on {data} saw {prints} different files of that name.")
        return found

    @property
    def settings(self) -> list[tuple[str, str, str]]:
        """(dotted path, value or axis, what the paper states) of the study's settings under the budget."""
        search = self.results.plan.search
        axes = {**self.results.study.axes, **(search.space if search else {})}
        rows = []
        flat = self.results.plan.settings.recorded().flat()
        stated_by_path = self.results.facts.stated_settings(flat)
        for path, value in flat.items():
            axis = axes.get(path)
            if axis is None:
                shown = setting_text(value)
            elif isinstance(axis, tuple):
                shown = ", ".join(map(setting_text, axis))
            else:
                shown = f"{setting_text(axis.low)} to {setting_text(axis.high)}"
            stated = setting_text(stated_by_path[path]) if path in stated_by_path else ""
            rows.append((path, shown, stated))
        return rows

    @cached_property
    def run_rows(self) -> Sequence[RunRow]:
        """The provenance of every run, by cell in the study's order."""
        study, imported = self.results.study, self.results.runs["imported"] != ""
        some_imported = bool(imported.any() and not imported.all())
        paths = dict.fromkeys((*study.axes, *(study.search.space if study.search else ()), "train.updates"))
        return [
            RunRow(
                id=run["run_id"],
                link=web_address(self.results.store.link(run["run_id"])),
                cell=result.label.row,
                trial=f"{run['stage']} {run['index']}",
                outcome=": ".join(filter(None, (run["outcome"], run["reason"]))),
                attempts=run["attempts"],
                commit=_code(run, some_imported),
                data=f"{run['data']} {run['data_fingerprint'][:_SHORT]}",
                machine=_machine(run),
                settings=_settings(run, paths),
            )
            for result, run in runs_by_cell(self.results, (*RUN_COLUMNS, "attempts", *paths))
        ]

    def run_columns(self, listed: Sequence[RunRow]) -> dict[str, str]:
        """Return header -> field of `RunRow` of what differs among all runs, besides which they are.

        There are no settings where those `listed` of one cell have the same.
        """
        cells = {(run.cell, run.settings) for run in listed}
        told = {"settings"} if len(cells) == len({cell for cell, _ in cells}) else set()  # By the cell's name.
        return {header: name for header, name in _RUN_COLUMNS.items() if name not in told and self._differs(name)}

    @property
    def run_facts(self) -> list[tuple[str, str]]:
        """(header, value) of what all runs have in common."""
        shared = {header: name for header, name in _RUN_COLUMNS.items() if not self._differs(name)}
        return [(header, f"{getattr(run, name)}") for run in self.run_rows[:1] for header, name in shared.items()]

    def _differs(self, name: str) -> bool:
        return len({getattr(run, name) for run in self.run_rows}) > 1

    @cached_property
    def rerun_rows(self) -> Sequence[RerunRow]:
        """The reruns, by cell in the study's order."""
        return [
            RerunRow(
                id=run["run_id"],
                run=run["rerun_of"],
                cell=result.label.row,
                trial=f"repetition {run['index']}",
                verdict=run["rerun"],
                commit=_code(run),
                machine=_machine(run),
            )
            for result, run in _by_cell(self.results, self.results.reruns)
        ]


def runs_by_cell(
    results: Results, columns: Collection[str] | None = None
) -> Iterator[tuple[CellResult, dict[str, Any]]]:
    """Yield every run with its cell, in the study's order: column of `Results.runs` -> value.

    Arguments:
        results: the study's.
        columns: those that are wanted, if the runs have them; None for all.
    """
    runs = results.runs if columns is None else results.runs[results.runs.columns.intersection([*columns])]
    yield from _by_cell(results, runs)


def _by_cell(results: Results, runs: pd.DataFrame) -> Iterator[tuple[CellResult, dict[str, Any]]]:
    """Yield some runs with their cells; all are taken out of the frame at once, as its rows are slow one by one."""
    by_cell: dict[str, list[dict[str, Any]]] = {}
    for run in runs.to_dict("records"):
        by_cell.setdefault(run["cell"], []).append(run)
    for result in results.cells:
        for run in by_cell.get(result.cell.key, ()):
            yield result, run


def render_html(page: Page, files: Mapping[str, bytes], players: Mapping[str, str] | None = None) -> str:
    """Return the self-contained page; all text is escaped.

    Arguments:
        page: what is shown.
        files: a figure's id -> its SVG file.
        players: a film's id -> its HTML (`nfstudy.films.film_player`).
    """
    embedded = embed_drawings(page, files)
    lines = {run.id: run_line(run.id) for run in page.run_rows}
    links = {run.id: run.link or lines[run.id] for run in page.run_rows}
    template = environment().get_template("index.html.jinja")
    dark = dark_rules(embedded.values())
    films = {"style": Markup(player_style()), "script": Markup(player_script())} if players else None
    made = {name: Markup(player) for name, player in (players or {}).items()}
    return template.render(
        page=page,
        pictures=embedded,
        dark=dark,
        players=made,
        films=films,
        runs=page.run_rows,
        lines=lines,
        links=links,
    )


def embed_drawings(page: Page, files: Mapping[str, bytes], before: str = "") -> dict[str, str]:
    """Return figure's id -> the element that shows it.

    Arguments:
        page: whose figures.
        files: a figure's id -> its SVG file.
        before: what the ids inside them begin with, where a page shows several studies.
    """
    drawings = (drawing for exhibit in page.exhibits for drawing in exhibit.drawings)
    return {
        drawing.id: embed(files[drawing.id], f"{before}{drawing.id}", drawing.caption, drawing.keeps_colours)
        for drawing in drawings
    }


def render_markdown(page: Page) -> str:
    """Return the page for reading on a code host, which refers to `figures/<id>.png`; all text is escaped.

    Of many runs it lists the first repetitions, and says where the others are.
    """
    listed = listed_runs(page)
    return (
        environment()
        .get_template("index.md.jinja")
        .render(
            page=page,
            runs=listed,
            columns=page.run_columns(listed),
            more=len(page.run_rows) - len(listed),
            anchor=run_anchor,
        )
    )


def listed_runs(page: Page) -> Sequence[RunRow]:
    """Return the runs that the page in Markdown lists: of many, the first repetitions."""
    if len(page.run_rows) <= MOST_LISTED:
        return page.run_rows
    return [run for run in page.run_rows if run.trial.startswith("repetition")][:MOST_LISTED]


def run_anchor(run_id: str) -> str:
    """Return the name of a run's line within the page in Markdown."""
    return f"run-{re.sub(r'[^0-9A-Za-z]', '-', run_id[:SHORT_ID])}"


def run_line(run_id: str) -> str:
    """Return the address of a run's line within its study's page."""
    return f"#run-{quote(run_id)}"


def environment() -> Environment:
    """Return what renders the templates of this folder: text is escaped, and a name that is not there is an error."""
    made = Environment(
        loader=PackageLoader("nfstudy.report.pages", "."),
        autoescape=select_autoescape(enabled_extensions=("html.jinja",), default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update(text=markdown_text, table=to_markdown, tooltip=_tooltip, unbroken=_unbroken)
    return made


def _unbroken(text: str) -> str:
    """Return text in which no line ends within `K = 80` or `−ln p(x)`."""
    return text.replace(" = ", "\u00a0=\u00a0").replace("−ln p(", "−\u2060ln\u00a0p(")


def _tooltip(entry: Entry) -> str:
    """Return all that is known of an entry."""
    lines = []
    if entry.quantity and entry.estimate and entry.estimate.mean is not None:
        se = "" if entry.estimate.se is None else f" ± {entry.estimate.se:.6g} (standard error)"
        unit = entry.quantity.unit
        lines.append(f"{entry.quantity.title} = {entry.estimate.mean:.8g}{se} {unit}, n = {entry.estimate.n}")
        lines.append(f"runs: {' '.join(entry.run_ids)}")
    if entry.reference:
        lines.append(f"{entry.reference.source}: {entry.reference.display} ({entry.reference.confidence})")
    if entry.note and not (entry.reference and entry.note == entry.reference.source):
        lines.append(entry.note)
    return "\n".join(lines)


def web_address(link: str | None) -> str | None:
    """Return a run's page on a server; None for what a browser should not be sent to."""
    return link if link and link.startswith(("http://", "https://")) else None


def _code(run: Mapping[str, Any], imported: bool = False) -> str:
    """Return what is known of a run's code and, if asked for, whether it was imported."""
    known = run["commit"] not in (None, "", UNKNOWN)
    words = run["commit"][:_SHORT] if known else NOT_KNOWN
    words += " + uncommitted changes" if run["dirty"] else ""
    words += " (changes not known)" if known and not run["code_known"] else ""
    words += ", resumed from other code" if run["earlier_code"] else ""
    return words + (", imported" if imported and run["imported"] else "")


def _unchecked(runs: pd.DataFrame) -> pd.Series[str]:
    """Return the marks of the imported runs of which something could not be checked."""
    return runs.loc[~runs["imported"].isin(["", CHECKED]), "imported"]


def _budget(results: Results) -> str:
    """Return the budget's name, with what its runs are logged as where that is another study or budget."""
    logged = results.plan.logged_as
    if (logged.study, logged.budget) == (results.study.study, results.budget):
        return results.budget
    return f"{results.budget} (logged as study {logged.study}, budget {logged.budget})"


def _origin(runs: pd.DataFrame) -> str:
    imported = int((runs["imported"] != "").sum())
    return f"{'all' if imported == len(runs) else f'{imported} of {len(runs)}'} runs were imported from an archive"


def _machine(run: Mapping[str, Any]) -> str:
    return f"{run['device']}, threads {run['threads']}"


def _commits(runs: pd.DataFrame) -> list[str]:
    """Return what is known of the code of all runs, each once."""
    columns = ["commit", "dirty", "code_known"]
    distinct = runs[columns].drop_duplicates().sort_values(columns).assign(earlier_code="")
    return [_code(run) for run in distinct.to_dict("records")]


def _data_sets(runs: pd.DataFrame) -> list[str]:
    pairs = runs[["data", "data_fingerprint"]].drop_duplicates().sort_values(["data", "data_fingerprint"])
    return [
        f"{name} (SHA-256 {digest[:_SHORT]}…)" if digest else name for name, digest in pairs.itertuples(index=False)
    ]


def _settings(run: Mapping[str, Any], paths: Mapping[str, None]) -> str:
    shown = {path: run[path] for path in paths if path in run and not absent(run[path])}
    return ", ".join(f"{setting_name(path)} = {setting_text(value)}" for path, value in shown.items())


def absent(value: Any) -> bool:
    """Say whether a frame's value stands for none."""
    return isinstance(value, float) and math.isnan(value)
