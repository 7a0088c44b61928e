"""The words of the testbed's world: people, places, organisations, dates, and how an entity is drawn from them.

A few words of each list are real, the rest are made of syllables by a fixed generator, so that the lists are the same
everywhere. No word is the beginning of another and no word is in two lists: a word tells its role, and as a whole
token it is found in one way only. This module must never know about sentences or skills.
"""

import random
from functools import cache
from typing import Literal

from rr_jax.testbed.world.document import Split, split_of, word_list

EntityType = Literal["PER", "LOC", "ORG", "DATE"]
TYPES: tuple[EntityType, ...] = ("PER", "LOC", "ORG", "DATE")

WOMEN = word_list(
    "Emma Nora Clara Iris Lena Marta Olga Rita Vera Wanda Heidi Greta Fiona Doris Carmen Brenda Agnes "
    "Teresa Sylvia Yvonne"
)
MEN = word_list(
    "Adam Bruno Cyril Dennis Edgar Frank Gilbert Harold Igor James Karl Louis Milan Norman Otto "
    "Philip Roger Stefan Ulrich Victor"
)
_LAST = word_list(
    "Archer Baker Cooper Dawson Ellis Foster Gordon Hughes Irving Jensen Kruger Larsen Morris Nelson "
    "Osborne Parker Ramsey Schmidt Turner Vogel Wagner Young Zimmer Abbott Bishop Collins Duncan "
    "Everett Fowler Griffin"
)
_PLACES = word_list(
    "Athens Berlin Chicago Dublin Edinburgh Florence Geneva Hamburg Istanbul Jakarta Kyoto London "
    "Munich Naples Oxford Paris Quito Riga Seville Toronto Utrecht Valencia Warsaw York Zagreb"
)
_FIRMS = word_list(
    "Amber Atlas Castle Comet Eagle Ember Forest Galaxy Island Jaguar Lotus Meteor Ocean Panther "
    "Quartz River Silver Thunder Willow Zephyr"
)
PLACE_PREFIXES = word_list("North South East West New Port Old Upper")
FIRM_KINDS = word_list(
    "Bank Labs Motors Airlines Foods Systems Media University Energy Council Hospital Group Press "
    "Insurance Software Railways Records Chemicals Textiles Studios"
)
MONTHS = word_list("January February March April May June July August September October November December")
WEEKDAYS = word_list("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
DAYS = range(1, 29)
YEARS = range(1990, 2025)

_ONSETS = word_list("b d f g k l m n p r s t v z br dr fr gl gr kl pr st tr th")
_VOWELS = word_list("a e i o u ai ea ou")
_ENDINGS = {
    "first": word_list("ra la na rin lo dan mira lie vi tor sa nik nel tha ros"),
    "last": word_list("son ner vik berg sky mann well ters ovic ston kins mer lund"),
    "place": word_list("ton ville burg ford holm mouth stad dale haven ham wick grad"),
    "firm": word_list("tex rix lon dyne core bex nix zor tron vex max qua"),
}


def _grow(rng: random.Random, start: tuple[str, ...], ending: str, size: int, taken: set[str]) -> tuple[str, ...]:
    words = list(start)
    while len(words) < size:
        middle = rng.choice(_ONSETS) + rng.choice(_VOWELS[:5]) if rng.random() < 0.3 else ""
        word = (rng.choice(_ONSETS) + rng.choice(_VOWELS) + middle + rng.choice(_ENDINGS[ending])).capitalize()
        clash = any(word.startswith(other) or other.startswith(word) for other in taken)
        if 4 <= len(word) <= 9 and not clash:
            taken.add(word)
            words.append(word)
    return tuple(words)


def _word_lists() -> tuple[tuple[str, ...], ...]:
    rng = random.Random("rr-jax testbed lexicon")
    starts = (WOMEN + MEN, _LAST, _PLACES, _FIRMS)
    taken = {word for words in (*starts, PLACE_PREFIXES, FIRM_KINDS, MONTHS, WEEKDAYS) for word in words}
    sizes = zip(starts, ("first", "last", "place", "firm"), (300, 300, 200, 150), strict=True)
    return tuple(_grow(rng, start, ending, size, taken) for start, ending, size in sizes)


FIRST_NAMES, LAST_NAMES, PLACES, FIRMS = _word_lists()
ENTITY_WORDS: tuple[str, ...] = tuple(
    sorted({*FIRST_NAMES, *LAST_NAMES, *PLACES, *PLACE_PREFIXES, *FIRMS, *FIRM_KINDS, *MONTHS, *WEEKDAYS})
)


def _draw(rng: random.Random, entity_type: EntityType, single: bool) -> tuple[str, ...]:
    if entity_type == "PER":
        return rng.choice(FIRST_NAMES), rng.choice(LAST_NAMES)
    if entity_type == "ORG":
        return rng.choice(FIRMS), rng.choice(FIRM_KINDS)
    if entity_type == "LOC":
        if single and rng.random() < 0.4:
            return (rng.choice(PLACES),)
        return rng.choice(PLACE_PREFIXES), rng.choice(PLACES)
    if single and rng.random() < 0.2:
        return (rng.choice(WEEKDAYS),)
    if rng.random() < 0.6:
        return str(rng.choice(DAYS)), rng.choice(MONTHS)
    return rng.choice(MONTHS), str(rng.choice(YEARS))


def entity(rng: random.Random, entity_type: EntityType, split: Split) -> str:
    """Draws an entity of a type whose word pair belongs to `split`; single words (a city, a weekday) are train only."""
    while True:
        words = _draw(rng, entity_type, single=split == "train")
        if len(words) == 1 or split_of(entity_type, *words) == split:
            return " ".join(words)


@cache
def _roles() -> dict[str, tuple[str, int]]:
    lists = {"PER": (FIRST_NAMES, LAST_NAMES), "LOC": (PLACE_PREFIXES, PLACES), "ORG": (FIRMS, FIRM_KINDS)}
    return {
        word: (entity_type, i) for entity_type, pair in lists.items() for i, words in enumerate(pair) for word in words
    }


def pair_type(first: str, second: str) -> EntityType | None:
    """Returns the type of entity two neighbouring words make ("Emma", "Baker" -> PER), or None."""
    roles = _roles()
    for entity_type in ("PER", "LOC", "ORG"):
        if roles.get(first) == (entity_type, 0) and roles.get(second) == (entity_type, 1):
            return entity_type
    day_month = first.isdigit() and int(first) in DAYS and second in MONTHS
    month_year = first in MONTHS and second.isdigit() and int(second) in YEARS
    return "DATE" if day_month or month_year else None


def mentions(text: str, entity_type: EntityType) -> list[str]:
    """Returns the entities of two words and of one type that stand in a text, found by the word lists, in order.

    A single word (a city, a weekday) counts for LOC and DATE where it is not part of a pair.
    """
    words = [word.strip(".,;:!?()\"'") for word in text.split()]
    alone = {"LOC": _places(), "DATE": frozenset(WEEKDAYS)}.get(entity_type, frozenset())
    found, i = [], 0
    while i < len(words):
        pair = pair_type(words[i], words[i + 1]) if i + 1 < len(words) else None
        if pair == entity_type:
            found.append(f"{words[i]} {words[i + 1]}")
        elif pair is None and words[i] in alone:
            found.append(words[i])
        i += 1 if pair is None else 2
    return found


@cache
def _places() -> frozenset[str]:
    return frozenset(PLACES)
