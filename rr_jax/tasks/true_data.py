"""The data to forget, as it truly is: for baselines that cannot do without it, and for attacks that bring it back.

Kept apart from `Task` so that reveal and release cannot reach it: nothing they import leads here.
"""

import random

from rr_jax.data.packing import Example
from rr_jax.data.sources import load_texts
from rr_jax.tasks.base import Reading, Task
from rr_jax.tasks.config import CustomTask, TaskConfig
from rr_jax.tasks.custom import compile_oracle
from rr_jax.tasks.testbed.base import TestbedTask
from rr_jax.testbed.world.mixture import document

SKILLS = {"ner": "ner", "toxicity": "toxic", "code": "code"}  # where a testbed target's documents are drawn from


def forget_examples(section: TaskConfig, task: Task, count: int, seed: int) -> list[Example]:
    """Training examples of the target: `count` of them, or all there are of a text file.

    Args:
      section: the task's section of the configuration.
      task: made of it.
      count: examples wanted.
      seed: of the draw.

    Raises:
      ValueError: the texts of a custom task hold nothing of what is to be forgotten.
    """
    rng = random.Random(f"forget/{task.name}/{seed}")
    if isinstance(section, CustomTask):
        oracle = compile_oracle(section.keywords, section.regex)
        texts = load_texts(section.retain_text, section.text_field, section.max_texts)
        found = [text for text in dict.fromkeys(texts) if oracle.search(text)]
        if not found:
            raise ValueError(f"task.retain_text: {section.retain_text} has no text that holds what is to be forgotten")
        return [Example("", text) for text in rng.sample(found, min(count, len(found)))]
    assert isinstance(task, TestbedTask)
    examples: list[Example] = []
    while len(examples) < count:
        drawn = document(rng, SKILLS[task.name], "train")
        if not task.keeps(drawn) and task.relevance(Reading(drawn.prompt, drawn.response)) > 0.5:
            examples.append(Example(drawn.prompt, drawn.response))
    return examples
