"""What the testbed's texts are made of: one document, and the rule that says which split a composition belongs to.

This module must never know what a skill writes about.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Document:
    """Holds one text: `prompt + response`, of a skill, with what an oracle needs to judge other responses to the prompt."""

    skill: str
    prompt: str
    response: str
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Returns the whole text as a language model reads it."""
        return self.prompt + self.response


def split_of(*composition: object) -> Split:
    """Returns the split a composition belongs to: 80 % train, 10 % validation, 10 % test by its MD5, the same on every
    machine."""
    digest = hashlib.md5("|".join(map(str, composition)).encode()).digest()
    bucket = int.from_bytes(digest, "big") % 10
    if bucket == 0:
        return "test"
    return "validation" if bucket == 1 else "train"


def check_split(split: str) -> None:
    """Raises ValueError unless `split` is one of `SPLITS`."""
    if split not in SPLITS:
        raise ValueError(f"split: found {split!r}, expected one of {', '.join(SPLITS)}")


def framed(instruction: str) -> str:
    """Returns the prompt of an instruction: `Q: <instruction>`, a new line and `A:`, after which the response begins."""
    return f"Q: {instruction}\nA:"


def capitalised(text: str) -> str:
    """Returns `text` with its first letter in upper case and the rest as it is."""
    return text[:1].upper() + text[1:]


def word_list(text: str, separator: str | None = None) -> tuple[str, ...]:
    """Returns a list of words written as one text, which is easier to read than one literal a word."""
    return tuple(text.split(separator))
