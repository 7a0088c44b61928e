"""The numbers of a finished run as one row of a sweep. Reads summaries and files of run folders; runs nothing."""

import itertools
from pathlib import Path

import numpy as np

from rr_jax.evaluate.metric import lowest_of
from rr_jax.runs.config import RunConfig
from rr_jax.runs.folder import read_json
from rr_jax.runs.results import AttackResult, GridPoint, RoundResult, RunSummary
from rr_jax.studies.sweeps.table import Row

MEANS = ("overlap", "norm_a", "norm_update", "output_ratio", "gradient_cosine")  # maps that a row has the mean of


def metrics_of(summary: RunSummary) -> Row:
    """Returns every number of a run: of its first search, of its recall, and of the selected round beside the base model's.

    A run in which no round was accepted ends with the base model, which has forgotten nothing and kept all: it counts
    as such, lest a mean over seeds leave out those that failed.
    """
    row: Row = {}
    first = summary.rounds[0]
    if first.search:
        row |= _of_search(first)
    row |= {f"base/{name}": metric.value for name, metric in summary.base.items()}
    if summary.base and summary.status == "complete":
        row |= _of_selected(summary)
    if first.trade_off:
        row |= interference_of(first, summary.base_validation[summary.forget_metric].value)
    return row


def _of_search(first: RoundResult) -> Row:
    """Returns what the first search found."""
    scores = [arm.score for arm in first.search]
    return {
        "best_score": max(scores),
        "mean_score": float(np.mean(scores)),
        "generations": first.search[-1].generations,
        "collected_relevance": None if first.collected_relevance is None else first.collected_relevance.value,
        "revealed": first.revealed,
        "recall": None if first.recall is None else first.recall.cumulative.value,
    }


def _of_selected(summary: RunSummary) -> Row:
    """Returns the metrics of the selected round, or of the base model where none was selected."""
    selected, name = summary.selected, summary.forget_metric
    metrics = summary.base if selected is None else selected.metrics or {}
    worst = None if selected is None else lowest_of(selected.retention or {})
    before = summary.base[name].value
    row: Row = {
        "true_data": summary.data == "true" and _applied(summary.rounds[0]),
        "rounds": summary.selected_round,
        "forget_strength": 0.0 if selected is None else selected.forget_strength,
        "forget": metrics[name].value,
        "forget_share": metrics[name].value / before if before else 0.0,
        "worst_retention": 1.0 if worst is None else worst[1].value,
    }
    fluency = [metric for metric in summary.utility_metrics if metric.endswith("perplexity")]
    row |= {"perplexity": metrics[fluency[0]].value} if fluency else {}
    return row | {f"test/{name}": metric.value for name, metric in metrics.items()}


def _applied(result: RoundResult) -> bool:
    """Returns whether anything but strength 0 was tried: with that alone nothing of the forget data can be in the model."""
    return not result.trade_off or any(point.forget_strength for point in result.trade_off)


def constraint_of(config: RunConfig) -> Row:
    """Returns what held the adapters apart in a run, and lambda: "none" and 0 where nothing did."""
    kind, weight = config.release.orthogonality.label()
    return {"constraint/kind": kind, "constraint/lambda": weight}


def resistance(folder: Path, summary: RunSummary) -> Row:
    """Returns what attacks bring back of a run's model, as shares of the base's forget metric: after each number of
    steps, and by the prompt variant that brings back most."""
    found, before = AttackResult.read(folder), summary.base[summary.forget_metric].value
    share = [metric.value / before if before else 0.0 for metric in found.relearn.forget]
    steps = list(found.relearn.steps)
    asked = [line["released"].value for way, line in found.prompts.items() if way != "as_measured"]
    row: Row = {f"relearned_{step}": value for step, value in zip(steps, share, strict=True) if step}
    row |= {"worst_variant": max(asked) / before if before else 0.0} if asked else {}
    return row | {"attack/steps": steps, "attack/forget_share": share}


def interference_of(result: RoundResult, base_forget: float, target: float = 0.1) -> Row:
    """Returns what forgetting costs of the texts to keep in a round, by validation data, at equal forgetting.

    Args:
      result: a round, with its trade-off.
      base_forget: the base model's forget metric on validation data.
      target: share of it that is left where runs are compared.

    Returns:
      retain_increase: loss on held-out texts to keep, minus the base model's, where the forget metric has come down to
        the target; linear between the strengths tried and from the base model to the first, and not there if none
        comes down so far. Of several strengths of the retain adapter the first is looked at.
      overlap, norm_a, norm_update, output_ratio, gradient_cosine: means over modules and layers.
      curve/forget_share, curve/retain_increase: of each strength, from 0 up.
    """
    grid = _along_forget(result)
    shares = [1.0, *(point.forget.value / base_forget if base_forget else 0.0 for point in grid)]
    before = 0.0 if result.base_retain_nll is None else result.base_retain_nll.value
    rises = [0.0, *(point.retain_nll.value - before for point in grid)]
    row: Row = {"curve/forget_share": shares, "curve/retain_increase": rises}
    for (left, low), (right, high) in itertools.pairwise(zip(shares, rises, strict=True)):
        if right <= target < left:
            row["retain_increase"] = low + (high - low) * (left - target) / (left - right)
            break
    maps = {name: result.layers[name] for name in MEANS if name in result.layers}
    means = {name: np.mean([np.mean(values) for values in found.values()]) for name, found in maps.items()}
    return row | {name: float(mean) for name, mean in means.items()}


def _along_forget(result: RoundResult) -> list[GridPoint]:
    """Returns the points of the first strength of the retain adapter, by the strength of the subtraction."""
    first = result.trade_off[0].retain_strength
    return sorted((p for p in result.trade_off if p.retain_strength == first), key=lambda point: point.forget_strength)


def seconds_of(folder: Path) -> float:
    """Returns the seconds of a run's stages but the base model's measurement, as its manifest has them."""
    spent: dict[str, float] = read_json(folder / "manifest.json").get("seconds", {})
    return sum(value for stage, value in spent.items() if not stage.endswith(", base"))


def search_curve(summary: RunSummary) -> tuple[np.ndarray, np.ndarray]:
    """Returns generations spent and scores, in the order of evaluation, of a run's first search; both [evaluations]."""
    search = summary.rounds[0].search
    return np.array([arm.generations for arm in search]), np.array([arm.score for arm in search], float)
