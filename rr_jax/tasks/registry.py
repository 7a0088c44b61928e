"""The tasks by name, and from a section of a configuration, or from a Python object, to the task.

Knows what a task must have; never what any task is about.
"""

from typing import Any

from rr_jax.registry import Registry, subclass_of
from rr_jax.tasks.base import Task
from rr_jax.tasks.given import GivenSection, given_section

ATTRIBUTES = ("name", "forget_metric", "utility_metrics", "instructions")  # that have no default


TASKS: Registry[type[Task]] = Registry(
    "task",
    {
        "testbed/ner": "rr_jax.tasks.testbed.ner:NerTask",
        "testbed/toxicity": "rr_jax.tasks.testbed.toxicity:ToxicityTask",
        "testbed/code": "rr_jax.tasks.testbed.code:CodeTask",
        "custom": "rr_jax.tasks.custom:KeywordTask",
    },
    adapt=subclass_of(Task, "task"),
)


def make_task(section: Any, tokenizer: Any, seed: int, given: Task | None = None) -> Task:
    """Returns the task that a configuration names, or the object that was given in its place.

    Args:
      section: the section `task` of a configuration, with a field `name`.
      tokenizer: of the model.
      seed: of the run.
      given: a Python object that is the task.

    Raises:
      ValueError: for what the task finds wrong with its settings or files; the task lacks an attribute; the section is
        that of a run whose task was a Python object, and none or another was given.
    """
    if given is not None:
        its = section_of(given)
        if isinstance(section, GivenSection) and section != its:
            raise ValueError(
                f"task: the run was made with an object of {section.of_class}, found one of {its.of_class}"
            )
        return given
    task = TASKS.get(section.name).make(section, tokenizer, seed)
    _check_attributes(task, repr(section.name))
    return task


def section_of(task: Any) -> GivenSection:
    """Returns the section that stands for a Python object in the configuration of a run.

    Raises:
      ValueError: the object is no task, or lacks an attribute.
    """
    if not isinstance(task, Task):
        raise ValueError(f"task: found {task!r}, expected an object of a subclass of rr_jax.tasks.base.Task")
    _check_attributes(task, type(task).__name__)
    return given_section(task)


def _check_attributes(task: Task, what: str) -> None:
    missing = [name for name in ATTRIBUTES if not hasattr(task, name)]
    if missing:
        raise ValueError(f"task {what} lacks {', '.join(missing)}, which every task has")
