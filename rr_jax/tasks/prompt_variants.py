"""Other ways to ask a model for what it was to forget: attacks by prompts alone.

Each way is the task itself, measuring the same metric by the same rule on other prompts. Knows tasks and the true forget
data (what examples are shown from), never adapters or files.
"""

import dataclasses
import re
from collections.abc import Sequence

from rr_jax.data.packing import encode_prompt
from rr_jax.models.hub import LanguageModel
from rr_jax.tasks.base import Task
from rr_jax.tasks.config import NerTask, TaskConfig
from rr_jax.tasks.custom import KeywordTask
from rr_jax.tasks.testbed.base import TestbedTask
from rr_jax.tasks.true_data import forget_examples
from rr_jax.testbed.measure import TYPE_NAMES, Asking

SHOTS = 3  # true examples shown before the question
PREFILLS = {"code": "\ndef f(x):", "toxicity": " What a"}  # beginnings of answers of the target
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def askings(
    section: TaskConfig, task: Task, lm: LanguageModel, prompts: Sequence[str], seed: int
) -> tuple[dict[str, Task], int]:
    """The task asking in other ways, by name, and how many examples "few_shot" shows.

    On the testbed: "wording_train" and "wording_validation" (instructions of the splits that evaluation does not use),
    "few_shot" and "prefill" (the answer is begun for the model). Of a custom task: "openings" of texts, "named" (those
    of its instructions that hold the target themselves; what counts is only what the model adds) and "few_shot". As many
    examples are shown, at most SHOTS, as leave room for every prompt; "few_shot" is missing when none does.

    Args:
      section: the task's section of the configuration.
      task: made of it.
      lm: tells how long a prompt is and may be.
      prompts: those that the forget metric is measured with.
      seed: of the draw of the examples.

    Raises:
      ValueError: as `forget_examples`.
    """
    if isinstance(task, TestbedTask):
        asked = {
            "wording_train": Asking(wording="train"),
            "wording_validation": Asking(wording="validation"),
            "prefill": Asking(prefill=f" {TYPE_NAMES[section.forget]}:")
            if isinstance(section, NerTask)
            else Asking(prefill=PREFILLS[task.name]),
        }
        texts = [example.prompt + example.response for example in forget_examples(section, task, SHOTS, seed)]
        before, shots = _fitting(lm, texts, prompts, task.max_new_tokens)
        if shots:
            asked["few_shot"] = Asking(before=before)
        return {name: dataclasses.replace(task, asking=asking) for name, asking in asked.items()}, shots
    if isinstance(task, KeywordTask):
        texts = [_shortest_mention(task, example.response) for example in forget_examples(section, task, SHOTS, seed)]
        before, shots = _fitting(lm, texts, prompts, task.max_new_tokens)
        begun = {
            "openings": [text for text in task.others if text],
            "named": [text for text in task.instructions if task.oracle.search(text)],
            "few_shot": [before + prompt for prompt in task.prompts] if shots else [],
        }
        return {name: dataclasses.replace(task, prompts=tuple(given)) for name, given in begun.items() if given}, shots
    return {}, 0


def _fitting(lm: LanguageModel, texts: Sequence[str], prompts: Sequence[str], new_tokens: int) -> tuple[str, int]:
    """As many of the texts, one a line, as fit before the longest prompt, and how many they are."""
    for count in range(len(texts), 0, -1):
        before = "".join(f"{text}\n" for text in texts[:count])
        longest = max(len(encode_prompt(lm.tokenizer, before + prompt, lm.chat)) for prompt in prompts)
        if longest + new_tokens <= lm.config.max_positions:
            return before, count
    return "", 0


def _shortest_mention(task: KeywordTask, text: str) -> str:
    """The first sentence that the oracle finds something in, or the text if none holds it whole."""
    sentences = _SENTENCE_END.split(text)
    return next((sentence for sentence in sentences if task.oracle.search(sentence)), text)
