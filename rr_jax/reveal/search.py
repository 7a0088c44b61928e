"""The search for revealing instructions: arms are chosen, answered, judged, until the budget of generations is spent.

An outer step scores some arms of the pool; an inner loop lets the strategy choose. Every evaluation makes the model
respond several times and scores relevance and diversity together. What was evaluated can be handed in again, so that an
interrupted search goes on where it was. Knows the task's interface, never its data.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rr_jax.evaluate.metric import Metric, from_plain, mean_of, ratio_of, share_of, to_plain
from rr_jax.models.hub import LanguageModel
from rr_jax.random import derive_seed
from rr_jax.reveal.arms import Arm
from rr_jax.reveal.candidates import Candidates, respond
from rr_jax.reveal.config import RevealConfig
from rr_jax.reveal.judge import Judge, Judged
from rr_jax.reveal.strategies import Learned, make_strategy

LEAST_TO_TELL = 16  # judged responses before a relevance that never varies is called constant


class Scored(NamedTuple):
    """Records one evaluated arm, in the order of evaluation.

    Attributes:
      order: from 0.
      arm: what was asked.
      score, diversity: as in `reward.RewardParts`.
      relevance, fluency: as there, over the responses of this evaluation.
      shift: mean usable shift of its relevant responses, nats a token; None without any.
      chosen_by: "initial", or the strategy.
      generations: responses generated in the search up to and with this arm.
    """

    order: int
    arm: Arm
    score: float
    relevance: Metric
    diversity: float
    fluency: Metric
    shift: Metric | None
    chosen_by: str
    generations: int

    def line(self) -> dict[str, Any]:
        """Returns the fields as plain values."""
        values = self._asdict() | {"arm": self.arm.index, "kind": self.arm.kind, "text": self.arm.text}
        return values | to_plain({name: value for name, value in values.items() if isinstance(value, Metric)})

    def numbers(self) -> dict[str, int | float]:
        """Returns the fields that are numbers, for a line of the log: of a metric its value."""
        values = {name: value.value if isinstance(value, Metric) else value for name, value in self._asdict().items()}
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float) and name != "order"}
        return {"arm": self.arm.index} | numbers


class Found(NamedTuple):
    """Holds a search's result: what was evaluated, why it ended, and the last ratio of uncertainty to prediction."""

    scored: list[Scored]
    ended: str  # "budget", "pool" (no arm left), or "nothing better expected"
    exploration: float | None


def search(
    lm: LanguageModel,
    judge: Judge,
    config: RevealConfig,
    candidates: Candidates,
    *,
    seed: int,
    round_index: int,
    known: Sequence[dict[str, Any]] = (),
    remember: Callable[[list[dict[str, Any]]], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """Scores arms until `search.generations` responses are spent.

    Args:
      lm: the model that is searched.
      judge: made for this round.
      config: of the reveal stage.
      candidates: the pool.
      seed, round_index: name all randomness.
      known: lines that `remember` was given before an interruption, in order; they are believed, not generated again.
      remember: called with the lines of each evaluated batch: numbers and indices, no text.
      progress: called with (generations spent, budget).

    Raises:
      ValueError: a relevance is wrong, or the same for every response.
    """
    section, samples = config.search, config.reward.samples
    arms = candidates.arms
    evaluations = min(len(arms), section.generations // samples)
    strategy = make_strategy(
        section,
        config.bandit,
        candidates.features,
        [arm.kind == "text" for arm in arms],
        evaluations,
        seed=seed,
        round_index=round_index,
    )
    generation_seed = derive_seed(seed, "reveal/search", round_index)
    scored: list[Scored] = []
    relevances: list[float] = []
    replay = list(known)

    def evaluate(chosen: Sequence[int]) -> list[dict[str, Any]]:
        """Returns the arms' scores as lines, from before the interruption if they are known."""
        if [line["arm"] for line in replay[: len(chosen)]] == list(chosen):
            lines = replay[: len(chosen)]
            del replay[: len(chosen)]
            return lines
        replay.clear()
        repeated = [arms[index] for index in chosen for _ in range(samples)]
        texts = respond(
            lm,
            candidates,
            repeated,
            max_new_tokens=judge.task.max_new_tokens,
            temperature=config.reward.temperature,
            seed=generation_seed,
            first_index=len(scored) * samples,
        )
        judged = judge.read(repeated, texts)
        shifts = judge.shift(
            candidates, repeated, judged, derive_seed(seed, f"reveal/shift/{len(scored)}", round_index)
        )
        lines = []
        for index, arm in enumerate(chosen):
            mine = slice(index * samples, (index + 1) * samples)
            lines.append({"arm": arm, **_score(judge, judged[mine], shifts[mine])})
        if remember is not None:
            remember(lines)
        return lines

    def take(chosen: list[int], chosen_by: str) -> None:
        lines = evaluate(chosen)
        for line in lines:
            metrics, spent = from_plain(line["metrics"]), (len(scored) + 1) * samples
            scored.append(
                Scored(
                    len(scored), arms[line["arm"]], line["score"], metrics["relevance"], line["diversity"],
                    metrics["fluency"], metrics.get("shift"), chosen_by, spent,
                )
            )  # fmt: skip
            relevances.extend(line["relevances"])
        strategy.observe(chosen, [line["score"] for line in lines])
        if progress is not None:
            progress(len(scored) * samples, evaluations * samples)

    take(strategy.initial()[:evaluations], "initial")
    if len(relevances) >= LEAST_TO_TELL and len(set(relevances)) == 1 and relevances[0] > 0:
        raise ValueError(
            f"{judge.source}: relevance is {relevances[0]:g} for each of {len(relevances)} responses to "
            f"{len(scored)} arms; a scorer that never varies cannot tell what reveals"
        )
    ended = "budget"
    while len(scored) < evaluations:
        chosen = strategy.choose(min(section.batch, evaluations - len(scored)))
        if not chosen:
            stopped = isinstance(strategy, Learned) and strategy.stopped
            ended = "nothing better expected" if stopped else "pool"
            break
        take(chosen, section.strategy)
    return Found(scored, ended, strategy.exploration if isinstance(strategy, Learned) else None)


def _score(judge: Judge, judged: Sequence[Judged], shifts: Sequence[float]) -> dict[str, Any]:
    """Returns an arm's line: its components, its mean shift, and the relevance of each response that counts."""
    parts, each = judge.score(judged), [one.relevance if one.counts else 0.0 for one in judged]
    metrics = {
        "relevance": ratio_of(each, [1.0] * len(each), value=parts.relevance),
        "fluency": share_of([one.counts for one in judged]),
    }
    usable = [shift for shift in shifts if not math.isnan(shift)]
    return {
        "score": parts.score,
        "diversity": parts.diversity,
        "metrics": to_plain(metrics | ({"shift": mean_of(usable)} if usable else {})),
        "relevances": [one.relevance for one in judged if one.counts],
    }
