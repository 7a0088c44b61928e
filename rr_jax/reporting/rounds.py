"""What the page shows of the rounds: plots with a caption that a newcomer understands, the best arms, recall.

Reads the entries of a summary; any part of an entry may be missing. Knows nothing of files or of the page's form.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rr_jax.reporting import plots

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
    "most_forgetting_within_budget": "The lowest point right of the budget is chosen; of equals the smallest eta.",
    "least_interference_at_target": "Right of the budget, of those low enough, the one with the least loss on texts to "
    "keep is chosen.",
}
NUMBERS = {
    "retain_loss_increase": "rise of the loss on texts to keep, nats a token",
    "per_forgetting": "the same for each unit of the forget metric",
}

Summary = dict[str, Any]
Plot = tuple[str, str, str]  # title, SVG, caption


def measured(summary: Summary) -> list[dict[str, Any]]:
    """The rounds whose model was measured on test data."""
    return [entry for entry in summary["rounds"] if entry.get("metrics")]


def progress_plots(summary: Summary) -> list[Plot]:
    """What changed from round to round; a single round is told by the page's head and needs no plot."""
    rounds, base = measured(summary), summary["base"].get(summary["forget_metric"])
    if len(rounds) < 2 or not base:
        return []
    forget = [_share(entry["metrics"].get(summary["forget_metric"]), base) for entry in rounds]
    kept = [min((entry.get("retention") or {}).values(), default=math.nan) for entry in rounds]
    numbers = [0, *(entry["round"] for entry in rounds)]
    svg = plots.progress(numbers, [1.0, *forget], [1.0, *kept], summary["selected_round"])
    caption = "Test data. Blue should fall, ochre should stay near 1. The grey band marks the selected round."
    return [("Round by round", svg, caption)]


def recall_plots(summary: Summary) -> list[Plot]:
    """What each round's forget set told; one round or one fact is a number and needs no plot."""
    told = _told(summary)
    if len(told) < 2 or told[0]["recall"]["facts"] < 2:
        return []
    shares = [[entry["recall"][name] for entry in told] for name in ("round", "cumulative")]
    caption = "A bar of a later round is what the model still disclosed after the subtraction before it."
    return [("Recall", plots.recall([entry["round"] for entry in told], *shares), caption)]


def _told(summary: Summary) -> list[dict[str, Any]]:
    """Rounds that know a recall."""
    return [entry for entry in summary["rounds"] if (entry.get("recall") or {}).get("cumulative") is not None]


def recall_view(summary: Summary) -> dict[str, Any] | None:
    """How much of what is known to be there was told; None for a task that knows of no facts."""
    told = _told(summary)
    if not told:
        return None
    return {
        "facts": told[0]["recall"]["facts"],
        "cumulative": told[-1]["recall"]["cumulative"],
        "residual": (summary.get("residual") or {}).get("round"),
    }


def round_view(entry: dict[str, Any]) -> dict[str, Any]:
    """What the template shows of one round: its plots, notes where one point makes no plot, and the best arms."""
    shown: list[Plot] = []
    if entry.get("search"):
        caption = (
            "Each mark is an instruction (text) or a soft prompt that was tried. Score 1: all answers disclose the "
            "target, and differ. Grey: the first arms, blue: chosen by the strategy."
        )
        shown.append(("Search for revealing instructions", plots.search(entry["search"]), caption))
    grid = entry.get("trade_off") or []
    if len(grid) > 1:
        chosen = (entry["eta_forget"], entry.get("eta_retain")) if entry.get("accepted") else None
        caption = (
            "Validation data; a point is a strength eta, how much of the forget adapter is subtracted"
            f"{_and_added(grid)}. {_choice(entry)}"
        )
        svg = plots.trade_off(grid, chosen, entry.get("utility_budget"))
        shown.append(("Trade-off: choosing the strength", svg, caption))
    if any(value is not None and math.isfinite(value) for value in (entry.get("loss") or {}).values()):
        caption = (
            "How unlikely the model finds what it revealed. The step between the first two bars is the shift: what an "
            "adapter can learn."
        )
        if "training_prompt_subtracted" in entry["loss"]:
            caption += " The last bar is high if the answers became unlikely."
        shown.append(("Loss on the forget set", plots.loss(entry["loss"]), caption))
    interference = entry.get("interference") or {}
    flat = []
    for name, (title, caption) in MAPS.items():
        found = interference.get(name, entry.get(name))
        if not isinstance(found, dict) or not any(found.values()):
            continue
        if plots.largest(found) < NEGLIGIBLE:
            flat.append(title)
        else:
            shown.append((title, plots.layers(found, title), caption))
    best: dict[int, dict[str, Any]] = {}
    for point in sorted(entry.get("search") or [], key=lambda point: (-point["score"], point["order"])):
        best.setdefault(point["arm"], point)  # an arm may be evaluated again: its best evaluation stands for it
    return {
        "number": entry["round"],
        "revealed": entry.get("revealed", 0),
        "given": entry.get("given"),
        "left_out": entry.get("left_out") or {},
        "accepted": entry.get("accepted"),
        "eta": entry.get("eta_forget"),
        "budget": entry.get("utility_budget"),
        "only": _only_strength(entry) if len(grid) == 1 else None,
        "flat": flat,
        "negligible": NEGLIGIBLE,
        "interference": [
            (NUMBERS.get(name, name.replace("_", " ")), value)
            for name, value in interference.items()
            if isinstance(value, int | float)
        ],
        "arms": [arm for arm in best.values() if arm["score"] >= BEST_SCORE][:BEST_ARMS],
        "plots": shown,
    }


def _and_added(grid: Sequence[Mapping[str, Any]]) -> str:
    """What the second number of a label is, where the grid has several strengths of the retain adapter."""
    several = len({point.get("eta_retain") for point in grid}) > 1
    return ", and one of the retain adapter that is added" if several else ""


def _choice(entry: Mapping[str, Any]) -> str:
    """How the point was chosen, and why by another rule than the one asked for."""
    rule = entry.get("rule") or {"name": "most_forgetting_within_budget", "fallback": None}
    if rule["fallback"]:
        return f"{rule['fallback'][0].upper()}{rule['fallback'][1:]}."
    return CHOICES[rule["name"]]


def _only_strength(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A grid that ended at its first strength, and why."""
    (point,), budget = entry["trade_off"], entry.get("utility_budget")
    rule = (entry.get("rule") or {}).get("name", "most_forgetting_within_budget")
    reason = "the grid has no other"
    if point["within_budget"] and point["forget"] == 0 and rule == "most_forgetting_within_budget":
        reason = "the grid is climbed until a strength forgets all within the budgets, and this one did"
    elif budget is not None and point["utility"] < budget / 2:
        reason = "it kept less than half of the budget, and larger ones would keep less"
    kept = point.get("retention") or {}
    return {
        "eta": point["eta_forget"],
        "forget": point["forget"],
        "utility": point["utility"],
        "worst": min(kept, key=kept.__getitem__) if kept else "the worst utility metric",
        "reason": reason,
    }


def _share(value: float | None, base: float) -> float:
    """A value as a share of the base's; NaN, which a plot leaves out, for what was not measured."""
    return math.nan if value is None else value / base
