"""Small Python functions: one to three operations on a number, a list of numbers or a text, named `f(x)`.

The answer is a program text. Nothing here runs a program: what a program must return is worked out by a table of pure
functions when the document is made, and `test_program` turns it into assertions for a sandbox to run.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rr_jax.testbed.world.document import Document, Split, framed, split_of, word_list

Function = Callable[[Any, int], Any]
CASES = 6
_LONGEST_CASE = 160  # characters of an expected value: keeps the assertions of a chain of squares and ranges readable


@dataclass(frozen=True)
class Operation:
    """Holds one step of a program: its phrases and its line of code (both with `{n}` for the constant) and what it does."""

    name: str
    phrases: tuple[str, str]
    line: str
    run: Function
    gives: str


def _op(name: str, first: str, second: str, line: str, run: Function, gives: str) -> Operation:
    return Operation(name, (first, second), line, run, gives)


OPERATIONS: dict[str, tuple[Operation, ...]] = {
    "number": (
        _op("add", "add {n}", "increase it by {n}", "x = x + {n}", lambda x, n: x + n, "number"),
        _op("subtract", "subtract {n}", "decrease it by {n}", "x = x - {n}", lambda x, n: x - n, "number"),
        _op("multiply", "multiply by {n}", "make it {n} times larger", "x = x * {n}", lambda x, n: x * n, "number"),
        _op("square", "square it", "multiply it by itself", "x = x * x", lambda x, n: x * x, "number"),
        _op("negate", "negate it", "flip its sign", "x = -x", lambda x, n: -x, "number"),
        _op("absolute", "take the absolute value", "drop the sign", "x = abs(x)", lambda x, n: abs(x), "number"),
        _op("modulo", "take it modulo {n}", "get the remainder by {n}", "x = x % {n}", lambda x, n: x % n, "number"),
        _op("text", "turn it into text", "convert it to a string", "x = str(x)", lambda x, n: str(x), "text"),
        _op(
            "range",
            "list the numbers below it",
            "make a range",
            "x = list(range(x))",
            lambda x, n: list(range(x)),
            "list",
        ),
    ),
    "list": (
        _op("sort", "sort it", "put it in order", "x = sorted(x)", lambda x, n: sorted(x), "list"),
        _op("reverse", "reverse it", "turn it around", "x = x[::-1]", lambda x, n: x[::-1], "list"),
        _op(
            "even",
            "keep the even numbers",
            "drop the odd numbers",
            "x = [v for v in x if v % 2 == 0]",
            lambda x, n: [v for v in x if v % 2 == 0],
            "list",
        ),
        _op(
            "above",
            "keep numbers above {n}",
            "drop all up to {n}",
            "x = [v for v in x if v > {n}]",
            lambda x, n: [v for v in x if v > n],
            "list",
        ),
        _op(
            "add_each",
            "add {n} to each number",
            "raise every item by {n}",
            "x = [v + {n} for v in x]",
            lambda x, n: [v + n for v in x],
            "list",
        ),
        _op(
            "multiply_each",
            "multiply each number by {n}",
            "scale every item by {n}",
            "x = [v * {n} for v in x]",
            lambda x, n: [v * n for v in x],
            "list",
        ),
        _op(
            "head",
            "keep the first {n} items",
            "take {n} items from the front",
            "x = x[:{n}]",
            lambda x, n: x[:n],
            "list",
        ),
        _op(
            "unique",
            "remove repeats and sort",
            "get the sorted unique items",
            "x = sorted(set(x))",
            lambda x, n: sorted(set(x)),
            "list",
        ),
        _op("sum", "sum the numbers", "add everything up", "x = sum(x)", lambda x, n: sum(x), "number"),
        _op("count", "count the items", "get the length", "x = len(x)", lambda x, n: len(x), "number"),
    ),
    "text": (
        _op("upper", "make it upper case", "use capital letters", "x = x.upper()", lambda x, n: x.upper(), "text"),
        _op("backwards", "reverse the text", "write it backwards", "x = x[::-1]", lambda x, n: x[::-1], "text"),
        _op("repeat", "repeat it {n} times", "copy it {n} times", "x = x * {n}", lambda x, n: x * n, "text"),
        _op("cut", "keep the first {n} letters", "cut it to {n} letters", "x = x[:{n}]", lambda x, n: x[:n], "text"),
        _op(
            "no_a",
            "remove the letter a",
            "delete every a",
            "x = x.replace('a', '')",
            lambda x, n: x.replace("a", ""),
            "text",
        ),
        _op(
            "shout",
            "add an exclamation mark",
            "end it with an exclamation mark",
            "x = x + '!'",
            lambda x, n: x + "!",
            "text",
        ),
        _op("split", "split it into words", "list its words", "x = x.split()", lambda x, n: x.split(), "words"),
        _op("letters", "count the letters", "measure the text", "x = len(x)", lambda x, n: len(x), "number"),
    ),
    "words": (
        _op("sort_words", "sort the words", "put the words in order", "x = sorted(x)", lambda x, n: sorted(x), "words"),
        _op("flip_words", "reverse the word list", "flip the word order", "x = x[::-1]", lambda x, n: x[::-1], "words"),
        _op(
            "join",
            "join the words with dashes",
            "glue the words with dashes",
            "x = '-'.join(x)",
            lambda x, n: "-".join(x),
            "text",
        ),
        _op("count_words", "count the words", "get the number of words", "x = len(x)", lambda x, n: len(x), "number"),
    ),
}
_CODE = sorted({operation.line for operations in OPERATIONS.values() for operation in operations})
# by an operation's line, what finds it at the end of a line of text with any constant
LINES = {line: re.compile(re.escape(line).replace(r"\{n\}", r"\d+") + r"(?=[ \t\r.,]*(?:;|\n|$))") for line in _CODE}
INPUT_WORDS: dict[str, tuple[str, ...]] = {
    "number": ("a number x", "an integer x"),
    "list": ("a list x", "a list of numbers x"),
    "text": ("a string x", "a text x"),
}
WORDINGS: dict[Split, tuple[str, ...]] = {
    "train": (
        "Write a function for {d}.",
        "Write Python code: {d}.",
        "Implement this in Python: {d}.",
        "Code this task: {d}.",
        "Program a function: {d}.",
        "Give me Python for {d}.",
        "Turn this into code: {d}.",
        "Python task: {d}.",
    ),
    "validation": ("Program this in Python: {d}.", "Give me a function: {d}.", "Write code for {d}."),
    "test": ("Write Python for this task: {d}.", "Implement a function: {d}.", "Give me code: {d}."),
}
_SAMPLE_WORDS = word_list("banana cat tree apple river data moon panda coat zebra")


def _input(rng: random.Random, kind: str) -> Any:
    if kind == "number":
        return rng.randint(-9, 12)
    if kind == "list":
        return [rng.randint(-5, 15) for _ in range(rng.randint(3, 8))]
    return " ".join(rng.choices(_SAMPLE_WORDS, k=rng.randint(1, 4)))


def _cases(rng: random.Random, kind: str, steps: list[tuple[Operation, int]]) -> list[tuple[Any, Any]]:
    """Returns up to `CASES` pairs of an input and what the steps make of it."""
    cases: list[tuple[Any, Any]] = []
    for _ in range(4 * CASES):
        given = value = _input(rng, kind)
        for operation, constant in steps:
            value = operation.run(value, constant)
        if len(repr(value)) <= _LONGEST_CASE:
            cases.append((given, value))
        if len(cases) == CASES:
            break
    return cases


def _steps(rng: random.Random, kind: str, length: int) -> list[tuple[Operation, int]]:
    steps = []
    for _ in range(length):
        operation = rng.choice(OPERATIONS[kind])
        steps.append((operation, rng.randint(2, 9)))
        kind = operation.gives
    return steps


def document(rng: random.Random, split: Split, *, wording: Split | None = None, length: int | None = None) -> Document:
    """Writes a programming task and a program that solves it.

    Args:
      rng: the source of chance.
      split: where the sequence of operations (without constants) belongs, and the wording unless it is named;
        sequences of one operation are train only.
      wording: the split whose instruction wordings are used.
      length: operations in a row, 2 or 3 (or 1 for train); drawn when None.

    Returns:
      A document whose meta holds `operations` (names), `kind` (of the input) and `cases` (input, expected value).
    """
    while True:
        kind = rng.choice(("number", "list", "text"))
        steps = _steps(rng, kind, length or rng.choice((1, 2, 2, 3, 3) if split == "train" else (2, 3)))
        names = tuple(operation.name for operation, _ in steps)
        if len(names) > 1 and split_of("code", *names) != split:
            continue
        cases = _cases(rng, kind, steps)
        if len(cases) == CASES:
            break
    phrases = [rng.choice(operation.phrases).format(n=n) for operation, n in steps]
    listed = ", ".join(phrases[:-1]) + " and then " + phrases[-1] if len(phrases) > 1 else phrases[0]
    task = f"given {rng.choice(INPUT_WORDS[kind])}, {listed}"
    body = "".join(f"    {operation.line.format(n=n)}\n" for operation, n in steps)
    meta = {"operations": names, "kind": kind, "cases": cases}
    prompt = framed(rng.choice(WORDINGS[wording or split]).format(d=task))
    return Document("code", prompt, f"\ndef f(x):\n{body}    return x", meta)


def prefixes(split: Split) -> list[str]:
    """Returns the beginnings of prompts that ask for a program."""
    return [f"Q: {wording.partition(' {d}')[0]}" for wording in WORDINGS[split]]


def program(response: str) -> str:
    """Returns the program in a response: what stands after the blank the response begins with."""
    return response.strip("\n")


def lines_in(text: str) -> list[tuple[int, int]]:
    """Returns the character ranges of a text in which the line of an operation stands, whatever stands before it."""
    return sorted({match.span() for pattern in LINES.values() for match in pattern.finditer(text)})


def test_program(meta: dict[str, Any]) -> str:
    """Returns the source text of the assertions a right program passes, to be run after it in a sandbox."""
    lines = []
    for given, expected in meta["cases"]:
        lines.append(f"assert f({given!r}) == {expected!r}")
    return "\n".join(lines) + "\n"
