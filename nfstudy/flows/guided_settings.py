"""The setting that flows which follow a gradient share. Free of torch."""

from typing import Annotated

from pydantic import Field

from nfstudy.core.fields import Positive, Record


class GuidedSettings(Record):
    """How far a step goes."""

    leapfrog_step: Annotated[Positive, Field(le=10)] = 0.05
    """First step size ε of a leapfrog or Langevin step; it is learned, an image and variable, within a factor of e²."""
