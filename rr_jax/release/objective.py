"""One pure training step for a stack of adapters: the forget and the retain LoRA, each on its own data, held apart.

The step serves plain jit, pmap and shard_map alike: sums and token counts are reduced over devices, never means, and
the adapters are marked as varying before the gradient is taken, so that all three give the same numbers. Knows nothing
of rounds, tasks or text.

Axes: J adapters in the stack, B batch, S sequence, L layers, R rank.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from rr_jax.lora.adapter import scale_adapter, unstack_adapter
from rr_jax.lora.orthogonality import PENALTIES
from rr_jax.models.config import ModelConfig
from rr_jax.models.loss import token_nll
from rr_jax.models.transformer import Adapter, Params
from rr_jax.parallel import collectives

Metrics = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """Stacked adapters [J, ...], the optimizer's state of each, and the number of steps taken."""

    adapters: Adapter
    optimizer: Any
    step: jax.Array


@flax.struct.dataclass
class Frozen:
    """What a step reads and never changes.

    Attributes:
      params: the weights the adapters are trained on.
      anchor: an adapter that every adapter of the stack is held apart from, or None.
      penalty_weight: lambda, a scalar; traced, so a sweep over it never recompiles.
    """

    params: Params
    anchor: Adapter | None
    penalty_weight: jax.Array


def make_schedule(steps: int, learning_rate: float) -> optax.Schedule:
    """Linear warm-up over a tenth of the steps, cosine to a tenth of the peak."""
    warmup = max(1, steps // 10)
    return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, max(steps, warmup + 1), learning_rate / 10)


def make_optimizer(
    steps: int, learning_rate: float, weight_decay: float, clip: float, *, constant: bool = False
) -> optax.GradientTransformation:
    """AdamW after clipping by the global norm, with the learning rate of `make_schedule`.

    With `constant` the learning rate is always the same, so that k steps are the beginning of any longer training.
    """
    rate = learning_rate if constant else make_schedule(steps, learning_rate)
    return optax.chain(optax.clip_by_global_norm(clip), optax.adamw(rate, weight_decay=weight_decay))


def init_state(adapters: Adapter, optimizer: optax.GradientTransformation) -> TrainState:
    """The start of a training: each adapter of the stack gets an optimizer state of its own."""
    return TrainState(adapters, jax.vmap(optimizer.init)(adapters), jnp.zeros((), jnp.int32))


def make_step(
    config: ModelConfig,
    optimizer: optax.GradientTransformation,
    *,
    scale: float,
    penalty: str,
    strategy: str = "vmap",
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Builds `step(state, frozen, batch, *, axis_name=None) -> (state, metrics)`.

    The loss is sum_j NLL_j / weight_j + lambda * penalty, where the penalty is that of the two adapters of the stack
    (if there are two) plus that of each against the anchor (if there is one).

    Args:
      scale: alpha / rank of the adapters.
      penalty: a name among `PENALTIES`, or "none".
      strategy: how the stack is computed, "vmap" (wide products, for accelerators) or "map" (one after the other with
        half the memory, faster on CPU); the results are equal.

    `batch` holds "tokens", "segment_ids" and "weights", [B, J, S] each. `metrics` holds "nll" [J] (mean over weighted
    tokens, nats), "penalty", and "gradient_norm" [J].
    """

    def stack_nll(adapters: Adapter, params: Params, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        def one(pair: Any) -> tuple[jax.Array, jax.Array]:
            adapter, rows = pair
            return token_nll(params, rows, config, adapters=scale_adapter(adapter, scale))

        pairs = (adapters, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), batch))
        return jax.vmap(one)(pairs) if strategy == "vmap" else jax.lax.map(one, pairs)

    def separation(adapters: Adapter, anchor: Adapter | None) -> jax.Array:
        if penalty == "none":
            return jnp.zeros(())
        measure = PENALTIES[penalty]
        stack = unstack_adapter(adapters)
        total = measure(stack[0], stack[1]) if len(stack) == 2 else jnp.zeros(())
        return total + sum((measure(member, anchor) for member in stack if anchor is not None), start=jnp.zeros(()))

    def step(
        state: TrainState, frozen: Frozen, batch: dict[str, jax.Array], *, axis_name: str | None = None
    ) -> tuple[TrainState, Metrics]:
        def fit(adapters: Adapter) -> tuple[jax.Array, jax.Array]:
            sums, weights = stack_nll(adapters, frozen.params, batch)
            nll = sums / jnp.maximum(collectives.total(weights, axis_name), 1e-9)  # this device's part of the mean
            return jnp.sum(nll), nll

        def hold_apart(adapters: Adapter) -> tuple[jax.Array, jax.Array]:
            value = separation(adapters, frozen.anchor)
            return frozen.penalty_weight * value, value

        grads, nll = jax.grad(fit, has_aux=True)(collectives.varying(state.adapters, axis_name))
        grads, nll = collectives.total((grads, nll), axis_name)
        apart, overlap = jax.grad(hold_apart, has_aux=True)(state.adapters)
        grads = jax.tree.map(jnp.add, grads, apart)
        updates, optimizer_state = jax.vmap(optimizer.update)(grads, state.optimizer, state.adapters)
        adapters = optax.apply_updates(state.adapters, updates)
        metrics = {"nll": nll, "penalty": overlap, "gradient_norm": jax.vmap(optax.tree.norm)(grads)}
        return TrainState(adapters, optimizer_state, state.step + 1), metrics

    return step
