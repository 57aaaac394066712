"""A composed YAML document that knows where each of its values stands, so that every complaint can name its place.

YAML is composed into nodes, which keep their positions, and only then turned into plain values: YAML 1.2 (so that
`1e-3` is a number and `no` a word), no tags, no repeated keys, and limits on size, depth and what aliases unfold to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from nfstudy.core.errors import SpecError

MAX_DEPTH = 20
MAX_NODES = 20_000
VERSION = (1, 2)
MAX_INTEGER = 2**128
"""Far beyond any setting's range. Python refuses to print integers of thousands of digits, which hexadecimal ones may
have."""

Place = tuple[str | int, ...]
"""Keys and indices that lead to a value, such as ("grid", "flow.length", 2)."""


Mistake = tuple[Place, str]
"""Where, and what is wrong there and what was allowed."""

UNKNOWN = "unknown key"
"""How a message begins that is about a key, not about its value."""


def shown(value: Any) -> str:
    """Return a value as messages show it."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, tuple):
        return "a list"
    if value is None:
        return "nothing (null)"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


class Document:
    """The nodes of one file; an empty file has none."""

    def __init__(self, text: str, name: str) -> None:
        """Compose a text; raises SpecError where it is not YAML, or nested too deep."""
        self.name = name
        self.lines = text.splitlines()
        yaml = YAML(typ="safe", pure=True)
        try:
            self._check_limits(yaml, text)
            self.root: Node | None = yaml.compose(text)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line, column = (mark.line, mark.column) if mark else (0, 0)
            raise SpecError(self._located(line, column, f"is not YAML: {error.problem or error.context}")) from None
        except (YAMLError, RecursionError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise SpecError(f"{name}: is not YAML: {reason}; expected: one YAML document") from None
        self._constructor = yaml.constructor

    def _check_limits(self, yaml: YAML, text: str) -> None:
        """Refuse deep nesting before anything recurses into it."""
        depth = 0
        for event in yaml.parse(text):
            kind = type(event).__name__
            if kind == "DocumentStartEvent" and tuple(event.version or VERSION) != VERSION:
                mark, version = event.start_mark, ".".join(map(str, event.version))
                message = f"is of YAML {version}, where `yes` is true and 010 is 8; expected: no version, or %YAML 1.2"
                raise SpecError(self._located(mark.line, mark.column, message))
            depth += kind in ("MappingStartEvent", "SequenceStartEvent")
            depth -= kind in ("MappingEndEvent", "SequenceEndEvent")
            if depth > MAX_DEPTH:
                mark = event.start_mark
                message = f"is nested more than {MAX_DEPTH} deep; expected: at most {MAX_DEPTH} levels"
                raise SpecError(self._located(mark.line, mark.column, message))

    def tree(self) -> Any:
        """Return the plain values: dict, tuple, str, int, float, bool, None; raises SpecError for any others."""
        if self.root is None:
            raise SpecError(f"{self.name}: is empty; expected: a mapping")
        self._unfolded = 0
        return self._plain(self.root, ())

    def _plain(self, node: Node, above: tuple[Node, ...]) -> Any:
        self._unfolded += 1
        if self._unfolded > MAX_NODES or any(node is outer for outer in above):
            message = f"is beyond {MAX_NODES:,} keys and values, those of aliases included; expected: at most so many"
            raise SpecError(self._at(node, message))
        if isinstance(node, SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return tuple(self._plain(child, (*above, node)) for child in node.value)
        if isinstance(node, MappingNode) and node.tag == "tag:yaml.org,2002:map":
            mapping: dict[str, Any] = {}
            for key_node, value_node in node.value:
                key = self._plain(key_node, (*above, node))
                if not isinstance(key, str) or key == "<<":
                    raise SpecError(self._at(key_node, f"got the key {shown(key)}; expected: plain words as keys"))
                if key in mapping:
                    raise SpecError(self._at(key_node, f"the key '{key}' is duplicated; expected: once"))
                mapping[key] = self._plain(value_node, (*above, node))
            return mapping
        tag = str(node.tag).removeprefix("tag:yaml.org,2002:")
        if not isinstance(node, ScalarNode) or tag not in ("str", "int", "float", "bool", "null"):
            message = f"got a value of YAML type '{tag}'; expected: text, numbers, true, false, null, lists, mappings"
            raise SpecError(self._at(node, message))
        try:
            value = self._constructor.construct_object(node)
            if isinstance(value, int) and abs(value) > MAX_INTEGER:
                raise ValueError
            return value
        except (YAMLError, ValueError):
            raise SpecError(self._at(node, f"got {shown(node.value)}; expected: a readable value")) from None

    def fail(self, mistakes: Iterable[Mistake]) -> None:
        """Raise one SpecError that lists all mistakes with their places, if there are any."""
        messages = []
        for where, message in mistakes:
            path, key, value, missing = self._find(where)
            node = value if isinstance(value, ScalarNode) and not message.startswith(UNKNOWN) else key
            key_path = ".".join(map(str, (*path, *missing)))
            messages.append(self._at(node, f"{key_path}: {message}" if key_path else message))
        if messages:
            raise SpecError("\n".join(dict.fromkeys(messages)))

    def holds(self, place: Place) -> bool:
        """Say whether something stands at a place."""
        return self._find(place)[0] == place

    def _find(self, where: Place) -> tuple[Place, Node, Node, Place]:
        """Return the part of `where` that stands in the file, its key's and value's nodes, and the part that does not.

        pydantic's paths hold the tags of unions besides keys: parts that stand nowhere are left out, but for the last.
        """
        assert self.root is not None
        key, value, found = self.root, self.root, []
        missing: Place = ()
        for position, part in enumerate(where):
            nodes = _entries(value)
            if part in nodes:
                key, value = nodes[part]
                found.append(part)
            elif position == len(where) - 1 and isinstance(part, str) and part.isidentifier() and part[0].islower():
                missing = (part,)
        return tuple(found), key, value, missing

    def _at(self, node: Node, message: str) -> str:
        return self._located(node.start_mark.line, node.start_mark.column, message)

    def _located(self, line: int, column: int, message: str) -> str:
        text = self.lines[line] if line < len(self.lines) else ""
        head = f"{self.name}:{line + 1}:{column + 1}: {message}"
        return f"{head}\n    {line + 1:>4} | {text[:160]}\n         | {' ' * column}^" if column < 160 else head


def _entries(node: Node) -> dict[str | int, tuple[Node, Node]]:
    """Return the nodes of each entry's key (an item's own, in a list) and value."""
    if isinstance(node, MappingNode):
        return {key.value: (key, value) for key, value in node.value}
    if isinstance(node, SequenceNode):
        return {index: (child, child) for index, child in enumerate(node.value)}
    return {}
