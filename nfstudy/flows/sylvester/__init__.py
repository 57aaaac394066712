"""Sylvester flows: f(z) = z + Q R tanh(R̃ Qᵀz + b) (van den Berg et al. 2018). Free of torch."""

from typing import Annotated

from pydantic import Field

from nfstudy.core.declarations import FlowFamily
from nfstudy.core.fields import Record


class SylvesterSettings(Record):
    """How wide a step is."""

    sylvester_columns: Annotated[int, Field(ge=1, le=100_000)] = 8
    """M, how many directions a step bends space along; all of them where there are fewer."""


SYLVESTER = FlowFamily(
    name="sylvester",
    label="Sylvester",
    implementation="nfstudy.flows.sylvester.flow:SylvesterFlow",
    settings=SylvesterSettings,
    matrix_biases=False,
    colour=3,
    examples=({}, {"sylvester_columns": 1}),
)
