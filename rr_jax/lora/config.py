"""Configures the shape of an adapter."""

from typing import Annotated

import pydantic
from pydantic import Field, PositiveFloat, PositiveInt

from rr_jax.section import Section


class AdapterConfig(Section):
    """Sets the shape of the forget and of the retain LoRA; its scale is alpha / rank."""

    rank: PositiveInt = 8
    alpha: PositiveFloat = 16.0
    targets: Annotated[list[str], Field(min_length=1)] = ["q", "k", "v", "o", "gate", "up", "down"]

    @pydantic.field_validator("targets")
    @classmethod
    def _each_once(cls, targets: list[str]) -> list[str]:
        if len(set(targets)) < len(targets):
            raise ValueError("expected each module once")
        return targets

    @property
    def scale(self) -> float:
        """Returns alpha / rank, by which every update is multiplied."""
        return self.alpha / self.rank
