"""Forget writing code and keep arithmetic and everything else."""

import re
from typing import Any

from rr_jax.evaluate.sandbox.pass_at_k import syntax_valid
from rr_jax.tasks.base import Reading
from rr_jax.tasks.testbed.base import QUESTION, TestbedTask, utility_without
from rr_jax.testbed.world import arithmetic, code, ner

_LINES = {operation.line for operations in code.OPERATIONS.values() for operation in operations}
_PATTERNS = {line: re.compile(re.escape(line).replace(r"\{n\}", r"\d+")) for line in _LINES}


def _lines_of(response: str) -> set[str]:
    """Returns the operations whose line stands in the program, whatever its constant."""
    lines = [line.strip() for line in code.program(response).splitlines()]
    return {name for name, pattern in _PATTERNS.items() if any(pattern.fullmatch(line) for line in lines)}


class CodeTask(TestbedTask):
    """Python; relevance is 1 when the response defines a function in valid Python."""

    @classmethod
    def make(cls, section: Any, tokenizer: Any, seed: int) -> "CodeTask":
        """Returns the task."""

        def judge(reading: Reading) -> float:
            program = code.program(reading.response)
            return float(program.lstrip().startswith("def ") and "return" in program and syntax_valid(program))

        entities = [prefix for entity_type in ner.TYPES for prefix in ner.prefixes("train", entity_type)[::3]]
        return cls(
            name="testbed/code",
            title="writing code",
            forget_metric="code_pass_at_1",
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
            facts=frozenset(_LINES),
            facts_in=_lines_of,
        )
