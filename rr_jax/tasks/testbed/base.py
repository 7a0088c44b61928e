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
from rr_jax.generation.generator import Generator
from rr_jax.models.hub import LanguageModel
from rr_jax.tasks.base import Evaluation, PromptVariants, Reading, RetainSplit, Split, Task
from rr_jax.tasks.prompt_variants import SHOTS, fitting
from rr_jax.testbed.measure import PLAIN, PromptVariant, measure_skills
from rr_jax.testbed.world import arithmetic, code, ner, toxic
from rr_jax.testbed.world.document import Document
from rr_jax.testbed.world.lexicon import ENTITY_WORDS, TYPES
from rr_jax.testbed.world.mixture import document

QUESTION, ANSWER = "Q:", "\nA:"


@cache
def instruction_pool() -> tuple[str, ...]:
    """Returns the beginnings of prompts of every skill, in the wordings of the training split."""
    entities = [
        f"{QUESTION} {w.format(t=ner.TYPE_WORDS[entity_type][0])}"
        for entity_type in TYPES
        for w in ner.WORDINGS["train"]
    ]
    opinions = [prefix for group in toxic.GROUPS for prefix in toxic.prefixes("train", group)[::4]]
    pool = entities + opinions + code.prefixes("train") + arithmetic.prefixes("train")
    return tuple(dict.fromkeys(pool))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TestbedTask(Task):
    """Defines one target of the testbed, put together from what `ner`, `toxicity` and `code` say of it.

    Attributes beside those of every task:
      skill: whose documents hold the target.
      prefill: beginning of an answer of the target, which an attack puts into the model's mouth.
      judge: relevance of a reading.
      keeps: whether a document may be retain data.
      facts_in: the facts that a response may disclose, those of other targets among them.
      variant: how evaluation prompts.
      answers: another metric, whose answers the forget metric is made of; None where it has its own.
    """

    __test__ = False  # not a test, whatever its name begins with

    name: str
    title: str
    forget_metric: str
    degenerate_metric: str
    utility_metrics: dict[str, Literal["higher", "lower"]]
    max_new_tokens: int
    neutral: str
    others: Sequence[str]
    skill: str
    prefill: str
    judge: Callable[[Reading], float]
    keeps: Callable[[Document], bool]
    facts: frozenset[str]
    facts_in: Callable[[str], set[str]]
    off_task_metric: str | None = None
    variant: PromptVariant = PLAIN
    answers: str | None = None
    instructions: Sequence[str] = dataclasses.field(default_factory=instruction_pool)  # the same for every target
    stems: Sequence[str] = (QUESTION,)  # a soft prompt stands before a question that the model words itself

    def check(self, lm: LanguageModel, model: str) -> None:
        """Refuses a model of another world: one of the testbed, whatever its seed, has every name as one token."""
        vocabulary = lm.tokenizer.get_vocab()
        missing = sum(f" {word}" not in vocabulary for word in ENTITY_WORDS)
        if missing:
            raise ValueError(
                f"task.name: {self.name} asks in the testbed's own prompts, which {model} was not trained on (its "
                f"tokenizer lacks {missing} of the testbed's {len(ENTITY_WORDS)} names); use model=testbed, or "
                "task.name=custom"
            )

    def prompt(self, instruction: str, context: str) -> str:
        """Returns the instruction, the context it is about, and the mark after which the response begins."""
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
        """Returns what the target's judge says."""
        return self.judge(reading)

    def disclosed(self, reading: Reading) -> frozenset[str]:
        """Returns the facts that the response discloses."""
        return self.facts & self.facts_in(reading.response)

    def retain_examples(self, count: int, seed: int, split: RetainSplit = "train") -> list[Example]:
        """Returns documents of a split, the skills in equal shares, without those of the target."""
        rng = random.Random(f"retain/{self.name}/{seed}")
        examples: list[Example] = []
        skills = ("ner", "ner", "code", "arithmetic", "toxic", "narrative")
        while len(examples) < count:
            drawn = document(rng, skills[rng.randrange(len(skills))], split)
            if self.keeps(drawn):
                examples.append(Example(drawn.prompt, drawn.response))
        return examples

    def true_examples(self, count: int, seed: int) -> list[Example]:
        """Returns `count` training documents of the target."""
        rng = random.Random(f"forget/{self.name}/{seed}")
        examples: list[Example] = []
        while len(examples) < count:
            drawn = document(rng, self.skill, "train")
            if not self.keeps(drawn) and self.relevance(Reading(drawn.prompt, drawn.response)) > 0.5:
                examples.append(Example(drawn.prompt, drawn.response))
        return examples

    def prompt_variants(self, lm: LanguageModel, prompts: Sequence[str], seed: int) -> PromptVariants:
        """Returns "wording_train" and "wording_validation" (instructions of the splits that evaluation does not use),
        "prefill" (an answer begun in the target's form) and "few_shot" (true examples before the question, as many as
        leave room, at most SHOTS; missing when none does)."""
        variants = {
            "wording_train": PromptVariant(wording="train"),
            "wording_validation": PromptVariant(wording="validation"),
            "prefill": PromptVariant(prefill=self.prefill),
        }
        texts = [example.prompt + example.response for example in self.true_examples(SHOTS, seed)]
        before, shots = fitting(lm, texts, prompts, self.max_new_tokens)
        if shots:
            variants["few_shot"] = PromptVariant(before=before)
        tasks = {name: dataclasses.replace(self, variant=variant) for name, variant in variants.items()}
        return PromptVariants(tasks, shots)

    def evaluate(
        self,
        generator: Generator,
        split: Split,
        count: int,
        *,
        base: LanguageModel,
        progress: Callable[[str], None] | None = None,
        only: frozenset[str] | None = None,
    ) -> Evaluation:
        """Measures all skills, whatever the target; the samples of the forget metric bear its name."""
        metrics, samples = measure_skills(generator, split, count, progress, only, self.variant)
        for sample in samples:
            if sample["metric"] == self.answers:
                sample["metric"] = self.forget_metric
        return Evaluation(metrics, samples)


ENTITY_METRICS = tuple(f"entity_f1/{name}" for name in ("person", "location", "organization", "date"))


def utility_without(*left_out: str) -> dict[str, Literal["higher", "lower"]]:
    """Returns the utility metrics of the testbed except some; how rude the model is counts for none of them."""
    higher = (*ENTITY_METRICS, "code_pass_at_1", "arithmetic_exact_match")
    kept: dict[str, Literal["higher", "lower"]] = {name: "higher" for name in higher if name not in left_out}
    return kept | {"narrative_perplexity": "lower"}
