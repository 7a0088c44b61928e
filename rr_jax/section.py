"""The base of every configuration section: strict, frozen, finite. Knows no key."""

from typing import Annotated

import pydantic
from pydantic import Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what a key of jax.random tells apart


class Section(pydantic.BaseModel):
    """Holds a part of the configuration: unknown keys are refused, values are never coerced, and numbers are finite."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
