"""The best arms become the forget set: generated, read, filtered, freed of repeats, and capped; with lineage.

What is left out is kept in mind too, with the reason, so that a set that stays small explains itself.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rr_jax.data.words import words
from rr_jax.evaluate.metric import Metric, mean_of
from rr_jax.models.hub import LanguageModel
from rr_jax.random import derive_seed
from rr_jax.reveal.candidates import Candidates, respond
from rr_jax.reveal.config import RevealConfig
from rr_jax.reveal.judge import Judge, Judged
from rr_jax.reveal.search import Scored
from rr_jax.tasks.base import Revealed

CHUNK = 64  # responses generated at a time
SHINGLE = 3  # words of the n-grams that near-duplicates are recognised by


class Dropped(NamedTuple):
    """Records a generated text that is not in the forget set: its arm, its global index, its relevance, and why."""

    arm: int
    sample: int
    relevance: float
    reason: str  # unreadable, degenerate, irrelevant, duplicate, near_duplicate, quota, or beyond_size
    text: str


class Collection(NamedTuple):
    """Holds the forget set, and what was left out."""

    revealed: list[Revealed]
    dropped: list[Dropped]

    def relevance(self) -> Metric:
        """Returns the mean relevance of all texts that were generated for the set, kept or left out; 0 of none."""
        values = [*(one.relevance for one in self.revealed), *(one.relevance for one in self.dropped)]
        return mean_of(values) if values else Metric(0.0, 0)

    def reasons(self) -> dict[str, int]:
        """Returns how many texts were left out for each reason, the most frequent first."""
        return dict(Counter(one.reason for one in self.dropped).most_common())


def best_arms(scored: Sequence[Scored], count: int) -> list[Scored]:
    """Returns the `count` best evaluated arms that disclosed anything at all, best first; of ties the earlier."""
    useful = [one for one in scored if one.relevance.value > 0]
    return sorted(useful, key=lambda one: (-one.score, one.order))[:count]


def collect(
    lm: LanguageModel,
    judge: Judge,
    config: RevealConfig,
    candidates: Candidates,
    scored: Sequence[Scored],
    *,
    seed: int,
    round_index: int,
    progress: Callable[[int, int], None] | None = None,
) -> Collection:
    """Generates from the best arms in turn until the set is full or the generations are used up."""
    section = config.collect
    best = best_arms(scored, section.best_arms)
    found = Collection([], [])
    seen: set[str] = set()
    shingles: list[frozenset[str]] = []
    from_arm: Counter[int] = Counter()
    quota = max(1, int(section.arm_share * section.size))
    for start in range(0, section.generations if best else 0, CHUNK):
        turns = [best[(start + i) % len(best)] for i in range(min(CHUNK, section.generations - start))]
        texts = respond(
            lm,
            candidates,
            [one.arm for one in turns],
            max_new_tokens=judge.task.max_new_tokens,
            temperature=config.reward.temperature,
            seed=derive_seed(seed, "reveal/collect", round_index),
            first_index=start,
        )
        judged = judge.read([one.arm for one in turns], texts)
        for sample, (one, answer) in enumerate(zip(turns, judged, strict=True), start=start):
            arm, reading = one.arm, answer.reading
            reason = _why_not(answer, section.threshold)
            if reason is None and reading is not None:
                fingerprint = " ".join(f"{reading.context} {reading.response}".lower().split())
                grams = _shingles(fingerprint)
                if fingerprint in seen:
                    reason = "duplicate"
                elif section.near_duplicate < 1 and any(
                    _jaccard(grams, other) >= section.near_duplicate for other in shingles
                ):
                    reason = "near_duplicate"
                if reason is None and len(found.revealed) >= section.size:
                    reason = "beyond_size"
                if reason is None and from_arm[arm.index] >= quota:
                    reason = "quota"
                if reason is None:
                    seen.add(fingerprint)
                    shingles.append(grams)
                    from_arm[arm.index] += 1
                    found.revealed.append(
                        Revealed(
                            round_index, arm.index, arm.kind, sample, arm.text, reading.context, reading.response,
                            answer.relevance, one.score,
                        )
                    )  # fmt: skip
            if reason is not None:
                found.dropped.append(Dropped(arm.index, sample, answer.relevance, reason, answer.text))
        if progress is not None:
            progress(min(len(found.revealed), section.size), section.size)
        if len(found.revealed) >= section.size:
            break
    return found


def _why_not(answer: Judged, threshold: float) -> str | None:
    """Returns what is wrong with a response by itself."""
    if answer.reading is None:
        return "unreadable"
    if not answer.counts:
        return "degenerate"
    return "irrelevant" if answer.relevance < threshold else None


def _shingles(text: str) -> frozenset[str]:
    """Returns the word 3-grams of a text; all of it when it is shorter."""
    said = words(text)
    return frozenset(" ".join(said[i : i + SHINGLE]) for i in range(max(len(said) - SHINGLE + 1, 1)))


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Returns the Jaccard similarity: what is shared over all."""
    return len(one & other) / len(one | other)
