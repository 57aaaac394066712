"""Ids of runs that were imported into a store which gives each run an id of its own; no input or output.

Everything here names a run by its original id: reports and archives of the same runs are then the same bytes, whichever
store they are made from. The store's own id is only for the store.
"""

from __future__ import annotations

from collections.abc import Mapping

from nfstudy.runs.description import is_written
from nfstudy.runs.tags import MlflowTag, Tag

ORIGINAL_RUN_ID = Tag.ORIGINAL_RUN_ID
"""Tag of an imported run: its id in the store where it was logged."""
IMPORTING = Tag.IMPORTING
"""Tag of a run whose import has not ended, or was cut off; such a run is ignored, and the next import replaces it."""

IMPORTED = Tag.IMPORTED
"""Tag of an imported run: `CHECKED`, or what of it could not be checked."""
CHECKED = "checked"
"""Of an imported run: its settings have been resolved and hashed again, and give its keys."""
OF_A_SEARCH = "without a check of the search of their cell"
"""A cell's key holds the search itself, of which a run says no more than what came of it: the study file tells the rest
(`nfstudy.runs.frame.trusted`)."""

STORES_OWN = (ORIGINAL_RUN_ID, IMPORTING, IMPORTED, Tag.CELL_NAME, MlflowTag.USER)
"""Tags that a store adds to a run when it imports it, or that are of the store in which it was made."""


def original_id(run_id: str, tags: Mapping[str, str]) -> str:
    """Return the id by which a run is known, given its id in the store and its tags."""
    return tags.get(ORIGINAL_RUN_ID, run_id)


def original_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that a run was logged with, sorted: all but the store's own.

    A description that nfstudy has written is the store's, one that somebody has written is the run's.
    """
    return {
        name: text
        for name, text in sorted(tags.items())
        if name not in STORES_OWN and not (name == MlflowTag.NOTE and is_written(text))
    }
