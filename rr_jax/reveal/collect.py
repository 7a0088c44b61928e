"""The best arms become the forget set: generated, read, filtered by relevance, de-duplicated and capped, with lineage."""

from collections.abc import Callable, Sequence

from rr_jax.config import RevealConfig
from rr_jax.evaluate.degenerate import flag
from rr_jax.models.hub import LanguageModel
from rr_jax.random import derive_seed
from rr_jax.reveal.search import Candidates, Scored, read_all, respond
from rr_jax.tasks.base import Revealed, Task

CHUNK = 64  # responses generated at a time


def best_arms(scored: Sequence[Scored], count: int) -> list[Scored]:
    """The `count` best evaluated arms that disclosed anything at all, best first; of ties the earlier."""
    useful = [one for one in scored if one.relevance > 0]
    return sorted(useful, key=lambda one: (-one.score, one.order))[:count]


def collect(
    lm: LanguageModel,
    task: Task,
    config: RevealConfig,
    candidates: Candidates,
    scored: Sequence[Scored],
    *,
    seed: int,
    round: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Revealed]:
    """Generates from the best arms in turn until the set is full or the generations are used up."""
    section = config.collect
    best = best_arms(scored, section.best_arms)
    if not best:
        return []
    revealed: list[Revealed] = []
    seen: set[str] = set()
    for start in range(0, section.generations, CHUNK):
        turns = [best[(start + i) % len(best)] for i in range(min(CHUNK, section.generations - start))]
        texts = respond(
            lm,
            candidates,
            [one.arm for one in turns],
            max_new_tokens=task.max_new_tokens,
            temperature=config.reward.temperature,
            seed=derive_seed(seed, "reveal/collect", round),
            first_index=start,
        )
        judged = read_all(task, [one.arm for one in turns], texts)
        for place, (one, (reading, relevance)) in enumerate(zip(turns, judged, strict=True)):
            if reading is None or relevance < section.threshold or any(flag(reading.response, min_words=1)):
                continue
            fingerprint = " ".join(f"{reading.context} {reading.response}".lower().split())
            if fingerprint in seen:
                continue
            seen.add(fingerprint)
            revealed.append(
                Revealed(
                    round, one.arm.index, one.arm.kind, start + place, one.arm.text,
                    reading.context, reading.response, relevance, one.score,
                )
            )  # fmt: skip
        if progress is not None:
            progress(min(len(revealed), section.size), section.size)
        if len(revealed) >= section.size:
            break
    return revealed[: section.size]
