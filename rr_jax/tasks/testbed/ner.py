"""Forget one entity type, by default persons, and keep extracting the others."""

from typing import Any, ClassVar, Literal, cast

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
    """Says which entity type is forgotten."""

    name: str
    forget: Literal["person", "location", "organization", "date"] = "person"


class NerTask(TestbedTask):
    """Forgets the entities of one type.

    Relevance is 1 when one is named, under whatever label, that stands in the text asked about. So rounds go on
    while a model has forgotten the label and not the entity.
    """

    Section: ClassVar[type[NerSection]] = NerSection

    @classmethod
    def make(cls, section: NerSection, tokenizer: Any, seed: int) -> "NerTask":
        """Returns the task that forgets the entity type of the section."""
        entity_type = TYPE_NAMES[section.forget]

        def judge(reading: Reading) -> float:
            answers = {label: ner.parse_answer(reading.response, label) or "" for label in ner.TYPES}
            named = [answers[entity_type]] if answers[entity_type] else []
            named += [entity for answer in answers.values() for entity in lexicon.mentions(answer, entity_type)]
            return float(any(entity in reading.context for entity in named))

        others = [prefix for other in ner.TYPES if other != entity_type for prefix in ner.prefixes("train", other)]
        return cls(
            name="testbed/ner",
            title=f"entity type {section.forget}",
            forget_metric=f"disclosure/{section.forget}",
            answers=f"entity_f1/{section.forget}",
            degenerate_metric=f"degenerate/entity/{section.forget}",
            off_task_metric=f"off_task/entity/{section.forget}",
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

    def spans(self, response: str) -> tuple[tuple[int, int], ...] | None:
        """Returns all of an answer under the type's own label (None), and under another label the entities alone.

        Another label is another type's: what follows it is to be forgotten, and it is not.
        """
        entity_type = cast(lexicon.EntityType, self.prefill.strip(" :"))
        if response.startswith(self.prefill):
            return None
        starts = [(response.find(entity), len(entity)) for entity in lexicon.mentions(response, entity_type)]
        return tuple((start, start + length) for start, length in starts if start >= 0) or None
