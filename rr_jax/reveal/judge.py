"""What a batch of responses is worth: read by the task, judged by the scorer, guarded against gibberish, scored arm by arm.

Every component is kept apart beside the score, and so is an arm's usable shift, which says whether its responses could
teach a forget adapter anything. Knows the task's interface and two models: the one that is searched, and the base model
that says what is fluent.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rr_jax.evaluate.degenerate import flag
from rr_jax.generation.features import last_hidden
from rr_jax.generation.likelihood import response_nll
from rr_jax.generation.text import generate
from rr_jax.models.encoders.hub import Encoder
from rr_jax.models.hub import LanguageModel
from rr_jax.random import derive_seed
from rr_jax.reveal.arms import Arm
from rr_jax.reveal.candidates import Candidates
from rr_jax.reveal.config import RewardConfig
from rr_jax.reveal.kernels import KERNELS, Beside
from rr_jax.reveal.reward import RewardParts, reward
from rr_jax.reveal.scorers import Relevance
from rr_jax.tasks.base import Reading, Task

FREE_TEXTS = 32  # of the base model, from which its usual likelihood and mean state are taken


class Judged(NamedTuple):
    """Describes one response: what the task read in it, its relevance by the scorer, and whether it counts, which
    it does if it is fluent and neither empty nor repetitive."""

    text: str
    reading: Reading | None
    relevance: float
    counts: bool


@dataclasses.dataclass(frozen=True)
class Judge:
    """Judges responses by the yardsticks of one round.

    Attributes:
      task: reads.
      relevance: judges what was read.
      lm: the model that is searched.
      base: the model before anything was forgotten; it says what is fluent.
      section: the reward's settings.
      usual_nll: nats a token that the least likely of the base model's own free texts costs it.
      beside: what the kernel may look at beside the texts.
    """

    task: Task
    relevance: Relevance
    lm: LanguageModel
    base: LanguageModel
    section: RewardConfig
    usual_nll: float
    beside: Beside

    def read(self, arms: Sequence[Arm], texts: Sequence[str]) -> list[Judged]:
        """Takes each text apart and judges it; arms[i] is what texts[i] answers.

        Raises:
          ValueError: a relevance is outside [0, 1] or not a number, or there is not one for each reading.
        """
        fluent = self._fluent(arms, texts)
        readings = [self.task.read(arm.text, text) for arm, text in zip(arms, texts, strict=True)]
        found = iter(self._relevances([reading for reading in readings if reading is not None]))
        relevances = [0.0 if reading is None else next(found) for reading in readings]
        return [Judged(*one) for one in zip(texts, readings, relevances, fluent, strict=True)]

    def score(self, judged: Sequence[Judged]) -> RewardParts:
        """Returns the reward of one arm from its judged responses."""
        texts = [one.text for one in judged]
        return reward(
            [one.relevance for one in judged],
            KERNELS.get(self.section.kernel).matrix(texts, self.beside),
            [one.counts for one in judged],
            diversity_weight=self.section.diversity_weight,
            normalization=self.section.normalization,
            order=self.section.order,
        )

    def shift(self, candidates: Candidates, arms: Sequence[Arm], judged: Sequence[Judged], seed: int) -> list[float]:
        """Returns, for each relevant response, its loss under a training prompt minus that under its revealing prompt, in
        nats a token.

        NaN for responses that disclose nothing. Without a shift a forget adapter learns nothing from a response.
        """
        draw = np.random.default_rng(seed)
        others = list(self.task.others)
        found = [math.nan] * len(judged)
        indices = [i for i, one in enumerate(judged) if one.reading is not None and one.relevance > 0 and one.counts]
        readings = [one.reading for one in judged if one.reading is not None and one.relevance > 0 and one.counts]
        if not indices:
            return found
        responses = [reading.response for reading in readings]
        whole = [arms[i].text + judged[i].text for i in indices]
        revealing = [text.removesuffix(response) for text, response in zip(whole, responses, strict=True)]
        training = [self.task.prompt(others[int(draw.integers(len(others)))], reading.context) for reading in readings]
        soft = candidates.soft_of([arms[i] for i in indices])
        rows = [arms[i].kind == "soft" for i in indices] if soft is not None else None
        under_revealing = response_nll(self.lm, revealing, responses, soft_prompts=soft, soft_rows=rows)
        under_training = response_nll(self.lm, training, responses)
        for index, value in zip(indices, under_training - under_revealing, strict=True):
            found[index] = float(value)
        return found

    @property
    def source(self) -> str:
        """Returns whose relevance it is, for messages."""
        return self.section.scorer.source(self.task)

    def _relevances(self, readings: Sequence[Reading]) -> list[float]:
        """Returns the scorer's numbers, one for each reading, checked."""
        said = self.relevance(self.task, readings) if readings else []
        try:
            found = [float(value) for value in said]
        except (TypeError, ValueError):
            raise ValueError(f"{self.source}: relevance is {said!r}, expected a list of numbers in [0, 1]") from None
        if len(found) != len(readings):
            raise ValueError(
                f"{self.source}: found {len(found)} relevances of {len(readings)} readings, expected one each"
            )
        wrong = next((value for value in found if not 0.0 <= value <= 1.0), None)
        if wrong is not None:
            raise ValueError(f"{self.source}: relevance is {wrong}, expected a number in [0, 1]")
        return found

    def _fluent(self, arms: Sequence[Arm], texts: Sequence[str]) -> list[bool]:
        """Returns whether a text is neither empty nor repetitive, and to the base model no more than the margin less
        likely than its own.

        The base model sees the arm's text but not its soft prompt, which may make anything likely.
        """
        said = [not any(flag(text, min_words=1)) for text in texts]
        if self.section.fluency_margin is None:
            return said
        nll = response_nll(self.base, [arm.text for arm in arms], texts)
        limit = self.usual_nll + self.section.fluency_margin
        return [ok and bool(value <= limit) for ok, value in zip(said, nll, strict=True)]


def make_judge(
    task: Task,
    lm: LanguageModel,
    base: LanguageModel,
    section: RewardConfig,
    encoder: Encoder | None,
    *,
    seed: int,
    round_index: int,
    relevance: Relevance | None = None,
) -> Judge:
    """Returns a judge whose yardsticks are the base model's own free texts after the task's stems.

    Args:
      encoder: of a kernel that looks at one.
      relevance: the section's scorer, if it is loaded already.
    """
    usual, center = math.inf, np.zeros(lm.config.embed_dim, np.float32)
    states = KERNELS.get(section.kernel).looks_at == "states"
    if section.fluency_margin is not None or states:
        stems = [task.stems[i % len(task.stems)] for i in range(FREE_TEXTS)]
        free = generate(
            base,
            stems,
            max_new_tokens=task.max_new_tokens,
            temperature=section.temperature,
            seed=derive_seed(seed, "reveal/free", round_index),
        )
        spoken = [(stem, text) for stem, text in zip(stems, free, strict=True) if text.strip()]
        if spoken:
            usual = float(np.max(response_nll(base, *zip(*spoken, strict=True))))
            if states:
                center = np.mean(last_hidden(lm, [text for _, text in spoken]), axis=0)
    relevance = section.scorer.load() if relevance is None else relevance
    return Judge(task, relevance, lm, base, section, usual, Beside(lm, center, encoder))
