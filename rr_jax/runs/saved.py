"""A run that is over, or under way, as one object to look at: summary, adapters, revealed rows and logged numbers.

Only reads, and reads what is large only when it is asked for. Loads no model.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rr_jax.models.spec import Adapter
from rr_jax.runs.checkpoint import Checkpoints, stage_number
from rr_jax.runs.config import RunConfig
from rr_jax.runs.folder import read_lines, read_run
from rr_jax.runs.results import RunSummary
from rr_jax.tasks.base import Revealed

ADAPTERS = {"train": ("forget", "retain"), "compose": ("repair", "deltas")}  # by the stage that leaves them


class Series(NamedTuple):
    """Holds one logged number over the steps of a stage, [N] each: int64 and float64."""

    steps: np.ndarray
    values: np.ndarray


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """Gives access to a run folder.

    Attributes:
      folder: where it lies.
      config: its configuration.
      summary: what it found.
    """

    folder: Path
    config: RunConfig
    summary: RunSummary

    def adapters(self, round_index: int | None = None) -> dict[str, Adapter]:
        """Reads the adapters of a round from its checkpoints, {name: {module: {"a": [L, in, R], "b": [L, R, out]}}}.

        "forget" and, if there is one, "retain" are as trained, "repair" is the retain adapter trained after the
        subtraction; "deltas" is what this round and all before it added to the base weights, strengths included.

        Args:
          round_index: None is the selected round.

        Raises:
          ValueError: the round has no checkpoint, or is the base model.
        """
        number = self.summary.selected_round if round_index is None else round_index
        found: dict[str, Adapter] = {}
        with self._checkpoints() as checkpoints:
            saved = set(checkpoints.saved()) if number > 0 else set()
            for stage, names in ADAPTERS.items():
                if number > 0 and stage_number(number, stage) in saved:
                    arrays = checkpoints.restore(stage_number(number, stage)).arrays
                    found |= {name: arrays[name] for name in names if name in arrays}
        if not found:
            there = ", ".join(str(result.round_index) for result in self.summary.rounds if result.metrics) or "none"
            raise ValueError(f"{self.folder} has no adapters of round {number}; rounds with some: {there}")
        return found

    def revealed(self, round_index: int) -> tuple[Revealed, ...]:
        """Reads the forget set that the search of a round revealed.

        Raises:
          ValueError: the round did not search, or only hashes of the texts were kept.
        """
        path = self.folder / "revealed" / f"round_{round_index:02d}.jsonl"
        if not path.exists():
            raise ValueError(f"{self.folder}: round {round_index} searched for nothing (there is no {path.name})")
        if self.config.privacy.keep_revealed != "text":
            raise ValueError(
                f"{path} holds no texts (privacy.keep_revealed is {self.config.privacy.keep_revealed!r}), only hashes"
            )
        return tuple(Revealed(**line) for line in read_lines(path))

    @cached_property
    def metrics(self) -> dict[str, dict[tuple[int, str], Series]]:
        """Returns the lines of metrics.jsonl as arrays, {name: {(round, stage): series}}."""
        found: dict[str, dict[tuple[int, str], list[tuple[int, float]]]] = {}
        for line in read_lines(self.folder / "metrics.jsonl"):
            key = (line.pop("round"), line.pop("stage"))
            step = line.pop("step")
            for name, value in line.items():
                found.setdefault(name, {}).setdefault(key, []).append((step, np.nan if value is None else value))
        return {name: {key: _series(points) for key, points in series.items()} for name, series in found.items()}

    def __repr__(self) -> str:
        summary = self.summary
        lines = [f"run {self.folder}: {summary.task}, seed {summary.seed}, {summary.status}"]
        lines += [f"  base: {summary.forget_metric} {_shown(summary, 0)}"] if summary.base else []
        for result in summary.rounds:
            said = f"  round {result.round_index}: {result.revealed} revealed"
            if result.metrics:
                shown = _shown(summary, result.round_index)
                said += f", strength {result.forget_strength:g}, {summary.forget_metric} {shown}"
            lines.append(said + (", selected" if result.round_index == summary.selected_round else ""))
        lines += [f"  stopped: {summary.stop.explanation}"] if summary.stop else []
        return "\n".join(lines)

    @contextlib.contextmanager
    def _checkpoints(self) -> Iterator[Checkpoints]:
        if not (self.folder / "checkpoints").is_dir():
            raise ValueError(f"{self.folder} has no checkpoints")
        checkpoints = Checkpoints(self.folder / "checkpoints", read_only=True)
        try:
            yield checkpoints
        finally:
            checkpoints.close()


def load_run(folder: str | Path) -> SavedRun:
    """Opens a run folder to look at.

    Raises:
      ValueError: it is no run folder, or its summary is not there, broken, or of another version.
    """
    folder = Path(folder)
    return SavedRun(folder, read_run(folder), RunSummary.read(folder))


def _series(points: list[tuple[int, float]]) -> Series:
    steps, values = zip(*points, strict=True)
    return Series(np.asarray(steps, np.int64), np.asarray(values, np.float64))


def _shown(summary: RunSummary, round_index: int) -> str:
    """Returns the forget metric of a measured round, 0 for the base, with its standard error."""
    of = {result.round_index: result.metrics for result in summary.measured} | {0: summary.base}
    metric = (of[round_index] or {})[summary.forget_metric]
    return f"{metric.value:.3f}" + ("" if metric.stderr is None else f" \u00b1 {metric.stderr:.3f}")
