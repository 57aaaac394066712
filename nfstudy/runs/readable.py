"""What tags a run must have so that it can be placed, and what is wrong where somebody has edited them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

from nfstudy.runs.tags import Tag


class Form(NamedTuple):
    """What a tag's text must be."""

    pattern: str
    words: str


KEY = Form(r"[0-9a-f]{16}", "16 hex digits")
COUNT = Form(r"[0-9]{1,9}", "a whole number")
TAGS = {
    Tag.STUDY: Form(r"[a-z0-9][a-z0-9_-]{0,62}", "a study's name"),
    Tag.CELL: KEY,
    Tag.SETTINGS: KEY,
    Tag.STAGE: Form(r"repetition|search|rerun", "repetition, search, rerun"),
    Tag.INDEX: COUNT,
}
"""Tags that every run has, and the form of each."""
OPTIONAL_TAGS = {
    Tag.OUTCOME: Form(r"finished|diverged|pruned|failed", "finished, diverged, pruned, failed"),
    Tag.UPDATE: Form(r"[0-9]{1,15}", "a whole number"),
    Tag.RERUN_OF: Form(r"[0-9a-f]{32}", "32 hex digits"),
    Tag.ATTEMPT: COUNT,
}
"""Tags that reports read as numbers or ids, and the form of each. Any other tag is carried as it is."""
SHOWN = 80
"""Characters of a text that a message shows."""


def trouble(tags: Mapping[str, str | None]) -> str:
    """Say why a run cannot be told by its tags from others of its study; empty where it can.

    `TAG: got 'TEXT'; expected: FORM`, of the first tag that has not its form.
    """
    forms = TAGS | {tag: form for tag, form in OPTIONAL_TAGS.items() if tag in tags}
    for tag, form in forms.items():
        text = tags.get(tag)
        if text is None or not re.fullmatch(form.pattern, text, re.ASCII):
            return f"tag {tag}: {_got(text)}; expected: {form.words}"
    if not is_object(tags.get(Tag.POINT) or ""):
        return f"tag {Tag.POINT}: {_got(tags.get(Tag.POINT))}; expected: a JSON object, setting -> value"
    axis, index = tags.get(Tag.REPETITION), tags[Tag.INDEX]
    if axis is not None and tags[Tag.STAGE] != "search" and axis != index:
        return f"tag {Tag.INDEX}: {_got(index)}; expected: that of {Tag.REPETITION}, {axis[:SHOWN]}"
    return ""


def is_object(text: str) -> bool:
    """Say whether a text is a JSON object."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _got(text: str | None) -> str:
    return "is missing" if text is None else f"got {text[:SHOWN]!r}"
