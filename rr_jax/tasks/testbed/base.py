"""What the three testbed tasks share: one pool of instructions, one way to read a text, one set of metrics.

The pool is the same for every target: the search has to find out which instructions disclose it. Only wordings of the
training split are used; evaluation asks in others.
"""

import dataclasses
import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal

from rr_jax.data.packing import Example
from rr_jax.models.hub import LanguageModel
from rr_jax.tasks.base import Evaluation, Reading, RetainSplit, Split
from rr_jax.testbed.measure import PLAIN, Asking, measure_skills
from rr_jax.testbed.world import arithmetic, code, ner, toxic
from rr_jax.testbed.world.document import Document
from rr_jax.testbed.world.lexicon import TYPES
from rr_jax.testbed.world.mixture import document

QUESTION, ANSWER = "Q:", "\nA:"


@cache
def instruction_pool() -> tuple[str, ...]:
    """Beginnings of prompts of every skill, in the wordings of the training split."""
    entities = [f"{QUESTION} {w.format(t=ner.TYPE_WORDS[kind][0])}" for kind in TYPES for w in ner.WORDINGS["train"]]
    opinions = [prefix for group in toxic.GROUPS for prefix in toxic.prefixes("train", group)[::4]]
    pool = entities + opinions + code.prefixes("train") + arithmetic.prefixes("train")
    return tuple(dict.fromkeys(pool))


@dataclasses.dataclass(frozen=True)
class TestbedTask:
    """One target of the testbed, put together from what `ner`, `toxicity` and `code` say of it."""

    __test__ = False  # not a test, whatever its name begins with

    name: str
    forget_metric: str
    degenerate_metric: str
    utility_metrics: dict[str, Literal["higher", "lower"]]
    max_new_tokens: int
    neutral: str
    others: Sequence[str]
    judge: Callable[[Reading], float]
    keeps: Callable[[Document], bool]  # whether a document may be retain data
    facts: frozenset[str]
    tells: Callable[[str], set[str]]  # the facts among them that a response tells
    asking: Asking = PLAIN  # of evaluation

    @property
    def instructions(self) -> Sequence[str]:
        """The pool, the same for every target."""
        return instruction_pool()

    @property
    def stems(self) -> Sequence[str]:
        """A soft prompt stands before a question that the model words itself."""
        return (QUESTION,)

    def prompt(self, instruction: str, context: str) -> str:
        """The instruction, the context it is about, and the mark after which the response begins."""
        return f"{instruction} {context}".rstrip() + ANSWER

    def read(self, instruction: str, generated: str) -> Reading | None:
        """Splits at the answer mark; an instruction of the pool at the start of the question is not context."""
        question, mark, response = (instruction + generated).partition(ANSWER)
        if not mark or not response.strip():
            return None
        asked = [known for known in (instruction, *instruction_pool()) if question.startswith(known)]
        context = question.removeprefix(max(asked, key=len, default="")).strip()
        return Reading(context, response)

    def relevance(self, reading: Reading) -> float:
        """As the target judges it."""
        return self.judge(reading)

    def disclosed(self, reading: Reading) -> frozenset[str]:
        """The facts that the response tells."""
        return self.facts & self.tells(reading.response)

    def spans(self, response: str) -> None:
        """All of a response is the target's."""
        return None

    def retain_examples(self, count: int, seed: int, split: RetainSplit = "train") -> list[Example]:
        """Documents of a split, the skills in equal shares, without those of the target."""
        rng = random.Random(f"retain/{self.name}/{seed}")
        examples: list[Example] = []
        skills = ("ner", "ner", "code", "arithmetic", "toxic", "narrative")
        while len(examples) < count:
            drawn = document(rng, skills[rng.randrange(len(skills))], split)
            if self.keeps(drawn):
                examples.append(Example(drawn.prompt, drawn.response))
        return examples

    def evaluate(
        self,
        model: LanguageModel,
        split: Split,
        count: int,
        *,
        base: LanguageModel,
        progress: Callable[[str], None] | None = None,
        only: frozenset[str] | None = None,
    ) -> Evaluation:
        """All skills, whatever the target."""
        return Evaluation(*measure_skills(model, split, count, progress, only, self.asking))


ENTITY_METRICS = tuple(f"entity_f1/{name}" for name in ("person", "location", "organization", "date"))


def utility_without(*left_out: str) -> dict[str, Literal["higher", "lower"]]:
    """The utility metrics of the testbed except some; how rude the model is counts for none of them."""
    higher = (*ENTITY_METRICS, "code_pass_at_1", "arithmetic_exact_match")
    kept: dict[str, Literal["higher", "lower"]] = {name: "higher" for name in higher if name not in left_out}
    return kept | {"narrative_perplexity": "lower"}
