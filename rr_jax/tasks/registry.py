"""From the task section of a configuration to the task."""

from typing import Any

from rr_jax.tasks import config as configs
from rr_jax.tasks import custom
from rr_jax.tasks.base import Task
from rr_jax.tasks.testbed import code, ner, toxicity


def make_task(section: configs.TaskConfig, tokenizer: Any, seed: int) -> Task:
    """The task a configuration names.

    Raises:
      ValueError: for what the custom task finds wrong with its files or its expression.
    """
    if isinstance(section, configs.NerTask):
        return ner.make(section.forget)
    if isinstance(section, configs.ToxicityTask):
        return toxicity.make()
    if isinstance(section, configs.CodeTask):
        return code.make()
    return custom.make(section, tokenizer, seed)
