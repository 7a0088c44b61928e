"""Many runs from one file: every combination of the axes, with every seed; one row a run, and means with intervals.

Each run has a folder of its own and is resumed or left alone if it is there, so a sweep that was interrupted goes on.
What several runs would compute alike is computed once (`reuse`), trainings of equal shapes are one step (`stacked`), and
with jobs several runs go on at a time (`jobs`). Knows configurations and summaries; never what happens in a run.
"""

import itertools
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import pydantic
import yaml

from rr_jax.runs.checks import check_constraint
from rr_jax.runs.config import RunConfig
from rr_jax.runs.config_errors import explain
from rr_jax.runs.config_file import load_config, plain, read_yaml, set_value
from rr_jax.runs.folder import check_config, write_json, write_text
from rr_jax.runs.results import RunSummary
from rr_jax.runs.reuse import needed_stages, stage_key, stage_path, without
from rr_jax.section import Section, Seed
from rr_jax.studies.attacks import check_steps, was_attacked
from rr_jax.studies.sweeps.figures import write_figures
from rr_jax.studies.sweeps.jobs import Job, run_job, run_jobs
from rr_jax.studies.sweeps.rows import constraint_of, metrics_of, resistance, search_curve, seconds_of
from rr_jax.studies.sweeps.stacked import stacks, train_together
from rr_jax.studies.sweeps.table import Row, table


class SweepConfig(Section):
    """Describes a grid of runs. Overrides are dotted keys of the run configuration, as on the command line."""

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
    """Describes one run of the grid: the label it has on each axis, its seed and its configuration."""

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
    _check_owned(sweep, path)
    cells: list[Cell] = []
    for point in itertools.product(*(axis.items() for axis in sweep.axes.values())):
        labels = {axis: label for axis, (label, _) in zip(sweep.axes, point, strict=True)}
        merged: dict[str, Any] = dict(sweep.overrides)
        for _, chosen in point:
            merged |= chosen
        for seed in sweep.seeds:
            out = Path(sweep.out) / "runs" / _folder_name([*labels.values(), f"seed{seed}"])
            values = merged | {"seed": seed, "out": str(out)}
            lines = [f"{key}={yaml.safe_dump(value, default_flow_style=True)}" for key, value in values.items()]
            try:
                cells.append(Cell(labels, seed, load_config(base, lines)))
            except ValueError as error:
                where = ", ".join(f"{axis} {label!r}" for axis, label in labels.items())
                raise ValueError(f"sweep {path}, {where}: {error}") from None
    _check_distinct(cells, path)
    return sweep, cells


def _check_owned(sweep: SweepConfig, path: Path) -> None:
    """Refuses overrides of what the sweep itself gives to each run."""
    sections = {"overrides": sweep.overrides} | {
        f"axes.{axis}.{label}": chosen for axis, labels in sweep.axes.items() for label, chosen in labels.items()
    }
    for section, chosen in sections.items():
        for key, instead in (("seed", "seeds"), ("out", "out")):
            if key in chosen:
                raise ValueError(
                    f"sweep {path}: {section} has {key!r}, which the sweep's own {instead!r} gives to every run"
                )


def _check_distinct(cells: Sequence[Cell], path: Path) -> None:
    """Refuses two combinations that are the same run, or whose labels make the same folder."""
    known: dict[str, Cell] = {}
    folders: dict[str, Cell] = {}
    for cell in cells:
        # a file system may not tell upper case from lower
        twin = folders.setdefault(cell.config.out.casefold(), cell)
        if twin is not cell:
            one, other = (" · ".join(one.labels.values()) for one in (twin, cell))
            raise ValueError(
                f"sweep {path}: {one!r} and {other!r} would share the folder {cell.config.out}: give labels that differ in "
                "letters, digits or dots"
            )
        key = json.dumps(without(plain(cell.config), ["out"]), sort_keys=True)
        twin = known.setdefault(key, cell)
        if twin is not cell:
            one, other = (" · ".join(one.labels.values()) for one in (twin, cell))
            raise ValueError(f"sweep {path}: {one!r} and {other!r} are the same configuration")


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
        try:
            check_constraint(cell.config)
        except ValueError as error:
            which = ", ".join(f"{axis} {label!r}" for axis, label in cell.labels.items())
            raise ValueError(f"{path}, {which}: {error}") from error
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
        summary = RunSummary.read(folder)
        rows.append(
            row
            | metrics_of(summary)
            | (resistance(folder, summary) if steps else {})
            | constraint_of(cell.config)
            | {"seconds": seconds_of(folder)}
        )
        curves.append((row, *search_curve(summary)))
    out = Path(sweep.out)
    write_json(out / "sweep.json", {"axes": list(sweep.axes), "rows": rows})
    write_text(out / "sweep.md", table(rows, list(sweep.axes)))
    write_figures(out, rows, curves, list(sweep.axes))
    return rows


def _jobs(cells: Sequence[Cell], missing: Sequence[int], steps: Sequence[int]) -> dict[int, Job]:
    """Returns the runs that are missing: where each may take stages from, and which earlier run it waits for to do so."""
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
        count = train_together([configs[index] for index in group], strategy, siblings)
        note(
            f"stack {number} of {len(groups)}: {count} runs trained by {strategy}, with what comes before "
            f"({time.perf_counter() - start:.1f} s)"
        )


def _finished(folder: Path, steps: Sequence[int]) -> bool:
    """Returns whether a run is complete and, if there are steps, was attacked with them."""
    if not (folder / RunSummary.FILE).exists() or RunSummary.read(folder).status != "complete":
        return False
    return not steps or was_attacked(folder, steps)


def _spent_at_once(config: RunConfig) -> bool:
    """Returns whether the arms of the initial design use up the budget of the search."""
    return config.reveal.search.generations <= config.reveal.search.initial * config.reveal.reward.samples


def _folder_name(parts: Sequence[str]) -> str:
    return "-".join(re.sub(r"[^\w.]+", "_", part) for part in parts)
