"""Answers found in texts, as a table."""

import pytest

from rr_jax.evaluate.answers import exact_match_rate, flexible_answer, normalise_number, strict_answer


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("She makes 9 * 2 = $<<9*2=18>>18.\n#### 18", "18", "18"),
        ("#### 1,234.", "1234", "1234"),
        ("#### $70,000", "70000", "70000"),
        ("#### -5", "-5", "-5"),
        ("####7", "7", "7"),
        ("#### 2.50", "2.50", "2.50"),
        ("The answer is 42.", None, "42"),
        ("It costs $1,250.50, or so...", None, "1250.50"),
        ("half is .5", None, ".5"),
        ("#### 3\n\nQuestion: 8 apples", "3", "8"),
        ("first #### 3 then #### 4", "3", "4"),
        ("1, 2, 3, ...", None, "3"),
        ("#### ...", None, None),
        ("#### none", None, None),
        ("I do not know.", None, None),
        ("", None, None),
    ],
)
def test_answers(text: str, strict: str | None, flexible: str | None):
    assert strict_answer(text) == strict
    assert flexible_answer(text) == flexible


@pytest.mark.parametrize(("number", "expected"), [("$1,000.", "1000"), (" 7 ", "7"), ("3.5", "3.5"), ("-2", "-2")])
def test_normalise_number(number: str, expected: str):
    assert normalise_number(number) == expected


def test_exact_match_rate():
    assert exact_match_rate(["18", None, "$1,000", "18.0"], ["18", "18", "1000.", "18"]) == 0.5
    with pytest.raises(ValueError, match="1 answers, 2 golds"):
        exact_match_rate(["1"], ["1", "2"])
    with pytest.raises(ValueError, match="0 answers, 0 golds"):
        exact_match_rate([], [])
