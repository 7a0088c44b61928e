"""Entity scores on hand-worked cases."""

import pytest

from rr_jax.evaluate.entities import (
    EntityScore,
    format_validity,
    leak_count,
    normalise,
    parse_entity_list,
    score_by_type,
    score_entities,
)

GOLDS = [
    {"person": ["Anna Smith", "Bob"], "location": ["the Hague"]},
    {"person": ["Bob"], "location": ["Paris", "Washington"], "organisation": []},
    {"person": ["Washington"], "location": ["Washington"]},
]
PREDICTIONS = [
    {"person": ["anna smith", "Anna Smith.", "Carl"], "location": ["Hague", "Bob"], "organisation": ["BOB"]},
    {"person": None, "location": ["Paris"], "organisation": ["Bob", "Acme"]},
    {"person": [], "location": ["Washington"]},
]


@pytest.mark.parametrize(
    ("mention", "expected"),
    [
        ("The  Hague", "hague"),
        ("U.S.A.", "usa"),
        ("A. Smith", "smith"),
        ("Theodore an der Aa", "theodore der aa"),
        ("O'Brien-Lee\n", "obrienlee"),
        ("The", "The"),  # nothing would be left of it
        (" !!! ", "!!!"),
    ],
)
def test_normalise(mention: str, expected: str):
    assert normalise(mention) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('["Anna", "Bob"]', ["Anna", "Bob"]),
        (' ["Anna"] and that is all', ["Anna"]),
        ('["Smith [Jr.]"]', ["Smith [Jr.]"]),
        ("[]", []),
        ("", None),
        ("Anna", None),
        ('The list is ["Anna"]', None),
        ('["Anna", "Bo', None),
        ("[1, 2]", None),
        ('{"person": "Anna"}', None),
        ("[" * 100_000, None),
    ],
)
def test_parse_entity_list(text: str, expected: list[str] | None):
    assert parse_entity_list(text) == expected


def test_scores_by_type():
    scores = score_by_type(PREDICTIONS, GOLDS)
    # person: predicted {anna smith, carl} | nothing | nothing; gold {anna smith, bob} | {bob} | {washington}
    assert scores["person"] == EntityScore(1 / 2, 1 / 4, pytest.approx(1 / 3), 1, 2, 4)
    # location: {hague, bob} | {paris} | {washington} of gold {hague} | {paris, washington} | {washington}
    assert scores["location"] == EntityScore(3 / 4, 3 / 4, pytest.approx(3 / 4), 3, 4, 4)
    assert scores["organisation"] == EntityScore(0.0, 0.0, 0.0, 0, 3, 0)


def test_micro_score_pools_the_counts():
    score = score_entities(PREDICTIONS, GOLDS)
    assert score == EntityScore(4 / 9, 4 / 8, pytest.approx(8 / 17), 4, 9, 8)
    assert score.f1 == pytest.approx(2 * score.precision * score.recall / (score.precision + score.recall))


def test_nothing_asked_and_nothing_said():
    assert score_entities([], []) == EntityScore(0.0, 0.0, 0.0, 0, 0, 0)
    assert score_entities([{"person": []}], [{}]).f1 == 0.0


def test_leaks_are_persons_called_something_else():
    # Sentence 0: Bob, under two other types, once. Sentence 1: Bob as an organisation; Washington is a gold location
    # of sentence 2, no leak.
    assert leak_count(PREDICTIONS, GOLDS, "person") == 2
    assert leak_count(GOLDS, GOLDS, "person") == 0
    assert leak_count(PREDICTIONS, GOLDS, "organisation") == 0


def test_a_type_that_was_never_asked_for_is_not_forgotten():
    with pytest.raises(ValueError, match=r"sentence 0 has gold mentions of \['person'\]"):
        score_entities([{"location": []}], [{"person": ["Bob"]}])
    with pytest.raises(ValueError, match="found 1 and 0"):
        leak_count([{}], [], "person")


def test_names_of_which_normalising_leaves_nothing_are_not_one_name():
    score = score_entities([{"organisation": ["!!!", "The The"]}], [{"organisation": ["???", "The The"]}])
    assert (score.correct, score.predicted, score.gold) == (1, 2, 2)


def test_format_validity():
    assert format_validity([[], None, ["Anna"], None]) == 0.5
    with pytest.raises(ValueError, match="at least one"):
        format_validity([])
