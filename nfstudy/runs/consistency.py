"""Whether what a run from elsewhere says of itself agrees: its settings with its keys, its numbers with its settings.

An archive's digests say that it is as it was written, not that a run's key is that of its settings. Here the settings
are resolved and hashed again, so that no number enters a table in another cell's place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from nfstudy.core.errors import UserError
from nfstudy.runs.conditions import UnknownSettingError, recorded_settings
from nfstudy.runs.frame import param_text
from nfstudy.runs.metrics import CURVES, EPOCH_METRICS, FREE_ENERGY, POSITIVE_FREE_ENERGY, known_metrics
from nfstudy.runs.original import CHECKED, OF_A_SEARCH
from nfstudy.runs.result import RESULTS
from nfstudy.runs.tags import Tag
from nfstudy.runs.whole_run import RunCopy, RunRecord
from nfstudy.study.cells import KEY_VERSION, Cell, settings_digest
from nfstudy.study.settings import Settings

OF_PLUGINS = "without a check of settings, which are of plug-ins"


def check_run(copy: RunCopy, searched: bool) -> str:
    """Return what a run is tagged with when it is imported: `CHECKED`, or what of it could not be checked.

    Arguments:
        copy: the run.
        searched: whether its cell has runs of a search.

    Raises:
        UserError: what it says does not agree; names the settings or metrics.
    """
    record = copy.record
    plugins = Tag.PLUGINS in record.tags
    if not plugins and (unknown := sorted(copy.histories.keys() - known_metrics().keys())):
        raise UserError(f"metrics {', '.join(unknown)} are not known; expected: those that nfstudy logs")
    try:
        settings = _settings(record.params)
    except UserError:
        if not plugins:
            raise
        return OF_PLUGINS
    if not _has_keys(record, settings, searched):
        if plugins:
            return OF_PLUGINS
        raise UserError(_contradiction(record, settings))
    # Of other stages it is the index (`readable.trouble`).
    if record.tags[Tag.STAGE] == "search" and (seeds := record.tags.get(Tag.REPETITION, "0")) != "0":
        raise UserError(f"tag {Tag.REPETITION}: got {seeds}; expected: that of its stage, 0")
    _check_updates(copy, settings.train.updates)
    return OF_A_SEARCH if searched else CHECKED


def _settings(params: Mapping[str, str]) -> Settings:
    """Return the settings that a run logged, without those that are not known here: its keys say whether they matter.

    Parameters that somebody has added to a run by hand are none; those of a plug-in, or of another version, are, and
    without them the keys are others.
    """
    try:
        return recorded_settings(params)
    except UnknownSettingError as error:
        kept = {path: text for path, text in params.items() if not f"{path}.".startswith(f"{error.path}.")}
        if len(kept) == len(params):
            raise
        return _settings(kept)


def _has_keys(record: RunRecord, settings: Settings, searched: bool) -> bool:
    """Say whether the settings give the run's keys, in this version of keys or an earlier one."""
    cell = Cell(settings.normalized(), record.tags.get(Tag.BUDGET, ""))
    return any(
        record.tags[Tag.SETTINGS] == settings_digest(settings, version)
        and (searched or record.tags[Tag.CELL] == cell.key_of(version))
        for version in range(KEY_VERSION, 0, -1)
    )


def _contradiction(record: RunRecord, settings: Settings) -> str:
    own = {path: param_text(value) for path, value in settings.flat().items()}
    point: Mapping[str, object] = json.loads(record.tags[Tag.POINT])
    unlike = [
        f"{path} is {param_text(value)} in the grid and {own.get(path, 'nothing')} among its settings"
        for path, value in point.items()
        if own.get(path) != param_text(value)
    ]
    here = Cell(settings.normalized(), record.tags.get(Tag.BUDGET, "")).key
    named = f" ({'; '.join(unlike)})" if unlike else ""
    return (
        f"its settings are those of cell {here}, not of {record.tags[Tag.CELL]}, whose number it claims to be{named}; "
        "expected: settings that give its keys"
    )


def _check_updates(copy: RunCopy, updates: int) -> None:
    """Hold what was logged to the updates that the settings ask for, and epochs to each other."""
    tags, histories = copy.record.tags, copy.histories
    ends = {name: int(points["update"][-1]) for name, points in histories.items() if name not in CURVES}
    ends[f"tag {Tag.UPDATE}"] = int(tags.get(Tag.UPDATE, 0))
    if beyond := sorted(name for name, end in ends.items() if end > updates):
        raise UserError(
            f"{beyond[0]} is of update {ends[beyond[0]]:,}; expected: at most its train.updates, {updates:,}"
        )
    if (free := copy.numbers(POSITIVE_FREE_ENERGY.name)) and [-value for _, value in free] != [
        value for _, value in copy.numbers(FREE_ENERGY.name)
    ]:
        raise UserError(f"{POSITIVE_FREE_ENERGY.name}: is {free[-1][1]}; expected: the negative of {FREE_ENERGY.name}")
    epochs = {name: np.unique(histories[name]["update"]) for name in EPOCH_METRICS if name in histories}
    if not epochs:
        return
    name = max(epochs, key=lambda each: len(epochs[each]))
    first = epochs[name]
    each = int(first[0])
    whole = np.minimum(each * np.arange(1, len(first) + 1), updates)
    if each == 0 or not np.array_equal(first, whole):
        raise UserError(
            f"{name}: its epochs have gaps; expected: one point after every {each:,} updates, to {updates:,}"
        )
    # A run that was killed while an epoch was being logged has some of its last one's numbers.
    allowed = [first] if copy.record.outcome in RESULTS else [first, first[:-1]]
    if unlike := sorted(
        other for other, points in epochs.items() if not any(np.array_equal(points, whole) for whole in allowed)
    ):
        raise UserError(f"{unlike[0]}: is of other updates than {name}; expected: both, after every epoch")
    if copy.record.outcome == "finished" and int(first[-1]) != updates:
        raise UserError(f"it has finished at update {int(first[-1]):,}; expected: at its train.updates, {updates:,}")
