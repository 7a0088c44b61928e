"""From adapters to weights, and the rule that chooses how strongly to subtract.

theta = W0 + deltas always: the base weights never change, deltas stay in factor form, and the merged weights of a
round are formed from W0 once, in float32. With no deltas they are W0 itself, bit for bit.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from rr_jax.lora.adapter import merge_adapter, scale_adapter
from rr_jax.lora.algebra import add, negate
from rr_jax.models.transformer import Adapter, Params


class Point(NamedTuple):
    """One strength of the grid, measured on validation data.

    Attributes:
      eta_forget: strength of the subtraction.
      forget: the forget metric.
      utility: the worst retention among the utility metrics.
      degenerate: share of empty or repetitive outputs added to the base model's.
      retention: of each utility metric.
    """

    eta_forget: float
    forget: float
    utility: float
    degenerate: float
    retention: dict[str, float]

    def within(self, utility_budget: float, degenerate_budget: float) -> bool:
        """Whether it keeps enough and says something."""
        return self.utility >= utility_budget and self.degenerate <= degenerate_budget


def choose_eta(points: Sequence[Point], utility_budget: float, degenerate_budget: float) -> Point | None:
    """The rule "most forgetting within the utility budget": of all points within both budgets the one with the lowest
    forget metric, and of equals the smallest eta. None when no point is within."""
    allowed = [point for point in points if point.within(utility_budget, degenerate_budget)]
    return min(allowed, key=lambda point: (point.forget, point.eta_forget), default=None)


def compose(
    deltas: Adapter | None,
    forget: Adapter,
    eta_forget: float,
    scale: float,
    added: Sequence[tuple[Adapter, float]] = (),
) -> Adapter:
    """deltas - eta_forget * scale * forget + sum of eta * scale * adapter, exactly, in factor form."""
    terms = [negate(scale_adapter(forget, eta_forget * scale))]
    terms += [scale_adapter(adapter, eta * scale) for adapter, eta in added]
    return add(*terms) if deltas is None else add(deltas, *terms)


@jax.jit
def _merged(params: Params, deltas: Adapter) -> dict[str, Any]:
    return merge_adapter(params, deltas)


def merged_params(base: Params, deltas: Adapter | None) -> Params:
    """W0 + deltas; W0 itself without any."""
    return base if deltas is None else _merged(base, deltas)
