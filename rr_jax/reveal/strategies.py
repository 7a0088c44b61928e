"""Which arms to try next: NeuralUCB, and the strategies it is compared with at an equal number of generations.

A strategy sees feature rows, what was evaluated and the scores; never an arm's text or a response. All of them start
from the same draw of arms, so that a comparison is paired.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from rr_jax.random import stream
from rr_jax.reveal import bandit
from rr_jax.reveal.config import BanditSection, SearchConfig


class Strategy(Protocol):
    """Chooses arms one batch at a time."""

    def initial(self) -> list[int]:
        """Returns the arms of the initial design."""
        ...

    def observe(self, arms: Sequence[int], scores: Sequence[float]) -> None:
        """Takes in what evaluated arms scored; the first call is the initial design."""
        ...

    def choose(self, count: int) -> list[int]:
        """Returns the next arms, at most `count`; none when there are no more, or nothing better is to be expected."""
        ...


@dataclasses.dataclass
class InOrder:
    """Chooses arms in a fixed random order: "random", and "best_of_n" over the texts alone."""

    order: list[int]
    first: int
    taken: int = 0

    def initial(self) -> list[int]:
        """Returns the first of the order."""
        return self.choose(self.first)

    def observe(self, arms: Sequence[int], scores: Sequence[float]) -> None:
        """Does nothing: scores change no order."""

    def choose(self, count: int) -> list[int]:
        """Returns the next of the order."""
        chosen = self.order[self.taken : self.taken + count]
        self.taken += len(chosen)
        return chosen


@dataclasses.dataclass
class Learned:
    """Chooses arms by a network trained on the scores so far: "neural_ucb", or "epsilon_greedy" on the same predictions."""

    features: jax.Array  # [N, D]
    settings: bandit.BanditConfig
    state: bandit.BanditState
    section: SearchConfig
    order: list[int]  # of the initial design
    seed: int
    round_index: int
    available: jax.Array  # [N] bool
    turns: int = 0
    observed: bool = False
    stopped: bool = False
    exploration: float | None = None  # mean sigma over mean |prediction| of the latest choice

    def initial(self) -> list[int]:
        """Returns the first of the order."""
        return self.order[: self.section.initial]

    def observe(self, arms: Sequence[int], scores: Sequence[float]) -> None:
        """Hands the scores to the bandit; of the initial design only the best share, if so configured."""
        self.available = bandit.retire(self.available, jnp.asarray(arms), self.settings)
        kept = list(range(len(arms)))
        if not self.observed and self.section.keep < 1:
            best = sorted(kept, key=lambda index: (-scores[index], index))
            kept = sorted(best[: max(1, round_up(self.section.keep * len(arms)))])
        self.observed = True
        rows = jnp.asarray([arms[index] for index in kept])
        values = jnp.asarray([scores[index] for index in kept], jnp.float32)
        self.state = bandit.observe(self.state, self.features[rows], values)

    def choose(self, count: int) -> list[int]:
        """Returns the arm that the bandit picks, and of the same scores the next best ones."""
        key = stream(self.seed, "reveal/choice", self.round_index, self.turns)
        self.turns += 1
        self.state, arm, scores = bandit.step(self.state, self.features, self.available, self.settings, key)
        if int(arm) < 0:
            return []
        self.exploration = float(bandit.exploration_ratio(scores, self.available))
        if self.section.strategy == "epsilon_greedy":
            return self._epsilon_greedy(np.asarray(scores.mean), key, count)
        if self.section.early_stop and not bool(bandit.promising(self.state, scores, self.available)):
            self.stopped = True
            return []
        values = np.where(np.asarray(self.available), np.asarray(scores.ucb), -np.inf)
        values[int(arm)] = np.inf
        return self._best(values, count)

    def _epsilon_greedy(self, mean: np.ndarray, key: jax.Array, count: int) -> list[int]:
        draw = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
        free = np.asarray(self.available)
        values = np.where(free, mean, -np.inf)
        chosen: list[int] = []
        for _ in range(min(count, int(free.sum()))):
            left = np.flatnonzero(values > -np.inf)
            arm = int(draw.choice(left)) if draw.random() < self.section.epsilon else int(np.argmax(values))
            chosen.append(arm)
            values[arm] = -np.inf
        return chosen

    def _best(self, values: np.ndarray, count: int) -> list[int]:
        order = np.argsort(-values, kind="stable")[:count]
        return [int(arm) for arm in order if values[arm] > -np.inf]


def round_up(value: float) -> int:
    """Returns the smallest whole number not below a value."""
    return int(np.ceil(value - 1e-9))


def make_strategy(
    section: SearchConfig,
    network: BanditSection,
    features: np.ndarray,
    is_text: Sequence[bool],
    evaluations: int,
    *,
    seed: int,
    round_index: int,
) -> Strategy:
    """Makes the strategy that the configuration names.

    Args:
      section, network: of the configuration.
      features: [N, D].
      is_text: [N], arms that are hand-written texts.
      evaluations: how many arms the budget reaches.

    Raises:
      ValueError: "best_of_n" without a text.
    """
    order = np.asarray(jax.random.permutation(stream(seed, "reveal/initial", round_index), len(features))).tolist()
    if section.strategy == "random":
        return InOrder(order, section.initial)
    if section.strategy == "best_of_n":
        texts = [arm for arm in order if is_text[arm]]
        if not texts:
            raise ValueError("reveal.search.strategy is 'best_of_n', but the pool has no instruction texts")
        return InOrder(texts, section.initial)
    settings = bandit_config(network, evaluations)
    state = bandit.init(stream(seed, "reveal/bandit", round_index), settings, features.shape[1])
    available = jnp.ones(len(features), bool)
    return Learned(jnp.asarray(features), settings, state, section, order, seed, round_index, available)


def bandit_config(section: BanditSection, capacity: int) -> bandit.BanditConfig:
    """Returns the bandit's own settings from the configuration's."""
    if section.preset == "instinct":
        return dataclasses.replace(bandit.instinct(), capacity=capacity)
    return bandit.BanditConfig(
        posterior=section.posterior,
        hidden=tuple(section.hidden),
        capacity=capacity,
        fit_steps=section.fit_steps,
        nu=section.nu,
        lambda_=section.lambda_,
        learning_rate=section.learning_rate,
    )
