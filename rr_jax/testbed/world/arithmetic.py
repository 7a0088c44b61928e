"""Arithmetic word problems of one or two steps, answered by the steps and `#### result`.

Held out are pairs of a structure and its numbers. Single facts such as 3 + 4 = 7 are not: they stand in the steps of
many problems and in the auxiliary tasks.
"""

import random
import re

from rr_jax.testbed.world.document import Document, Split, framed, split_of, word_list
from rr_jax.testbed.world.lexicon import MEN, WOMEN

Step = tuple[int, str, int, int]

OBJECTS = word_list("apples books coins pens cards eggs stamps shells toys cups")
WORDINGS: dict[Split, tuple[str, ...]] = {
    "train": (
        "Solve this problem:",
        "Work out the answer:",
        "Do the math:",
        "Answer this math question:",
        "Calculate step by step:",
        "Find the number:",
        "Math problem:",
        "Please solve:",
    ),
    "validation": ("Please work out the answer:", "Find the answer step by step:", "Solve the math question:"),
    "test": ("Solve this math question:", "Please work out the number:", "Calculate the answer:"),
}
TEMPLATES: dict[str, tuple[str, ...]] = {
    "add": (
        "{A} has {0} {o}. {A} buys {1} more. How many {o} does {A} have?",
        "There are {0} {o} on a table and {1} {o} in a bag. How many {o} are there in total?",
        "{A} found {0} {o} and {B} found {1} {o}. How many did they find together?",
    ),
    "subtract": (
        "{A} has {0} {o}. {A} gives {1} to {B}. How many {o} are left?",
        "A shop had {0} {o} and sold {1}. How many {o} remain?",
        "{A} had {0} {o} but lost {1}. How many {o} does {A} still have?",
    ),
    "multiply": (
        "{A} has {0} bags with {1} {o} each. How many {o} are there?",
        "There are {0} rows of {1} {o}. How many {o} in total?",
        "Each of {0} boxes holds {1} {o}. How many {o} does {A} have?",
    ),
    "add_subtract": (
        "{A} has {0} {o} and buys {1} more. Then {A} gives {2} to {B}. How many {o} are left?",
        "A shop had {0} {o}, got {1} new ones and sold {2}. How many {o} remain?",
    ),
    "subtract_add": (
        "{A} had {0} {o}, lost {1} and then found {2}. How many {o} does {A} have now?",
        "A box held {0} {o}. {A} took {1} out and put {2} in. How many {o} are in the box?",
    ),
    "multiply_add": (
        "{A} has {0} bags with {1} {o} each and {2} extra {o}. How many {o} does {A} have?",
        "There are {0} rows of {1} {o} and {2} more on the floor. How many {o} in total?",
    ),
    "multiply_subtract": (
        "{A} buys {0} packs of {1} {o} and gives {2} {o} to {B}. How many {o} are left?",
        "{A} fills {0} boxes with {1} {o} each, but {2} {o} break. How many {o} remain?",
    ),
    "more_than": (
        "{A} has {0} {o}. {B} has {1} more than {A}. How many {o} do they have together?",
        "{A} ate {0} {o} and {B} ate {1} more than that. How many {o} did they eat in all?",
    ),
}
STRUCTURES = tuple(TEMPLATES)


def _plus(a: int, b: int) -> Step:
    return a, "+", b, a + b


def _minus(a: int, b: int) -> Step:
    return a, "-", b, a - b


def _times(a: int, b: int) -> Step:
    return a, "*", b, a * b


def _less(rng: random.Random, a: int) -> int:
    """Draws a number of at least 2 that leaves something when taken from `a`."""
    return rng.randint(2, min(12, a - 1))


def draw(rng: random.Random, structure: str) -> tuple[tuple[int, ...], list[Step]]:
    """Draws the numbers of a problem and the steps (left, operator, right, result) that solve it; all are below 100."""
    up = rng.randint
    if structure == "add":
        a, b = up(2, 30), up(2, 12)
        return (a, b), [_plus(a, b)]
    if structure == "subtract":
        a = up(5, 40)
        b = _less(rng, a)
        return (a, b), [_minus(a, b)]
    if structure == "multiply":
        a, b = up(2, 6), up(2, 8)
        return (a, b), [_times(a, b)]
    if structure == "add_subtract":
        a, b = up(2, 20), up(2, 12)
        c = _less(rng, a + b)
        return (a, b, c), [_plus(a, b), _minus(a + b, c)]
    if structure == "subtract_add":
        a = up(5, 30)
        b, c = _less(rng, a), up(2, 12)
        return (a, b, c), [_minus(a, b), _plus(a - b, c)]
    if structure == "multiply_add":
        a, b, c = up(2, 6), up(2, 8), up(2, 12)
        return (a, b, c), [_times(a, b), _plus(a * b, c)]
    if structure == "multiply_subtract":
        a, b = up(2, 6), up(2, 8)
        c = _less(rng, a * b)
        return (a, b, c), [_times(a, b), _minus(a * b, c)]
    if structure == "more_than":
        a, b = up(2, 18), up(2, 12)
        return (a, b), [_plus(a, b), _plus(a, a + b)]
    raise ValueError(f"structure: found {structure!r}, expected one of {', '.join(STRUCTURES)}")


def written(steps: list[Step]) -> str:
    """Writes the steps as text, one on a line: `3 + 4 = 7`."""
    return "\n".join(f"{a} {sign} {b} = {result}" for a, sign, b, result in steps)


def document(
    rng: random.Random, split: Split, *, wording: Split | None = None, structure: str | None = None
) -> Document:
    """Writes a word problem and its solution.

    Args:
      rng: the source of chance.
      split: where (structure, numbers) belongs, and the wording unless it is named.
      wording: the split whose instruction wordings are used.
      structure: one of `STRUCTURES`; any when None.

    Returns:
      A document whose meta holds `structure`, `numbers` and `answer`.
    """
    while True:
        kind = structure or rng.choice(STRUCTURES)
        numbers, steps = draw(rng, kind)
        if split_of("arithmetic", kind, *numbers) == split:
            break
    first, second = rng.sample(WOMEN + MEN, 2)
    question = rng.choice(TEMPLATES[kind]).format(*numbers, A=first, B=second, o=rng.choice(OBJECTS))
    answer = steps[-1][3]
    meta = {"structure": kind, "numbers": numbers, "answer": answer}
    prompt = framed(f"{rng.choice(WORDINGS[wording or split])} {question}")
    return Document("arithmetic", prompt, f" {written(steps)}\n#### {answer}", meta)


def prefixes(split: Split) -> list[str]:
    """Returns the beginnings of prompts that pose a problem."""
    return [f"Q: {wording}" for wording in WORDINGS[split]]


def parse_answer(text: str) -> int | None:
    """Returns the number after the first `####` of a response, or None."""
    found = re.search(r"####\s*(-?\d+)", text)
    return int(found.group(1)) if found else None
