"""How much of what there is to disclose was disclosed: what is never revealed can never be released."""

from collections.abc import Sequence

from rr_jax.evaluate.metric import Metric, share_of
from rr_jax.tasks.base import Reading, Revealed, Task


def disclosed_facts(task: Task, revealed: Sequence[Revealed]) -> frozenset[str]:
    """Returns the task's facts that a forget set discloses."""
    return frozenset().union(*(task.disclosed(Reading(item.context, item.response)) for item in revealed))


def recall(task: Task, disclosed: frozenset[str]) -> Metric | None:
    """Returns the share of the task's facts that were disclosed; None for a task that knows of none."""
    return share_of([fact in disclosed for fact in task.facts]) if task.facts else None
