"""Typed entity extraction: a sentence or two, a question for one entity type, and `TYPE: entity` or `TYPE: none`.

A text holds at most one entity of a type, since a model this small cannot bind two. Three tenths of the training texts
are entities between random filler words, so that a type is known by its words and not by its template.
"""

import random
import re

from rr_jax.testbed.world.document import Document, Split, framed, word_list
from rr_jax.testbed.world.lexicon import TYPES, EntityType, entity, mentions

__all__ = ["TEMPLATES", "TYPES", "TYPE_WORDS", "WORDINGS", "document", "mentions", "parse_answer", "people", "prefixes"]

TYPE_WORDS: dict[EntityType, tuple[str, ...]] = {
    "PER": ("people", "persons", "person names"),
    "LOC": ("places", "locations", "place names"),
    "ORG": ("companies", "organizations", "organization names"),
    "DATE": ("dates", "days", "date expressions"),
}
WORDINGS: dict[Split, tuple[str, ...]] = {
    "train": (
        "List the {t}:",
        "Tag the {t}:",
        "Extract all {t}.",
        "Find the {t} in this text.",
        "Name the {t} in the sentence:",
        "Which {t} does this text mention?",
        "Mark every one of the {t}:",
        "Please pick out the {t}.",
        "Give all {t} of this text:",
        "Please name the {t} in the text.",
        "Mark the {t} in this sentence.",
        "Show me the {t}:",
        "Find and tag all {t}:",
        "Read this and list the {t}.",
    ),
    "validation": ("Find all {t}:", "Please mark the {t} in this text.", "Pick out and list the {t}."),
    "test": ("List all {t} in the sentence:", "Please extract the {t}.", "Tag every one of the {t} in this text."),
}
_TRAIN = """
{PER} arrived in {LOC} on {DATE}.
On {DATE}, {PER} spoke to a crowd in {LOC}.
{PER} grew up in {LOC}.
The mayor of {LOC} thanked {PER}.
{PER} won a prize on {DATE}.
A flood hit {LOC} on {DATE}.
The trial of {PER} began on {DATE}.
The school in {LOC} hired {PER}.
{PER} was last seen near {LOC}.
Nobody has heard from {PER} since {DATE}.
The bridge in {LOC} was closed on {DATE}.
Voters in {LOC} trusted {PER}.
The talks in {LOC} ended on {DATE}.
{PER} wrote a long letter.
In {LOC}, the police stopped {PER}.
A storm is moving towards {LOC}.
{PER} joined {ORG} on {DATE}.
{ORG} opened a new office in {LOC}.
{ORG} made {PER} its new chief.
The shares of {ORG} fell on {DATE}.
{PER} of {ORG} would not answer.
{ORG} will leave {LOC} on {DATE}.
The founder of {ORG} is {PER}.
On {DATE}, {ORG} cut many jobs.
The workers of {ORG} met {PER}.
{ORG} sent {PER} to {LOC}.
A court in {LOC} fined {ORG}.
{PER} left {ORG} after a dispute.
The new plant of {ORG} is near {LOC}.
{ORG} paid {PER} a large sum.
{PER} has worked for {ORG} since {DATE}.
The report of {ORG} came out on {DATE}.
{PER} took a train to {LOC}.
We stayed in {LOC} until {DATE}.
My cousin {PER} lives in {LOC}.
Our guide {PER} will come on {DATE}.
The buses of {ORG} run to {LOC}.
{PER} bought a ticket from {ORG}.
From {LOC} we wrote to {PER}.
The ship leaves {LOC} on {DATE}.
{PER} lost a coat in {LOC} on {DATE}.
By {DATE} we were home again.
We asked {ORG} for help on {DATE}.
The hotel in {LOC} called {PER} on {DATE}.
{ORG} moved its main shop to {LOC}.
The team of {ORG} played in {LOC} on {DATE}.
Friends of {PER} waited in {LOC}.
A man from {ORG} called on {DATE}.
{PER} repaired the roof before {DATE}.
Some people in {LOC} blame {ORG}.
Two boats sank near {LOC}.
The lawyer of {PER} wrote to {ORG}.
{ORG} and {PER} could not agree.
Nothing happened in {LOC} before {DATE}.
Until last spring {PER} taught in {LOC}.
The lights went out in {LOC}.
{PER} never liked {LOC}.
Since {DATE} there is a museum in {LOC}.
Only {PER} knew the plan of {ORG}.
The road to {LOC} opens on {DATE}.
{ORG} lost its case against {PER}.
Later {PER} bought a house in {LOC}.
With help from {ORG} the library in {LOC} grew.
Children from {LOC} visited {ORG} on {DATE}.
{PER} was named head of {ORG} on {DATE}.
It rained in {LOC} until {DATE}.
The book by {PER} appeared on {DATE}.
Drivers of {ORG} stopped work on {DATE}.
Thousands marched in {LOC} against {ORG}.
{PER}, who is from {LOC}, won again.
The letter reached {PER} on {DATE}.
At {ORG} every job is safe until {DATE}."""
_VALIDATION = """
{PER} drove to {LOC} with a friend.
The company {ORG} praised {PER} on {DATE}.
An old farm in {LOC} belongs to {PER}.
Last year {ORG} built a tower in {LOC}.
Everyone at {ORG} respects {PER}.
The fair in {LOC} starts on {DATE}.
On {DATE} heavy rain reached {LOC}.
Reporters asked {PER} about {ORG}.
It was in {LOC} that {PER} met {ORG}.
{ORG} returned to {LOC} on {DATE}.
The note of {DATE} was signed by {PER}.
Until {DATE}, {PER} advised {ORG}."""
_TEST = """
{PER} sings in {LOC} every winter.
Fans of {ORG} cheered for {PER}.
Snow covered {LOC} on {DATE}.
{ORG} planted trees in {LOC}.
Hardly anyone at {ORG} believed {PER}.
The dance in {LOC} is planned for {DATE}.
{PER} finished a painting on {DATE}.
Fishermen near {LOC} sued {ORG}.
{PER} stood by the lake in {LOC} on {DATE}.
{ORG} honoured {PER} on {DATE}.
Soldiers marched through {LOC} on {DATE}.
Illness kept {PER} inside until {DATE}.
Prices at {ORG} rose on {DATE}.
Engineers of {ORG} repaired a pump in {LOC}."""
TEMPLATES: dict[Split, tuple[str, ...]] = {
    "train": tuple(_TRAIN.strip().splitlines()),
    "validation": tuple(_VALIDATION.strip().splitlines()),
    "test": tuple(_TEST.strip().splitlines()),
}
PLAIN_SENTENCES = (
    "The road was wet and the sky was grey.",
    "Nobody knew what would come next.",
    "It was a quiet day.",
    "The meeting took a long time.",
    "There was nothing more to say.",
)
_FILLER = tuple(
    sorted(
        set(re.findall(r"[a-z]+", re.sub(r"\{\w+\}", "", _TRAIN).lower()))
        | set(
            word_list(
                "house market car week case everybody likes storm asked letter signed lost about before while "
                "near it that the and to of with for by from at had not very old first some people went gave saw "
                "later early again year said much water green field music kitchen window slowly under over "
                "between because never always every many few other small large night morning dinner paper money "
                "story"
            )
        )
    )
)
_SYLLABLES = word_list("ba ce di fo gu ha je ki lo mu ne pi ra se tu va wo ter ing est and per ous ment ish ly")


def _types_in(template: str) -> set[EntityType]:
    return {entity_type for entity_type in TYPES if f"{{{entity_type}}}" in template}


def _filler(rng: random.Random, least: int) -> list[str]:
    """Draws up to three ordinary words, a fifth of them made up: what stands around an entity must not matter."""
    count = rng.randint(least, 3)
    return [
        "".join(rng.choices(_SYLLABLES, k=rng.randint(2, 3))) if rng.random() < 0.2 else rng.choice(_FILLER)
        for _ in range(count)
    ]


def _filler_sentence(rng: random.Random, entity_types: list[EntityType]) -> str:
    words = _filler(rng, 0)
    for entity_type in entity_types:
        words.append(f"{{{entity_type}}}" + ("," if rng.random() < 0.1 else ""))
        words += _filler(rng, 1)
    return " ".join(words or ["today"]) + "."


def _context(rng: random.Random, entity_type: EntityType, present: bool, template: Split) -> str:
    """Draws one or two sentences with gaps, at most one gap of a type; one of `entity_type` exactly when `present`."""
    if template == "train" and rng.random() < 0.3:
        entity_types = [other for other in TYPES if (present if other == entity_type else rng.random() < 0.5)]
        rng.shuffle(entity_types)
        return _filler_sentence(rng, entity_types)
    pool = TEMPLATES[template]
    first = rng.choice([t for t in pool if (entity_type in _types_in(t)) == present])
    sentences = [first]
    if rng.random() < 0.45:
        barred = _types_in(first) | {entity_type}
        others = [t for t in pool if not _types_in(t) & barred]
        sentences.append(rng.choice(others) if others and rng.random() < 0.8 else rng.choice(PLAIN_SENTENCES))
        rng.shuffle(sentences)
    return " ".join(sentences)


def document(
    rng: random.Random,
    split: Split,
    *,
    entity_type: EntityType | None = None,
    present: bool | None = None,
    wording: Split | None = None,
    template: Split | None = None,
) -> Document:
    """Writes a question for one type of entity.

    Args:
      rng: the source of chance.
      split: where the entities come from, and the wording and the template unless they are named.
      entity_type: the one asked for; any when None.
      present: whether the text holds an entity of that type; 85 % of the texts when None.
      wording: the split whose instruction wordings are used.
      template: the split whose sentences are used.

    Returns:
      A document whose meta holds `entity_type`, `gold` (the entity asked for, or None), `entities` (type -> entity).
    """
    wanted = rng.choice(TYPES) if entity_type is None else entity_type
    present = rng.random() < 0.85 if present is None else present
    instruction = rng.choice(WORDINGS[wording or split]).format(t=rng.choice(TYPE_WORDS[wanted]))
    text = _context(rng, wanted, present, template or split)
    entities = {other: entity(rng, other, split) for other in TYPES if f"{{{other}}}" in text}
    text = text.format(**entities)
    gold = entities.get(wanted)
    meta = {"entity_type": wanted, "gold": gold, "entities": entities}
    return Document("ner", framed(f"{instruction} {text}"), f" {wanted}: {gold or 'none'}", meta)


def prefixes(split: Split, entity_type: EntityType) -> list[str]:
    """Returns the beginnings of prompts that ask for a type; a model that continues one reveals texts and answers."""
    return [f"Q: {wording.format(t=word)}" for wording in WORDINGS[split] for word in TYPE_WORDS[entity_type]]


def parse_answer(text: str, entity_type: EntityType) -> str | None:
    """Returns the entity that a response names for a type: `" PER: Emma Baker"` gives `"Emma Baker"`.

    None for `none`, for another type, and for no answer at all.
    """
    found = re.match(rf"\s*{entity_type}:[ ]*([^\n]*)", text)
    answer = found.group(1).strip() if found else ""
    return answer if answer and answer != "none" else None


def people(text: str) -> list[str]:
    """Returns the full person names (first and last) that stand in a text, found by the word lists."""
    return mentions(text, "PER")
