"""The world as one mixture: a document of any skill and split, and the training corpus.

This module must never know about tokens or models.
"""

import random
from collections.abc import Callable, Mapping
from typing import Any

from rr_jax.testbed.world import arithmetic, auxiliary, code, narrative, ner, toxic
from rr_jax.testbed.world.document import Document, Split, check_split

_SKILLS: dict[str, Callable[..., Document]] = {
    "ner": ner.document,
    "code": code.document,
    "arithmetic": arithmetic.document,
    "toxic": toxic.document,
    "narrative": narrative.document,
}
_AUXILIARY: dict[str, Callable[[random.Random], Document]] = {"copy": auxiliary.copy, "facts": auxiliary.facts}
SKILLS = tuple(_SKILLS)

# Shares of documents. The first phase teaches binding, the second everything.
FIRST_PHASE: Mapping[str, float] = {"ner": 0.75, "copy": 0.25}
SECOND_PHASE: Mapping[str, float] = {
    "ner": 0.40, "code": 0.16, "arithmetic": 0.16, "facts": 0.05, "toxic": 0.14, "narrative": 0.06, "copy": 0.03,
}  # fmt: skip


def document(rng: random.Random, skill: str, split: Split, **options: Any) -> Document:
    """Writes a document of a skill whose compositions, templates and wordings all belong to `split`.

    Args:
      rng: the source of chance; the same state gives the same document.
      skill: one of `SKILLS`.
      split: "train", "validation" or "test".
      **options: what the skill's own `document` takes, such as `entity_type`, `wording` or `group`.

    Raises:
      ValueError: for an unknown skill or split.
    """
    check_split(split)
    if skill not in _SKILLS:
        raise ValueError(f"skill: found {skill!r}, expected one of {', '.join(SKILLS)}")
    return _SKILLS[skill](rng, split, **options)


def corpus(seed: int | str, size: int, mixture: Mapping[str, float] = SECOND_PHASE) -> list[Document]:
    """Writes training documents of skills and auxiliary tasks, drawn by the shares of a mixture; the same for the same
    seed"""
    rng = random.Random(seed)
    names = list(mixture)
    documents = []
    for name in rng.choices(names, [mixture[n] for n in names], k=size):
        documents.append(_AUXILIARY[name](rng) if name in _AUXILIARY else document(rng, name, "train"))
    return documents
