"""The place in a configuration of a task that was handed over as a Python object, which no file can hold.

A run folder says so in its config.yaml; who reads the folder has to hand the object over again. Only the type of the
object is known there, not what it holds.
"""

from typing import Any, ClassVar, NoReturn

from rr_jax.section import Section
from rr_jax.tasks.base import Task


class GivenSection(Section):
    """Says that the task was a Python object, and of which class ("package.module:Name")."""

    name: str
    of_class: str


class GivenTask(Task):
    """Stands where the object is missing: it cannot be made."""

    Section: ClassVar[type[GivenSection]] = GivenSection

    @classmethod
    def make(cls, section: GivenSection, tokenizer: Any, seed: int) -> NoReturn:
        """Raises ValueError: says how to go on."""
        raise ValueError(
            f"task: this run's task was a Python object ({section.of_class}): give it again as task= in Python, or name "
            "its class in the configuration as 'package.module:Name'"
        )

    def relevance(self, *_: Any) -> NoReturn:
        """Is never called: there is no object."""
        raise NotImplementedError

    def retain_examples(self, *_: Any) -> NoReturn:
        """Is never called: there is no object."""
        raise NotImplementedError

    def evaluate(self, *_: Any, **__: Any) -> NoReturn:
        """Is never called: there is no object."""
        raise NotImplementedError


def given_section(task: Task) -> GivenSection:
    """Returns the section that stands for an object."""
    own = type(task)
    return GivenSection(name=f"{__name__}:{GivenTask.__name__}", of_class=f"{own.__module__}:{own.__qualname__}")
