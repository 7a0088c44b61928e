"""Who says how much a response belongs to the target, in the search and in the collection: `reveal.reward.scorer`.

A scorer is given the task and what the task read in a batch of responses, and gives one number each. It never knows which
arm asked, which model answered, or what becomes of its numbers.
"""

import abc
import functools
from collections.abc import Callable, Sequence

import numpy as np

from rr_jax.evaluate.classifier import classify_texts
from rr_jax.models.encoders.hub import Encoder, load_encoder
from rr_jax.registry import Registry, subclass_of
from rr_jax.section import Section
from rr_jax.tasks.base import Reading, Task

Relevance = Callable[[Task, Sequence[Reading]], Sequence[float] | np.ndarray]


class Scorer(Section, abc.ABC):
    """Defines one way to judge responses: a section of the configuration. A subclass gives `relevance`, and `load` if it is
    slow to be made ready."""

    name: str

    @abc.abstractmethod
    def relevance(self, task: Task, readings: Sequence[Reading]) -> Sequence[float] | np.ndarray:
        """Returns how much each response belongs to the target, 0 to 1, in the order of the readings."""

    def load(self) -> Relevance:
        """Returns `relevance` with what it needs at hand. A run calls this once, before it computes anything.

        Raises:
          ValueError: something it needs cannot be loaded.
        """
        return self.relevance

    def source(self, task: Task) -> str:
        """Returns whose number it is, for messages."""
        return f"scorer {self.name!r}"


class TaskScorer(Scorer):
    """Scores by the task's own judgement."""

    name: str = "task"

    def relevance(self, task: Task, readings: Sequence[Reading]) -> Sequence[float] | np.ndarray:
        """Returns what the task says of each reading."""
        return [task.relevance(reading) for reading in readings]

    def source(self, task: Task) -> str:
        """Returns the task."""
        return f"task {task.name}"


class ClassifierScorer(Scorer):
    """Scores the response alone, by the probability that a classifier gives to one of its labels."""

    name: str = "classifier"
    model: str  # folder or hub id of an encoder with a classification head
    label: str

    def relevance(self, task: Task, readings: Sequence[Reading]) -> Sequence[float] | np.ndarray:
        """Returns the label's probability; loads the classifier each time."""
        return self.load()(task, readings)

    def load(self) -> Relevance:
        """Returns the same with the classifier loaded.

        Raises:
          ValueError: it cannot be loaded, or lacks a tokenizer or the label.
        """
        encoder = load_encoder(self.model)
        if self.label not in encoder.config.labels:
            labels = ", ".join(encoder.config.labels) or "no classification head"
            raise ValueError(f"reveal.reward.scorer.label: found {self.label!r}, but {self.model} has {labels}")
        if encoder.tokenizer is None:
            raise ValueError(f"reveal.reward.scorer.model: {self.model} has no tokenizer, which a classifier needs")
        return functools.partial(_probability, encoder, self.label)


def _probability(encoder: Encoder, label: str, task: Task, readings: Sequence[Reading]) -> np.ndarray:
    return classify_texts(encoder, [reading.response for reading in readings])[label]


SCORERS: Registry[type[Scorer]] = Registry(
    "scorer",
    {"task": f"{__name__}:TaskScorer", "classifier": f"{__name__}:ClassifierScorer"},
    adapt=subclass_of(Scorer, "scorer"),
)
