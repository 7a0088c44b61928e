"""Named-entity scores of a generative model: micro precision, recall and F1, leaks and format validity.

Everything is counted over sentences, each a mapping from entity type to mentions. As coded in UniversalNER
(`src/eval/evaluate.py`), mentions are normalised and then compared as *sets* within one (sentence, type) query, so a
name said twice counts once; counts are pooled over queries before any division. Knows no model and no prompt.
"""

import json
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

Mentions = Mapping[str, Sequence[str] | None]  # type -> mentions; None: the output could not be read (counts as none)

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


class EntityScore(NamedTuple):
    """Holds the micro-averaged score and the counts it comes from.

    A ratio with nothing below the line is 0, as in UniversalNER. With `gold` 0 the score says nothing of the model:
    look at the counts before reading a 0 as forgetting.
    """

    precision: float
    recall: float
    f1: float
    correct: int
    predicted: int
    gold: int


def normalise(mention: str) -> str:
    """Brings a mention to lower case without ASCII punctuation, articles and double spaces (as coded in UniversalNER,
    after SQuAD). A name that is nothing else, such as "!!!" or "The The", stays as it is, unlike there: else all of them
    would be one name."""
    return " ".join(_ARTICLES.sub(" ", mention.lower().translate(_PUNCTUATION)).split()) or mention.strip()


def parse_entity_list(text: str) -> list[str] | None:
    """Returns the JSON list of strings that the text starts with, or None if it starts with anything else.

    UniversalNER reads to the first "]" and takes what it cannot read for an empty list; here the list is read by the
    JSON grammar (a name may hold a bracket) and None keeps "said nothing" apart from "said it in no known format".
    """
    try:
        value, _ = json.JSONDecoder().raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None


def format_validity(parsed: Sequence[Sequence[str] | None]) -> float:
    """Returns the share of outputs that could be read, of parsed outputs in which None stands for those that could not."""
    if not parsed:
        raise ValueError("format validity needs at least one output, found none")
    return sum(mentions is not None for mentions in parsed) / len(parsed)


def score_entities(predictions: Sequence[Mentions], golds: Sequence[Mentions]) -> EntityScore:
    """Scores predictions over all types: counts pooled over every (sentence, type) query.

    Args:
      predictions: for each sentence, what was predicted under each type that the model was asked for.
      golds: for each sentence, the true mentions of each type; a type that is missing has none.

    Raises:
      ValueError: for different numbers of sentences, or a type with gold mentions that was never asked for (which
        would otherwise look like forgetting).
    """
    return _score(_count(predictions, golds).values())


def score_by_type(predictions: Sequence[Mentions], golds: Sequence[Mentions]) -> dict[str, EntityScore]:
    """Scores each type by itself as `score_entities` does: the same counts, grouped."""
    return {kind: _score([counts]) for kind, counts in sorted(_count(predictions, golds).items())}


def leak_count(predictions: Sequence[Mentions], golds: Sequence[Mentions], forgotten: str) -> int:
    """Counts gold mentions of the forgotten type that are predicted under another type, where they are no gold mention.

    A model that calls every person an organisation has a low F1 on persons and has forgotten nobody. Each mention
    counts once, however many types it leaks to; divide by `score_by_type(...)[forgotten].gold` for a share.
    """
    leaks = 0
    for predicted, gold in _paired(predictions, golds):
        wrong: set[str] = set()
        for kind in predicted.keys() - {forgotten}:
            wrong |= _normal_set(predicted[kind]) - _normal_set(gold.get(kind))
        leaks += len(_normal_set(gold.get(forgotten)) & wrong)
    return leaks


def _normal_set(mentions: Sequence[str] | None) -> set[str]:
    return {normalise(mention) for mention in mentions or ()}


def _paired(predictions: Sequence[Mentions], golds: Sequence[Mentions]) -> Iterable[tuple[Mentions, Mentions]]:
    if len(predictions) != len(golds):
        raise ValueError(f"expected as many predictions as golds, found {len(predictions)} and {len(golds)}")
    for index, (predicted, gold) in enumerate(zip(predictions, golds, strict=True)):
        missing = sorted(kind for kind, mentions in gold.items() if mentions and kind not in predicted)
        if missing:
            raise ValueError(f"sentence {index} has gold mentions of {missing} but no prediction for them, not even []")
        yield predicted, gold


def _count(predictions: Sequence[Mentions], golds: Sequence[Mentions]) -> dict[str, tuple[int, int, int]]:
    """Returns (correct, predicted, gold) of each type."""
    counts: dict[str, tuple[int, int, int]] = {}
    for predicted, gold in _paired(predictions, golds):
        for kind in predicted.keys() | gold.keys():
            ours, theirs = _normal_set(predicted.get(kind)), _normal_set(gold.get(kind))
            correct, asked, true = counts.get(kind, (0, 0, 0))
            counts[kind] = (correct + len(ours & theirs), asked + len(ours), true + len(theirs))
    return counts


def _score(counts: Iterable[tuple[int, int, int]]) -> EntityScore:
    correct, predicted, gold = (sum(column) for column in zip((0, 0, 0), *counts, strict=True))
    precision = correct / predicted if predicted else 0.0
    recall = correct / gold if gold else 0.0
    f1 = 2 * correct / (predicted + gold) if predicted + gold else 0.0
    return EntityScore(precision, recall, f1, correct, predicted, gold)
