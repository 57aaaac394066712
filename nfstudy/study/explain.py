"""pydantic's errors in the words of a study file: `got ...; expected: ...`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nfstudy.core.suggest import did_you_mean
from nfstudy.study.yaml_document import UNKNOWN, shown

_KINDS = {
    "int_type": "integer",
    "int_from_float": "integer",
    "float_type": "number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list, in [ ]",
    "list_type": "a list, in [ ]",
    "none_required": "null",
    "finite_number": "finite number",
    "int_parsing_size": "integer of at most 18 digits",
}
"""pydantic's name of an error -> what would be right."""
_COUNTED = {
    "too_short": ("at least {min_length} item{s}", "min_length"),
    "too_long": ("at most {max_length} item{s}", "max_length"),
    "string_too_short": ("text of at least {min_length} character{s}", "min_length"),
    "string_too_long": ("text of at most {max_length} character{s}", "max_length"),
}
_PATTERNS = {
    r"^[a-z0-9][a-z0-9_-]{0,62}$": "at most 63 small letters, digits, - and _, the first a letter or digit",
}
MAPPINGS = ("dict_type", "model_type", "model_attributes_type", "mapping_type")
"""Errors of what should be a mapping."""


def explain(details: Mapping[str, Any], seen: Any, keys: tuple[str, ...] = ()) -> str:
    """Return one of pydantic's error records as `got ...; expected: ...`.

    Arguments:
        details: the record.
        seen: the value that stands in the file.
        keys: those that a mapping there may have, where one is expected.
    """
    kind, message, context = details["type"], details["msg"], details.get("ctx", {})
    if kind == "missing" and details["loc"] and isinstance(details["loc"][-1], int):
        return f"ends too early; expected: at least {details['loc'][-1] + 1} items"
    if kind == "missing":
        return "is missing; expected: a value for this key"
    if kind == "extra_forbidden":
        return UNKNOWN
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        names = re.findall(r"'([^']*)'", context["expected"])
        return f"got {shown(seen)}; expected: {context['expected']}{did_you_mean(seen, names)}"
    if kind == "union_tag_invalid":
        names = re.findall(r"'([^']*)'", context["expected_tags"])
        hint = did_you_mean(context["tag"], names)
        return f"got {context['tag']}; expected: a name among {context['expected_tags']}{hint}"
    if kind == "union_tag_not_found":
        return f"got {shown(seen)} without a name; expected: a mapping with a 'name', such as {{name: ...}}"
    if kind == "string_pattern_mismatch":
        allowed = _PATTERNS.get(context["pattern"], f"text that matches {context['pattern']}")
    elif kind in _COUNTED:
        words, limit = _COUNTED[kind]
        allowed = words.format(s="" if context[limit] == 1 else "s", **context)
    elif kind in MAPPINGS:
        allowed = f"a mapping with the keys {', '.join(keys)}" if keys else "a mapping"
    else:
        allowed = _KINDS.get(kind) or message.removeprefix("Input should be ").removeprefix("a valid ")
    return f"got {shown(seen)}; expected: {allowed}"
