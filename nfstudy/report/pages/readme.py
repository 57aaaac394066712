"""The results in docs/: each study's numbers beside the paper's, what became of its claims, and what its runs cost."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from nfstudy.core import registry
from nfstudy.core.declarations import ExhibitDeclaration
from nfstudy.report.build import call_readme
from nfstudy.report.claims.inequalities import read_claims
from nfstudy.report.claims.ledger import counts_text, judge_on
from nfstudy.report.exhibits.base import (
    cell_row,
    difference_entry,
    how_run,
    measured,
    published_entry,
    remark,
    stamped,
)
from nfstudy.report.pages.study_page import Page
from nfstudy.report.paper import Published
from nfstudy.report.shown import Shown
from nfstudy.report.statistics.contrasts import contrast_of, decide
from nfstudy.report.statistics.estimates import CellResult, Results
from nfstudy.report.tables import Entry, Table, format_interval, format_number, markdown_text, to_markdown
from nfstudy.runs.metrics import FREE_ENERGY, NLL, SECONDS

ENVIRONMENT = "environment.json"
"""The file of a run that says what machine it ran on (`nfstudy.runs.provenance.environment`)."""

LEVEL = 0.95
"""Of the intervals by which a level is reached or missed."""

LEVEL_CAPTION = (
    "−ln p(x) on the test set, in {unit}; lower is better. Ours: mean ± standard error (number of runs). Difference: "
    "ours − paper; the paper's level is reached where its whole 95 % t interval lies below 0, missed where it lies "
    "above, and undecided where 0 lies in it; each interval by itself, the paper's number taken as printed. F is the "
    "free energy, another number."
)


def results_text(found: Sequence[Shown], at_once: Mapping[str, int], reports: str = "reports/") -> str:
    """Return the section as Markdown: a part for each body of evidence.

    Studies without an exhibit that has a short table have a line each.

    Arguments:
        found: the studies that have runs, each under every budget that has a report.
        at_once: name of a body -> how many of its runs were under way at the same time, at most.
        reports: the address of the folder of all reports.
    """
    order = list(shown_exhibits())

    def rank(shown: Shown) -> tuple[int, str]:
        study = shown.results.study
        places = [order.index(name) for name in study.exhibits if name in order]
        return min(places, default=len(order)), study.study

    beside = [shown for shown in sorted(found, key=rank) if _has_table(shown)]
    further = [shown for shown in sorted(found, key=rank) if not _has_table(shown)]
    parts = [_part(shown, at_once[shown.results.name], reports) for shown in beside]
    return "\n".join([*parts, *_lines(further, reports)])


def _has_table(shown: Shown) -> bool:
    """Whether there is a short table of it."""
    return not shown_exhibits().keys().isdisjoint(shown.results.study.exhibits)


def _lines(further: Sequence[Shown], reports: str) -> list[str]:
    """Return a list of the studies without a table, each with its runs and its report."""
    if not further:
        return []
    lines = []
    for shown in further:
        page = Page(shown.results, (), "", others=shown.others)
        told = dict(page.sources)
        notes = " ".join(filter(None, [shown.results.stamp.capitalize(), *page.warnings]))
        text = f"{told['Runs']}, budget {told['Budget']}: {told['Complete']}. Code: {told['Code']}. {notes}".rstrip()
        link = f"[{markdown_text(page.title)}]({reports}{quote(shown.folder)}/index.md)"
        lines.append(f"- {link}: {markdown_text(text)}")
    return ["### Further studies", "", *lines, ""]


def shown_exhibits() -> dict[str, ExhibitDeclaration]:
    """Return the exhibits that have a short table, in their order: those that rebuild a paper's first."""
    shown = {name: found for name, found in registry.all_of("exhibits").items() if found.readme}
    return dict(sorted(shown.items(), key=lambda item: not item[1].paper))


def _part(shown: Shown, at_once: int, reports: str) -> str:
    results, page = shown.results, Page(shown.results, (), "", others=shown.others)
    study = results.study
    told = dict(page.sources)
    # What the paper states of its settings, it states of the experiments on images.
    data = f" Data: {told['Data']}. {how_run(results)}" if study.settings.data else ""
    facts = {
        "Runs": f"{told['Runs']}; budget {told['Budget']}: {told['Complete']}. Code: {told['Code']}.{data}",
        "Claims": _claims(results),
        "Cost": cost(results, at_once),
        "Note": " ".join(page.warnings),
    }
    stamp = [f"> **{results.stamp.capitalize()}.** What is missing is marked.", ""] if results.stamp else []
    return "\n".join(
        [
            f"### {markdown_text(page.title)}",
            "",
            *stamp,
            *(
                to_markdown(call_readme(name, exhibit.readme, results))
                for name, exhibit in shown_exhibits().items()
                if exhibit.readme and name in study.exhibits
            ),
            *(f"- **{name}:** {markdown_text(text)}" for name, text in facts.items() if text),
            f"- **Report:** [reports/{shown.folder}]({reports}{quote(shown.folder)}/index.md)",
            "",
        ]
    )


def levels_beside_paper(name: str, results: Results, published: Mapping[tuple[str, int], Published]) -> Table:
    """Set −ln p(x) of every cell beside the paper's, by (flow family, K), and say by how much its level is missed."""
    rows = []
    for result in results.cells:
        label = result.label
        paper = published.get((label.family, label.length))
        ours = measured(result, NLL, paper)
        entries = (
            Entry(text=str(label.length)),
            published_entry(paper),
            ours,
            difference_entry(ours),
            Entry(text="; ".join(filter(None, (_level(result, ours), remark([ours]).text)))),
            measured(result, FREE_ENERGY),
        )
        rows.append(cell_row(result, entries, label.curve))
    caption = stamped(LEVEL_CAPTION.format(unit=results.unit), results)
    columns = ("model", "K", "paper", "ours", "difference", "the paper's level", "F, ours")
    return Table(name, caption, columns, tuple(rows))


def _level(result: CellResult, ours: Entry) -> str:
    """Say whether the paper's level is reached, by an interval; empty where the two cannot be compared."""
    if ours.difference is None or ours.reference is None:
        return ""
    values = {repetition: value for repetition, (_, value) in result.by_repetition(NLL).items()}
    interval = contrast_of((1,), [values], noise=[result.noise(NLL)]).interval(LEVEL)
    if interval is None:
        return "undecided: no interval"
    ends = (interval[0] - ours.reference.value, interval[1] - ours.reference.value)
    words = {
        "supported": "reached",
        "contradicted": f"missed by {format_number(ours.difference, 2)}",
        "undecided": f"undecided {format_interval(ends, 2)}",
    }
    return words[decide(ends, -math.inf, 0.0)]


def _claims(results: Results) -> str:
    """Count the verdicts on the claims that the study's runs bear on."""
    judged = judge_on(read_claims(results.paper), [results])
    own = [verdict for found in judged for verdict in found.bodies.values()]
    return f"of {len(own)} claims of the paper that these runs bear on, {counts_text(own)}." if own else ""


def cost(results: Results, at_once: int) -> str:
    """Say how long the runs took, added up, and on what.

    Arguments:
        results: the study's; a run's time is the wall clock of training and evaluation, earlier attempts included.
        at_once: how many runs were under way at the same time, at most.
    """
    runs = results.runs
    hours = runs[SECONDS.name].sum() / 3600
    threads, devices = (" or ".join(sorted(runs[column].unique())) for column in ("threads", "device"))
    machines = {_machine(results.store.artifact(run_id, ENVIRONMENT)) for run_id in runs["run_id"]}
    return (
        f"{hours:.3g} hours of training and evaluation, added up over {len(runs)} runs; at most {at_once} at once, "
        f"threads of each: {threads}; on {devices}: {'; '.join(sorted(machines))}. Joules were not measured."
        f"{_paper_cost(results) if results.study.settings.data else ''}"
    )


def _paper_cost(results: Results) -> str:
    """Say how long as many updates as the paper's would take at the pace of the runs; of cells that have any."""
    flat = results.study.settings.flat()
    updates = results.facts.stated_settings(flat).get("train.updates")
    if updates is None:
        return ""
    seconds = [
        estimate.mean * updates / result.cell.settings.train.updates
        for result in results.cells
        if (estimate := result.estimate(SECONDS)).n
    ]
    if not seconds:
        return ""
    return (
        f" At this pace, one run of each of these {len(seconds)} cells with the paper's {updates:,} updates would take "
        f"{sum(seconds) / 3600:.3g} hours, one after another."
    )


def _machine(environment: bytes | None) -> str:
    try:
        said = json.loads(environment or b"")
        return f"{said['processor']}, {said['cores']} cores"
    except (ValueError, KeyError, TypeError):
        return "a machine that was not recorded"
