"""A study file's text -> `StudySpec`, or one `SpecError` that lists every mistake with its file, line and key path."""

from __future__ import annotations

import copy
import difflib
import errno
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from nfstudy.core import registry
from nfstudy.core.declarations import unmet_need
from nfstudy.core.errors import DataError, SpecError
from nfstudy.core.fields import OpenRecord
from nfstudy.core.hints import described, fits
from nfstudy.core.plugins import install, read_plugin
from nfstudy.core.reading import read_regular
from nfstudy.core.suggest import did_you_mean
from nfstudy.data import resolve_settings
from nfstudy.study.explain import RECORDS, explain
from nfstudy.study.formerly import former_mistakes
from nfstudy.study.points import point_mistakes
from nfstudy.study.searches import numbers_of, range_mistakes, sampler_axis_mistakes, search_mistakes
from nfstudy.study.sections import DataSpec
from nfstudy.study.settings import CHOICES, Settings, setting_defaults
from nfstudy.study.settings import SECTIONS as USED_SECTIONS
from nfstudy.study.spec import LIST, NO_SEARCH, RANGE, SEARCH_SAMPLER, Range, Sampling, StudySpec
from nfstudy.study.yaml_document import UNKNOWN, Document, Mistake, Place, shown

MAX_BYTES = 256 * 1024
TRIES = 100
"""How often values are taken away until a record accepts the others."""

SECTIONS = tuple(Settings.model_fields)
KEYS = (*(key for key in StudySpec.model_fields if key not in ("settings", "options")), *SECTIONS)
OWN_KEYS = ("formerly", "repetitions", "trials", "search", "search.settings")
"""Of a budget, beside the settings that it changes."""
BUDGET_NAME, BUDGET_LENGTH = r"[\w .:/-]+", 200
"""What a budget may be called: it is part of a name in MLflow and, as in addresses, of one of a folder."""
BUDGET_RULE = f"a name of letters, digits, blanks and . : / - _, at most {BUDGET_LENGTH} characters in an address"
ONCE = "varies what data are read; expected: under 'data', one source of files a study"
PLACEHOLDER = {"data": {"name": "digits"}}
"""Settings that stand in for a study's own while its other keys are checked."""


def overridable() -> tuple[str, ...]:
    """Return the dotted paths of the settings that a grid, a search or a budget may change."""
    return (*(path for path in setting_defaults() if not path.startswith("train.schedule.")), *CHOICES)


def read_study(path: Path | str) -> StudySpec:
    """Read and check a study file.

    Raises:
        SpecError: the file is missing, empty, not YAML, too large, or not a valid study. Nothing has been started.
    """
    path = Path(path)
    try:
        raw = read_regular(path, MAX_BYTES)
    except FileNotFoundError:
        raise SpecError(f"{path}: no such study file; expected: the path of a YAML file{_meant(path)}") from None
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise SpecError(f"{path}: is larger; expected: a study file of at most {MAX_BYTES:,} bytes") from None
        raise SpecError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: byte {error.start} is not UTF-8; expected: text in UTF-8") from None
    return parse_study(text, str(path))


def _meant(path: Path) -> str:
    """Return which study file may have been meant: one beside it, or among those of `studies/` here."""
    near = {path.parent, path.parent / "studies", Path(), Path("studies")}
    found = {str(other): other.stem for folder in near for other in (*folder.glob("*.yaml"), *folder.glob("*.yml"))}
    close = difflib.get_close_matches(path.stem, found.values(), n=1)
    meant = sorted((name for name, stem in found.items() if close and stem == close[0]), key=len)
    return f"; did you mean '{meant[0]}'?" if meant else ""


def study_files(folder: Path) -> list[Path]:
    """Return the files of a folder that may be studies, by their names' ends."""
    return [*folder.glob("*.yaml"), *folder.glob("*.yml")]


def read_studies(folder: Path) -> dict[Path, StudySpec]:
    """Read and check every study file of a folder, in the order of their names.

    Raises:
        SpecError: the folder holds none, one of them is not valid, or two have one name.
    """
    studies = {path: read_study(path) for path in sorted(study_files(folder), key=lambda p: (p.stem, p.suffix))}
    if not studies:
        raise SpecError(f"{folder}: contains no study files; expected: a folder with STUDY.yaml files")
    names = [study.study for study in studies.values()]
    for path, study in studies.items():
        if names.count(study.study) > 1:
            raise SpecError(f"{path}: study: got '{study.study}' as in another file; expected: one file per study")
    return studies


def require_sole(path: Path, study: str, root: Path) -> None:
    """Make sure that no other study file has a study's name: both would write into one experiment and one report.

    Arguments:
        path: the study's file.
        study: its name.
        root: the project's folder; the files beside `path`, there and in its `studies/` are looked at.

    Raises:
        SpecError: another one has; one with the same bytes is no other.
    """
    own = b""
    with suppress(OSError):
        own = path.read_bytes()
    folders = dict.fromkeys(folder.resolve() for folder in (path.parent, root, root / "studies"))
    for other in (each for folder in folders for each in sorted(study_files(folder))):
        try:
            content = own if other.samefile(path) else read_regular(other, MAX_BYTES)
        except OSError:
            continue  # What cannot be read, such as a link that leads nowhere, cannot be run either.
        if content != own and study.encode() in content and _name_in(content, other) == study:
            raise SpecError(
                f"{path}: study: got '{study}' as in {other}; expected: a name of its own, since runs and reports "
                "are kept by it"
            )


def _name_in(content: bytes, path: Path) -> Any:
    """Return what a file calls its study; None where it is no study file."""
    try:
        tree = Document(content.decode(), str(path)).tree()
    except (SpecError, UnicodeDecodeError):
        return None
    return tree.get("study") if isinstance(tree, dict) else None


def parse_study(text: str, name: str) -> StudySpec:
    """Check a study's text; `name` is what messages call the file. Raises `SpecError`."""
    document = Document(text, name)
    tree = document.tree()
    if not isinstance(tree, dict):
        document.fail([((), f"got {shown(tree)}; expected: a mapping with the keys {', '.join(KEYS)}")])
    mistakes = [*_unknown_keys((), tree, KEYS)]
    tree = {key: value for key, value in tree.items() if key in KEYS}
    if outside := [*_install_plugins(tree.get("plugins", ()), Path(name).parent)]:
        document.fail([*mistakes, *outside])  # Without them, half of the names would not be known.

    settings = {key: tree.pop(key) for key in SECTIONS if key in tree}
    study = {**tree, "settings": PLACEHOLDER, "budgets": _budgets(tree, mistakes)}
    mistakes += _split_exhibits(study)
    study.setdefault("budget", _default_budget(study["budgets"]))
    mistakes += [*_field_mistakes(Settings, settings), *_field_mistakes(StudySpec, study)]
    # What is wrong so far is left out, so that all else can be looked at too.
    study = without_mistakes(StudySpec, study, {"study": "x", "title": "x", "exhibits": ("summary",), "budget": ""})
    settings = without_mistakes(Settings, settings, {})
    if not any(where[:1] == ("data",) for where, _ in mistakes):
        mistakes += _resolve_data(settings, Path(name).parent)
        mistakes += [found for found in _field_mistakes(Settings, settings) if not mistakes]
    try:
        spec = StudySpec.model_validate({**study, "settings": Settings.model_validate(settings)})
    except ValidationError:  # Settings that are impossible together: what a grid means is told once that is mended.
        document.fail([*mistakes, *_name_mistakes(study)])
        raise
    document.fail([*mistakes, *_meaning_mistakes(spec, bool(mistakes))])
    for budget in spec.budgets:
        try:
            spec.under(budget).check()
        except SpecError as error:
            place = _blamed(document, str(error), budget)
            words = str(error).removeprefix(f"{'.'.join(map(str, place))}: ")
            under = f" (under budget {budget})" if len(spec.budgets) > 1 and place[:1] != ("budgets",) else ""
            document.fail([(place, words + under)])
    document.fail([*former_mistakes(spec)])
    return spec


def _install_plugins(names: Any, folder: Path) -> Iterator[Mistake]:
    """Run what the study names as plug-ins, so that it may use what they declare; yield what is wrong with them."""
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        yield ("plugins",), f"got {shown(names)}; expected: a list of files that end in .py, or of modules"
        return
    for index, name in enumerate(names):
        # A run keeps its plug-ins' files by their names alone.
        if Path(name).name in [Path(other).name for other in names[:index]]:
            yield ("plugins", index), f"got '{name}', a file name that is there already; expected: each file name once"
            continue
        try:
            install(read_plugin(name, folder))
        except SpecError as error:
            yield ("plugins", index), str(error)


def _resolve_data(settings: dict[str, Any], folder: Path) -> Iterator[Mistake]:
    """Put in what only a look at the data can tell; yield why the data are not as the settings say."""
    if "data" not in settings:
        return
    data = DataSpec.model_validate(settings["data"])
    try:
        settings["data"] = {**settings["data"], **resolve_settings(data, folder)}
    except DataError as error:
        yield ("data", "path"), str(error)


def _budgets(tree: dict[str, Any], mistakes: list[Mistake]) -> dict[str, Any]:
    """Split each budget's flat mapping into its own keys and the settings it changes; add what is wrong with them."""
    budgets = tree.get("budgets", {"default": {}})
    if not isinstance(budgets, dict):
        mistakes.append((("budgets",), f"got {shown(budgets)}; expected: a mapping of budget names"))
        return {"default": {"settings": {}}}
    split = {}
    for name, changes in budgets.items():
        where = ("budgets", name)
        if not re.fullmatch(BUDGET_NAME, name) or len(quote(name, safe="")) > BUDGET_LENGTH:
            mistakes.append((where, f"got {shown(name)}; expected: {BUDGET_RULE}"))
        if not isinstance(changes, dict):
            mistakes.append((where, f"got {shown(changes)}; expected: a mapping of settings to values"))
            changes = {}
        own = {key: changes[key] for key in OWN_KEYS if key in changes}
        others = {key: value for key, value in changes.items() if key not in own}
        unknown = [*_unknown_keys(where, others, (*OWN_KEYS, "train.schedule", *overridable()))]
        mistakes += unknown
        for place, _ in unknown:
            del others[str(place[-1])]
        split[name] = {"settings": others, **own}
    return split


def _split_exhibits(study: dict[str, Any]) -> Iterator[Mistake]:
    """Put the options of exhibits beside their names; yield what is no exhibit with options."""
    if not isinstance(entries := study.get("exhibits"), tuple):
        return
    names, options = [], []
    for index, entry in enumerate(entries):
        if isinstance(entry, dict) and not isinstance(entry.get("name"), str):
            yield ("exhibits", index, "name"), "is missing; expected: the name of an exhibit, as text"
            entry = "summary"  # So that all else is looked at.
        names.append(entry["name"] if isinstance(entry, dict) else entry)
        options.append({k: v for k, v in entry.items() if k != "name"} if isinstance(entry, dict) else {})
    study["exhibits"] = tuple(names)
    if any(options):
        study["options"] = tuple(options)


def _default_budget(budgets: Mapping[str, Any]) -> str:
    return "laptop" if "laptop" in budgets else next(iter(budgets), "")


def _name_mistakes(study: Mapping[str, Any]) -> Iterator[Mistake]:
    """Yield the axes that are no settings, of a study whose settings are not known."""
    search = study.get("search")
    space = search.get("space") if isinstance(search, Mapping) else None
    places: tuple[tuple[Place, Any], ...] = (("grid",), study.get("grid")), (("search", "space"), space)
    for where, axes in places:
        for path in axes if isinstance(axes, Mapping) else ():
            if path not in (*overridable(), *_fixed_settings()):
                yield (*where, path), _no_setting(path)


def _no_setting(path: str) -> str:
    allowed = overridable()
    return f"no such setting; expected: {', '.join(allowed)}{did_you_mean(path, allowed)}"


def _meaning_mistakes(spec: StudySpec, in_part: bool = False) -> Iterator[Mistake]:
    """Yield what types cannot say: names that must exist, values each axis may take, exhibits that can be made.

    Arguments:
        spec: the study.
        in_part: whether some of it stands in for what is wrong in the file; then what depends on that is not told.
    """
    used = USED_SECTIONS[spec.settings.problem]
    for section in sorted(spec.settings.model_fields_set - set(used)):
        yield (section,), f"is not used together with '{used[0]}'; expected: {', '.join(used)}"
    if spec.budget not in spec.budgets and (spec.budget or not in_part):
        hint = did_you_mean(spec.budget, spec.budgets)
        yield ("budget",), f"got {shown(spec.budget)}; expected: {', '.join(spec.budgets)}{hint}"
    axes: list[tuple[Place, str, Any]] = [(("grid", path), path, axis) for path, axis in spec.grid.items()]
    if SEARCH_SAMPLER in spec.grid:
        yield from sampler_axis_mistakes(spec, in_part)
        axes = [axis for axis in axes if axis[1] != SEARCH_SAMPLER]
    if spec.search:
        axes += [(("search", "space", path), path, axis) for path, axis in spec.search.space.items()]
    allowed = overridable()
    fixed = _fixed_settings()
    for where, path, axis in axes:
        if path in fixed:
            yield where, ONCE
        elif path not in allowed:
            yield where, _no_setting(path)
        elif isinstance(axis, Range):
            if where[0] == "grid" and not isinstance(spec.sampler, Sampling) and not in_part:
                yield where, "got a range; expected: a list of values (a range needs a sampler other than exhaustive)"
            yield from range_mistakes(where, path, axis)
            for end in () if numbers_of(path) is None else ("low", "high"):
                yield from value_mistakes(spec.settings, (*where, end), path, getattr(axis, end))
        else:
            for index, value in enumerate(axis):
                yield from value_mistakes(spec.settings, (*where, index), path, value)
                if path == "data.name" and _is_unresolved(spec.settings, value):
                    yield (*where, index), ONCE
                if value in axis[:index]:
                    yield (*where, index), f"got {shown(value)} a second time; expected: each value once"
    yield from point_mistakes(spec)
    for where, path, value in _points(spec):
        if path not in allowed and path not in fixed:
            yield where, _no_setting(path)
        elif path in fixed or (path == "data.name" and _is_unresolved(spec.settings, value)):
            yield where, ONCE
        else:
            yield from value_mistakes(spec.settings, where, path, value)
    if spec.search:
        for path in spec.search.space.keys() & spec.axes.keys():
            yield ("search", "space", path), "is an axis of the grid too; expected: in one of the two"
    yield from search_mistakes(spec, in_part)
    changes: dict[Place, Mapping[str, Any]] = {
        ("budgets", name, "search.settings"): budget.search_settings for name, budget in spec.budgets.items()
    }
    if spec.search:
        changes["search", "settings"] = spec.search.settings
    for place, change in changes.items():
        yield from _unknown_keys(place, change, ("train.schedule", *allowed))
        for path, value in change.items():
            if path in ("train.schedule", *allowed):
                yield from value_mistakes(spec.settings, (*place, path), path, value)
            if path in fixed or path == "data.name":
                yield (*place, path), ONCE
    for name, budget in spec.budgets.items():
        searched = spec.search.space if spec.search and budget.search != NO_SEARCH else {}
        for path, value in budget.settings.items():
            yield from value_mistakes(spec.settings, ("budgets", name, path), path, value)
            if path in fixed or (path == "data.name" and _is_unresolved(spec.settings, value)):
                yield ("budgets", name, path), ONCE
            if path in spec.axes or path in searched:
                yield ("budgets", name, path), "is an axis of the grid or of the search; expected: any other setting"
    flat = spec.settings.flat()
    for index, exhibit in () if in_part else enumerate(spec.exhibits):
        if unmet := unmet_need(registry.find("exhibits", exhibit).needs, flat):
            path, values = unmet
            there = f"{path} {flat[path]}" if path in flat else f"no {path}"
            wanted = " or ".join(map(str, values))
            yield ("exhibits", index), f"got '{exhibit}' with {there}; expected: with {path} {wanted}".rstrip()
        elif values_barred := _barred_values(spec, barred := registry.find("exhibits", exhibit).not_of):
            others = f"with data that are not {' or '.join(barred)}"
            yield ("exhibits", index), f"got '{exhibit}' with data of {values_barred}; expected: {others}"
        if registry.find("exhibits", exhibit).of_search and not (spec.search or isinstance(spec.sampler, Sampling)):
            yield ("exhibits", index), f"got '{exhibit}' without a search; expected: with search, or a sampler"
        yield from _option_mistakes(spec, index, exhibit)


def _points(spec: StudySpec) -> Iterator[tuple[Place, str, Any]]:
    """Yield where each setting of each point stands, its dotted path and its value."""
    for index, point in enumerate(spec.points):
        for path, value in point.items():
            yield ("points", index, path), path, value


def _barred_values(spec: StudySpec, barred: Collection[str]) -> str:
    """Return what the numbers of the study's data are, where they are barred at every choice it makes; else empty."""
    axes: list[Mapping[str, Any]] = [spec.axes, spec.search.space if spec.search else {}]
    choices = [(path, value) for axis in axes for path, values in axis.items() for value in _choices(values)]
    choices += [item for budget in spec.budgets.values() for item in budget.settings.items()]
    changes = [{path: value} for path, value in choices if path.startswith("data.")]
    found = []
    for change in ({}, *changes):
        try:
            data = spec.settings.replace(change).data
        except ValidationError:
            return ""
        found.append(data.values if data else "")
    return found[0] if all(values in barred for values in found) else ""


def _choices(axis: Any) -> Sequence[Any]:
    return axis if isinstance(axis, tuple) else ()


def _option_mistakes(spec: StudySpec, index: int, exhibit: str) -> Iterator[Mistake]:
    """Yield what is wrong with an exhibit's options."""
    where: Place = ("exhibits", index)
    given = spec.options[index] if spec.options else {}
    record = registry.find("exhibits", exhibit).options
    if record is None:
        for key in given:
            yield (*where, key), f"{UNKNOWN}; expected: no options, as {exhibit} has none"
        return
    try:
        options = record.model_validate(given)
    except ValidationError as error:
        for details in error.errors():
            message = explain(details, details["input"])
            if message == UNKNOWN:
                message = _unknown((details["loc"][-1],), tuple(record.model_fields))
            yield (*where, *details["loc"]), message
        return
    axes = options.axes()
    if not fits(axes, Mapping[str, str]):
        yield where, f"axes of its options: returned {shown(axes)}; expected: {described(Mapping[str, str])}"
        return
    for key, axis in axes.items():
        if axis not in spec.varied:
            ways = ", ".join(spec.varied) or "there is none"
            yield (*where, key), f"got '{axis}'; expected: an axis of the grid or of the search: {ways}"


def _fixed_settings() -> set[str]:
    """Return the dotted paths of the settings that a study has one value of."""
    return {f"data.{field}" for source in registry.all_of("data").values() for field in source.fixed}


def _is_unresolved(settings: Settings, name: Any) -> bool:
    """Say whether a source needs a look at the data, which a study has only at its own one."""
    source = registry.all_of("data").get(name) if isinstance(name, str) else None
    return bool(source and source.resolve and settings.data and settings.data.name != name)


def value_mistakes(settings: Settings, where: Place, path: str, value: Any) -> Iterator[Mistake]:
    """Yield what makes `value` impossible for the setting at `path`, whatever the other settings are."""
    section, *rest = path.split(".")
    used = USED_SECTIONS[settings.problem]
    if section not in used:
        yield where, f"got {shown(value)}, but the study has no use of '{section}'; expected: {', '.join(used)}"
        return
    present = getattr(settings, section)
    record = type(present) if rest else Settings
    field = rest[-1] if rest else section
    base = {key: kept for key, kept in present.model_dump().items() if f"{section}.{key}" in CHOICES} if rest else {}
    try:
        record.model_validate({**base, field: value}) if rest else settings.replace({path: value})
    except ValidationError as error:
        for details in error.errors():
            tail = tuple(part for part in details["loc"][1:] if isinstance(value, Mapping) and part in value)
            yield (*where, *tail), explain(details, value if not tail else details["input"])


def without_mistakes(
    record: type[BaseModel], values: Mapping[str, Any], stand_ins: Mapping[str, Any]
) -> dict[str, Any]:
    """Return values without those that a record refuses, and `stand_ins` for what it must have.

    What remains may still be refused as a whole.
    """
    kept = copy.deepcopy(dict(values))
    for _ in range(TRIES):
        try:
            record.model_validate(kept)
        except ValidationError as error:
            dropped = [_drop(kept, tuple(details["loc"]), stand_ins) for details in error.errors()]
            if not any(dropped):
                break
        else:
            break
    return kept


def _drop(tree: dict[str, Any], place: Place, stand_ins: Mapping[str, Any]) -> bool:
    """Take away what stands at a place of nested mappings, or else what holds it; say whether anything was."""
    branch, key = tree, ""
    for part in place:
        inner = branch.get(key) if key else branch
        if not isinstance(inner, dict) or part not in inner:
            if key:
                continue  # The tag of a union, or a place inside a list.
            break
        branch, key = inner, str(part)
    if not key:
        top = str(place[0]) if place else ""
        if top in stand_ins and tree.get(top) != stand_ins[top]:
            tree[top] = stand_ins[top]
            return True
        return False
    if branch is tree and key in stand_ins:
        changed = bool(tree[key] != stand_ins[key])
        tree[key] = stand_ins[key]
        return changed
    del branch[key]
    return True


def _field_mistakes(record: type[BaseModel], values: dict[str, Any]) -> Iterator[Mistake]:
    try:
        record.model_validate(values)
    except ValidationError as error:
        places = {tuple(details["loc"][:-1]) for details in error.errors()}
        for details in error.errors():
            if details["type"] == "too_short" and tuple(details["loc"]) in places:
                continue  # Since what was there is wrong, which is told of.
            where = tuple(part for part in details["loc"] if part not in (LIST, RANGE))
            keys = _known_keys((*where, "")) if details["type"] in RECORDS else ()
            message = explain(details, details["input"], keys)
            if details["type"] == "union_tag_invalid":
                where = (*where, "name")
            if message == UNKNOWN:
                message = _unknown(where, _known_keys(where))
                if where[:1] == ("search",) and len(where) == 2:
                    message += "; what is chosen by is the validation bound, never the test set"
            if where[:1] == ("settings",):
                where = where[1:]
            if not where:  # Settings that are impossible together: the message begins with the one to blame.
                path, _, message = message.partition(": ")
                where = tuple(path.split("."))
            yield where, message


def _unknown_keys(where: Place, mapping: Mapping[str, Any], allowed: tuple[str, ...]) -> Iterator[Mistake]:
    """Yield the keys of a mapping that are not allowed."""
    for key in mapping:
        if key not in allowed:
            yield (*where, key), _unknown((key,), allowed)


def _unknown(where: Place, allowed: tuple[str, ...]) -> str:
    return f"{UNKNOWN}; expected: {', '.join(allowed)}{did_you_mean(str(where[-1]), allowed)}"


def _blamed(document: Document, message: str, budget: str) -> Place:
    """Return where the setting stands that a message about a cell blames: in its budget, the grid, or its section."""
    found = re.search(r"([a-z_]+(?:\.\w+)+): got", message)
    path = found.group(1) if found else ""
    searched = ("search", "space", path.removeprefix("search.space."))
    gridded = ("grid", path.removeprefix("grid."))
    places: tuple[Place, ...] = (("budgets", budget, path), gridded, tuple(path.split(".")), searched)
    several: Place = ("grid",) if document.holds(("grid",)) and not message.startswith("points: ") else ("points",)
    return next((place for place in places if document.holds(place)), several)


def _known_keys(where: Place) -> tuple[str, ...]:
    """Return the keys that the record at `where`, a pydantic path that ends in an unknown key, does have."""
    records: list[type[BaseModel]] = [Settings if where[0] in SECTIONS else StudySpec]
    for part in where[:-1]:
        tagged = (
            [record for record in records if part in get_args(record.model_fields["name"].annotation)]
            if all("name" in record.model_fields for record in records)
            else []
        )
        fields = [found[str(part)] for record in records if part in (found := _fields(record))]
        records = tagged or [record for field in fields for record in _records_in(field.annotation)] or records
    return tuple(dict.fromkeys(key for record in records for key in _fields(record)))


def _fields(record: type[BaseModel]) -> Mapping[str, Any]:
    return record.fields() if issubclass(record, OpenRecord) else record.model_fields


def _records_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [record for part in get_args(annotation) for record in _records_in(part)]
