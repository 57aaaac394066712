"""What all records of a study file are: frozen, strict, and made of numbers with bounds."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class Record(BaseModel):
    """A frozen record that refuses unknown keys and converts no types (but whole numbers to floats)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
