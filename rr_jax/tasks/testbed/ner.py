"""Forget one entity type, by default persons, and keep extracting the others."""

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


def make(forget: str) -> TestbedTask:
    """The task that forgets the entity type called `forget` ("person", "location", "organization" or "date")."""
    kind = TYPE_NAMES[forget]

    def judge(reading: Reading) -> float:
        """1 when an entity of the type is named that stands in the text it was asked about."""
        answer = ner.parse_answer(reading.response, kind)
        return float(answer is not None and answer in reading.context)

    others = [prefix for other in ner.TYPES if other != kind for prefix in ner.prefixes("train", other)]
    return TestbedTask(
        name="ner",
        forget_metric=f"entity_f1/{forget}",
        degenerate_metric=f"degenerate/entity/{forget}",
        utility_metrics=utility_without(f"entity_f1/{forget}"),
        max_new_tokens=64,
        neutral=f"{QUESTION} Read this text:",
        others=others,
        judge=judge,
        keeps=lambda document: document.meta.get("type") != kind,
        facts=frozenset(WORDS[kind]),
        tells=lambda response: set(response.replace(".", " ").split()),
    )
