"""What the page shows of the rounds: plots with a caption that a newcomer understands, the best arms, recall.

Reads the rounds of a summary, of which any may lack a part. Knows nothing of files or of the page's form.
"""

import math
from collections.abc import Sequence
from typing import Any

from rr_jax.evaluate.metric import Interval, Metric, lowest_of, values_of
from rr_jax.reporting import plots
from rr_jax.reporting.heatmap import heatmap, largest
from rr_jax.runs.results import ArmScore, GridPoint, RoundResult, RunSummary

BEST_ARMS = 8
BEST_SCORE = 0.001  # an arm below disclosed nothing and is none of the best
NEGLIGIBLE = 0.005  # a map whose values are all smaller is a sentence
MAPS = {
    "overlap": (
        "Overlap of forget and retain adapter",
        "Mean |cosine| of their input directions: where it is 0, the repair does not touch what was subtracted.",
    ),
    "update_cosine": (
        "Direction of the two updates",
        "Cosine of the two weight updates. Blue: the retain adapter goes along the forget adapter; ochre: against it.",
    ),
    "input_cosine": (
        "Nearest directions read",
        "Cosine of the smallest principal angle between what both adapters read: 1 where they share one direction.",
    ),
    "output_cosine": (
        "Nearest directions written",
        "The same of what they write: two adapters that read apart may still write the same.",
    ),
    "activations": (
        "What the forget adapter reads of texts to keep",
        "Along the directions that a constraint looks at, relative to an adapter of the same size in a random direction.",
    ),
    "output_ratio": (
        "Interference: output ratio",
        "What the forget adapter puts out on texts to keep, relative to texts to forget: the larger, the more damage.",
    ),
    "gradient_cosine": (
        "Interference: gradient cosine",
        "Cosine of the gradients on texts to forget and to keep: away from 0, changing the one changes the other.",
    ),
}
CHOICES = {
    "most_forgetting_within_budget": "The lowest point right of the budget is chosen; if several are lowest, the one with "
    "the most margin on both sides.",
    "least_interference_at_target": "Right of the budget, of those low enough, the one with the least loss on texts to "
    "keep is chosen.",
}
NUMBERS = {
    "retain_loss_increase": "rise of the loss on texts to keep, nats a token",
    "per_forgetting": "the same for each unit of the forget metric",
}

Plot = tuple[str, str, str]  # title, SVG, caption


def progress_plots(summary: RunSummary) -> list[Plot]:
    """Returns what changed from round to round; a single round is shown by the page's head and needs no plot."""
    rounds, name = summary.measured, summary.forget_metric
    base = summary.base[name].value if name in summary.base else 0.0
    if len(rounds) < 2 or not base:
        return []
    measured = [summary.base[name], *((result.metrics or {}).get(name) for result in rounds)]
    forget = [math.nan if metric is None else metric.value / base for metric in measured]
    spread = [_scaled(metric, base) for metric in measured]
    worst = [lowest_of(result.retention or {}) for result in rounds]
    kept = [math.nan if found is None else found[1].value for found in worst]
    numbers = [0, *(result.round_index for result in rounds)]
    svg = plots.progress(numbers, forget, [1.0, *kept], summary.selected_round, spread)
    caption = (
        "Test data. Blue should fall, ochre should stay near 1. A bar is the 95 % interval of the forget metric; the "
        "grey band marks the selected round."
    )
    return [("Round by round", svg, caption)]


def _scaled(metric: Metric | None, base: float) -> Interval | None:
    """Returns an interval as a share of the base's value."""
    found = None if metric is None else metric.interval()
    return None if found is None else Interval(found.low / base, found.high / base)


def recall_plots(summary: RunSummary) -> list[Plot]:
    """Returns what each round's forget set disclosed; one round or one fact is a number and needs no plot."""
    rounds = _with_recall(summary)
    found = [result.recall for result in rounds if result.recall is not None]
    if len(found) < 2 or found[0].cumulative.n < 2:
        return []
    numbers = [result.round_index for result in rounds]
    svg = plots.recall(numbers, [one.this_round.value for one in found], [one.cumulative.value for one in found])
    caption = "A bar of a later round is what the model still disclosed after the subtraction before it."
    return [("Recall", svg, caption)]


def _with_recall(summary: RunSummary) -> list[RoundResult]:
    """Returns the rounds that searched, of a task that knows of facts."""
    return [r for r in summary.rounds if r.recall is not None]


def recall_view(summary: RunSummary) -> dict[str, Any] | None:
    """Returns how much of what is known to be there was disclosed; None for a task that knows of no facts."""
    found = [result.recall for result in _with_recall(summary) if result.recall is not None]
    if not found:
        return None
    return {
        "facts": found[0].cumulative.n,
        "cumulative": found[-1].cumulative.value,
        "residual": None if summary.residual is None else summary.residual.this_round.value,
    }


def round_view(result: RoundResult) -> dict[str, Any]:
    """Returns what the template shows of one round: its plots, notes where one point makes no plot, the best arms."""
    maps, flat = _maps(result)
    cost = {} if result.cost is None else {name: metric for name, metric in result.cost if metric is not None}
    return {
        "number": result.round_index,
        "revealed": result.revealed,
        "given": result.given,
        "left_out": result.left_out,
        "accepted": result.accepted,
        "strength": result.forget_strength,
        "budget": result.utility_budget,
        "only": _only_strength(result) if len(result.trade_off) == 1 else None,
        "flat": flat,
        "negligible": NEGLIGIBLE,
        "cost": [(NUMBERS[name], value) for name, value in cost.items()],
        "arms": _best_arms(result),
        "plots": [*_search_plot(result), *_trade_off_plot(result), *_loss_plot(result), *maps],
    }


def _search_plot(result: RoundResult) -> list[Plot]:
    if not result.search:
        return []
    caption = (
        "Each mark is an instruction (text) or a soft prompt that was tried. Score 1: all answers disclose the "
        "target, and differ. Grey: the first arms, blue: chosen by the strategy."
    )
    return [("Search for revealing instructions", plots.search([arm.plain() for arm in result.search]), caption)]


def _trade_off_plot(result: RoundResult) -> list[Plot]:
    grid = result.trade_off
    if len(grid) < 2:
        return []
    chosen = (result.forget_strength or 0.0, result.retain_strength or 0.0) if result.accepted else None
    caption = (
        "Validation data; a point is a strength, how much of the forget adapter is subtracted"
        f"{_and_added(grid)}, with the 95 % interval of the forget metric. {_choice(result)}"
    )
    points = [
        plots.Strength(
            p.forget_strength, p.retain_strength, p.utility, p.forget.value, p.forget.interval(), p.within_budget
        )
        for p in grid
    ]
    svg = plots.trade_off(points, chosen, result.utility_budget)
    return [("Trade-off: choosing the strength", svg, caption)]


def _loss_plot(result: RoundResult) -> list[Plot]:
    if not any(math.isfinite(metric.value) for metric in result.loss.values()):
        return []
    caption = (
        "How unlikely the model finds what it revealed. The step between the first two bars is the shift: what an "
        "adapter can learn."
    )
    if "training_prompt_subtracted" in result.loss:
        caption += " The last bar is high if the answers became unlikely."
    return [("Loss on the forget set", plots.loss(values_of(result.loss)), caption)]


def _maps(result: RoundResult) -> tuple[list[Plot], list[str]]:
    """Returns the maps by module and layer, and the titles of those on which there is nothing to see."""
    shown, flat = [], []
    for name, (title, caption) in MAPS.items():
        found = result.layers.get(name, {})
        if not any(found.values()):
            continue
        if largest(found) < NEGLIGIBLE:
            flat.append(title)
        else:
            shown.append((title, heatmap(found, title), caption))
    return shown, flat


def _best_arms(result: RoundResult) -> list[ArmScore]:
    """Returns the best evaluation of each of the best arms: an arm may be evaluated again."""
    best: dict[int, ArmScore] = {}
    for arm in sorted(result.search, key=lambda arm: (-arm.score, arm.order)):
        best.setdefault(arm.arm, arm)
    return [arm for arm in best.values() if arm.score >= BEST_SCORE][:BEST_ARMS]


def _and_added(grid: Sequence[GridPoint]) -> str:
    """Returns what the second number of a label is, where the grid has several strengths of the retain adapter."""
    several = len({point.retain_strength for point in grid}) > 1
    return ", and one of the retain adapter that is added" if several else ""


def _choice(result: RoundResult) -> str:
    """Returns how the point was chosen, and why by another rule than the one asked for."""
    if result.rule is not None and result.rule.fallback:
        return f"{result.rule.fallback[0].upper()}{result.rule.fallback[1:]}."
    return CHOICES[_rule(result)]


def _rule(result: RoundResult) -> str:
    return "most_forgetting_within_budget" if result.rule is None else result.rule.name


def _only_strength(result: RoundResult) -> dict[str, Any]:
    """Returns the one point of a grid that ended at its first strength, and why it did."""
    (point,), budget = result.trade_off, result.utility_budget
    reason = "the grid has no other"
    if budget is not None and point.utility < budget / 2:
        reason = "it kept less than half of the budget, and larger ones would keep less"
    worst = lowest_of(point.retention)
    return {
        "strength": point.forget_strength,
        "forget": point.forget,
        "utility": point.utility,
        "worst": "no utility metric" if worst is None else worst[0],
        "reason": reason,
    }
