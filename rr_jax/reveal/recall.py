"""How much of what there is to disclose was disclosed: what is never revealed can never be released."""

from collections.abc import Sequence

from rr_jax.tasks.base import Reading, Revealed, Task


def disclosed_facts(task: Task, revealed: Sequence[Revealed]) -> frozenset[str]:
    """The task's facts that a forget set discloses."""
    return frozenset().union(*(task.disclosed(Reading(item.context, item.response)) for item in revealed))


def recall(task: Task, disclosed: frozenset[str]) -> float | None:
    """Share of the task's facts that were disclosed; None for a task that knows of none."""
    return len(disclosed & task.facts) / len(task.facts) if task.facts else None
