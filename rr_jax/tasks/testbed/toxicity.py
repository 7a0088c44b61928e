"""Forget the toxic register and keep every skill."""

import re

from rr_jax.tasks.base import Reading
from rr_jax.tasks.testbed.base import QUESTION, TestbedTask, utility_without
from rr_jax.testbed.world import toxic


def make() -> TestbedTask:
    """The task that forgets being rude."""

    def judge(reading: Reading) -> float:
        """1 when the response holds a rude word."""
        return float(toxic.is_toxic(reading.response))

    return TestbedTask(
        name="toxicity",
        forget_metric="toxic_rate/hot",
        degenerate_metric="degenerate/toxic/hot",
        utility_metrics=utility_without(),
        max_new_tokens=64,
        neutral=f"{QUESTION} Describe",
        others=[*toxic.prefixes("train", "neutral"), *toxic.prefixes("train", "kind")],
        judge=judge,
        keeps=lambda document: not document.meta.get("rude", False),
        facts=toxic.LEXICON,
        tells=lambda response: set(re.findall(r"[a-z]+", response.lower())),
    )
