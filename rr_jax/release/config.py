"""The configuration of the release stage: four independent choices (data, objective, place, optimizer), the constraint
between the adapters, and how strongly they are applied."""

from typing import Annotated, Literal

import pydantic
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, SerializeAsAny

from rr_jax.lora.config import AdapterConfig
from rr_jax.registry import known, plugged
from rr_jax.release.data import FORGET_DATA, ForgetData
from rr_jax.release.objectives import OBJECTIVES, Objective
from rr_jax.release.objectives.negate import Negate
from rr_jax.release.retain import PLACES, Place
from rr_jax.section import Section, Share
from rr_jax.training.config import TrainConfig
from rr_jax.training.constraint import Constraint
from rr_jax.training.optimizer import OPTIMIZERS


class RetainConfig(Section):
    """Sets the retain adapter's place: trained with the forget one and added (joint) or only held against it (anchor);
    trained on the changed weights and added (repair); both; or none, so that nothing is repaired."""

    place: Annotated[str, known(PLACES)] = "repair"
    examples: PositiveInt = 1024
    repair: TrainConfig = TrainConfig()


class StrengthConfig(Section):
    """Sets the strengths of the forget adapter and of the retain adapter that is added.

    Both are chosen on validation data.
    """

    # 0 changes nothing, so that the strength may also be chosen to leave the model as it is.
    forget: Annotated[list[NonNegativeFloat], Field(min_length=1)] = [0.3, 0.5, 0.8, 1.2, 1.8]
    retain: Annotated[list[NonNegativeFloat], Field(min_length=1)] = [1.0]  # each is tried with each forget strength
    # Spacing of further strengths between the largest one within the budgets and the next above it; null: none.
    step: PositiveFloat | None = 0.1
    # Of the strengths within both budgets: the lowest forget metric; or, among those that leave at most `target` of the
    # base model's forget metric, the least loss on held-out texts to keep, and where none does, the first rule.
    rule: Literal["most_forgetting_within_budget", "least_interference_at_target"] = "most_forgetting_within_budget"
    target: Share = 0.1
    utility_budget: Share = 0.9  # the worst utility metric keeps at least this share of the base model's
    degenerate_budget: Share = 0.1  # share of empty or repetitive outputs that may be added
    # Share of outputs that may be added which answer something else than what was asked: a model that has forgotten an
    # answer may give one in the form of another skill. On validation data .2 left a seed without any strength.
    off_task_budget: Share = 0.5


def _as_name(found: object) -> object:
    """Turns the truth value that YAML reads for the name true back into the name."""
    return "true" if found is True else found


class ReleaseConfig(Section):
    """Says what the forget adapter learns from, what it is trained towards and by which optimizer, and where the retain
    adapter stands. Reveal and Release is the default combination; every rival is another."""

    # what a reveal stage collects (revealed), the task's own forget data (true), or that of a plug-in
    data: Annotated[str, pydantic.BeforeValidator(_as_name), known(FORGET_DATA)] = "revealed"
    examples: PositiveInt = 256  # of the true data; as many as reveal.collect.size lets be revealed (SOUL: 200 to 400)
    objective: Annotated[SerializeAsAny[Objective], plugged(OBJECTIVES)] = Negate()
    optimizer: Annotated[str, known(OPTIMIZERS)] = "adamw"  # or sophia: SOUL's update
    adapter: AdapterConfig = AdapterConfig()
    pairing: Literal["same", "none", "neutral", "shuffled"] = "shuffled"  # prompt that revealed text is trained under
    train: TrainConfig = TrainConfig()
    orthogonality: Constraint = Constraint()
    retain: RetainConfig = RetainConfig()
    strength: StrengthConfig = StrengthConfig()

    @property
    def place(self) -> Place:
        """Returns what the retain adapter's place means."""
        return PLACES.get(self.retain.place)

    @property
    def source(self) -> ForgetData:
        """Returns what the forget adapter learns from."""
        return FORGET_DATA.get(self.data)

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "ReleaseConfig":
        if not self.place.adds and self.strength.retain != [1.0]:
            raise ValueError(
                f"strength.retain is {self.strength.retain}, but retain.place {self.retain.place!r} adds no retain "
                "adapter, expected it to be left at [1.0]"
            )
        return self
