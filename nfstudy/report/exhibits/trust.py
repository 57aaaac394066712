"""How far a number can be trusted: what says that an estimate of −ln p(x) is not converged in samples."""

from __future__ import annotations

from collections.abc import Sequence

from nfstudy.core.declarations import Metric
from nfstudy.report.statistics.estimates import CellResult, Results
from nfstudy.runs.metrics import KL, NLL, NLL_DROP, PARETO_K_HIGH, TIGHT_DROP, TIGHT_KL, TIGHT_NLL, TIGHT_PARETO_K_HIGH

TOLERANCE = 0.05
"""Nats: half a unit of the last digit of the paper's tables."""
HIGH_SHARE = 0.5
"""Of the images with Pareto k̂ > 0.7."""
MARK = "†"
WHAT_IT_MEANS = (
    f"{MARK} not converged in samples: their last doubling lowered −ln p(x) by more than {TOLERANCE} nats, or Pareto k̂ "
    "exceeds 0.7 for more than half of the images."
)
SOME = "some of the"
NOT_MEASURED = "How far −ln p(x) is from converged was not measured in {which} runs."

_EVIDENCE = {
    **dict.fromkeys((NLL.name, KL.name), (NLL_DROP, PARETO_K_HIGH)),
    **dict.fromkeys((TIGHT_NLL.name, TIGHT_KL.name), (TIGHT_DROP, TIGHT_PARETO_K_HIGH)),
}
"""Metric -> by how much the last doubling of its samples lowered it, and the share of images with k̂ > 0.7."""


def why_not_converged(result: CellResult, quantity: Metric) -> str:
    """Say why a cell's estimate is not converged in samples; empty where it is, or nothing is known of it."""
    if quantity.name not in _EVIDENCE:
        return ""
    drop, share = (result.estimate(metric).mean for metric in _EVIDENCE[quantity.name])
    reasons = []
    if drop is not None and drop > TOLERANCE:
        reasons.append(f"the last doubling lowered −ln p(x) by {drop:.2f} nats")
    if share is not None and share > HIGH_SHARE:
        reasons.append(f"k̂ > 0.7 for {share:.0%} of the images")
    return f"not converged in samples: {', '.join(reasons)}" if reasons else ""


def trust_text(results: Results) -> str:
    """Return the sentences that a caption of a table with −ln p(x) or KL of images needs; empty on the plane."""
    if not results.study.settings.data:
        return ""
    unknown = _unmeasured(results)
    return " ".join(filter(None, (warning_text([results]), NOT_MEASURED.format(which=unknown) if unknown else "")))


def warning_text(bodies: Sequence[Results]) -> str:
    """Say what the mark of numbers that are not converged means; empty where there is none."""
    done = (result for results in bodies for result in results.cells if result.estimate(NLL_DROP).n)
    warned = any(why_not_converged(result, metric) for result in done for metric in (NLL, TIGHT_NLL))
    return WHAT_IT_MEANS if warned else ""


def unmeasured_text(bodies: Sequence[Results]) -> str:
    """Name the bodies of evidence of whose runs it is not known how far −ln p(x) is from converged."""
    names = [
        f"{results.name}{' in part' if which == SOME else ''}" for results in bodies if (which := _unmeasured(results))
    ]
    return f"How far −ln p(x) is from converged was not measured of {', '.join(names)}." if names else ""


def _unmeasured(results: Results) -> str:
    """Say of which runs it was not measured how far they are from converged; empty where of none."""
    done = [result for result in results.cells if result.estimate(NLL).n]
    known = [result for result in done if result.estimate(NLL_DROP).n]
    return (SOME if known else "these") if len(known) < len(done) else ""
