"""The one call by which a task's metrics are measured: what comes back is checked, whoever wrote the task."""

from collections.abc import Callable

from rr_jax.evaluate.metric import Metric
from rr_jax.generation.generator import Generator
from rr_jax.models.hub import LanguageModel
from rr_jax.tasks.base import Evaluation, Split, Task


def evaluate_task(
    task: Task,
    generator: Generator,
    split: Split,
    count: int,
    *,
    base: LanguageModel,
    progress: Callable[[str], None] | None = None,
    only: frozenset[str] | None = None,
) -> Evaluation:
    """Returns what `task.evaluate` measures; the arguments are its own.

    Raises:
      ValueError: a metric has no n, or its value or standard error is no number.
    """
    result = task.evaluate(generator, split, count, base=base, progress=progress, only=only)
    for name, metric in result.metrics.items():
        if not isinstance(metric, Metric) or type(metric.n) is not int or metric.n < 0:
            raise ValueError(
                f"task {task.name!r} gives metric {name!r} as {metric!r}, without n: expected a "
                "rr_jax.evaluate.metric.Metric, such as share_of([True, False])"
            )
        if not isinstance(metric.value, float) or not isinstance(metric.stderr, float | None):
            raise ValueError(
                f"task {task.name!r} gives metric {name!r} as {metric!r}: expected floats as value and stderr"
            )
    return result
