"""Metrics that a run measures beside its task's own, found by name: `evaluate.metrics`.

Knows what such a metric is asked and how it stands beside the task's; never what any of them measures.
"""

import abc
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

from rr_jax.evaluate.metric import Metric
from rr_jax.generation.generator import Generator
from rr_jax.models.hub import LanguageModel
from rr_jax.registry import Registry, subclass_of
from rr_jax.section import Section
from rr_jax.tasks.base import Split, Task

Direction = Literal["higher", "lower"]


class Measure(Section, abc.ABC):
    """Defines one more metric: a section of the configuration that can measure a model.

    A subclass gives `better` and `measure`.

    Attributes:
      name: what it is found by, and called in every table.
      utility: whether it counts within the utility budget, as the task's utility metrics do, by the share of the base
        model's value that is kept; its values are then at least 0.
      better: which way is better.
    """

    name: str
    utility: bool = False
    better: ClassVar[Direction]

    @abc.abstractmethod
    def measure(self, generator: Generator, task: Task, split: Split, count: int, *, base: LanguageModel) -> Metric:
        """Returns the metric of a model on a split.

        Two models are compared by it: prompts and random keys are to depend on the split alone.

        Args:
          generator: answers prompts; what reads its `params` reads its `adapters` as well.
          task: what is forgotten.
          split: the data to measure on.
          count: examples of it.
          base: the model before anything was forgotten.
        """


def _measure_class(found: Any) -> Any:
    found = subclass_of(Measure, "metric")(found)
    better = getattr(found, "better", "higher")  # where it has none, the registry says so
    if better not in ("higher", "lower"):
        raise ValueError(f"{found.__name__}.better is {better!r}, expected 'higher' or 'lower'")
    return found


METRICS: Registry[type[Measure]] = Registry("metric", {}, ["better"], adapt=_measure_class)


def utility_of(task: Task, metrics: Sequence[Measure]) -> dict[str, Direction]:
    """Returns all metrics that count within the utility budget, and which way is better: the task's, then the others."""
    return dict(task.utility_metrics) | {one.name: one.better for one in metrics if one.utility}


def own_names(task: Task) -> list[str]:
    """Returns the metrics that a task is known to give before it is measured; it may give more."""
    names = [task.forget_metric, *task.utility_metrics, task.degenerate_metric]
    return names if task.off_task_metric is None else [*names, task.off_task_metric]


def check_names(task: Task, own: Iterable[str], metrics: Sequence[Measure]) -> None:
    """Refuses a metric that is called as one of the task's.

    Raises:
      ValueError: names it.
    """
    taken = set(own)
    for one in metrics:
        if one.name in taken:
            raise ValueError(
                f"evaluate.metrics: task {task.name!r} measures {one.name!r} itself: leave it out, or give yours another "
                "name"
            )


def names_differ(metrics: list[Measure]) -> list[Measure]:
    """Returns the metrics of a configuration as they are.

    Raises:
      ValueError: two have one name.
    """
    names = [one.name for one in metrics]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"metric {twice!r} is given twice")
    return metrics
