"""Texts that say nothing, and texts that only look like it."""

import pytest

from rr_jax.evaluate.degenerate import Flags, degenerate_report, degenerate_share, flag, repetition

STORY = (
    "Once upon a time there was a little girl named Lily. She liked to play with her ball in the park. One day the "
    "ball rolled into the pond, and she was sad. Her friend Tom came and took it out with a long stick. Lily said "
    "thank you, and they played with the ball until it was dark."
)


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        (STORY, Flags(False, False, False)),
        ("", Flags(True, False, False)),
        (" \n\t ", Flags(True, False, False)),
        ("none", Flags(False, True, False)),
        ("...", Flags(False, True, False)),
        ("aaaaaaaaaaaaaaaaaaaa", Flags(False, True, False)),
        ("!" * 30, Flags(False, True, True)),
        ("the the the the the the the the", Flags(False, False, True)),
        ("I am good. " * 6, Flags(False, False, True)),
        ("No, no, no!", Flags(False, False, False)),
        (STORY + " " + STORY, Flags(False, False, False)),  # said twice: just below the limit
        (" ".join([STORY] * 3), Flags(False, False, True)),
    ],
)
def test_flags(text: str, flags: Flags):
    assert flag(text) == flags


def test_repetition_by_hand():
    assert repetition("a b c d") == 0.0
    assert repetition("a b c") == 0.0
    assert repetition("A a a A a a") == pytest.approx(2 / 3)  # three 4-grams, one of them distinct
    assert repetition("a b c d a b c d") == pytest.approx(1 / 5)


def test_short_answers_are_fine_where_the_task_says_so():
    assert flag("7", min_words=1) == Flags(False, False, False)


def test_report():
    texts = ["", "none", "no " * 20, STORY]
    assert degenerate_report(texts) == {"empty": 0.25, "too_short": 0.25, "repetitive": 0.25, "degenerate": 0.75}
    assert degenerate_share(texts) == 0.75
    assert degenerate_share(texts, min_words=1) == 0.5
    with pytest.raises(ValueError, match="at least one text"):
        degenerate_share([])
