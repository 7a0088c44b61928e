"""Training of the testbed's base model from nothing: one recipe, one seed, the same parameters every time.

Two phases. The first is short and nearly all entity extraction and copying, because binding is learnt early or not at
all; the second is everything. Steps are counted, never the clock. This module must never know what a skill is about.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from transformers import PreTrainedTokenizerFast

from rr_jax.data.batches import take_batch
from rr_jax.data.packing import Example, Packed, pack_examples
from rr_jax.models.config import ModelConfig
from rr_jax.models.loss import token_nll
from rr_jax.models.spec import LINEAR_MODULES, Params, init_params
from rr_jax.random import stream
from rr_jax.testbed.base_model import tokenizer as tokenizers
from rr_jax.testbed.world.document import Document
from rr_jax.testbed.world.mixture import FIRST_PHASE, SECOND_PHASE, corpus

Report = Callable[[str], None]

# A prompt counts a little, so that the model can also write contexts by itself when it is asked to reveal.
PROMPT_WEIGHTS: Mapping[str, float] = {"ner": 0.1, "copy": 0.02}
OTHER_PROMPT_WEIGHT = 0.25
_TOKENS_A_DOCUMENT = 32  # fewer than any phase has on average, so that a phase seldom reads a document twice
_REPORT_EVERY = 100


@dataclass(frozen=True)
class Phase:
    """Sets a mixture of skills and auxiliary tasks, read for a number of steps with a learning rate schedule of its own."""

    name: str
    mixture: Mapping[str, float]
    steps: int
    peak: float = 2e-3
    warmup: int = 100


@dataclass(frozen=True)
class Recipe:
    """Sets everything the base model depends on, besides the world and the seed.

    Sizes are in tokens unless named otherwise.
    """

    embed_dim: int = 192
    num_layers: int = 4
    num_heads: int = 6
    ffn_dim: int = 512
    pieces: int = tokenizers.PIECES
    tokenizer_documents: int = 30_000
    seq_len: int = 128
    batch_size: int = 8
    phases: tuple[Phase, ...] = (Phase("binding", FIRST_PHASE, 500), Phase("all skills", SECOND_PHASE, 4500))


TINY = Recipe(
    embed_dim=32,
    num_layers=2,
    num_heads=2,
    ffn_dim=64,
    pieces=400,
    tokenizer_documents=300,
    batch_size=2,
    phases=(Phase("binding", FIRST_PHASE, 3, warmup=1), Phase("all skills", SECOND_PHASE, 3, warmup=1)),
)


def model_config(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> ModelConfig:
    """Returns the architecture of a recipe: Llama, as many keys and values as heads, tied embeddings."""
    return ModelConfig(
        family="llama",
        vocab_size=len(tokenizer),
        embed_dim=recipe.embed_dim,
        num_layers=recipe.num_layers,
        num_heads=recipe.num_heads,
        num_kv_heads=recipe.num_heads,
        head_dim=recipe.embed_dim // recipe.num_heads,
        ffn_dim=recipe.ffn_dim,
        norm_eps=1e-5,
        rope_theta=10000.0,
        max_positions=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_ids=(tokenizer.eos_token_id,),
    )


def initial_params(seed: int, config: ModelConfig) -> Params:
    """Returns random parameters with wider embeddings and copying attention in every layer but the first.

    There V is orthonormal and O = 0.15 V^T: attention passes on what it looks at, which makes copying, and with it the
    binding of entities, easy to find.
    """
    params = init_params(stream(seed, "testbed/init"), config)
    params["embed"] = 2.5 * params["embed"]
    layers = params["layers"]
    for name in LINEAR_MODULES:
        layers[name] = 2.0 * layers[name]
    rng = np.random.default_rng([seed, 1])
    for layer in range(1, config.num_layers):
        rotation, _ = np.linalg.qr(rng.normal(size=(config.embed_dim, config.embed_dim)))
        layers["v"] = layers["v"].at[layer].set(rotation)
        layers["o"] = layers["o"].at[layer].set(0.15 * rotation.T)
    return params


def examples(documents: list[Document]) -> list[Example]:
    """Returns documents as training examples, with the weight that each skill's prompts have."""
    return [
        Example(d.prompt, d.response, prompt_weight=PROMPT_WEIGHTS.get(d.skill, OTHER_PROMPT_WEIGHT)) for d in documents
    ]


def train_tokenizer(seed: int, recipe: Recipe) -> PreTrainedTokenizerFast:
    """Returns the tokenizer, learnt from a corpus of its own."""
    documents = corpus(f"{seed}/tokenizer", recipe.tokenizer_documents)
    return tokenizers.train((d.text for d in documents if d.skill != "copy"), recipe.pieces)


def phase_rows(seed: int, phase: Phase, recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Packed:
    """Returns the rows a phase reads."""
    size = phase.steps * recipe.batch_size * recipe.seq_len // _TOKENS_A_DOCUMENT
    return pack_examples(tokenizer, examples(corpus(f"{seed}/{phase.name}", size, phase.mixture)), recipe.seq_len)


def train(seed: int, recipe: Recipe, tokenizer: PreTrainedTokenizerFast, report: Report) -> tuple[ModelConfig, Params]:
    """Trains the base model.

    Args:
      seed: decides the parameters, the corpus and its order.
      recipe: sizes and phases.
      tokenizer: of the same world, from `train_tokenizer`.
      report: receives a line of progress now and then.

    Returns:
      The architecture and float32 parameters.
    """
    config = model_config(recipe, tokenizer)
    params = initial_params(seed, config)
    for phase in recipe.phases:
        params = _train_phase(seed, phase, recipe, tokenizer, config, params, report)
    return config, params


def _optimizer(phase: Phase) -> optax.GradientTransformation:
    """Returns AdamW, with decay on the linear maps only."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, phase.peak, phase.warmup, phase.steps, 0.03 * phase.peak)

    def linear_maps(params: Params) -> Params:
        return jax.tree.map(lambda leaf: leaf.ndim == 3, params)

    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b1=0.9, b2=0.97, weight_decay=0.1, mask=linear_maps),
    )


def _train_phase(
    seed: int,
    phase: Phase,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    config: ModelConfig,
    params: Params,
    report: Report,
) -> Params:
    rows = phase_rows(seed, phase, recipe, tokenizer)
    optimizer = _optimizer(phase)
    state = optimizer.init(params)

    def loss(params: Params, batch: dict[str, jax.Array]) -> jax.Array:
        total, weight = token_nll(params, batch, config)
        return total / jnp.maximum(weight, 1.0)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Params, state: Any, batch: dict[str, jax.Array]) -> tuple[Params, Any, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    tokens = recipe.batch_size * recipe.seq_len
    report(f"phase {phase.name}: {phase.steps} steps of {tokens} tokens, {len(rows.tokens)} rows")
    started, recent = time.monotonic(), []
    for index in range(phase.steps):
        params, state, value = step(params, state, take_batch(rows, seed, index, recipe.batch_size))
        recent.append(float(value))
        done = index + 1
        if done % _REPORT_EVERY == 0 or done == phase.steps:
            seconds = time.monotonic() - started
            left = seconds / done * (phase.steps - done)
            rate = tokens * done / seconds
            mean = sum(recent) / len(recent)
            report(f"  step {done:5d}  loss {mean:.4f}  {rate:,.0f} tokens/s  about {left / 60:.1f} min left")
            recent = []
    return params
