"""The numbers of a finished run as one row of a sweep. Reads summaries and files of run folders; runs nothing."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from rr_jax.runs.config import RunConfig
from rr_jax.runs.folder import read_json
from rr_jax.studies.sweeps.table import Row


def metrics_of(summary: dict[str, Any]) -> Row:
    """Every number of a run: of its first search, of its recall, and of the selected round beside the base model's.

    A run in which no round was accepted ends with the base model, which has forgotten nothing and kept all: it counts
    as such, lest a mean over seeds leave out those that failed.
    """
    row: Row = {}
    first = summary["rounds"][0]
    if first["search"]:
        scores = [point["score"] for point in first["search"]]
        row |= {
            "best_score": max(scores),
            "mean_score": float(np.mean(scores)),
            "generations": first["search"][-1]["generations"],
            "collected_relevance": first["collected_relevance"],
            "revealed": first["revealed"],
            "recall": first["recall"]["cumulative"],
        }
    row |= {f"base/{name}": value for name, value in summary["base"].items()}
    unchanged = {"round": 0, "metrics": summary["base"], "retention": {"": 1.0}, "eta_forget": 0.0}
    selected = next(
        (entry for entry in summary["rounds"] if entry["round"] == summary["selected_round"]),
        unchanged if summary["status"] == "complete" else None,
    )
    if selected is not None and selected.get("metrics"):
        name, metrics = summary["forget_metric"], selected["metrics"]
        before = summary["base"][name]
        row |= {
            "true_data": summary.get("data") == "true" and _applied(first),
            "rounds": summary["selected_round"],
            "eta_forget": selected["eta_forget"],
            "forget": metrics[name],
            "forget_share": metrics[name] / before if before else 0.0,
            "worst_retention": min(selected["retention"].values()),
        }
        kept = [metric for metric in summary["utility_metrics"] if metric.endswith("perplexity")]
        row |= {"perplexity": metrics[kept[0]]} if kept else {}
        row |= {f"test/{metric}": value for metric, value in metrics.items()}
    if first.get("trade_off"):
        row |= interference_of(first, summary["base_validation"][summary["forget_metric"]])
    return row


def _applied(entry: dict[str, Any]) -> bool:
    """Whether anything but strength 0 was tried: with that alone nothing of the forget data can be in the model."""
    grid = entry.get("trade_off")
    return not grid or any(point["eta_forget"] for point in grid)


def constraint_of(config: RunConfig) -> Row:
    """Returns what held the adapters apart in a run, and lambda: "none" and 0 where nothing did."""
    kind, weight = config.release.orthogonality.label()
    return {"constraint/kind": kind, "constraint/lambda": weight}


def resistance(folder: Path, summary: dict[str, Any]) -> Row:
    """What attacks bring back of a run's model, as shares of the base's forget metric: after each number of steps, and
    by the way of asking that brings back most."""
    found, before = read_json(folder / "attacks.json"), summary["base"][summary["forget_metric"]]
    share = [value / before if before else 0.0 for value in found["relearn"]["forget"]]
    steps = found["relearn"]["steps"]
    asked = [line["released"] for way, line in found["prompts"].items() if way != "as_measured"]
    row: Row = {f"relearned_{step}": value for step, value in zip(steps, share, strict=True) if step}
    row |= {"asked_otherwise": max(asked) / before if before else 0.0} if asked else {}
    return row | {"attack/steps": steps, "attack/forget_share": share}


def interference_of(entry: dict[str, Any], base_forget: float, target: float = 0.1) -> Row:
    """What forgetting costs of the texts to keep in a round, by validation data, at equal forgetting.

    Args:
      entry: of a round in the summary, with its trade-off.
      base_forget: the base model's forget metric on validation data.
      target: share of it that is left where runs are compared.

    Returns:
      retain_increase: loss on held-out texts to keep, minus the base model's, where the forget metric has come down to
        the target; linear between the strengths tried and from the base model to the first, and not there if none
        comes down so far. Of several strengths of the retain adapter the first is looked at.
      overlap, norm_a, norm_update, output_ratio, gradient_cosine: means over modules and layers.
      curve/forget_share, curve/retain_increase: of each strength, from 0 up.
    """
    grid = [point for point in entry["trade_off"] if point["eta_retain"] == entry["trade_off"][0]["eta_retain"]]
    grid = sorted(grid, key=lambda point: float(point["eta_forget"]))
    shares = [1.0, *(point["forget"] / base_forget if base_forget else 0.0 for point in grid)]
    rises = [0.0, *(point["retain_nll"] - entry["base_retain_nll"] for point in grid)]
    row: Row = {"curve/forget_share": shares, "curve/retain_increase": rises}
    for (left, before), (right, after) in itertools.pairwise(zip(shares, rises, strict=True)):
        if right <= target < left:
            row["retain_increase"] = before + (after - before) * (left - target) / (left - right)
            break
    layers = {name: entry.get(name) for name in ("overlap", "norm_a", "norm_update")} | entry.get("interference", {})
    maps = {name: found for name, found in layers.items() if isinstance(found, dict)}
    means = {name: np.mean([np.mean(values) for values in found.values()]) for name, found in maps.items()}
    return row | {name: float(mean) for name, mean in means.items()}


def seconds_of(folder: Path) -> float:
    """Time of a run's stages but the base model's measurement, as its manifest has it."""
    spent: dict[str, float] = read_json(folder / "manifest.json").get("seconds", {})
    return sum(value for stage, value in spent.items() if not stage.endswith(", base"))


def search_curve(summary: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Generations spent and scores, in the order of evaluation, of a run's first search; both [evaluations]."""
    points = summary["rounds"][0]["search"]
    return np.array([p["generations"] for p in points]), np.array([p["score"] for p in points], float)
