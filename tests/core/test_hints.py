"""Whether values are what type hints say, and what is said of declarations that are not what theirs say."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal

import numpy as np
import pytest

from nfstudy.core import registry
from nfstudy.core.declarations import (
    DataSource,
    ExhibitDeclaration,
    FlowFamily,
    GradientEstimator,
    Likelihood,
    Metric,
    Paper,
)
from nfstudy.core.errors import SpecError
from nfstudy.core.fields import Record
from nfstudy.core.hints import described, fits, misfit, shown

OF_ONE = Callable[[Any], int]
EACH = [
    # hint, its words, values that fit, values that do not
    (int, "a whole number", (3, np.int64(3), 0), (True, 3.0, "3", None)),
    (float, "a number", (3, 3.5, np.float32(1)), (True, "3.5", 1j)),
    (bool, "True or False", (True, False), (1, "yes", None)),
    (str, "text", ("", "x"), (b"x", 3)),
    (int | None, "a whole number or None", (None, 3), ("x", 0.5)),
    (Literal["a", 1], "'a' or 1", ("a", 1), ("b", True, 1.0)),
    (tuple[str, ...], "a tuple of text", ((), ("a", "b")), ("ab", ["a"], ("a", 1))),
    (tuple[int, int], "a tuple (a whole number, a whole number)", ((1, 2),), ((1,), (1, 2, 3), (1, "2"))),
    (Sequence[int], "a sequence of whole numbers", ([1, 2], (1,)), ("12", {1}, [1, "2"])),
    (Collection[str], "a collection of text", (["a"], {"a"}, {"a": 1}), ("a", [1], 3)),
    (Mapping[str, Any], "a mapping", ({}, {"a": None}), ({1: 2}, [("a", 1)])),
    (Mapping[str, tuple[Any, ...]], "a mapping of text to tuples of anything", ({"a": (1, "b")},), ({"a": [1]},)),
    (type[Record], "a subclass of Record", (Record,), (Record(), int, "Record")),
    (Callable[[], Any], "a function without arguments", (dict, lambda: 1, lambda x=1: x), (3, lambda x: x)),
    (OF_ONE, "a function of 1 argument", (abs, lambda x: x, lambda *x: x), (lambda: 1, lambda x, y: x, "abs")),
    (Callable[..., Any], "a function", (print, lambda a, b: a), ("print", None)),
]


@pytest.mark.parametrize(("hint", "words", "right", "wrong"), EACH, ids=[words for _, words, *_ in EACH])
def test_a_value_fits_its_hint_or_not(hint, words, right, wrong):
    assert described(hint) == words
    assert [value for value in right if not fits(value, hint)] == []
    assert [value for value in wrong if fits(value, hint)] == []


@dataclass
class Inner:
    size: int


@dataclass
class Outer:
    name: str
    parts: tuple[Inner, ...] = ()
    best: Inner | None = None


def test_what_lies_within_is_named_by_its_path():
    assert misfit(Outer("x", (Inner(1), Inner(2)), Inner(3))) == ""
    assert misfit(Outer("x", (Inner(1), Inner("2")))) == "parts.1.size: got '2'; expected: a whole number"
    assert misfit(Outer("x", best=Inner(0.5))) == "best.size: got 0.5; expected: a whole number"
    assert misfit(Outer("x", (Inner(1), 2))) == "parts: got (Inner(size=1), 2); expected: a tuple of Inners"


def test_values_are_shown_shortly_and_functions_by_what_they_take():
    assert shown(lambda data, folder: {}) == "a function (data, folder)"
    assert shown(3) == "3"
    assert len(shown("x" * 500)) == 80


LEAST = {
    FlowFamily: {"name": "mine", "implementation": lambda: None},
    DataSource: {"name": "mine", "values": "bits", "splits": lambda data: None, "loader": lambda: None},
    Likelihood: {"name": "mine", "values": ("bits",), "implementation": lambda: None},
    GradientEstimator: {"name": "mine", "implementation": lambda: None},
    Metric: {"name": "test/mine", "meaning": "of a test", "unit": ""},
    ExhibitDeclaration: {"name": "mine", "make": lambda results: None},
    Paper: {"name": "mine", "citation": "Mine (2030)"},
}
FIELDS = [(kind, field.name) for kind in LEAST for field in fields(kind) if field.init]


class Nothing:
    """Of no type that a declaration has."""

    def __repr__(self):
        return "Nothing()"


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=[f"{kind.__name__}.{field}" for kind, field in FIELDS])
def test_a_field_of_a_declaration_that_is_not_of_its_type_is_named(kind, field):
    kind(**LEAST[kind])
    with pytest.raises(ValueError, match=rf"{field}: got .*; expected: \S"):
        kind(**LEAST[kind] | {field: Nothing()})


def test_every_declaration_of_the_suite_is_of_its_types():
    found = [each for kind in registry.HOMES for each in registry.all_of(kind).values()]
    assert len(found) > 80
    assert [(each.kind, each.name, misfit(each)) for each in found if misfit(each)] == []


ANSWERS = [
    (DataSource, "values", "values_of", 5, "returned 5; expected: text"),
    (DataSource, "splits", "splits_of", (50, 20), r"returned \(50, 20\); expected: a tuple \(a whole number, "),
    (DataSource, "idle", "idle_of", "rate", "returned 'rate'; expected: a collection of text"),
    (GradientEstimator, "sleeps", "does_sleep", "no", "returned 'no'; expected: True or False"),
    (GradientEstimator, "examples_only", "takes_examples_only", None, "returned None; expected: True or False"),
    (GradientEstimator, "least_samples", "least_samples_of", 1.5, "returned 1.5; expected: a whole number"),
    (GradientEstimator, "idle", "idle_of", None, "returned None; expected: a collection of text"),
]


@pytest.mark.parametrize(("kind", "field", "method", "answer", "words"), ANSWERS, ids=[each[1] for each in ANSWERS])
def test_what_a_function_of_a_declaration_says_is_of_its_type(kind, field, method, answer, words):
    declared = kind(**LEAST[kind] | {field: lambda section: answer})
    with pytest.raises(SpecError, match=f"mine: {field}: {words}"):
        getattr(declared, method)(None)
    default = next(each.default for each in fields(kind) if each.name == field)
    if default is not MISSING:
        assert getattr(kind(**LEAST[kind]), method)(None) == default(None)


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        (
            DataSource,
            {"not_identity": ("nope",)},
            "not_identity: got 'nope'; expected: of its settings, nothing",
        ),
        (DataSource, {"fixed": ("nope",)}, "fixed: got 'nope'; expected: of its settings"),
        (Metric, {"decimals": -1}, "decimals: got -1; expected: 0 or more"),
    ],
)
def test_a_declaration_speaks_of_what_it_has(kind, fields, words):
    with pytest.raises(ValueError, match=words):
        kind(**LEAST[kind] | fields)


@pytest.mark.parametrize("kind", [DataSource, GradientEstimator])
def test_only_settings_of_its_own_are_idle(kind):
    declared = kind(**LEAST[kind] | {"idle": lambda section: ("nope",)})
    with pytest.raises(SpecError, match="mine: idle: returned 'nope'; expected: of its settings, none, as it has no"):
        declared.idle_of(None)
