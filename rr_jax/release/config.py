"""The configuration of the release stage: what is trained, how it is held apart, how strongly it is applied."""

from typing import Annotated, Literal

import pydantic
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from rr_jax.lora.config import AdapterConfig
from rr_jax.section import Section, Share
from rr_jax.training.config import OrthogonalityConfig, TrainConfig

Method = Literal[
    "reveal_and_release", "gradient_ascent", "grad_diff", "npo", "simnpo", "task_vector", "ext_sub", "alu_like"
]  # fmt: skip


LOSSES = ("gradient_ascent", "grad_diff", "npo", "simnpo")  # methods whose loss forgets by itself


class RetainConfig(Section):
    """The retain adapter's place: trained with the forget one and added (joint) or only held against it (anchor);
    trained on the subtracted weights and added (after); both; or none, so that nothing is repaired."""

    place: Literal["joint", "anchor", "after", "joint+after", "none"] = "after"
    examples: PositiveInt = 1024
    after: TrainConfig = TrainConfig(steps=50, learning_rate=2e-3)


class EtaConfig(Section):
    """Strengths of the subtraction and of the retain adapter that is added; both are chosen on validation data."""

    # 0 subtracts nothing, so that the strength may also be chosen to leave the model as it is.
    forget: Annotated[list[NonNegativeFloat], Field(min_length=1)] = [0.3, 0.5, 0.8, 1.2, 1.8]
    retain: Annotated[list[NonNegativeFloat], Field(min_length=1)] = [1.0]  # each is tried with each forget strength
    # Of the strengths within both budgets: the lowest forget metric; or, among those that leave at most `target` of the
    # base model's forget metric, the least loss on held-out texts to keep, and where none does, the first rule.
    rule: Literal["most_forgetting_within_budget", "least_interference_at_target"] = "most_forgetting_within_budget"
    target: Share = 0.1
    utility_budget: Share = 0.9  # the worst utility metric keeps at least this share of the base model's
    degenerate_budget: Share = 0.1  # share of empty or repetitive outputs that may be added


class BaselineConfig(Section):
    """What a baseline is given and how it trains; reveal_and_release looks at none of it.

    Baselines train an adapter of the sections `adapter` and `train` and take its strength from `eta.forget` by the same
    rule: the loss of gradient_ascent, grad_diff, npo and simnpo already forgets, so their adapter is added (1.0 is the
    method as published); task_vector subtracts an adapter trained on the forget data; of ext_sub the strength is alpha.
    alu_like is given no data and trains nothing: it watches the answers of the model as it is, at no strength.
    """

    forget_data: Literal["true", "revealed"] = "true"  # the task's own forget data, or what a reveal stage collects
    examples: PositiveInt = 256  # of the true data; as many as collect.size lets be revealed (SOUL: 200 to 400)
    # sophia: clipped by squared gradients, with SOUL's constants (betas .9 and .95, rho .04, batch 5120)
    optimizer: Literal["adamw", "sophia"] = "adamw"
    # gamma, weight of the retain loss; gradient_ascent has none, and 0 is plain npo or simnpo. 1: the authors' of NPO
    # with it; others: SOUL .3 (first order) and 2 (second order), SimNPO 8 (as 1 to .125 of the forget loss).
    retain_weight: NonNegativeFloat = 1.0
    beta: PositiveFloat | None = None  # of npo and simnpo; null: the authors', .1 and 4.5 (SimNPO on TOFU's forget10)
    sequence: Literal["sum", "mean"] = "sum"  # npo: of a sequence's tokens; sum as its authors, mean as SOUL
    margin: NonNegativeFloat = 0.0  # gamma of simnpo; its authors' choice after a search is 0


class ReleaseConfig(Section):
    """Train the forget and retain adapters, subtract the one and add the other; or run a baseline instead."""

    method: Method = "reveal_and_release"
    baseline: BaselineConfig = BaselineConfig()
    adapter: AdapterConfig = AdapterConfig()
    pairing: Literal["same", "none", "neutral", "shuffled"] = "shuffled"  # prompt that revealed text is trained under
    train: TrainConfig = TrainConfig()
    orthogonality: OrthogonalityConfig = OrthogonalityConfig()
    retain: RetainConfig = RetainConfig()
    eta: EtaConfig = EtaConfig()

    @property
    def is_baseline(self) -> bool:
        """Whether something else than reveal and release is run."""
        return self.method != "reveal_and_release"

    @property
    def forget_data(self) -> Literal["true", "revealed", "none"]:
        """What the method learns the target from: the data itself, which it is given, or what a reveal stage collects."""
        if self.method == "alu_like":
            return "none"
        return self.baseline.forget_data if self.is_baseline else "revealed"

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "ReleaseConfig":
        if self.is_baseline and self.retain.place not in ("after", "none"):
            raise ValueError(
                f"retain.place is {self.retain.place!r}, but method {self.method!r} trains no retain adapter beside "
                "the forget one, expected 'none' or 'after'"
            )
        if self.method == "alu_like" and self.retain.place != "none":
            raise ValueError(
                f"retain.place is {self.retain.place!r}, but alu_like changes no weights that could be repaired, expected "
                "'none'"
            )
        if self.retain.place in ("anchor", "none") and self.eta.retain != [1.0]:
            raise ValueError(
                f"eta.retain is {self.eta.retain}, but retain.place {self.retain.place!r} adds no retain adapter, "
                "expected it to be left at [1.0]"
            )
        if self.method == "grad_diff" and self.baseline.retain_weight == 0:
            raise ValueError(
                "baseline.retain_weight is 0, but grad_diff needs retain data; gradient_ascent goes without"
            )
        return self
