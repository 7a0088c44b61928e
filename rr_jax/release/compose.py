"""From adapters to weights, and the rules that choose how strongly to subtract and to add.

theta = W0 + deltas always: the base weights never change, deltas stay in factor form, and the merged weights of a
round are formed from W0 once, in float32. With no deltas they are W0 itself, bit for bit.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from rr_jax.lora.adapter import merge_adapter
from rr_jax.models.decoder import Adapter, Params
from rr_jax.release.config import EtaConfig

RULES = {  # of `EtaConfig.rule`, in words
    "most_forgetting_within_budget": "lowest forget metric on validation data within the utility and degenerate budgets",
    "least_interference_at_target": "least loss on held-out texts to keep, among the strengths within the utility and "
    "degenerate budgets that bring the forget metric on validation data down to the target",
}


class Point(NamedTuple):
    """One pair of strengths of the grid, measured on validation data.

    Attributes:
      eta_forget: strength of the subtraction.
      eta_retain: strength of the retain adapter; 0 where none is added.
      forget: the forget metric.
      utility: the worst retention among the utility metrics.
      degenerate: share of empty or repetitive outputs added to the base model's.
      retain_nll: mean loss on held-out texts to keep, nats a token.
      retention: of each utility metric.
    """

    eta_forget: float
    eta_retain: float
    forget: float
    utility: float
    degenerate: float
    retain_nll: float
    retention: dict[str, float]

    def within(self, utility_budget: float, degenerate_budget: float) -> bool:
        """Whether it keeps enough and says something."""
        return self.utility >= utility_budget and self.degenerate <= degenerate_budget


def choose_eta(points: Sequence[Point], section: EtaConfig, base_forget: float) -> tuple[Point | None, str | None]:
    """The point that `section.rule` picks of those within both budgets, and why the rule was not the one asked for.

    "most_forgetting_within_budget" takes the lowest forget metric, of equals the smallest eta_forget, and of those the
    least loss on texts to keep. "least_interference_at_target" takes the least loss on texts to keep among the points
    whose forget metric is at most `section.target` times the base model's, of equals the smallest eta_forget; where
    there is no such point the other rule decides, and the reason is returned.

    Args:
      points: of the grid, measured on validation data.
      section: rule, target and budgets.
      base_forget: the base model's forget metric on the same data.

    Returns:
      the point, None when none is within the budgets; and the reason, None for the rule asked for.
    """
    allowed = [point for point in points if point.within(section.utility_budget, section.degenerate_budget)]
    if not allowed:
        return None, None
    reason = None
    if section.rule == "least_interference_at_target":
        reached = [point for point in allowed if point.forget <= section.target * base_forget]
        if reached:
            return min(reached, key=lambda point: (point.retain_nll, point.eta_forget)), None
        reason = (
            f"no strength within the budgets brought the forget metric to {section.target:g} of the base model's "
            f"{base_forget:.3f}: the most forgetting within the budgets was chosen instead"
        )
    return min(allowed, key=lambda point: (point.forget, point.eta_forget, point.retain_nll)), reason


def ends_climb(points: Sequence[Point], section: EtaConfig) -> bool:
    """Whether larger subtractions than that of `points`, which share one eta_forget, need not be tried.

    Either they could not be chosen: by the rule "most_forgetting_within_budget" nothing beats a forget metric of 0
    within the budgets, and of equals the smallest wins; the other rule may still find less loss further up. Or all of
    these points keep less than half of the utility budget, and larger ones would keep less.
    """
    all_gone = any(p.within(section.utility_budget, section.degenerate_budget) and p.forget == 0.0 for p in points)
    hopeless = all(point.utility < section.utility_budget / 2 for point in points)
    return hopeless or (all_gone and section.rule == "most_forgetting_within_budget")


@jax.jit
def _merged(params: Params, deltas: Adapter) -> dict[str, Any]:
    return merge_adapter(params, deltas)


def merged_params(base: Params, deltas: Adapter | None) -> Params:
    """W0 + deltas; W0 itself without any."""
    return base if deltas is None else _merged(base, deltas)
