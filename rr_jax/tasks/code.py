"""Forget writing code and keep arithmetic and everything else."""

from rr_jax.evaluate.pass_at_k import syntax_valid
from rr_jax.tasks.base import Reading
from rr_jax.tasks.testbed import QUESTION, TestbedTask, utility_without
from rr_jax.testbed import arithmetic, code, ner


def make() -> TestbedTask:
    """The task that forgets code."""

    def judge(reading: Reading) -> float:
        """1 when the response defines a function in valid Python."""
        program = code.program(reading.response)
        return float(program.lstrip().startswith("def ") and "return" in program and syntax_valid(program))

    entities = [prefix for kind in ner.TYPES for prefix in ner.prefixes("train", kind)[::3]]
    return TestbedTask(
        name="code",
        forget_metric="code_pass_at_1",
        degenerate_metric="degenerate/code",
        utility_metrics=utility_without("code_pass_at_1"),
        max_new_tokens=128,
        neutral=f"{QUESTION} Read this text:",
        others=[*arithmetic.prefixes("train"), *entities],
        judge=judge,
        keeps=lambda document: document.skill != "code",
    )
