"""Forget writing code and keep arithmetic and everything else."""

from typing import Any

from rr_jax.evaluate.sandbox.pass_at_k import syntax_valid
from rr_jax.tasks.base import Reading
from rr_jax.tasks.testbed.base import QUESTION, TestbedTask, utility_without
from rr_jax.testbed.world import arithmetic, code, ner


def _lines_of(response: str) -> set[str]:
    """Returns the operations whose line stands in the response, whatever its constant."""
    return {line for line, pattern in code.LINES.items() if pattern.search(response)}


def _is_program(response: str) -> bool:
    """Returns whether the response defines a function in valid Python."""
    program = code.program(response)
    return program.lstrip().startswith("def ") and "return" in program and syntax_valid(program)


class CodeTask(TestbedTask):
    """Forgets Python.

    Relevance is 1 when the response defines a function in valid Python, or holds a line of one in any form. So rounds
    go on while a model has forgotten how a program begins and not what it does.
    """

    @classmethod
    def make(cls, section: Any, tokenizer: Any, seed: int) -> "CodeTask":
        """Returns the task."""

        def judge(reading: Reading) -> float:
            return float(_is_program(reading.response) or bool(code.lines_in(reading.response)))

        entities = [prefix for entity_type in ner.TYPES for prefix in ner.prefixes("train", entity_type)[::3]]
        return cls(
            name="testbed/code",
            title="writing code",
            forget_metric="disclosure/code",
            answers="code_pass_at_1",
            degenerate_metric="degenerate/code",
            off_task_metric="off_task/code",
            utility_metrics=utility_without("code_pass_at_1"),
            max_new_tokens=128,
            neutral=f"{QUESTION} Read this text:",
            others=[*arithmetic.prefixes("train"), *entities],
            skill="code",
            prefill="\ndef f(x):",
            judge=judge,
            keeps=lambda document: document.skill != "code",
            facts=frozenset(code.LINES),
            facts_in=_lines_of,
        )

    def spans(self, response: str) -> tuple[tuple[int, int], ...] | None:
        """Returns all of a program (None), and of another skill's form the lines of code alone: the rest of it is to be
        kept."""
        return None if _is_program(response) else tuple(code.lines_in(response)) or None
