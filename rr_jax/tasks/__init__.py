"""What is to be forgotten and what kept: the base class of tasks, what measures them, and the choices by name."""

from typing import TYPE_CHECKING

from rr_jax.lazy import names_of

if TYPE_CHECKING:
    from rr_jax.tasks.base import Evaluation, Reading, Revealed, Task
    from rr_jax.tasks.evaluation import evaluate_task
    from rr_jax.tasks.guards import GUARDS
    from rr_jax.tasks.metrics import METRICS, Measure
    from rr_jax.tasks.registry import TASKS, make_task

__all__ = [
    "GUARDS",
    "METRICS",
    "TASKS",
    "Evaluation",
    "Measure",
    "Reading",
    "Revealed",
    "Task",
    "evaluate_task",
    "make_task",
]
__getattr__, __dir__ = names_of(__name__, __file__)
