"""Objectives and how their gradients are estimated, declared here, a module each. Free of torch until one is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from nfstudy.core import registry
from nfstudy.core.declarations import GradientEstimator, load
from nfstudy.core.errors import UserError
from nfstudy.core.fields import Record

if TYPE_CHECKING:  # The declarations here are read by those sections.
    from nfstudy.inference.objectives.base import Estimator
    from nfstudy.study.sections import ObjectiveSpec


class BaselineSettings(Record):
    """What is taken off the learning signal of the score function."""

    baseline: Literal["none", "running", "input", "leave-one-out"] = "running"
    """b in (F − b) ∇ ln q: 0; a running mean of F; that and a linear function of the example, fitted along the way; or,
    of S ≥ 2 samples of one example, the mean F of the others."""
    baseline_rate: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.1
    """`running` and `input`: by what share of the difference one update moves b, or 1/t at update t where that is
    more."""


class ReweightedSettings(Record):
    """What reweighted wake-sleep leaves open."""

    q_update: Literal["wake", "sleep", "both"] = "wake"
    """What q is fitted to: weighted samples of its own, dreams of the model, or half and half."""


def _is_input(objective: Any) -> bool:
    return bool(objective.baseline == "input")


PATHWISE = GradientEstimator(
    name="pathwise",
    meaning="F by the reparametrised gradient, eq. (20) with Alg. 1",
    implementation="nfstudy.inference.objectives.pathwise:Pathwise",
    free_bits=True,
)
SCORE_FUNCTION = GradientEstimator(
    name="score-function",
    label="score function",
    meaning="F by E_q[(F − b) ∇ ln q] (REINFORCE; Williams 1992)",
    implementation="nfstudy.inference.objectives.score_function:ScoreFunction",
    settings=BaselineSettings,
    density=True,
    examples_only=_is_input,
    least_samples=lambda objective: 2 if objective.baseline == "leave-one-out" else 1,
    idle=lambda objective: ("baseline_rate",) if objective.baseline in ("none", "leave-one-out") else (),
    examples=(
        {"baseline": "none"},
        {"baseline": "running"},
        {"baseline": "input"},
        {"baseline": "leave-one-out", "samples": 5},
    ),
)
STICKING_THE_LANDING = GradientEstimator(
    name="sticking-the-landing",
    label="sticking the landing",
    meaning="F by the path through z_K alone, the parameters in ln q_K stopped (Roeder et al. 2017)",
    implementation="nfstudy.inference.objectives.sticking_the_landing:StickingTheLanding",
    density=True,
)
IWAE = GradientEstimator(
    name="iwae",
    label="IWAE",
    meaning="−E ln (1/S) Σ_s w_s, w = p(x, z)/q(z|x), reparametrised (Burda et al. 2016)",
    implementation="nfstudy.inference.objectives.importance_weighted:ImportanceWeighted",
    examples=({"samples": 5},),
)
DREG = GradientEstimator(
    name="dreg",
    label="DReG",
    meaning="the same bound by the doubly reparametrised gradient (Tucker et al. 2019)",
    implementation="nfstudy.inference.objectives.doubly_reparametrised:DoublyReparametrised",
    density=True,
    examples=({"samples": 5},),
)
WAKE_SLEEP = GradientEstimator(
    name="wake-sleep",
    label="wake-sleep",
    meaning="p by −E_q ln p(x, z), q by −E_p ln q(z|x) on what the model dreams (Hinton et al. 1995)",
    implementation="nfstudy.inference.objectives.wake_sleep:WakeSleep",
    annealing=("none",),
    density=True,
    sleeps=lambda objective: True,
    examples_only=lambda objective: True,
)
REWEIGHTED_WAKE_SLEEP = GradientEstimator(
    name="reweighted-wake-sleep",
    label="reweighted wake-sleep",
    meaning="p by the IWAE bound, q by −Σ_s w̃_s ln q(z_s|x), by dreams, or both (Bornschein & Bengio 2015)",
    implementation="nfstudy.inference.objectives.wake_sleep:ReweightedWakeSleep",
    settings=ReweightedSettings,
    annealing=("none",),
    density=True,
    sleeps=lambda objective: objective.q_update != "wake",
    examples_only=lambda objective: objective.q_update != "wake",
    least_samples=lambda objective: 2,
    examples=({"q_update": "wake", "samples": 5}, {"q_update": "sleep", "samples": 5}),
)


def make_estimator(objective: ObjectiveSpec, inputs: int, device: str) -> Estimator:
    """Return the estimator that the section `objective` names.

    Arguments:
        objective: the section.
        inputs: how many numbers q is given of an example; 0 without examples.
        device: where tensors live.

    Raises:
        UserError: it cannot be loaded.
    """
    try:
        made: Estimator = load(objective.declaration.implementation)(objective, inputs, device)
    except (ImportError, AttributeError) as error:
        origin = registry.origin_of("estimators", objective.estimator)
        raise UserError(f"{origin}: estimator {objective.estimator}: cannot be loaded: {error}") from error
    return made
