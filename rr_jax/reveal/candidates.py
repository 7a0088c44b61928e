"""The pool of one round: the arms, what the bandit sees of each, and how the model answers them.

Knows arms, soft prompts and models; never how an answer is judged.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from rr_jax.generation.features import last_hidden
from rr_jax.generation.text import generate
from rr_jax.models.hub import LanguageModel
from rr_jax.random import derive_seed, stream
from rr_jax.reveal import arms as pool
from rr_jax.reveal.arms import Arm
from rr_jax.reveal.config import ArmsConfig
from rr_jax.tasks.base import Task


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Holds the pool of one round.

    Attributes:
      arms: in order of their index.
      features: [N, D] float32, a last hidden state for each arm.
      soft: [n, P, D] soft prompts that arms refer to, or None.
    """

    arms: list[Arm]
    features: np.ndarray
    soft: np.ndarray | None

    def soft_of(self, arms: Sequence[Arm]) -> np.ndarray | None:
        """Returns the soft prompts [len(arms), P, D] that stand before the arms' texts, zeros where there is none; or
        None."""
        if not any(arm.kind == "soft" for arm in arms):
            return None
        assert self.soft is not None
        rows = [self.soft[arm.soft] if arm.kind == "soft" else np.zeros_like(self.soft[0]) for arm in arms]
        return np.stack(rows)


def instruction_texts(task: Task, config: ArmsConfig) -> list[str]:
    """Returns texts of the task, of a file and of templates, each once.

    Raises:
      ValueError: the file or a template is wrong.
    """
    further = pool.read_instructions(config.texts) if config.texts is not None else []
    return list(dict.fromkeys([*task.instructions, *further, *pool.expand_templates(config.templates, config.slots)]))


def check_vocabulary(proposer: LanguageModel, lm: LanguageModel) -> None:
    """Raises ValueError unless what the proposer writes are tokens of the model."""
    if proposer.tokenizer.get_vocab() != lm.tokenizer.get_vocab():
        raise ValueError(
            f"reveal.arms.proposer has {len(proposer.tokenizer)} token ids that are not the model's "
            f"{len(lm.tokenizer)}: expected a proposer with the same vocabulary"
        )


def make_candidates(
    lm: LanguageModel,
    task: Task,
    config: ArmsConfig,
    seed: int,
    round_index: int,
    proposer: LanguageModel | None = None,
) -> Candidates:
    """Makes the pool: texts of the task, of a file and of templates, and soft prompts from Sobol points, drawn anew
    each round.

    On the path "instruction" each soft prompt has an instruction written after it, greedily, by the proposer (the model
    itself without one); texts written twice are one arm. Features are states of the model that the soft prompts are for.

    Raises:
      ValueError: an empty pool, a file or template that is wrong, or a proposer with another vocabulary.
    """
    writer = lm if proposer is None else proposer
    if proposer is not None:
        check_vocabulary(proposer, lm)
    arms = pool.build_arms(instruction_texts(task, config), list(task.stems), config.soft)
    if not config.soft:
        return Candidates(arms, last_hidden(writer, [arm.text for arm in arms]), None)
    points = pool.sobol_points(config.soft, config.dim, derive_seed(seed, "reveal/sobol", round_index))
    key = stream(seed, "reveal/projection", round_index)
    projection = pool.random_projection(key, config.dim, config.soft_tokens, writer.config.embed_dim)
    spread = jnp.std(writer.params["embed"].astype(jnp.float32))
    soft = np.asarray(pool.soft_prompts(points, projection, spread, scaling=config.scaling))
    plain = [arm for arm in arms if arm.kind == "text"]
    drawn = [arm for arm in arms if arm.kind == "soft"]
    parts = [last_hidden(writer, [arm.text for arm in plain])] if plain else []
    parts.append(last_hidden(writer, [arm.stem for arm in drawn], soft_prompts=soft))
    features = np.concatenate(parts)
    if config.path == "direct":
        return Candidates(arms, features, soft)
    written = generate(
        writer, [arm.stem for arm in drawn], soft_prompts=soft, max_new_tokens=config.instruction_tokens, stop="\n"
    )
    known, kept = {arm.text for arm in plain}, list(plain)
    for arm, text in zip(drawn, written, strict=True):
        instruction = f"{arm.stem}{text}".strip()
        if instruction and instruction not in known:
            known.add(instruction)
            kept.append(dataclasses.replace(arm, kind="written", text=instruction))
    rows = [arm.index for arm in kept]
    arms = [dataclasses.replace(arm, index=index) for index, arm in enumerate(kept)]
    return Candidates(arms, features[rows], soft)


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
    """Samples one continuation of each arm in `chosen` (repeat an arm for several), in that order.

    Texts and soft prompts go through the model together; the key of each follows from its index alone.
    """
    soft: Any = candidates.soft_of(chosen)
    with_soft = [arm.kind == "soft" for arm in chosen]
    return generate(
        lm,
        [arm.text for arm in chosen],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        first_index=first_index,
        soft_prompts=soft,
        soft_rows=with_soft if soft is not None else None,
        batch_size=512,
    )
