"""The one call by which all metrics are measured, the task's and further ones: what comes back is checked, whoever wrote
it."""

from collections.abc import Callable, Sequence
from typing import Any

from rr_jax.evaluate.metric import Metric
from rr_jax.generation.generator import Generator
from rr_jax.models.hub import LanguageModel
from rr_jax.tasks.base import Evaluation, Split, Task
from rr_jax.tasks.metrics import Measure, check_names, own_names


def evaluate_task(
    task: Task,
    generator: Generator,
    split: Split,
    count: int,
    *,
    base: LanguageModel,
    metrics: Sequence[Measure] = (),
    progress: Callable[[str], None] | None = None,
    only: frozenset[str] | None = None,
) -> Evaluation:
    """Returns what `task.evaluate` measures, and then what `metrics` do; the other arguments are the task's own.

    Raises:
      ValueError: a metric that the task names is not there, one has no n, or its value or standard error is no number; one
        of `metrics` has the name of one of the task's, or counts as utility and is below 0.
    """
    result = task.evaluate(generator, split, count, base=base, progress=progress, only=only)
    for name, metric in result.metrics.items():
        _check(f"task {task.name!r} gives metric {name!r}", metric)
    missing = [name for name in own_names(task) if name not in result.metrics]
    if missing and only is None:
        raise ValueError(
            f"task {task.name!r} gives no metric {', '.join(missing)}, expected all that its attributes name: "
            f"{', '.join(own_names(task))}"
        )
    check_names(task, result.metrics, metrics)
    further: dict[str, Metric] = {}
    for one in metrics:
        if progress is not None:
            progress(one.name)
        found = one.measure(generator, task, split, count, base=base)
        _check(f"evaluate.metrics: {one.name!r} gives its metric", found)
        if one.utility and found.value < 0.0:
            raise ValueError(
                f"evaluate.metrics: {one.name!r} counts as utility, by the share of its value that is kept: expected a "
                f"value of at least 0, found {found.value:g}"
            )
        further[one.name] = found
    return result._replace(metrics=result.metrics | further)


def _check(who_gives_it: str, metric: Any) -> None:
    """Raises ValueError unless it is a metric with its n."""
    if not isinstance(metric, Metric) or type(metric.n) is not int or metric.n < 0:
        raise ValueError(
            f"{who_gives_it} as {metric!r}, without n: expected a rr_jax.evaluate.metric.Metric, such as "
            "share_of([True, False])"
        )
    if not isinstance(metric.value, float) or not isinstance(metric.stderr, float | None):
        raise ValueError(f"{who_gives_it} as {metric!r}: expected floats as value and stderr")
