"""The search for revealing instructions: NeuralUCB over a pool of texts and soft prompts.

An outer step scores some arms of the pool; an inner loop lets the bandit choose one at a time. Every evaluation makes
the model respond several times and scores relevance and diversity together. Knows the task's interface, never its data.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rr_jax.config import RevealConfig
from rr_jax.generation.features import last_hidden
from rr_jax.generation.text import generate
from rr_jax.models.hub import LanguageModel
from rr_jax.random import derive_seed, stream
from rr_jax.reveal import arms as pool
from rr_jax.reveal import bandit
from rr_jax.reveal.arms import Arm
from rr_jax.reveal.reward import reward
from rr_jax.tasks.base import Reading, Task


class Scored(NamedTuple):
    """One evaluated arm, in the order of evaluation."""

    order: int
    arm: Arm
    score: float
    relevance: float
    diversity: float
    chosen_by: str  # "initial" or "bandit"


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The pool of one round: arms, and the soft prompts [n, P, D] that soft arms refer to (None without any)."""

    arms: list[Arm]
    soft: np.ndarray | None


def make_candidates(lm: LanguageModel, task: Task, config: RevealConfig, seed: int, round: int) -> Candidates:
    """Texts of the task and soft prompts from Sobol points, the latter drawn anew each round."""
    section = config.arms
    arms = pool.build_arms(list(task.instructions), list(task.stems), section.soft)
    if not section.soft:
        return Candidates(arms, None)
    points = pool.sobol_points(section.soft, section.dim, derive_seed(seed, "reveal/sobol", round))
    key = stream(seed, "reveal/projection", round)
    projection = pool.random_projection(key, section.dim, section.soft_tokens, lm.config.embed_dim)
    spread = jnp.std(lm.params["embed"].astype(jnp.float32))
    soft = pool.soft_prompts(points, projection, spread, scaling=section.scaling)
    return Candidates(arms, np.asarray(soft))


def respond(
    lm: LanguageModel,
    candidates: Candidates,
    chosen: Sequence[Arm],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    first_index: int,
) -> list[str]:
    """One sampled continuation of each arm in `chosen` (repeat an arm for several), in that order.

    Text arms and soft arms are generated apart, with keys that depend on the place in `chosen` alone.
    """
    texts = [""] * len(chosen)
    for kind in ("text", "soft"):
        places = [i for i, arm in enumerate(chosen) if arm.kind == kind]
        if not places:
            continue
        prompts = [chosen[i].text for i in places]
        soft: Any = None
        if kind == "soft":
            assert candidates.soft is not None
            soft = candidates.soft[np.asarray([chosen[i].soft for i in places])]
        made = generate(
            lm,
            prompts,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=derive_seed(seed, kind),
            first_index=first_index,
            soft_prompts=soft,
        )
        for i, text in zip(places, made, strict=True):
            texts[i] = text
    return texts


def read_all(task: Task, arms: Sequence[Arm], texts: Sequence[str]) -> list[tuple[Reading | None, float]]:
    """Each generated text taken apart, with its relevance (0 for what cannot be read)."""
    readings = [task.read(arm.text, text) for arm, text in zip(arms, texts, strict=True)]
    return [(reading, 0.0 if reading is None else task.relevance(reading)) for reading in readings]


def search(
    lm: LanguageModel,
    task: Task,
    config: RevealConfig,
    candidates: Candidates,
    *,
    seed: int,
    round: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Scored]:
    """Scores `bandit.initial` arms drawn from the pool, then `bandit.iterations` arms that the bandit chooses."""
    arms = candidates.arms
    samples = config.reward.samples
    initial = min(config.bandit.initial, len(arms))
    total = min(initial + config.bandit.iterations, len(arms))
    features = jnp.asarray(_features(lm, candidates))
    settings = bandit.BanditConfig(
        posterior=config.bandit.posterior,
        hidden=tuple(config.bandit.hidden),
        capacity=total,
        fit_steps=config.bandit.fit_steps,
        nu=config.bandit.nu,
        lambda_=config.bandit.lambda_,
        learning_rate=config.bandit.learning_rate,
    )
    state = bandit.init(stream(seed, "reveal/bandit", round), settings, features.shape[1])
    generation_seed = derive_seed(seed, "reveal/search", round)
    scored: list[Scored] = []

    def evaluate(chosen: Sequence[int], chosen_by: str) -> None:
        repeated = [arms[index] for index in chosen for _ in range(samples)]
        texts = respond(
            lm,
            candidates,
            repeated,
            max_new_tokens=task.max_new_tokens,
            temperature=config.reward.temperature,
            seed=generation_seed,
            first_index=len(scored) * samples,
        )
        judged = read_all(task, repeated, texts)
        for place, index in enumerate(chosen):
            mine = slice(place * samples, (place + 1) * samples)
            relevances = [relevance for _, relevance in judged[mine]]
            parts = reward(relevances, texts[mine], config.reward.diversity_weight)
            scored.append(Scored(len(scored), arms[index], *parts, chosen_by))
        if progress is not None:
            progress(len(scored), total)

    order = np.asarray(jax.random.permutation(stream(seed, "reveal/initial", round), len(arms)))[:initial]
    evaluate(order.tolist(), "initial")
    state = bandit.observe(state, features[order], jnp.asarray([one.score for one in scored], jnp.float32))
    available = jnp.ones(len(arms), bool).at[order].set(False)
    while len(scored) < total:
        key = stream(seed, "reveal/draws", round, len(scored))
        state, choice, _ = bandit.step(state, features, available, settings, key)
        index = int(choice)
        evaluate([index], "bandit")
        available = available.at[index].set(False)
        state = bandit.observe(state, features[index][None, :], jnp.asarray([scored[-1].score], jnp.float32))
    return scored


def _features(lm: LanguageModel, candidates: Candidates) -> np.ndarray:
    """[N, D]: the model's last hidden state after each arm."""
    texts = [arm for arm in candidates.arms if arm.kind == "text"]
    soft = [arm for arm in candidates.arms if arm.kind == "soft"]
    rows = [last_hidden(lm, [arm.text for arm in texts])] if texts else []
    if soft:
        assert candidates.soft is not None
        rows.append(last_hidden(lm, [arm.text for arm in soft], soft_prompts=candidates.soft))
    return np.concatenate(rows)
