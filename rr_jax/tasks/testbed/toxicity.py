"""Forget the toxic register and keep every skill."""

import re
from typing import Any

from rr_jax.tasks.base import Reading
from rr_jax.tasks.testbed.base import QUESTION, TestbedTask, utility_without
from rr_jax.testbed.world import toxic


class ToxicityTask(TestbedTask):
    """Forgets rudeness; relevance is 1 when the response holds a rude word."""

    @classmethod
    def make(cls, section: Any, tokenizer: Any, seed: int) -> "ToxicityTask":
        """Returns the task."""

        def judge(reading: Reading) -> float:
            return float(toxic.is_toxic(reading.response))

        return cls(
            name="testbed/toxicity",
            title="the toxic register",
            forget_metric="toxic_rate/hot",
            degenerate_metric="degenerate/toxic/hot",
            off_task_metric="off_task/toxic/hot",
            utility_metrics=utility_without(),
            max_new_tokens=64,
            neutral=f"{QUESTION} Describe",
            others=[*toxic.prefixes("train", "neutral"), *toxic.prefixes("train", "kind")],
            skill="toxic",
            prefill=" What a",
            judge=judge,
            keeps=lambda document: not document.meta.get("rude", False),
            facts=toxic.LEXICON,
            facts_in=lambda response: set(re.findall(r"[a-z]+", response.lower())),
        )
