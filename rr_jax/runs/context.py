"""What every stage of a run works with, and the models it measures."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from rr_jax.generation.generator import Generator
from rr_jax.models.encoders.hub import Encoder
from rr_jax.models.hub import LanguageModel
from rr_jax.models.spec import Adapter
from rr_jax.release.compose import merged_params
from rr_jax.reveal.scorers import Relevance
from rr_jax.runs.config import RunConfig
from rr_jax.tasks.base import Task
from rr_jax.tasks.guards import GUARDS
from rr_jax.tasks.metrics import Direction, utility_of


@dataclasses.dataclass(frozen=True)
class Context:
    """Holds what every stage of a run works with. `base` is the model before anything was forgotten."""

    config: RunConfig
    task: Task
    base: LanguageModel
    folder: Path
    log: Callable[[int, str, int, dict[str, float]], None]  # round, stage, step, values
    progress: Callable[[str, int, int], None]  # what, done, of
    proposer: LanguageModel | None = None  # writes the instructions; None: the model itself
    encoder: Encoder | None = None  # of the reward's kernel "encoder"
    relevance: Relevance | None = None  # the reward's scorer, loaded

    @property
    def scale(self) -> float:
        """Returns alpha / rank of every adapter."""
        return self.config.release.adapter.scale

    @property
    def utility_metrics(self) -> dict[str, Direction]:
        """Returns what counts within the utility budget, and which way is better."""
        return utility_of(self.task, self.config.evaluate.metrics)

    def model(self, deltas: Adapter | None) -> LanguageModel:
        """Returns W0 + deltas; the base model for None."""
        return released_model(self.base, deltas)

    def answering(self, lm: LanguageModel) -> Generator:
        """Returns the model as the run answers with it: behind its guard, unless it is the base model."""
        return Generator(lm) if lm is self.base else guarded(self.task, lm, self.config.evaluate.guard)


def released_model(base: LanguageModel, deltas: Adapter | None) -> LanguageModel:
    """Returns W0 + deltas, merged; the base model itself for None."""
    return base if deltas is None else dataclasses.replace(base, params=merged_params(base.params, deltas))


def guarded(task: Task, lm: LanguageModel, guard: str | None) -> Generator:
    """Returns a model behind a guard, by its name among `GUARDS`; None is no guard.

    Raises:
      ValueError: there is no such guard.
    """
    return Generator(lm) if guard is None else GUARDS.get(guard)(task, Generator(lm))
