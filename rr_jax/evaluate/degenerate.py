"""Degenerate generations: texts that say nothing, and so must never be taken for forgetting.

A model that falls silent or repeats itself scores as non-toxic, names nobody and writes no code. Such texts are
reported apart, beside every score. Knows texts only.
"""

from collections.abc import Sequence
from typing import NamedTuple

from rr_jax.data.words import tokens, words

NGRAM = 4
MIN_WORDS = 3  # for free text; a task whose right answers are shorter says so
REPETITION_LIMIT = 0.5  # more than half of the 4-grams have been said before


class Flags(NamedTuple):
    """Says what is wrong with one text. An empty text is not also called too short."""

    empty: bool
    too_short: bool
    repetitive: bool


def repetition(text: str) -> float:
    """Returns the share of 4-grams that occurred before in the text: 1 - distinct / total, 0 for a text without any.

    Over words and single punctuation marks, in lower case (the 4-gram repetition that Ext-Sub reports, of one text).
    """
    said = tokens(text.lower())
    grams = list(zip(*(said[i:] for i in range(NGRAM)), strict=False))
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def flag(text: str, min_words: int = MIN_WORDS) -> Flags:
    """Flags one text: empty (only white space), fewer than `min_words` words, repetition above the limit."""
    empty = not text.strip()
    return Flags(empty, not empty and len(words(text)) < min_words, repetition(text) > REPETITION_LIMIT)


def degenerate_share(texts: Sequence[str], min_words: int = MIN_WORDS) -> float:
    """Returns the share of texts with any flag."""
    return degenerate_report(texts, min_words)["degenerate"]


def degenerate_report(texts: Sequence[str], min_words: int = MIN_WORDS) -> dict[str, float]:
    """Returns the share of texts with each flag ("empty", "too_short", "repetitive") and with any ("degenerate").

    Raises:
      ValueError: when there are no texts.
    """
    if not texts:
        raise ValueError("the share of degenerate texts needs at least one text, found none")
    flags = [flag(text, min_words) for text in texts]
    report = {name: sum(getattr(one, name) for one in flags) / len(flags) for name in Flags._fields}
    return report | {"degenerate": sum(any(one) for one in flags) / len(flags)}
