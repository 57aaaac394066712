"""A study file's text -> `StudySpec`, or one `SpecError` that lists every mistake with its file, line and key path.

YAML is composed into nodes, which keep their positions, and only then turned into plain values: YAML 1.2 (so that
`1e-3` is a number and `no` a word), no tags, no repeated keys, and limits on size, depth and what aliases unfold to.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from nfstudy.cells import expand_cells
from nfstudy.errors import SpecError
from nfstudy.spec import SETTING_DEFAULTS, Range, Sampling, Settings, StudySpec

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
MAX_NODES = 20_000

SECTIONS = tuple(Settings.model_fields)
KEYS = (*(key for key in StudySpec.model_fields if key != "settings"), *SECTIONS)
OVERRIDABLE = (*(path for path in SETTING_DEFAULTS if not path.startswith("train.schedule.")), "data.name")


def read_study(path: Path | str) -> StudySpec:
    """Read and check a study file.

    Raises:
        SpecError: the file is missing, empty, not YAML, too large, or not a valid study. Nothing has been started.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise SpecError(f"{path}: no such study file; allowed: the path of a YAML file") from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(raw) > MAX_BYTES:
        raise SpecError(f"{path}: {len(raw):,} bytes; allowed: a study file of at most {MAX_BYTES:,} bytes")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: byte {error.start} is not UTF-8; allowed: text in UTF-8") from None
    return parse_study(text, str(path))


def parse_study(text: str, name: str) -> StudySpec:
    """Check a study's text; `name` is what messages call the file. Raises `SpecError`."""
    document = _Document(text, name)
    tree = document.tree()
    if not isinstance(tree, dict):
        document.fail([((), f"got {_shown(tree)}; allowed: a mapping with the keys {', '.join(KEYS)}")])
    document.refuse_unknown((), tree, KEYS)

    settings = {key: tree.pop(key) for key in SECTIONS if key in tree}
    mistakes = list(_field_mistakes(Settings, settings))
    study = {**tree, "settings": {"data": {"name": "digits"}}, "budgets": _budgets(document, tree)}
    study.setdefault("budget", _default_budget(study["budgets"]))
    mistakes += _field_mistakes(StudySpec, study)
    document.fail(mistakes)

    spec = StudySpec.model_validate({**study, "settings": Settings.model_validate(settings)})
    document.fail(_meaning_mistakes(spec, tree))
    for budget in spec.budgets:
        try:
            expand_cells(spec, budget)
        except SpecError as error:
            document.fail([(("budgets", budget) if budget in tree.get("budgets", {}) else ("grid",), str(error))])
    return spec


def _budgets(document: _Document, tree: dict[str, Any]) -> dict[str, Any]:
    """Split each budget's flat mapping into its own keys and the settings it changes."""
    budgets = tree.get("budgets", {"default": {}})
    if not isinstance(budgets, dict):
        document.fail([(("budgets",), f"got {_shown(budgets)}; allowed: a mapping of budget names")])
    split = {}
    for name, changes in budgets.items():
        where = ("budgets", name)
        if not isinstance(changes, dict):
            document.fail([(where, f"got {_shown(changes)}; allowed: a mapping of settings to values")])
        own = {key: changes[key] for key in ("repetitions", "trials") if key in changes}
        others = {key: value for key, value in changes.items() if key not in own}
        document.refuse_unknown(where, others, ("repetitions", "trials", "train.schedule", *OVERRIDABLE))
        split[name] = {"settings": others, **own}
    return split


def _default_budget(budgets: Mapping[str, Any]) -> str:
    return "laptop" if "laptop" in budgets else next(iter(budgets), "")


def _meaning_mistakes(spec: StudySpec, tree: dict[str, Any]) -> Iterator[Mistake]:
    """Yield what types cannot say: names that must exist, values each axis may take, exhibits that can be made."""
    if spec.budget not in spec.budgets:
        yield ("budget",), f"got '{spec.budget}'; allowed: {', '.join(spec.budgets)}"
    axes = [(("grid", path), path, axis) for path, axis in spec.grid.items()]
    if spec.search:
        axes += [(("search", "space", path), path, axis) for path, axis in spec.search.space.items()]
    for where, path, axis in axes:
        if path not in OVERRIDABLE:
            yield where, f"no such setting; allowed: {', '.join(OVERRIDABLE)}{_suggest(path, OVERRIDABLE)}"
        elif isinstance(axis, Range):
            if where[0] == "grid" and not isinstance(spec.sampler, Sampling):
                yield where, "got a range; allowed: a list of values (a range needs a sampler other than exhaustive)"
            for end in ("low", "high"):
                yield from _value_mistakes(spec.settings, (*where, end), path, getattr(axis, end))
        else:
            for index, value in enumerate(axis):
                yield from _value_mistakes(spec.settings, (*where, index), path, value)
                if value in axis[:index]:
                    yield (*where, index), f"got {_shown(value)} a second time; allowed: each value once"
    if spec.search:
        for path in spec.search.space.keys() & spec.grid.keys():
            yield ("search", "space", path), "is an axis of the grid too; allowed: in one of the two"
    for name, budget in spec.budgets.items():
        for path, value in budget.settings.items():
            yield from _value_mistakes(spec.settings, ("budgets", name, path), path, value)
            if path in spec.grid or (spec.search and path in spec.search.space):
                yield ("budgets", name, path), "is an axis of the grid or of the search; allowed: any other setting"
    for index, exhibit in enumerate(spec.exhibits):
        if exhibit in ("table-2", "figure-4") and spec.settings.data.name != "mnist":
            yield ("exhibits", index), f"got '{exhibit}' on {spec.settings.data.name}; allowed: with data.name mnist"


def _value_mistakes(settings: Settings, where: Path_, path: str, value: Any) -> Iterator[Mistake]:
    """Yield what makes `value` impossible for the setting at `path`, whatever the other settings are."""
    section, *rest = path.split(".")
    record = type(getattr(settings, section)) if rest else Settings
    field = rest[-1] if rest else section
    base = {"name": "digits"} if section == "data" else {}
    try:
        record.model_validate({**base, field: value}) if rest else settings.replace({path: value})
    except ValidationError as error:
        for details in error.errors():
            tail = tuple(part for part in details["loc"][1:] if isinstance(value, Mapping) and part in value)
            yield (*where, *tail), _explain(details, value if not tail else details["input"])


def _field_mistakes(record: type[BaseModel], values: dict[str, Any]) -> Iterator[Mistake]:
    try:
        record.model_validate(values)
    except ValidationError as error:
        for details in error.errors():
            yield tuple(details["loc"]), _explain(details, details["input"])


Path_ = tuple[str | int, ...]
Mistake = tuple[Path_, str]


def _explain(details: Mapping[str, Any], seen: Any) -> str:
    """Turn one of pydantic's error records into 'got ...; allowed: ...'."""
    kind, message, context = details["type"], details["msg"], details.get("ctx", {})
    if kind == "missing":
        return "is missing; allowed: a value for this key"
    if kind == "extra_forbidden":
        return "unknown key; allowed: only keys of this section"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"got {_shown(seen)}; allowed: {context['expected']}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        got = context.get("tag", _shown(seen))
        return f"got {got}; allowed: a name among {context.get('expected_tags', 'the known ones')}"
    if kind == "string_pattern_mismatch":
        return f"got {_shown(seen)}; allowed: text that matches {context['pattern']}"
    return f"got {_shown(seen)}; allowed: {message.removeprefix('Input should be ').removeprefix('a valid ')}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, tuple):
        return "a list"
    if value is None:
        return "nothing (null)"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _suggest(word: str, allowed: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(word), list(allowed), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


class _Document:
    """The composed YAML of one study file: its plain values, and where each of them stands."""

    def __init__(self, text: str, name: str) -> None:
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
            raise SpecError(f"{name}: is not YAML: {reason}; allowed: one YAML document") from None
        self._constructor = yaml.constructor

    def _check_limits(self, yaml: YAML, text: str) -> None:
        """Refuse deep nesting before anything recurses into it."""
        depth = 0
        for event in yaml.parse(text):
            kind = type(event).__name__
            depth += kind in ("MappingStartEvent", "SequenceStartEvent")
            depth -= kind in ("MappingEndEvent", "SequenceEndEvent")
            if depth > MAX_DEPTH:
                mark = event.start_mark
                message = f"is nested more than {MAX_DEPTH} deep; allowed: at most {MAX_DEPTH} levels"
                raise SpecError(self._located(mark.line, mark.column, message))

    def tree(self) -> Any:
        """Return the plain values: dict, tuple, str, int, float, bool, None."""
        if self.root is None:
            raise SpecError(f"{self.name}: is empty; allowed: a mapping with the keys {', '.join(KEYS)}")
        self._unfolded = 0
        return self._plain(self.root, ())

    def _plain(self, node: Node, above: tuple[Node, ...]) -> Any:
        self._unfolded += 1
        if self._unfolded > MAX_NODES or any(node is outer for outer in above):
            message = f"aliases unfold to more than {MAX_NODES:,} values; allowed: at most {MAX_NODES:,}"
            raise SpecError(self._at(node, message))
        if isinstance(node, SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return tuple(self._plain(child, (*above, node)) for child in node.value)
        if isinstance(node, MappingNode) and node.tag == "tag:yaml.org,2002:map":
            mapping: dict[str, Any] = {}
            for key_node, value_node in node.value:
                key = self._plain(key_node, (*above, node))
                if not isinstance(key, str) or key == "<<":
                    raise SpecError(self._at(key_node, f"got the key {_shown(key)}; allowed: plain words as keys"))
                if key in mapping:
                    raise SpecError(self._at(key_node, f"the key '{key}' stands twice; allowed: once"))
                mapping[key] = self._plain(value_node, (*above, node))
            return mapping
        tag = str(node.tag).removeprefix("tag:yaml.org,2002:")
        if not isinstance(node, ScalarNode) or tag not in ("str", "int", "float", "bool", "null"):
            message = f"got a value of YAML type '{tag}'; allowed: text, numbers, true, false, null, lists, mappings"
            raise SpecError(self._at(node, message))
        try:
            return self._constructor.construct_object(node)
        except (YAMLError, ValueError):
            raise SpecError(self._at(node, f"got {_shown(node.value)}; allowed: a readable value")) from None

    def refuse_unknown(self, where: Path_, mapping: Mapping[str, Any], allowed: Iterable[str]) -> None:
        """Raise for keys of `mapping` (which stands at `where`) that are not allowed."""
        allowed = tuple(allowed)
        mistakes = [
            ((*where, key), f"unknown key; allowed: {', '.join(allowed)}{_suggest(key, allowed)}")
            for key in mapping
            if key not in allowed
        ]
        self.fail(mistakes)

    def fail(self, mistakes: Iterable[Mistake]) -> None:
        """Raise one `SpecError` that lists all mistakes, if there are any."""
        messages = []
        for where, message in mistakes:
            path, node, missing = self._find(where)
            if message.startswith("unknown key; allowed: only"):
                message = self._name_allowed(path, message)
            messages.append(self._at(node, f"{'.'.join(map(str, (*path, *missing)))}: {message}"))
        if messages:
            raise SpecError("\n".join(dict.fromkeys(messages)))

    def _name_allowed(self, path: Path_, message: str) -> str:
        record: Any = Settings if path[0] in SECTIONS else StudySpec
        for part in path[:-1]:
            field = record.model_fields.get(part) if isinstance(record, type) else None
            record = field.annotation if field else None
        if not (isinstance(record, type) and issubclass(record, BaseModel)):
            return f"unknown key; allowed: the keys of this {path[-2]}"
        allowed = tuple(record.model_fields)
        return f"unknown key; allowed: {', '.join(allowed)}{_suggest(str(path[-1]), allowed)}"

    def _find(self, where: Path_) -> tuple[Path_, Node, Path_]:
        """Return the part of `where` that stands in the file, its node, and the part that does not.

        pydantic's paths hold the tags of unions besides keys: parts that stand nowhere are left out, but for the last.
        """
        container, node, found = self.root, self.root, []
        missing: Path_ = ()
        where = where[1:] if where[:1] == ("settings",) else where
        for position, part in enumerate(where):
            nodes = _children(container)
            if part in nodes:
                node, container = nodes[part]
                found.append(part)
            elif position == len(where) - 1 and isinstance(part, str) and part[:1].islower():
                missing = (part,)
        return tuple(found), node, missing

    def _at(self, node: Node, message: str) -> str:
        return self._located(node.start_mark.line, node.start_mark.column, message)

    def _located(self, line: int, column: int, message: str) -> str:
        shown = self.lines[line] if line < len(self.lines) else ""
        head = f"{self.name}:{line + 1}:{column + 1}: {message}"
        return f"{head}\n    {line + 1:>4} | {shown[:160]}\n         | {' ' * column}^" if column < 160 else head


def _children(node: Node | None) -> dict[str | int, tuple[Node, Node]]:
    """Return part -> (the node a message points at, the node to go on from)."""
    if isinstance(node, MappingNode):
        return {key.value: (value if isinstance(value, ScalarNode) else key, value) for key, value in node.value}
    if isinstance(node, SequenceNode):
        return {index: (child, child) for index, child in enumerate(node.value)}
    return {}
