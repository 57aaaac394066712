"""Points of a grid that are listed one by one: settings that vary together, such as K and how many updates it gets."""

from __future__ import annotations

from collections.abc import Iterator

from nfstudy.study.spec import Sampling, StudySpec
from nfstudy.study.yaml_document import Mistake, Place


def point_mistakes(spec: StudySpec) -> Iterator[Mistake]:
    """Yield what keeps a study's points from being points of one grid, beyond the values of their settings."""
    if spec.points and isinstance(spec.sampler, Sampling):
        yield ("points",), f"cannot be drawn by the sampler {spec.sampler.name}; expected: with sampler exhaustive"
    for index, point in enumerate(spec.points):
        where: Place = ("points", index)
        for path in point:
            if path in spec.grid:
                yield (*where, path), "is an axis of the grid too; expected: in one of the two"
            elif path not in spec.points[0]:
                yield (*where, path), f"is not in the first point; expected: the same settings in all: {_paths(spec)}"
        if missing := [path for path in spec.points[0] if path not in point]:
            yield where, f"is without {', '.join(missing)}; expected: the same settings in all: {_paths(spec)}"
        elif point in spec.points[:index]:
            yield where, "is there already; expected: each point once"


def _paths(spec: StudySpec) -> str:
    return ", ".join(spec.points[0])
