"""Many runs from one file: every combination of the axes, with every seed; one row a run, and means with intervals.

Each run has a folder of its own and is resumed or left alone if it is there, so a sweep that was interrupted goes on.
What several runs would compute alike is computed once (`reuse`), trainings of equal shapes are one step (`stacked`), and
with jobs several runs go on at a time (`jobs`). Knows configurations and summaries; never what happens in a run.
"""

import itertools
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import pydantic
import yaml

from rr_jax.attacks import check_steps, was_attacked
from rr_jax.config import RunConfig, Section, Seed
from rr_jax.config_errors import explain
from rr_jax.config_file import load_config, read_yaml, set_value
from rr_jax.reuse import needed_stages, stage_key, stage_path
from rr_jax.runfolder import check_config, read_json, write_json, write_text
from rr_jax.sweeps.figures import write_figures
from rr_jax.sweeps.jobs import Job, run_job, run_jobs
from rr_jax.sweeps.stacked import stacks, train_together
from rr_jax.sweeps.table import Row, table


class SweepConfig(Section):
    """A grid of runs. Overrides are dotted keys of the run configuration, as on the command line."""

    base: str  # a run configuration, relative to the sweep's file
    out: str
    seeds: list[Seed]
    overrides: dict[str, Any] = pydantic.Field(default_factory=dict)  # for all runs
    axes: dict[str, dict[str, dict[str, Any]]]  # name of an axis -> label of a value -> overrides
    # First trainings that differ in lambda, seed or data alone are one step: vmap computes them together, map in turn,
    # off each in its own run. auto: vmap on an accelerator; on a CPU, map with one job and off with several.
    stack: Literal["auto", "vmap", "map", "off"] = "auto"
    # After which steps of relearning each run's model is measured; then it is also asked in other ways. None: no attacks.
    attack_steps: list[int] = pydantic.Field(default_factory=list)


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
    if sweep.attack_steps:
        check_steps(sweep.attack_steps, f"sweep {path}: attack_steps")
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
    jobs: int = 1,
) -> list[Row]:
    """Runs what is not there yet, writes sweep.json, sweep.md and figures into the sweep's folder, and returns the rows.

    Args:
      path, overrides: as for `load_sweep`.
      progress: called with ("runs", done, of).
      note: called with a line when a run is over, and before the first if no strategy will have anything to choose or
        trainings are stacked.
      jobs: processes that runs go on in at a time; with 1 it is this one.

    Raises:
      ValueError: as `load_sweep` and `rounds.run`; or several jobs on an accelerator.
    """
    sweep, cells = load_sweep(path, overrides)
    backend = jax.default_backend()
    if jobs < 1 or (jobs > 1 and backend != "cpu"):
        raise ValueError(
            f"jobs is {jobs}, expected {'1 or more' if backend == 'cpu' else f'1: a {backend} has one user'}"
        )
    for cell in cells:
        check_config(Path(cell.config.out), cell.config)
    unchosen = sum(_spent_at_once(cell.config) for cell in cells)
    if unchosen:
        note(
            f"{unchosen} of {len(cells)} runs: the initial arms take all of reveal.search.generations, so that no "
            "strategy ever chooses (expected more than reveal.search.initial x reveal.reward.samples)"
        )
    names = [
        f"run {number} of {len(cells)} ({', '.join([*cell.labels.values(), f'seed {cell.seed}'])})"
        for number, cell in enumerate(cells, start=1)
    ]
    steps = sweep.attack_steps
    missing = [number for number, cell in enumerate(cells) if not _finished(Path(cell.config.out), steps)]
    failures: dict[int, str] = {}
    done = 0

    def over(number: int, said: str) -> None:
        nonlocal done
        done += 1
        note(f"{names[number]}: {said}")
        if progress is not None:
            progress("runs", done, len(cells))

    def ended(number: int, failure: str | None, seconds: float) -> None:
        if failure is not None:  # a result like any other, and no reason to stop the rest
            failures[number] = failure
        over(number, f"done ({seconds:.1f} s)" if failure is None else f"failed after {seconds:.1f} s, {failure}")

    if progress is not None:
        progress("runs", 0, len(cells))
    for number in sorted(set(range(len(cells))) - set(missing)):
        over(number, "was there")
    _train_stacks([cells[number].config for number in missing], cells, sweep.stack, jobs, note)
    todo = _jobs(cells, missing, steps)
    if jobs > 1 and todo:
        run_jobs(todo, jobs, ended)
    else:
        for number, job in todo.items():
            start = time.perf_counter()
            ended(number, run_job(job), time.perf_counter() - start)
    rows: list[Row] = []
    curves = []
    for number, cell in enumerate(cells):
        row: Row = {**cell.labels, "seed": cell.seed}
        if number in failures:
            rows.append(row | {"failed": failures[number]})
            continue
        folder = Path(cell.config.out)
        summary = read_json(folder / "summary.json")
        rows.append(
            row
            | metrics_of(summary)
            | (resistance(folder, summary) if steps else {})
            | constraint_of(cell.config)
            | {"seconds": _seconds(folder)}
        )
        curves.append((row, *search_curve(summary)))
    out = Path(sweep.out)
    write_json(out / "sweep.json", {"axes": list(sweep.axes), "rows": rows})
    write_text(out / "sweep.md", table(rows, list(sweep.axes)))
    write_figures(out, rows, curves, list(sweep.axes))
    return rows


def _jobs(cells: Sequence[Cell], missing: Sequence[int], steps: Sequence[int]) -> dict[int, Job]:
    """The runs that are missing: where each may take stages from, and which earlier run it waits for to do so."""
    keys = [
        {stage: stage_key(cell.config, stage) for stage in needed_stages(cell.config)} for cell in cells
    ]  # of each cell
    jobs = {}
    for number in missing:
        alike = [other for other, its in enumerate(keys) if other != number and its.items() & keys[number].items()]
        waits = []
        for stage, key in keys[number].items():
            first = next(other for other in missing if keys[other].get(stage) == key)
            if first != number:
                waits.append((first, stage_path(Path(cells[first].config.out), stage)))
        jobs[number] = Job(cells[number].config, [Path(cells[other].config.out) for other in alike], waits, steps)
    return jobs


def _train_stacks(
    configs: Sequence[RunConfig], cells: Sequence[Cell], strategy: str, jobs: int, note: Callable[[str], None]
) -> None:
    """Trains together what can be, in this process, and says so; the runs themselves go on from there."""
    cpu = jax.default_backend() == "cpu"
    if strategy == "off" or (strategy == "auto" and cpu and jobs > 1):
        return
    strategy = {"auto": "map" if cpu else "vmap"}.get(strategy, strategy)
    groups, differing = stacks(configs)
    sizes = " + ".join(str(len(group)) for group in groups) or "none"
    if differing:
        note(f"trainings that are one step: {sizes}; not all, as they differ in {', '.join(differing)}")
    siblings = [Path(cell.config.out) for cell in cells]
    for number, group in enumerate(groups, start=1):
        start = time.perf_counter()
        count = train_together([configs[place] for place in group], strategy, siblings)
        note(
            f"stack {number} of {len(groups)}: {count} runs trained by {strategy} ({time.perf_counter() - start:.1f} s)"
        )


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
            # given, and of some use: with strength 0 alone nothing of it is in the model
            "forget_data": summary.get("forget_data") == "true"
            and any(point["eta_forget"] for point in first.get("trade_off") or [selected]),
            "rounds": summary["selected_round"],
            "eta_forget": selected["eta_forget"],
            "forget": metrics[name],
            "forget_share": metrics[name] / before if before else 0.0,
            "worst_retention": min(selected["retention"].values()),
        }
        perplexities = [value for metric, value in metrics.items() if metric.endswith("perplexity")]
        row |= {"perplexity": perplexities[0]} if perplexities else {}
        row |= {f"test/{metric}": value for metric, value in metrics.items()}
    if first.get("trade_off"):
        row |= interference_of(first, summary["base_validation"][summary["forget_metric"]])
    return row


def constraint_of(config: RunConfig) -> Row:
    """What held the adapters apart in a run, and how strongly: "none" and 0 without a penalty."""
    apart = config.release.orthogonality
    penalty = apart.penalty if apart.weight > 0 else "none"
    kinds = [kind for kind in (penalty, apart.projection) if kind != "none"]
    return {"constraint/kind": " + ".join(kinds) or "none", "constraint/lambda": apart.weight * (penalty != "none")}


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
        the target; linear between the strengths tried, and not there if none comes down so far. Of several strengths
        of the retain adapter the first is looked at.
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


def _seconds(folder: Path) -> float:
    """Time of a run's stages but the base model's measurement, as its manifest has it."""
    spent: dict[str, float] = read_json(folder / "manifest.json").get("seconds", {})
    return sum(value for stage, value in spent.items() if not stage.endswith(", base"))


def search_curve(summary: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Generations spent and scores, in the order of evaluation, of a run's first search; both [evaluations]."""
    points = summary["rounds"][0]["search"]
    return np.array([p["generations"] for p in points]), np.array([p["score"] for p in points], float)


def _finished(folder: Path, steps: Sequence[int]) -> bool:
    """Whether a run is complete and, if there are steps, was attacked with them."""
    if read_json(folder / "summary.json").get("status") != "complete":
        return False
    return not steps or was_attacked(folder, steps)


def _spent_at_once(config: RunConfig) -> bool:
    """Whether the arms of the initial design use up the budget of the search."""
    return config.reveal.search.generations <= config.reveal.search.initial * config.reveal.reward.samples


def _folder_name(parts: Sequence[str]) -> str:
    return "-".join(re.sub(r"[^\w.]+", "_", part) for part in parts)
