"""p(x|z): a likelihood for each kind of numbers, declared here. Free of torch until one is made."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from nfstudy.core import registry
from nfstudy.core.declarations import Likelihood, load
from nfstudy.core.errors import UserError
from nfstudy.core.fields import Positive, Record
from nfstudy.study.sections import DataSpec


class VarianceSettings(Record):
    """What is left open of the variance α of a density."""

    variance: Literal["network", "shared"] = "network"
    """Whether a pixel's variance α comes from the generative network, or is one free number a pixel."""
    variance_floor: Positive = 1e-3
    """Least α, in squared units of x or, of patches, logit(x); without one, repeated numbers drive −ln p(x) to −∞."""


BERNOULLI = Likelihood(
    name="bernoulli",
    label="Bernoulli",
    values=("bits", "levels"),
    implementation="nfstudy.inference.likelihoods.bernoulli:Bernoulli",
    draws=True,
)
LOGIT_NORMAL = Likelihood(
    name="logit-normal",
    values=("patches",),
    per="patch",
    implementation="nfstudy.inference.likelihoods.normal:LogitNormal",
    draws=True,
    shared_settings=(VarianceSettings,),
)
GAUSSIAN = Likelihood(
    name="gaussian",
    label="Gaussian",
    values=("real",),
    per="example",
    implementation="nfstudy.inference.likelihoods.normal:Gaussian",
    draws=True,
    shared_settings=(VarianceSettings,),
)
CATEGORICAL = Likelihood(
    name="categorical",
    values=("categories",),
    implementation="nfstudy.inference.likelihoods.categorical:Categorical",
    draws=True,
)


def load_likelihood(data: DataSpec, name: str | None = None) -> Callable[..., Any]:
    """Return what makes the likelihood of some data: its class, which of categories knows how many `levels` they have.

    Arguments:
        data: the section, which says what the numbers of an example are.
        name: the one that is asked for; None for the first that is declared.

    Raises:
        UserError: it cannot be loaded.
    """
    likelihood = registry.likelihood_of(data.values, name)
    try:
        made: Callable[..., Any] = load(likelihood.implementation)
        return partial(made, levels=count) if (count := data.categories) else made
    except (ImportError, AttributeError) as error:
        origin = registry.origin_of("likelihoods", likelihood.name)
        raise UserError(f"{origin}: likelihood {likelihood.name}: cannot be loaded: {error}") from error
