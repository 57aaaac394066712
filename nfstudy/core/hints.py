"""Whether a value is what a type hint says, for records that other people write, and what to call it if not."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

NAMES = {
    Any: "anything",
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    NoneType: "None",
}
NUMBERS = {int: Integral, float: Real}
"""numpy's count too."""
LONGEST = 80
"""Characters of a value that messages show."""


def misfit(record: Any) -> str:
    """Return of the first field of a dataclass that is not of its type `PATH: got ...; expected: ...`; else nothing.

    Dataclasses within it are looked into, also those in tuples and lists. Defaults are taken to fit.
    """
    hints = hints_of(type(record))
    for field in fields(record):
        value = getattr(record, field.name)
        if value is field.default:
            continue
        if not fits(value, hints[field.name]):
            return f"{field.name}: got {shown(value)}; expected: {described(hints[field.name])}"
        for place, inner in _records_in(field.name, value):
            if found := misfit(inner):
                return f"{place}.{found}"
    return ""


_hints: dict[type, dict[str, Any]] = {}


def hints_of(kind: type) -> dict[str, Any]:
    """Return field -> type of a dataclass."""
    if kind not in _hints:
        _hints[kind] = get_type_hints(kind)
    return _hints[kind]


def result_of(hint: Any) -> Any:
    """Return what a type's function returns: the type's own, or that among its alternatives."""
    each = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return next(get_args(own)[1] for own in each if get_origin(own) is Callable)


def fits(value: Any, hint: Any) -> bool:
    """Say whether a value is of a type; of a function, whether it takes as many arguments."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, each) for each in inner)
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in inner)
    if origin is Callable:
        return takes(value, inner[0])
    if origin is type:
        return isinstance(value, type) and issubclass(value, inner[0])
    if origin is tuple:
        return isinstance(value, tuple) and _all_fit(value, inner)
    if origin in (Collection, Sequence):  # A text is one of letters, which nobody means.
        return isinstance(value, origin) and not isinstance(value, str) and all(fits(x, inner[0]) for x in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(fits(k, inner[0]) and fits(x, inner[1]) for k, x in value.items())
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, NUMBERS.get(hint, hint))


def described(hint: Any) -> str:
    """Return in words what a type is, such as `a tuple of text` or `a function of 1 argument`."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(described(each) for each in inner)
    if origin is Literal:
        return " or ".join(repr(each) for each in inner)
    if origin is Callable:
        count = None if inner[0] is ... else len(inner[0])
        said = {None: "", 0: " without arguments", 1: " of 1 argument"}.get(count, f" of {count} arguments")
        return f"a function{said}"
    if origin is type:
        return f"a subclass of {inner[0].__name__}"
    if origin is tuple and ... not in inner:
        return f"a tuple ({', '.join(map(described, inner))})"
    if origin in (tuple, Collection, Sequence):
        return f"a {origin.__name__.lower()} of {_plural(inner[0])}"
    if origin is Mapping:
        return "a mapping" if inner[1] is Any else f"a mapping of {_plural(inner[0])} to {_plural(inner[1])}"
    return NAMES.get(hint) or f"a {getattr(hint, '__name__', hint)}"


def shown(value: Any) -> str:
    """Return a value as messages show it, a function by what it takes."""
    if callable(value) and not isinstance(value, type):
        try:
            return f"a function {inspect.signature(value)}"
        except (ValueError, TypeError):
            return "a function"
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _records_in(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield path and value of the dataclasses that a value is, or holds side by side."""
    if is_dataclass(value) and not isinstance(value, type):
        yield place, value
    elif isinstance(value, tuple | list):
        for number, each in enumerate(value):
            yield from _records_in(f"{place}.{number}", each)


def _all_fit(values: tuple[Any, ...], inner: tuple[Any, ...]) -> bool:
    if ... in inner:
        return all(fits(each, inner[0]) for each in values)
    return len(values) == len(inner) and all(map(fits, values, inner))


def takes(function: Any, arguments: Any) -> bool:
    """Say whether something can be called with so many arguments; of `...`, at all. What does not tell is taken to."""
    if not callable(function):
        return False
    if arguments is ...:
        return True
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # Some that are compiled do not say.
        return True
    return True


def _plural(hint: Any) -> str:
    """Return in words many of a type: `text`, `mappings`, `subclasses of Record`."""
    words = described(hint)
    for one, many in (("a subclass ", "subclasses "), ("a tuple ", "tuples "), ("a mapping", "mappings")):
        if words.startswith(one):
            return many + words.removeprefix(one)
    return words if hint in (str, Any) or get_origin(hint) is Literal else f"{words.removeprefix('a ')}s"
