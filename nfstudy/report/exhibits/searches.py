"""The exhibits of a search: what it tried, what it chose, what so many trials come to, and which settings matter."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import seaborn as sns

from nfstudy.report.exhibits import ExpectedBestOptions
from nfstudy.report.exhibits.base import SHORT_ID, Drawing, Exhibit, stamped
from nfstudy.report.labels import family_name, setting_name, setting_text
from nfstudy.report.plots.curves import family_colour
from nfstudy.report.plots.searches import (
    Band,
    Coordinate,
    Dots,
    Lines,
    draw_bands,
    draw_bars,
    draw_dots,
    draw_lines,
    draw_parallel,
)
from nfstudy.report.statistics.estimates import Results
from nfstudy.report.statistics.searches import (
    RESAMPLES,
    SearchResult,
    TriedTrial,
    best_so_far,
    epochs_of,
    expected_best,
    searches_of,
)
from nfstudy.report.tables import Entry, Row, Table, format_number
from nfstudy.runs.metrics import VALID_NLL
from nfstudy.study.spec import Axis, Range

NOTHING = "No trial of a search has ended."
MAX_PANELS = 12
MAX_ROWS = 200
MAX_TICKS = 8
MOST_IN_MARKDOWN = 40
"""Rows of a table that the page in Markdown shows, and not only as CSV."""


def search(results: Results) -> Exhibit:
    """Show what each search tried, in order, where it cut trials short, and what it chose."""
    found = searches_of(results)
    title = "What the search tried and chose"
    if not found:
        return Exhibit("search", title, NOTHING)
    drawn, more = _drawn(found)
    text = " ".join(filter(None, (_of_trials(results), more)))
    label = _bound_label(results)
    dots = [
        Dots(
            each.label,
            [trial.number for trial in each.trials],
            [trial.free_energy for trial in each.trials],
            [trial.outcome for trial in each.trials],
            line=best_so_far(each.trials),
            best=_place_of_best(each),
        )
        for each in drawn
    ]
    history = Drawing(
        "search-history",
        draw_dots("Search history", label, dots, results.stamp),
        stamped(
            "Validation F of each trial in the order of their proposal, and the best so far. A pruned trial stands "
            "where it was pruned, a triangle is above the axis.",
            results,
        ),
    )
    lines, ids = _curves(results, drawn)
    drawings = [history]
    if any(panel.curves for panel in lines):
        caption = "Validation F over the updates of each trial; a cross ends a trial that was pruned."
        figure = draw_lines("Trials of the search", label, lines, results.stamp)
        drawings.append(Drawing("search-trials", figure, stamped(caption, results)))
    return Exhibit("search", title, text, (_chosen(found, results), *_trials(found, results)), tuple(drawings), ids)


def _of_trials(results: Results) -> str:
    """Say which settings of the trials are not those of the runs that follow; empty where all are."""
    changed = results.plan.search.settings if results.plan.search else {}
    if not changed:
        return ""
    words = ", ".join(f"{path} = {_changed_text(value)}" for path, value in changed.items())
    return f"The trials of the search had {words} in place of what the repetitions have."


def _changed_text(value: Any) -> str:
    return str(value.get("name", value)) if isinstance(value, dict) else setting_text(value)


def _curves(results: Results, drawn: Sequence[SearchResult]) -> tuple[list[Lines], tuple[str, ...]]:
    panels, ids = [], []
    for each in drawn:
        points = dict(tuple(epochs_of(results, each.trials).groupby("run_id")))
        shown = [trial for trial in each.trials if trial.run_ids and trial.run_ids[0] in points]
        curves = [
            (points[trial.run_ids[0]]["update"].tolist(), points[trial.run_ids[0]]["value"].tolist(), trial.outcome)
            for trial in shown
        ]
        ids += [trial.run_ids[0] for trial in shown]
        panels.append(Lines(each.label, curves, shown.index(each.best) if each.best in shown else None))
    return panels, tuple(ids)


def _chosen(found: Sequence[SearchResult], results: Results) -> Table:
    """Return the table of chosen settings: a row a search."""
    paths = list(dict.fromkeys(path for each in found for path in each.space))
    estimated = _estimated(found)
    rows = []
    for each in found:
        counts = Counter(trial.outcome for trial in each.trials)
        words = ", ".join(f"{counts[word]} {word}" for word in ("finished", "pruned", "diverged") if counts[word])
        best, ended = each.best, len(each.trials) >= each.wanted
        trials = words if ended else f"{words} of {each.wanted}"
        if best is None:
            blank = [Entry()] * (len(paths) + 1 + len(estimated))
            rows.append(Row(each.label, (Entry(text=trials), *blank, Entry("none"), Entry())))
            continue
        values = [Entry(text=_drawn_text(best.values[path]) if path in best.values else "") for path in paths]
        bounds = (Entry(text=format_number(best.free_energy, 2)), *_likelihood(best, estimated))
        which = Entry(text=f"trial {best.number}" + ("" if ended else ", so far"))
        rows.append(Row(each.label, (Entry(text=trials), *values, *bounds, which, _runs(best.run_ids))))
    caption = (
        f"The settings that each search chose, by the bound on the validation images ({results.unit}); the test set "
        "had no part in it. The repetitions are trained at these settings. Of numbers four digits are shown; "
        "the runs have all."
    )
    columns = ("cell", "trials", *map(setting_name, paths), "validation F", *estimated, "chosen", "run")
    return Table("search-chosen", stamped(caption, results), columns, tuple(rows))


def _estimated(found: Sequence[SearchResult]) -> tuple[str, ...]:
    """Return the head of a column for −ln p(x) of the validation images, where some trial has it."""
    return (VALID_NLL.title,) if any(math.isfinite(trial.nll) for each in found for trial in each.trials) else ()


def _likelihood(trial: TriedTrial, estimated: Sequence[str]) -> list[Entry]:
    """Return what stands in that column, if there is one."""
    return [Entry(text=format_number(trial.nll, 2) if math.isfinite(trial.nll) else "–") for _ in estimated]


def _drawn_text(value: Any) -> str:
    """Return a value that a search has drawn: of a number four digits."""
    return f"{value:.4g}" if isinstance(value, float) else setting_text(value)


def _trials(found: Sequence[SearchResult], results: Results) -> tuple[Table, ...]:
    """Return the table of all trials; none where there are too many to read."""
    if sum(len(each.trials) for each in found) > MAX_ROWS:
        return ()
    paths, estimated = list(dict.fromkeys(path for each in found for path in each.space)), _estimated(found)
    rows = tuple(
        Row(
            f"{each.label}, trial {trial.number}",
            (
                *(Entry(text=_drawn_text(trial.values[path]) if path in trial.values else "") for path in paths),
                Entry(text=trial.words),
                Entry(text=format_number(trial.free_energy, 2) if math.isfinite(trial.free_energy) else "–"),
                *_likelihood(trial, estimated),
                _runs(trial.run_ids),
            ),
        )
        for each in found
        for trial in each.trials
    )
    caption = f"Every trial: what it tried, what came of it, and its last validation F ({results.unit})."
    columns = ("trial", *map(setting_name, paths), "outcome", "validation F", *estimated, "run")
    return (Table("search-trials", stamped(caption, results), columns, rows, len(rows) <= MOST_IN_MARKDOWN),)


def best_of_trials(results: Results, options: ExpectedBestOptions) -> Exhibit:
    """Show the expected best validation F over the number of trials, for each value of a setting."""
    name = f"expected-best-{_slug(options.by)}"
    title = f"What so many trials come to, by {setting_name(options.by)}"
    found = searches_of(results)
    at_random = [each for each in found if each.sampler in ("random", "qmc")]
    groups = _by_value(at_random or found, options.by)
    if not groups:
        return Exhibit(name, title, NOTHING)
    palette = sns.color_palette("colorblind", max(len(groups), 1))
    bands, rows, most = [], [], min(len(trials) for trials in groups.values())
    for place, (value, trials) in enumerate(groups.items()):
        expected = expected_best([trial.free_energy for trial in trials])
        ended = math.isfinite(expected.mean[most - 1])
        label = family_name(value) if options.by == "flow.family" else f"{setting_name(options.by)} = {value}"
        colour = family_colour(value) if options.by == "flow.family" else palette[place]
        if ended:
            bands.append(Band(f"{label} ({len(trials)} trials)", expected.mean, expected.low, expected.high, colour))
        low, high = expected.low[most - 1], expected.high[most - 1]
        interval = f"[{format_number(low, 2)}, {format_number(high, 2)}]" if math.isfinite(low) else "–"
        rows.append(
            Row(
                label,
                (
                    Entry(text=str(len(trials))),
                    Entry(text=format_number(float(expected.mean[most - 1]), 2) if ended else "all diverged"),
                    Entry(text=interval),
                ),
            )
        )
    which = "of the trials that were drawn at random" if at_random else "of all trials"
    cut = sum(trial.outcome == "pruned" for trials in groups.values() for trial in trials)
    pruned = f"; {cut} pruned ones, at the F where they were pruned, which is higher than they would have ended"
    caption = (
        f"Expected best validation F of so many trials, {which}: the mean over all subsets of that size, with a 95% "
        f"interval by {RESAMPLES:,} bootstrap resamples of the trials. At equal numbers of trials the values are "
        "compared at equal effort. A diverged trial counts as the worst of those that did not"
        f"{pruned if cut else ''}."
    )
    text = ""
    if not at_random:
        text = (
            "No trials were drawn at random. Those of another sampler depend on one another, and its later ones are "
            "better on purpose: read the intervals as too narrow."
        )
    drawings: tuple[Drawing, ...] = ()
    if bands:
        figure = draw_bands(title, _bound_label(results), bands, results.stamp)
        drawings = (Drawing(name, figure, stamped(caption, results)),)
    table = Table(
        name,
        stamped(f"The figure at {most} trials each, the most that all have, in {results.unit}.", results),
        (setting_name(options.by), "trials", f"expected best of {most}", "95% interval"),
        tuple(rows),
    )
    ids = tuple(run_id for trials in groups.values() for trial in trials for run_id in trial.run_ids)
    return Exhibit(name, title, text, (table,), drawings, ids)


def _by_value(found: Sequence[SearchResult], path: str) -> dict[str, list[TriedTrial]]:
    """Return value -> trials that used it, numbers by size; K = 0 is no flow whatever its family."""
    groups: dict[str, list[TriedTrial]] = {}
    numbers: dict[str, float] = {}
    for each in found:
        for trial in each.trials:
            value = each.sampler if path == "search.sampler" else trial.settings.get(path, trial.values.get(path))
            if path == "flow.family" and trial.settings.get("flow.length") == 0:
                value = "none"
            text = value if isinstance(value, str) else setting_text(value)
            groups.setdefault(text, []).append(trial)
            numbers[text] = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if any(math.isnan(number) for number in numbers.values()):
        return groups
    return {text: groups[text] for text in sorted(groups, key=numbers.__getitem__)}


def importances(results: Results) -> Exhibit:
    """Show how much each searched setting matters, by fANOVA as Optuna worked it out at the end of each search."""
    title = "Which settings matter"
    found = [each for each in searches_of(results) if each.importances]
    panels = {each.label: each.importances for each in found}
    if not panels:
        text = "No search has ended and begun its repetitions, with which the importances are logged."
        return Exhibit("importances", title, text)
    shown = dict([*panels.items()][:MAX_PANELS])
    caption = (
        "The share of the variance of validation F, over the range that was searched, that each setting accounts for "
        "by itself: functional ANOVA on a random forest (Hutter et al. 2014), by Optuna, of the trials that finished. "
        "What settings do together is in none of the bars."
    )
    named = {name: {setting_name(path): share for path, share in shares.items()} for name, shares in shown.items()}
    drawing = Drawing(
        "importances", draw_bars(title, "share of the variance", named, results.stamp), stamped(caption, results)
    )
    paths = list(dict.fromkeys(path for shares in panels.values() for path in shares))
    rows = []
    for each in found:
        shares, behind = each.importances, each.importances_of
        texts = [format_number(shares[path], 3) if path in shares else "–" for path in paths]
        rows.append(Row(each.label, tuple(Entry(text=text, run_ids=behind) for text in texts)))
    ids = tuple(run_id for each in found for run_id in each.importances_of)
    table = Table("importances", stamped("The bars.", results), ("cell", *map(setting_name, paths)), tuple(rows))
    return Exhibit("importances", title, _more(len(panels)), (table,), (drawing,), ids)


def slices(results: Results) -> Exhibit:
    """Show validation F over each searched setting, a dot a trial."""
    title = "Validation F over each setting"
    found = searches_of(results)
    paths = list(dict.fromkeys(path for each in found for path in each.space))
    panels = []
    for path in paths:
        trials = [(each, trial) for each in found for trial in each.trials if path in trial.values]
        values = [trial.values[path] for _, trial in trials]
        if not values:
            continue
        axis = next(each.space[path] for each in found if path in each.space)
        numbers = isinstance(axis, Range)
        panels.append(
            Dots(
                setting_name(path),
                values if numbers else [setting_text(value) for value in values],
                [trial.free_energy for _, trial in trials],
                [trial.outcome for _, trial in trials],
                x_label=path,
                log=isinstance(axis, Range) and axis.log,
                names=() if isinstance(axis, Range) else [setting_text(value) for value in axis],
            )
        )
    if not panels:
        return Exhibit("slices", title, NOTHING)
    caption = "Validation F of every trial of every search over each setting by itself; a triangle is above the axis."
    figure = draw_dots(title, _bound_label(results), panels, results.stamp)
    ids = tuple(run_id for each in found for trial in each.trials for run_id in trial.run_ids)
    return Exhibit("slices", title, "", drawings=(Drawing("slices", figure, stamped(caption, results)),), run_ids=ids)


def parallel(results: Results) -> Exhibit:
    """Show every trial as a line through its settings, coloured by validation F."""
    title = "Trials as parallel coordinates"
    found = searches_of(results)
    spaces = list(dict.fromkeys(tuple(each.space) for each in found))
    if not found or len(spaces[0]) < 2:
        return Exhibit("parallel", title, NOTHING if not found else "One setting is searched: see the slices.")
    trials = [trial for each in found for trial in each.trials]
    space: dict[str, Axis] = {path: axis for each in found for path, axis in each.space.items()}
    coordinates = [_coordinate(path, axis, trials) for path, axis in space.items()]
    caption = (
        "Each line is a trial: where it crosses an axis is its setting, and its colour is validation F, lower is "
        "better; the lowest are drawn last."
    )
    values = [trial.free_energy for trial in trials]
    figure = draw_parallel(title, _bound_label(results), coordinates, values, results.stamp)
    ids = tuple(run_id for trial in trials for run_id in trial.run_ids)
    return Exhibit(
        "parallel", title, "", drawings=(Drawing("parallel", figure, stamped(caption, results)),), run_ids=ids
    )


def _coordinate(path: str, axis: Axis, trials: Sequence[TriedTrial]) -> Coordinate:
    """Return an axis from a setting's least to its largest value; names stand in the order of the study file."""
    if isinstance(axis, Range):
        low, high = float(axis.low), float(axis.high)

        def place(value: Any) -> float:
            if axis.log:
                return math.log(float(value) / low) / math.log(high / low)
            return (float(value) - low) / (high - low)

        middle = math.sqrt(low * high) if axis.log else (low + high) / 2
        ticks = {0.0: f"{axis.low:g}", 1.0: f"{axis.high:g}"}
        if axis.log or not isinstance(axis.low, int):
            ticks[0.5] = f"{middle:.2g}"
        return Coordinate(setting_name(path), [_at(place, trial, path) for trial in trials], ticks)
    step = 1 / max(len(axis) - 1, 1)
    kept = {setting_text(value): index * step for index, value in enumerate(axis)}
    ticks = {height: text for text, height in kept.items()}
    return Coordinate(
        setting_name(path), [_at(lambda value: kept[setting_text(value)], trial, path) for trial in trials], ticks
    )


def _at(place: Any, trial: TriedTrial, path: str) -> float:
    return float(place(trial.values[path])) if path in trial.values else math.nan


def _runs(run_ids: tuple[str, ...]) -> Entry:
    return Entry(text=" ".join(run_id[:SHORT_ID] for run_id in run_ids), run_ids=run_ids)


def _place_of_best(each: SearchResult) -> int | None:
    return each.trials.index(each.best) if each.best else None


def _drawn(found: Sequence[SearchResult]) -> tuple[Sequence[SearchResult], str]:
    return found[:MAX_PANELS], _more(len(found))


def _more(number: int) -> str:
    if number <= MAX_PANELS:
        return ""
    return f"The figures show the first {MAX_PANELS} of {number} searches; the tables, all."


def _bound_label(results: Results) -> str:
    return f"validation F ({results.unit})"


def _slug(path: str) -> str:
    return path.replace(".", "-").replace("_", "-")
