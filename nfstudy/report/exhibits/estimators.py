"""The variance of gradients: in an example that is worked by hand, and along trainings."""

from __future__ import annotations

from nfstudy.report.exhibits.base import Exhibit
from nfstudy.report.statistics.estimates import Results


def estimators(results: Results) -> Exhibit:
    """Show the exact and simulated variances of the one-dimensional example, and those along the study's trainings."""
    return Exhibit("estimators", "Estimators of the gradient", "")
