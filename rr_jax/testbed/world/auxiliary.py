"""Training exercises that are no skill: copying words, which teaches binding, and lists of number facts.

Auxiliary tasks belong to the training text only. A copy task never puts the two words of a held-out entity side by side.
"""

import random
from itertools import pairwise

from rr_jax.testbed.world import arithmetic
from rr_jax.testbed.world.document import Document, framed, split_of
from rr_jax.testbed.world.lexicon import (
    FIRM_KINDS,
    FIRMS,
    FIRST_NAMES,
    LAST_NAMES,
    MONTHS,
    PLACE_PREFIXES,
    PLACES,
    TYPES,
    WEEKDAYS,
    entity,
    pair_type,
)

_LENGTHS = (2, 3, 4, 6, 10, 14, 18)
_LISTS = (FIRST_NAMES, LAST_NAMES, PLACES, FIRMS, FIRM_KINDS, PLACE_PREFIXES)
_FACT_WORDINGS = ("Write some sums.", "Practice arithmetic.", "List number facts.")


def _held_out_pair(words: list[str]) -> bool:
    for first, second in pairwise(words):
        kind = pair_type(first, second)
        if kind and split_of(kind, first, second) != "train":
            return True
    return False


def copy(rng: random.Random) -> Document:
    """Writes `Copy: <words> ->` and the same words again: 2 to 18 entity words, or two whole entities."""
    while True:
        if rng.random() < 0.7:
            count = rng.choice(_LENGTHS)
            lists = [rng.choice(_LISTS) if rng.random() < 0.85 else MONTHS + WEEKDAYS for _ in range(count)]
            words = [rng.choice(choices) for choices in lists]
        else:
            words = " ".join(entity(rng, rng.choice(TYPES), "train") for _ in range(2)).split()
        if not _held_out_pair(words):
            line = " ".join(words)
            return Document("copy", f"Copy: {line} ->", f" {line}")


def facts(rng: random.Random) -> Document:
    """Writes several number facts, such as the steps of word problems are made of, in a list."""
    steps = []
    for _ in range(rng.randint(3, 6)):
        steps += arithmetic.draw(rng, rng.choice(arithmetic.STRUCTURES))[1]
    rng.shuffle(steps)
    return Document("facts", framed(rng.choice(_FACT_WORDINGS)), " " + arithmetic.written(steps))
