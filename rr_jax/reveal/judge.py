"""What a batch of responses is worth: read by the task, guarded against gibberish, scored arm by arm.

Every component is kept apart beside the score, and so is an arm's usable shift, which says whether its responses could
teach a forget adapter anything. Knows the task's interface and two models: the one that is searched, and the base model
that says what is fluent.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rr_jax.evaluate.classifier import embed_texts
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
from rr_jax.reveal.reward import RewardParts, cosine_kernel, ngram_kernel, reward
from rr_jax.tasks.base import Reading, Task

FREE_TEXTS = 32  # of the base model, from which its usual likelihood and mean state are taken


class Judged(NamedTuple):
    """One response: what the task read in it, its relevance, and whether it counts: fluent, not empty or repetitive."""

    text: str
    reading: Reading | None
    relevance: float
    counts: bool


@dataclasses.dataclass(frozen=True)
class Judge:
    """The yardsticks of one round.

    Attributes:
      task: reads and judges.
      lm: the model that is searched.
      base: the model before anything was forgotten; it says what is fluent.
      section: the reward's settings.
      encoder: of the kernel "encoder".
      usual_nll: nats a token that the least likely of the base model's own free texts costs it.
      center: [D] mean state of that text in the model that is searched.
    """

    task: Task
    lm: LanguageModel
    base: LanguageModel
    section: RewardConfig
    encoder: Encoder | None
    usual_nll: float
    center: np.ndarray

    def read(self, arms: Sequence[Arm], texts: Sequence[str]) -> list[Judged]:
        """Each text taken apart and judged; arms[i] is what texts[i] answers.

        Raises:
          ValueError: the task's relevance is outside [0, 1] or not a number.
        """
        fluent = self._fluent(arms, texts)
        judged = []
        for arm, text, ok in zip(arms, texts, fluent, strict=True):
            reading = self.task.read(arm.text, text)
            relevance = 0.0 if reading is None else float(self.task.relevance(reading))
            if not 0.0 <= relevance <= 1.0:
                raise ValueError(f"task {self.task.name}: relevance is {relevance}, expected a number in [0, 1]")
            judged.append(Judged(text, reading, relevance, ok))
        return judged

    def score(self, judged: Sequence[Judged]) -> RewardParts:
        """The reward of one arm from its judged responses."""
        texts = [one.text for one in judged]
        return reward(
            [one.relevance for one in judged],
            self._kernel(texts),
            [one.counts for one in judged],
            diversity_weight=self.section.diversity_weight,
            normalization=self.section.normalization,
            order=self.section.order,
        )

    def shift(self, candidates: Candidates, arms: Sequence[Arm], judged: Sequence[Judged], seed: int) -> list[float]:
        """Loss of each relevant response under a training prompt minus that under its revealing prompt, nats a token.

        NaN for responses that disclose nothing. Without a shift a forget adapter learns nothing from a response.
        """
        draw = np.random.default_rng(seed)
        others = list(self.task.others)
        found = [math.nan] * len(judged)
        places = [i for i, one in enumerate(judged) if one.reading is not None and one.relevance > 0 and one.counts]
        readings = [one.reading for one in judged if one.reading is not None and one.relevance > 0 and one.counts]
        if not places:
            return found
        responses = [reading.response for reading in readings]
        whole = [arms[i].text + judged[i].text for i in places]
        revealing = [text.removesuffix(response) for text, response in zip(whole, responses, strict=True)]
        training = [self.task.prompt(others[int(draw.integers(len(others)))], reading.context) for reading in readings]
        soft = candidates.soft_of([arms[i] for i in places])
        rows = [arms[i].kind == "soft" for i in places] if soft is not None else None
        under_revealing = response_nll(self.lm, revealing, responses, soft_prompts=soft, soft_rows=rows)
        under_training = response_nll(self.lm, training, responses)
        for place, value in zip(places, under_training - under_revealing, strict=True):
            found[place] = float(value)
        return found

    def _fluent(self, arms: Sequence[Arm], texts: Sequence[str]) -> list[bool]:
        """Not empty or repetitive, and no more than the margin less likely to the base model than its own free texts.

        The base model sees the arm's text but not its soft prompt, which may make anything likely.
        """
        said = [not any(flag(text, min_words=1)) for text in texts]
        if self.section.fluency_margin is None:
            return said
        nll = response_nll(self.base, [arm.text for arm in arms], texts)
        limit = self.usual_nll + self.section.fluency_margin
        return [ok and bool(value <= limit) for ok, value in zip(said, nll, strict=True)]

    def _kernel(self, texts: Sequence[str]) -> np.ndarray:
        if self.section.kernel == "ngram":
            return ngram_kernel(texts)
        if self.section.kernel == "hidden":
            return cosine_kernel(last_hidden(self.lm, [text or " " for text in texts]) - self.center[None, :])
        assert self.encoder is not None
        return cosine_kernel(embed_texts(self.encoder, list(texts)))


def make_judge(
    task: Task,
    lm: LanguageModel,
    base: LanguageModel,
    section: RewardConfig,
    encoder: Encoder | None,
    *,
    seed: int,
    round_index: int,
) -> Judge:
    """A judge whose yardsticks are the base model's own free texts after the task's stems."""
    usual, center = math.inf, np.zeros(lm.config.embed_dim, np.float32)
    if section.fluency_margin is not None or section.kernel == "hidden":
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
            if section.kernel == "hidden":
                center = np.mean(last_hidden(lm, [text for _, text in spoken]), axis=0)
    return Judge(task, lm, base, section, encoder, usual, center)
