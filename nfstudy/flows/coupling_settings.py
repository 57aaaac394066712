"""The settings that NICE, RealNVP, Glow and spline couplings share. Free of torch."""

from typing import Annotated

from pydantic import Field

from nfstudy.core.fields import Positive, Record


class CouplingSettings(Record):
    """What papers leave open of coupling networks."""

    coupling_hidden: Annotated[int, Field(ge=1, le=100_000)] = 40
    """H, tanh units in each hidden layer of a coupling network."""
    coupling_layers: Annotated[int, Field(ge=1, le=10)] = 1
    """L, hidden layers of each coupling network."""
    coupling_amortised: bool = True
    """Whether the image moves the first hidden layer's biases, or they are shared by all images."""
    coupling_pass: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.5
    """Share of the variables that pass a step unchanged; d = ⌊share · D⌋, at least one on each side."""


class AffineSettings(Record):
    """How far an affine coupling scales."""

    coupling_log_scale: Annotated[Positive, Field(le=10)] = 2.0
    """Most |ln scale| of a variable in one step of RealNVP or Glow."""
