"""Budgets that were formerly others: what keeps their runs from being known (`nfstudy.study.spec.Budget.formerly`)."""

from __future__ import annotations

from collections.abc import Iterator

from nfstudy.study.spec import Sampling, StudySpec
from nfstudy.study.yaml_document import Mistake


def former_mistakes(spec: StudySpec) -> Iterator[Mistake]:
    """Yield why the runs of a budget could not be told from those of another, or not be known at all.

    Call it once each budget is known to be possible, as cells are looked at.
    """
    former = [name for name, budget in spec.budgets.items() if budget.formerly]
    if former and isinstance(spec.sampler, Sampling):
        yield ("budgets", former[0], "formerly"), "got a study with a sampler; expected: sampler exhaustive"
        return
    for name in former:
        plan = spec.under(name)
        own = {cell.key for cell in plan.cells}
        for other in spec.budgets:
            alike = other != name and spec.under(other).logged_as == plan.logged_as
            if alike and own & {cell.key for cell in spec.under(other).cells}:
                where = ("budgets", name, "formerly")
                yield where, f"has cells that budget {other} has too; expected: other settings, or one budget"
                break
