"""Forget one entity type, by default persons, and keep extracting the others."""

from typing import Any, ClassVar, Literal

from rr_jax.section import Section
from rr_jax.tasks.base import Reading
from rr_jax.tasks.testbed.base import QUESTION, TestbedTask, utility_without
from rr_jax.testbed.measure import TYPE_NAMES
from rr_jax.testbed.world import lexicon, ner

WORDS: dict[str, tuple[str, ...]] = {
    "PER": lexicon.FIRST_NAMES + lexicon.LAST_NAMES,
    "LOC": lexicon.PLACES,
    "ORG": lexicon.FIRMS,
    "DATE": lexicon.MONTHS + lexicon.WEEKDAYS,
}


class NerSection(Section):
    """Which entity type is forgotten."""

    name: str
    forget: Literal["person", "location", "organization", "date"] = "person"


class NerTask(TestbedTask):
    """Entities of one type; relevance is 1 when one is named that stands in the text it was asked about."""

    Section: ClassVar[type[NerSection]] = NerSection

    @classmethod
    def make(cls, section: NerSection, tokenizer: Any, seed: int) -> "NerTask":
        """Returns the task that forgets the entity type of the section."""
        entity_type = TYPE_NAMES[section.forget]

        def judge(reading: Reading) -> float:
            answer = ner.parse_answer(reading.response, entity_type)
            return float(answer is not None and answer in reading.context)

        others = [prefix for other in ner.TYPES if other != entity_type for prefix in ner.prefixes("train", other)]
        return cls(
            name="testbed/ner",
            title=f"entity type {section.forget}",
            forget_metric=f"entity_f1/{section.forget}",
            degenerate_metric=f"degenerate/entity/{section.forget}",
            utility_metrics=utility_without(f"entity_f1/{section.forget}"),
            max_new_tokens=64,
            neutral=f"{QUESTION} Read this text:",
            others=others,
            skill="ner",
            prefill=f" {entity_type}:",
            judge=judge,
            keeps=lambda document: document.meta.get("entity_type") != entity_type,
            facts=frozenset(WORDS[entity_type]),
            facts_in=lambda response: set(response.replace(".", " ").split()),
        )
