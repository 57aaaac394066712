"""`check-plugin FILE`, and the same check of what a study uses before anything of it is trained."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nfstudy.core import registry
from nfstudy.core.declarations import (
    Declaration,
    ExhibitDeclaration,
    FlowFamily,
    GradientEstimator,
    Implementation,
    Likelihood,
    Metric,
    Paper,
    load,
)
from nfstudy.core.errors import SpecError, UserError
from nfstudy.core.hints import shown
from nfstudy.core.plugins import install, installed, read_plugin
from nfstudy.core.suggest import did_you_mean
from nfstudy.study.cells import Cell
from nfstudy.study.reader import value_mistakes
from nfstudy.study.settings import CHOICES, SECTIONS, example_settings, setting_defaults


def check_plugin(options: argparse.Namespace) -> int:
    """Say what a plug-in declares, and check it; raises UserError where it is not what it says."""
    named = Path(options.file)
    file = options.file.endswith(".py")
    try:
        found = install(read_plugin(named.name if file else options.file, named.parent if file else Path()))
    except SpecError as error:
        raise SpecError(f"{options.file}: {error}") from None
    for declaration in found:
        try:
            said = check_declaration(declaration)
        except UserError as error:
            raise type(error)(f"{options.file}: {error}") from error
        print(f"{declaration.kind} {declaration.name}: {said}", flush=True)
    return 0


MOST_SETTINGS = 8
"""Of a study's own at which a flow is checked, beside its examples."""


def _settings_of(declaration: Declaration, cells: Sequence[Cell]) -> Sequence[Mapping[str, Any]]:
    """Return what cells set of a flow family, each once; empty of another declaration."""
    if not isinstance(declaration, FlowFamily):
        return []
    flows = [cell.settings.flow for cell in cells if cell.settings.flow.family == declaration.name]
    own = [{name: getattr(flow, name) for name in declaration.fields} for flow in flows]
    return [each for place, each in enumerate(own) if each not in own[:place]][:MOST_SETTINGS]


def check_outside(cells: Sequence[Cell]) -> None:
    """Check what a study's plug-ins declare, and what its cells use of installed distributions; raises UserError."""
    found = [(plugin.name, declaration) for plugin, all_of in installed().items() for declaration in all_of]
    named = {(declaration.kind, declaration.name) for _, declaration in found}
    used = {key: origin for cell in cells for key, origin in cell.settings.origins().items() if key not in named}
    found += [(str(origin), registry.find(*key)) for key, origin in used.items()]
    for name, declaration in found:
        try:
            check_declaration(declaration, _settings_of(declaration, cells))
        except UserError as error:
            raise UserError(f"plug-in {name}: {error}; nothing has been trained") from None


def check_declaration(declaration: Declaration, settings: Sequence[Mapping[str, Any]] = ()) -> str:
    """Check one declaration and say what was looked at; raises UserError where it does not hold.

    Arguments:
        declaration: of any kind.
        settings: at which a flow is checked, beside its own examples.
    """
    _require_float32(declaration)
    _require_known_needs(declaration)
    said = _check(declaration, settings)
    _require_float32(declaration)
    return said


def _require_known_needs(declaration: Declaration) -> None:
    """Raise UserError where what a metric or an exhibit needs is not there: no run would have it.

    That is a setting that there is not, or a value that its setting cannot have.
    """
    where = f"{declaration.kind} {declaration.name}: needs"
    allowed = (*setting_defaults(), *CHOICES)
    for path, values in getattr(declaration, "needs", {}).items():
        if path not in allowed:
            hint = did_you_mean(path, allowed)
            raise UserError(f"{where}: got '{path}'; expected: the dotted path of a setting{hint}")
        section = path.partition(".")[0]
        settings = next(each for each in example_settings() if section in SECTIONS[each.problem])
        for value in values if path != "train.schedule.name" else ():  # A schedule is read with all of its fields.
            for _, mistake in value_mistakes(settings, (), path, value):
                raise UserError(f"{where}: {path}: {mistake}")


def _require_float32(declaration: Declaration) -> None:
    """Raise UserError where a plug-in has changed what torch makes of numbers: all other code would compute in it."""
    if (torch := sys.modules.get("torch")) and torch.get_default_dtype() != torch.float32:
        raise UserError(
            f"{declaration.kind} {declaration.name}: changes torch's default dtype, for all else too; "
            "expected: float32, and the dtype of what it is given"
        )


def _check(declaration: Declaration, settings: Sequence[Mapping[str, Any]]) -> str:
    if isinstance(declaration, FlowFamily):
        from nfstudy.flows.contract import check_family

        return f"{check_family(declaration, settings)} chains satisfy the flow contract"
    if isinstance(declaration, Likelihood):
        from nfstudy.inference.problems.likelihood_contract import check_likelihood

        return f"satisfies the contract of likelihoods of {check_likelihood(declaration)} kinds of numbers"
    if isinstance(declaration, GradientEstimator):
        from nfstudy.inference.problems.estimator_contract import check_estimator

        return f"satisfies the contract of estimators on {check_estimator(declaration)} small problems"
    if isinstance(declaration, Metric) and declaration.compute:
        from nfstudy.inference.problems.metrics import check_metric

        return f"computed reproducibly on {check_metric(declaration)} small problems"
    if isinstance(declaration, Paper):
        from nfstudy.report.claims.inequalities import read_claims

        claims = read_claims(declaration)
        for claim in claims:
            claim.parts()  # A number that the paper lacks is told now, not after training.
        return f"declared, with {len(claims)} claims"
    for implementation in _implementations(declaration):
        try:
            found = load(implementation)
        except (Exception, SystemExit) as error:  # Somebody else's code: it may raise anything.
            raise UserError(
                f"{declaration.kind} {declaration.name}: cannot be loaded: {type(error).__name__}: {error}"
            ) from None
        if not callable(found):
            raise UserError(
                f"{declaration.kind} {declaration.name}: cannot be called: got {shown(found)}; expected: a function"
            )
    return "declared; implementation loads"


def _implementations(declaration: Declaration) -> list[Implementation]:
    """Return what can be loaded without making anything of it."""
    if isinstance(declaration, ExhibitDeclaration):
        return [place for place in (declaration.make, declaration.readme, declaration.bodies) if isinstance(place, str)]
    found = (getattr(declaration, name, None) for name in ("implementation", "loader", "resolve"))
    return [implementation for implementation in found if implementation is not None]
