"""What makes a search possible: settings that can be drawn, a bound to choose by, epochs at which to prune."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from nfstudy.core.errors import SpecError
from nfstudy.core.fields import OpenRecord
from nfstudy.study.cells import range_endpoints
from nfstudy.study.sections import ENERGY_EPOCH
from nfstudy.study.settings import TRAINED_ON, Settings
from nfstudy.study.spec import SEARCH_SAMPLER, Axis, Pruner, Range, Sampling, StudySpec
from nfstudy.study.yaml_document import Mistake, Place, shown

if TYPE_CHECKING:
    from nfstudy.study.plan import StudyPlan

MOST_VARIANTS = 256
"""Of the combinations of ends and choices of a search's settings, so many are looked at."""


def epoch_updates(settings: Settings) -> int | None:
    """Return how many updates an epoch has; None of data from outside whose size is not known."""
    if settings.data is None:
        return ENERGY_EPOCH
    sizes = settings.data.examples()
    images = settings.data.train_images or (sizes and sizes[0])
    return images // settings.train.batch if images else None


def epochs(settings: Settings) -> int | None:
    """Return how many epochs a training has, after each of which there is a validation bound; None if not known."""
    if settings.problem == "drawn":
        return 0
    each = epoch_updates(settings)
    return each and math.ceil(settings.train.updates / each)


def annealed_after(settings: Settings) -> int:
    """Return the update from which on β is 1: before, F says little of where a training leads."""
    return 0 if settings.objective.annealing == "none" else settings.objective.anneal_updates


def can_prune(pruner: Pruner, settings: Settings) -> bool:
    """Say whether a training has an epoch, other than its last, at which the pruner judges it."""
    last, each = epochs(settings), epoch_updates(settings)
    if last is None or each is None:
        return True
    computed = math.ceil(annealed_after(settings) / each) if last else 0
    first = computed if pruner.n_warmup_steps is None else pruner.n_warmup_steps
    return max(first, 1) < last


def numbers_of(path: str) -> type | None:
    """Return what numbers a setting takes, `int` or `float`; None where it takes none, as a name or a truth."""
    section, _, field = path.partition(".")
    annotation: Any = Settings.model_fields[section].annotation
    if field:
        record = next(found for found in (annotation, *get_args(annotation)) if _is_record(found))
        fields = record.fields() if issubclass(record, OpenRecord) else record.model_fields
        annotation = fields[field].annotation
    kinds = {annotation, *get_args(annotation)}
    return float if float in _unfold(kinds) else int if int in _unfold(kinds) else None


def draws_whole_numbers(path: str) -> bool:
    """Say whether a range of a setting is one of whole numbers."""
    return numbers_of(path) is int


def _is_record(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _unfold(annotations: set[Any]) -> set[Any]:
    """Return annotations with all their parts."""
    parts = {part for annotation in annotations for part in get_args(annotation)}
    return annotations | (_unfold(parts) if parts else set())


def range_mistakes(where: Place, path: str, axis: Range) -> Iterator[Mistake]:
    """Yield what is wrong with a range for a setting, beyond the values of its ends."""
    kind = numbers_of(path)
    if kind is None:
        yield where, f"got a range; expected: a list of values, as {path} takes no numbers"
        return
    if axis.low == axis.high:
        yield where, f"got low {axis.low} and high {axis.high}, one point; expected: low less than high"
    if axis.step is None:
        return
    if kind is int and axis.step != int(axis.step):
        yield (*where, "step"), f"got {axis.step}; expected: a whole number, as {path} is one"
    else:
        steps = (axis.high - axis.low) / axis.step
        if not math.isfinite(steps) or round(steps) < 1 or abs(steps - round(steps)) > 1e-9 * steps:
            yield (*where, "step"), f"got {axis.step}; expected: a step that leads from {axis.low} to {axis.high}"


def search_mistakes(spec: StudySpec, in_part: bool = False) -> Iterator[Mistake]:
    """Yield what keeps the study's search or sampler from choosing anything, as far as no budget matters.

    Arguments:
        spec: the study.
        in_part: whether what is wrong in the file has been left out of it; then nothing is said to be absent.
    """
    sampled = isinstance(spec.sampler, Sampling)
    axes: list[tuple[Place, str, Axis]] = []
    if spec.search:
        axes += [(("search", "space", path), path, axis) for path, axis in spec.search.space.items()]
        for where, path, axis in axes:
            if not isinstance(axis, Range) and len(axis) == 1:
                words = f"got {shown(axis[0])} alone, one point"
                yield where, f"{words}; expected: at least two values, or the setting outside the search"
            if path == "data.training_split":
                yield where, "is which images are held out to choose by; expected: under search.settings"
        for path in spec.search.settings:
            yield from _untouched(("search", "settings", path), path, spec)
    if sampled:
        axes += [(("grid", path), path, axis) for path, axis in spec.grid.items()]
        if not in_part and all(not isinstance(axis, Range) and len(axis) == 1 for axis in spec.grid.values()):
            yield ("grid",), "has one point; expected: several, of which the sampler can choose"
    for where, path, axis in axes:
        if isinstance(axis, Range) and path.startswith("data.") and path != "data.train_images":
            yield where, "got a range; expected: a list of values, as the data of each are loaded before the first run"
        if path == "seed":
            yield where, "is what repetitions vary; expected: a setting that is to be chosen"
        elif path in _JUDGING:
            yield where, "is how trials are judged; expected: a setting of the training"
        elif path.startswith("evaluation."):
            yield where, _TESTING
    if (spec.search or sampled) and spec.settings.problem == "drawn":
        where = ("search",) if spec.search else ("sampler",)
        yield where, "got a search of what is not trained; expected: data or energy, which have a validation bound"
    for name, budget in spec.budgets.items():
        for path in budget.search_settings:
            yield from _untouched(("budgets", name, "search.settings", path), path, spec)
        if (budget.search or budget.search_settings) and not spec.search and not in_part:
            key = "search" if budget.search else "search.settings"
            yield ("budgets", name, key), "the study has no search; expected: with search, or without this"
        if budget.search and budget.search_settings:
            where = ("budgets", name, "search.settings")
            yield where, "are of a search that the budget leaves out; expected: one of search: none and search.settings"
        if budget.trials and budget.search and spec.search and not sampled:
            where = ("budgets", name, "trials")
            yield where, "are of a search that the budget leaves out; expected: one of search: none and trials"
        if budget.trials and not (spec.search or sampled) and not in_part:
            yield (
                ("budgets", name, "trials"),
                "the study has no search; expected: with search or a sampler, or without this",
            )


_TESTING = "is how the test set is evaluated, which no search is shown; expected: a setting of the training"
_JUDGING = ("evaluation.valid_images", "evaluation.valid_samples")
"""How the validation images are evaluated: alike for all trials, but what is trained afterwards may differ."""


def _untouched(where: Place, path: str, spec: StudySpec) -> Iterator[Mistake]:
    """Yield why a search's trials cannot have a setting of their own."""
    assert spec.search or where[0] == "budgets"
    if path in spec.axes:
        yield where, "is an axis of the grid; expected: a setting that is the same in all cells"
    elif spec.search and path in spec.search.space:
        yield where, "is searched for; expected: in one of space and settings"
    elif path.startswith("evaluation.") and path not in _JUDGING:
        yield where, _TESTING
    elif path == "seed":
        yield where, "is what all trials share; expected: any other setting"


def sampler_axis_mistakes(spec: StudySpec, in_part: bool = False) -> Iterator[Mistake]:
    """Yield what is wrong with an axis `search.sampler` of the grid, which compares the samplers of a search.

    The arguments are those of `search_mistakes`.
    """
    where: Place = ("grid", SEARCH_SAMPLER)
    axis = spec.grid[SEARCH_SAMPLER]
    names = get_args(Sampling.model_fields["name"].annotation)
    if not spec.search and not in_part:
        yield where, "the study has no search; expected: with search"
    elif isinstance(spec.sampler, Sampling):
        yield where, "cannot be drawn by a sampler; expected: with sampler exhaustive"
    for name, budget in spec.budgets.items():
        if budget.search:
            yield (
                ("budgets", name, "search"),
                f"leaves no search for {SEARCH_SAMPLER} of the grid; expected: one of the two",
            )
    if isinstance(axis, Range):
        yield where, f"got a range; expected: a list of {', '.join(names)}"
        return
    for index, value in enumerate(axis):
        if value not in names:
            yield (*where, index), f"got {shown(value)}; expected: {', '.join(names)}"
        elif value in axis[:index]:
            yield (*where, index), f"got {shown(value)} a second time; expected: each value once"


def check_choice(plan: StudyPlan) -> None:
    """Raise SpecError where a study under a budget has nothing held out to choose by, or nothing that can be chosen.

    Raises:
        SpecError: names the setting or key to blame.
    """
    search = plan.search
    tried = [[*_variants(cell.given.replace(search.settings), search.space)] if search else [] for cell in plan.corners]
    trained = [settings for found in tried for settings in found]
    _check_axes(plan, trained)
    if search is None and plan.sampling is None:
        return
    if plan.sampling:
        trained += [cell.settings for cell in plan.corners]
    for settings in trained:
        if settings.data and settings.data.training_split != "train":
            hint = "; hint: search.settings may say so for the trials of the search alone" if search else ""
            raise SpecError(
                f"data.training_split: got {settings.data.training_split}, {TRAINED_ON}; "
                f"expected: train where a search or sampler chooses by it{hint}"
            )
    if search:
        used = {path for settings in trained for path in settings.flat()}
        for path in search.space:
            if path not in used:
                raise SpecError(f"search.space.{path}: got a setting that no cell uses; expected: one that is in use")
        if search.sampler.pruner:
            _check_pruner("search.sampler.pruner", search.sampler.pruner, trained)
    if plan.sampling and plan.sampling.pruner:
        _check_pruner("sampler.pruner", plan.sampling.pruner, [cell.settings for cell in plan.corners])


def _check_axes(plan: StudyPlan, tried: Sequence[Settings]) -> None:
    """Raise SpecError for an axis of the grid that tells no cells apart, as none uses it, nor any trial of a search."""
    axes = {path for path, axis in plan.study.axes.items() if isinstance(axis, Range) or len(axis) > 1}
    axes -= {SEARCH_SAMPLER, *plan.study.budgets[plan.budget].settings}
    for settings in itertools.chain((cell.settings for cell in plan.corners), tried):
        if not axes:
            return
        axes -= settings.flat().keys()
    for path in plan.study.axes:
        if path in axes:
            where = f"grid.{path}: got" if path in plan.study.grid else f"points: got {path},"
            raise SpecError(f"{where} an axis that no cell uses; expected: a setting that is in use")


def _check_pruner(key: str, pruner: Pruner, trained: list[Settings]) -> None:
    if any(can_prune(pruner, settings) for settings in trained):
        return
    longest = max(trained, key=lambda settings: epochs(settings) or 0)
    number = epochs(longest)
    words = f"{number} epoch{'s' if number != 1 else ''}"
    if pruner.n_warmup_steps is None and number and number > 1:
        after = f"annealing, of {annealed_after(longest):,} updates"
        why = f"expected: a training longer than its {after}, or n_warmup_steps"
    elif number and number > 1:
        why = f"expected: n_warmup_steps less than {number}"
    else:
        why = "expected: a training of at least 2 epochs, or no pruner"
    warm_up = "" if pruner.n_warmup_steps is None else f" with n_warmup_steps {pruner.n_warmup_steps}"
    raise SpecError(f"{key}: got {pruner.name}{warm_up} for trainings of {words}, which it can never judge; {why}")


def _variants(base: Settings, space: Mapping[str, Axis]) -> Iterator[Settings]:
    """Yield possible settings of a search's trials: each end and choice beside the first of all others, and combined.

    Of what is combined, in which the last of them vary fastest, there is a number at most.
    """
    ends = {path: range_endpoints(axis) for path, axis in space.items()}
    first = {path: values[0] for path, values in ends.items()}
    each = ({**first, path: value} for path, values in ends.items() for value in values[1:])
    combined = (dict(zip(ends, values, strict=True)) for values in itertools.product(*ends.values()))
    for values in itertools.chain(itertools.islice(combined, MOST_VARIANTS), each):
        with suppress(ValidationError):
            yield base.replace(values)
