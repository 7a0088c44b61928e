"""From adapters to weights, and the rules that choose how strongly to subtract and to add.

theta = W0 + deltas always: the base weights never change, deltas stay in factor form, and the merged weights of a
round are formed from W0 once, in float32. With no deltas they are W0 itself, bit for bit.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from rr_jax.evaluate.metric import Metric, lowest_of
from rr_jax.lora.adapter import merge_adapter
from rr_jax.models.spec import Adapter, Params
from rr_jax.release.config import StrengthConfig

RULES = {  # of `StrengthConfig.rule`, in words
    "most_forgetting_within_budget": "lowest forget metric on validation data within the budgets",
    "least_interference_at_target": "least loss on held-out texts to keep, among the strengths within the budgets that "
    "bring the forget metric on validation data down to the target",
}


class Point(NamedTuple):
    """Holds one pair of strengths of the grid, measured on validation data.

    Attributes:
      forget_strength: strength of the subtraction.
      retain_strength: strength of the retain adapter; 0 where none is added.
      forget: the forget metric.
      degenerate: share of empty or repetitive outputs added to the base model's.
      off_task: share of outputs that answer something else than what was asked, added to the base model's.
      retain_nll: mean loss on held-out texts to keep, nats a token.
      retention: share of the base's value that each utility metric keeps.
    """

    forget_strength: float
    retain_strength: float
    forget: Metric
    degenerate: Metric
    off_task: Metric
    retain_nll: Metric
    retention: dict[str, Metric]

    @property
    def utility(self) -> float:
        """Returns the worst retention; 1 without utility metrics."""
        worst = lowest_of(self.retention)
        return 1.0 if worst is None else worst[1].value

    def within(self, section: StrengthConfig) -> bool:
        """Returns whether it keeps enough, says something, and answers what was asked."""
        silent = self.degenerate.value > section.degenerate_budget
        elsewhere = self.off_task.value > section.off_task_budget
        return self.utility >= section.utility_budget and not silent and not elsewhere


def choose_strength(
    points: Sequence[Point], section: StrengthConfig, base_forget: float
) -> tuple[Point | None, str | None]:
    """Returns the point that `section.rule` picks of those within the budgets, and why the rule was not the one asked for.

    "most_forgetting_within_budget" takes the lowest forget metric. If several points have it, it takes the one with the
    most margin on both sides, then the smaller strength, then the least loss on texts to keep. The margin is the distance
    to the nearest strength that is none of them (`_margin`). "least_interference_at_target" takes the least loss on
    texts to keep among the points whose forget metric is at most `section.target` times the base model's, and if
    several have that, the smallest forget_strength; where there is no such point the other rule decides, and the reason
    is returned.

    Args:
      points: of the grid, measured on validation data.
      section: rule, target and budgets.
      base_forget: the base model's forget metric on the same data.

    Returns:
      the point, None when none is within the budgets; and the reason, None for the rule asked for.
    """
    allowed = [point for point in points if point.within(section)]
    if not allowed:
        return None, None
    reason = None
    if section.rule == "least_interference_at_target":
        reached = [point for point in allowed if point.forget.value <= section.target * base_forget]
        if reached:
            return min(reached, key=lambda point: (point.retain_nll.value, point.forget_strength)), None
        reason = (
            f"no strength within the budgets brought the forget metric to {section.target:g} of the base model's "
            f"{base_forget:.3f}: the most forgetting within the budgets was chosen instead"
        )
    lowest = min(point.forget.value for point in allowed)
    best = [point for point in allowed if point.forget.value == lowest]
    margins = [-_margin(point, best, points) for point in best]
    return min(
        zip(margins, best, strict=True), key=lambda pair: (pair[0], pair[1].forget_strength, pair[1].retain_nll.value)
    )[1], reason


def _margin(point: Point, best: Sequence[Point], points: Sequence[Point]) -> float:
    """Returns the distance in forget_strength to the nearest strength, of the same retain_strength, that is none of the
    best.

    Strength 0, which forgets nothing, is one of those; above the largest strength measured nothing is known, so that one
    has no margin.
    """
    good = {one.forget_strength for one in best if one.retain_strength == point.retain_strength}
    measured = {one.forget_strength for one in points if one.retain_strength == point.retain_strength}
    others = (measured | {0.0}) - good
    below = max((strength for strength in others if strength < point.forget_strength), default=0.0)
    above = min((strength for strength in others if strength > point.forget_strength), default=max(measured))
    return round(min(point.forget_strength - below, above - point.forget_strength), 9)


def next_strength(points: Sequence[Point], section: StrengthConfig) -> float | None:
    """Returns the strength to be measured next, None when there is none: up the grid, then finer where the budget bends.

    The grid is climbed to the first strength that keeps less than the utility budget after one within the budgets, so that
    something is known beyond what is chosen; or to one that keeps less than half of it, as larger ones would keep less.
    Degenerate and off-task answers end nothing: a skill that is half forgotten may give more of them than one that is
    gone. The rule "least_interference_at_target" looks at the whole grid. Then, with `section.step`, the strengths between
    the largest one within the budgets (0 where there is none) and the next one measured above it are tried, from below.

    Args:
      points: measured so far, all strengths of the retain adapter for each forget_strength.
    """
    within = {point.forget_strength for point in points if point.within(section)}
    measured = {point.forget_strength for point in points}
    grid = sorted(set(section.forget))
    missing = [strength for strength in grid if strength not in measured]
    if not measured:
        return grid[0]
    top = max(measured)
    kept = max(point.utility for point in points if point.forget_strength == top)
    hopeless = kept < section.utility_budget / 2
    beyond = bool(within) and kept < section.utility_budget and section.rule == "most_forgetting_within_budget"
    climbed = hopeless or beyond or not [strength for strength in missing if strength > top]
    if not climbed:
        return min(strength for strength in missing if strength > top)
    if section.step is None:
        return None
    low = max(within, default=0.0)
    high = min((strength for strength in measured if strength > low), default=None)
    following = round(low + section.step, 6)
    return following if high is not None and following < high - section.step / 2 else None


@jax.jit
def _merged(params: Params, deltas: Adapter) -> dict[str, Any]:
    return merge_adapter(params, deltas)


def merged_params(base: Params, deltas: Adapter | None) -> Params:
    """Returns W0 + deltas; W0 itself without any."""
    return base if deltas is None else _merged(base, deltas)
