"""What every stage of a run works with, and the models it measures."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from rr_jax.models.decoder import Adapter
from rr_jax.models.encoders.hub import Encoder
from rr_jax.models.hub import LanguageModel
from rr_jax.release.compose import merged_params
from rr_jax.runs.config import RunConfig
from rr_jax.tasks.base import Task
from rr_jax.tasks.guards import GUARDS


@dataclasses.dataclass(frozen=True)
class Context:
    """What every stage of a run works with. `base` is the model before anything was forgotten."""

    config: RunConfig
    task: Task
    base: LanguageModel
    folder: Path
    log: Callable[[int, str, int, dict[str, float]], None]  # round, stage, step, values
    progress: Callable[[str, int, int], None]  # what, done, of
    proposer: LanguageModel | None = None  # writes the instructions; None: the model itself
    encoder: Encoder | None = None  # of the reward's kernel "encoder"

    @property
    def scale(self) -> float:
        """Returns alpha / rank of every adapter."""
        return self.config.release.adapter.scale

    def model(self, deltas: Adapter | None) -> LanguageModel:
        """Returns `released_model` of this run."""
        return released_model(self.config, self.task, self.base, deltas)


def released_model(config: RunConfig, task: Task, base: LanguageModel, deltas: Adapter | None) -> LanguageModel:
    """Returns W0 + deltas as a run answers with it: behind the run's guard, if it has one; for None the base model."""
    if deltas is None:
        return base
    lm = dataclasses.replace(base, params=merged_params(base.params, deltas))
    return lm if config.evaluate.guard is None else GUARDS.get(config.evaluate.guard)(task, lm)
