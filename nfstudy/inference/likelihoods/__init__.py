"""p(x|z): a likelihood for each kind of numbers, declared here. Free of torch until one is made."""

from __future__ import annotations

from typing import Any, Literal

from nfstudy.core import registry
from nfstudy.core.declarations import Likelihood, Values, load
from nfstudy.core.errors import UserError
from nfstudy.core.fields import Positive, Record


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


def load_likelihood(values: Values, name: str | None = None) -> type[Any]:
    """Return the class of the likelihood of a kind of numbers; raises UserError where it cannot be loaded.

    Arguments:
        values: what the numbers of an example are.
        name: the one that is asked for; None for the first that is declared.
    """
    likelihood = registry.likelihood_of(values, name)
    try:
        return load(likelihood.implementation)
    except (ImportError, AttributeError) as error:
        origin = registry.origin_of("likelihoods", likelihood.name)
        raise UserError(f"{origin}: likelihood {likelihood.name}: cannot be loaded: {error}") from error
