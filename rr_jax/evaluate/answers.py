"""Numeric answers of grade-school problems (GSM8K): found in a text, brought to one spelling, compared.

Strict takes the number after "####", flexible the last number of the text; report both, because after an edit of the
weights the format often breaks before the arithmetic does. Knows texts only.
"""

import re
from collections.abc import Sequence

_MARKED = re.compile(r"#### *(-?\$?[0-9.,]*[0-9][0-9.,]*)")
_NUMBER = re.compile(r"-?\$?(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)")


def strict_answer(text: str) -> str | None:
    """Returns the number after the first "####" that has one, or None. Also reads the gold answer of a GSM8K solution.

    As lm-eval's `gsm8k` strict-match, but a dollar sign may stand before the digits and there must be a digit.
    """
    found = _MARKED.search(text)
    return normalise_number(found.group(1)) if found else None


def flexible_answer(text: str) -> str | None:
    """Returns the last number of the text, or None.

    As lm-eval's `gsm8k` flexible-extract, except that its pattern also takes runs of punctuation ("..") for numbers.
    """
    found = _NUMBER.findall(text)
    return normalise_number(found[-1]) if found else None


def normalise_number(number: str) -> str:
    """Returns the number without commas, dollar signs and a trailing period (what lm-eval ignores; "18.0" is not "18")."""
    return number.strip().replace(",", "").replace("$", "").removesuffix(".")


def exact_match_rate(answers: Sequence[str | None], golds: Sequence[str]) -> float:
    """Returns the share of answers equal to their gold answer after `normalise_number`; None, no answer found, is
    wrong.

    Raises:
      ValueError: for lists that are empty, or of different lengths.
    """
    if not golds or len(answers) != len(golds):
        raise ValueError(f"expected one answer for each gold answer, found {len(answers)} answers, {len(golds)} golds")
    right = (a is not None and normalise_number(a) == normalise_number(g) for a, g in zip(answers, golds, strict=True))
    return sum(right) / len(golds)
