"""Many runs from one file: every combination of the axes, with every seed; one row a run, and means with intervals.

Each run has a folder of its own and is resumed or left alone if it is there, so a sweep that was interrupted goes on.
Knows configurations and summaries; never what happens in a run.
"""

import itertools
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydantic
import yaml

from rr_jax.config import RunConfig, Section, Seed, load_config, read_yaml, set_value
from rr_jax.config_errors import explain
from rr_jax.release.trainer import TrainingDiverged
from rr_jax.rounds import NothingRevealed, run
from rr_jax.runfolder import check_config, write_json, write_text
from rr_jax.sweep_figures import write_figures
from rr_jax.sweep_table import Row, table


class SweepConfig(Section):
    """A grid of runs. Overrides are dotted keys of the run configuration, as on the command line."""

    base: str  # a run configuration, relative to the sweep's file
    out: str
    seeds: list[Seed]
    overrides: dict[str, Any] = pydantic.Field(default_factory=dict)  # for all runs
    axes: dict[str, dict[str, dict[str, Any]]]  # name of an axis -> label of a value -> overrides


class Cell(NamedTuple):
    """One run of the grid: the label it has on each axis, its seed and its configuration."""

    labels: dict[str, str]
    seed: int
    config: RunConfig


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> tuple[SweepConfig, list[Cell]]:
    """Reads a sweep and resolves the configuration of every run, before any is started.

    Args:
      path: a YAML file.
      overrides: "key=value" of the sweep itself, such as out=DIR or seeds=[0,1].

    Raises:
      ValueError: one line for whatever is wrong with the sweep, its base or a combination.
    """
    path = Path(path)
    tree = read_yaml(path, "sweep")
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or key not in SweepConfig.model_fields:
            raise ValueError(
                f"override {override!r}: expected key=value with one of {', '.join(SweepConfig.model_fields)}"
            )
        set_value(tree, override)
    try:
        sweep = SweepConfig.model_validate(tree)
    except pydantic.ValidationError as error:
        raise ValueError(explain(error, f"sweep {path}", SweepConfig)) from None
    base = path.parent / sweep.base
    if not base.is_file():
        raise ValueError(f"sweep {path}: base is {sweep.base!r}, but there is no file {base}")
    if not sweep.seeds or not sweep.axes or not all(sweep.axes.values()):
        raise ValueError(f"sweep {path}: expected at least one seed, one axis, and at least one value on each axis")
    if len(set(sweep.seeds)) < len(sweep.seeds):
        raise ValueError(f"sweep {path}: seeds are {sweep.seeds}, expected each once: a repeat is no new run")
    cells = []
    for point in itertools.product(*(axis.items() for axis in sweep.axes.values())):
        labels = {axis: label for axis, (label, _) in zip(sweep.axes, point, strict=True)}
        merged: dict[str, Any] = dict(sweep.overrides)
        for _, chosen in point:
            merged |= chosen
        for seed in sweep.seeds:
            out = Path(sweep.out) / "runs" / _folder_name([*labels.values(), f"seed{seed}"])
            values = merged | {"seed": seed, "out": str(out)}
            lines = [f"{key}={yaml.safe_dump(value, default_flow_style=True)}" for key, value in values.items()]
            cells.append(Cell(labels, seed, load_config(base, lines)))
    return sweep, cells


def run_sweep(
    path: str | Path,
    overrides: Sequence[str] = (),
    progress: Callable[[str, int, int], None] | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Runs what is not there yet, writes sweep.json, sweep.md and figures into the sweep's folder, and returns the rows.

    Args:
      path, overrides: as for `load_sweep`.
      progress: called with ("runs", done, of).
      note: called with a line when a run is over, and before the first if no strategy will have anything to choose.

    Raises:
      ValueError: as `load_sweep` and `rounds.run`.
    """
    sweep, cells = load_sweep(path, overrides)
    rows: list[Row] = []
    curves = []
    unchosen = sum(_spent_at_once(cell.config) for cell in cells)
    if unchosen:
        note(
            f"{unchosen} of {len(cells)} runs: the initial arms take all of reveal.search.generations, so that no "
            "strategy ever chooses (expected more than reveal.search.initial x reveal.reward.samples)"
        )
    for number, cell in enumerate(cells):
        if progress is not None:
            progress("runs", number, len(cells))
        row: Row = {**cell.labels, "seed": cell.seed}
        name = f"run {number + 1} of {len(cells)} ({', '.join([*cell.labels.values(), f'seed {cell.seed}'])})"
        start = time.perf_counter()
        try:
            check_config(Path(cell.config.out), cell.config)
            there = _finished(Path(cell.config.out))
            summary = run(cell.config) if there is None else there
        except (NothingRevealed, TrainingDiverged) as error:  # a result like any other, and no reason to stop the rest
            rows.append(row | {"failed": str(error)})
            note(f"{name}: failed after {time.perf_counter() - start:.1f} s, {error}")
            continue
        note(f"{name}: " + ("was there" if there is not None else f"done ({time.perf_counter() - start:.1f} s)"))
        rows.append(row | metrics_of(summary) | {"seconds": _seconds(Path(cell.config.out))})
        curves.append((row, *search_curve(summary)))
    if progress is not None:
        progress("runs", len(cells), len(cells))
    folder = Path(sweep.out)
    write_json(folder / "sweep.json", {"axes": list(sweep.axes), "rows": rows})
    write_text(folder / "sweep.md", table(rows, list(sweep.axes)))
    write_figures(folder, rows, curves, list(sweep.axes))
    return rows


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
            "forget_data": summary.get("forget_data") == "true",
            "rounds": summary["selected_round"],
            "eta_forget": selected["eta_forget"],
            "forget": metrics[name],
            "forget_share": metrics[name] / before if before else 0.0,
            "worst_retention": min(selected["retention"].values()),
        }
        perplexities = [value for metric, value in metrics.items() if metric.endswith("perplexity")]
        row |= {"perplexity": perplexities[0]} if perplexities else {}
        row |= {f"test/{metric}": value for metric, value in metrics.items()}
    return row


def _seconds(folder: Path) -> float:
    """Time of a run's stages but the base model's measurement, as its manifest has it."""
    spent: dict[str, float] = json.loads((folder / "manifest.json").read_text(encoding="utf-8")).get("seconds", {})
    return sum(value for stage, value in spent.items() if not stage.endswith(", base"))


def search_curve(summary: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Generations spent and scores, in the order of evaluation, of a run's first search; both [evaluations]."""
    points = summary["rounds"][0]["search"]
    return np.array([p["generations"] for p in points]), np.array([p["score"] for p in points], float)


def _finished(folder: Path) -> dict[str, Any] | None:
    """The summary of a run that is complete, if its folder has one."""
    path = folder / "summary.json"
    if not path.exists():
        return None
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return summary if summary["status"] == "complete" else None


def _spent_at_once(config: RunConfig) -> bool:
    """Whether the arms of the initial design use up the budget of the search."""
    return config.reveal.search.generations <= config.reveal.search.initial * config.reveal.reward.samples


def _folder_name(parts: Sequence[str]) -> str:
    return "-".join(re.sub(r"[^\w.]+", "_", part) for part in parts)
