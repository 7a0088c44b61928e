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

from rr_jax.lora.activations import Directions
from rr_jax.lora.adapter import scale_adapter, stack_adapters, unstack_adapter
from rr_jax.lora.orthogonality import PENALTIES, activation_penalty, project_out
from rr_jax.models.config import ModelConfig
from rr_jax.models.decoder import Adapter, Params
from rr_jax.models.loss import token_nll
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
      memory: an adapter that the first of the stack is held apart from too, such as what earlier rounds forgot, or None.
      directions: of the inputs of each module on data that the first adapter of the stack must leave alone, or None.
      penalty_weight: lambda, a scalar; traced, so a sweep over it never recompiles.
    """

    params: Params
    anchor: Adapter | None
    penalty_weight: jax.Array
    memory: Adapter | None = None
    directions: dict[str, Directions] | None = None


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


def keep_out(adapters: Adapter, frozen: Frozen, projection: str) -> Adapter:
    """The stack with the first adapter's A moved out of directions it must not read; the others as they are.

    Args:
      adapters: stacked, [J, ...].
      projection: "complement" (of the A of the second adapter, and of the anchor), "null_space" (of `directions`), both
        also of the memory, or "none".

    Raises:
      ValueError: "null_space" without directions.
    """
    if projection == "none":
        return adapters
    first, *others = unstack_adapter(adapters)
    bases = [_inputs(frozen.memory)] if frozen.memory is not None else []
    if projection == "null_space":
        bases.append({name: known.basis for name, known in _known_directions(frozen, "projection").items()})
    if projection == "complement":
        bases += [_inputs(other) for other in (*others, frozen.anchor) if other is not None]
    return stack_adapters([project_out(first, bases), *others])


def _known_directions(frozen: Frozen, which: str) -> dict[str, Directions]:
    if frozen.directions is None:
        raise ValueError(f"the {which} looks at activations, but no directions of them are given: it cannot act")
    return frozen.directions


def _inputs(adapter: Adapter) -> dict[str, jax.Array]:
    """The A of each module."""
    return {name: module["a"] for name, module in adapter.items()}


def make_step(
    config: ModelConfig,
    optimizer: optax.GradientTransformation,
    *,
    scale: float,
    penalty: str,
    projection: str = "none",
    strategy: str = "vmap",
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Builds `step(state, frozen, batch, *, axis_name=None) -> (state, metrics)`.

    The loss is sum_j NLL_j / weight_j + lambda * penalty, where the penalty is that of the two adapters of the stack
    (if there are two) plus that of each against the anchor and of the first against the memory (if there are any).

    Args:
      scale: alpha / rank of the adapters.
      penalty: a name among `PENALTIES`, "activations" (of the first adapter, by `directions`), or "none".
      projection: what `keep_out` does after each step.
      strategy: how the stack is computed, "vmap" (wide products, for accelerators) or "map" (one after the other with
        half the memory, faster on CPU); the results are equal.

    The step raises ValueError, when it is traced, for "activations" or "null_space" without directions.

    `batch` holds "tokens", "segment_ids" and "weights", [B, J, S] each. `metrics` holds "nll" [J] (mean over weighted
    tokens, nats), "penalty", and "gradient_norm" [J].
    """

    def stack_nll(adapters: Adapter, params: Params, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        def one(pair: Any) -> tuple[jax.Array, jax.Array]:
            adapter, rows = pair
            return token_nll(params, rows, config, adapters=scale_adapter(adapter, scale))

        pairs = (adapters, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), batch))
        return jax.vmap(one)(pairs) if strategy == "vmap" else jax.lax.map(one, pairs)

    def separation(adapters: Adapter, frozen: Frozen) -> jax.Array:
        stack = unstack_adapter(adapters)
        if penalty == "none":
            return jnp.zeros(())
        if penalty == "activations":
            return activation_penalty(stack[0], _known_directions(frozen, "penalty"))
        pairs = [(stack[0], stack[1])] if len(stack) == 2 else []
        pairs += [(member, frozen.anchor) for member in stack if frozen.anchor is not None]
        pairs += [(stack[0], frozen.memory)] if frozen.memory is not None else []
        return sum((PENALTIES[penalty](one, other) for one, other in pairs), start=jnp.zeros(()))

    def step(
        state: TrainState, frozen: Frozen, batch: dict[str, jax.Array], *, axis_name: str | None = None
    ) -> tuple[TrainState, Metrics]:
        def fit(adapters: Adapter) -> tuple[jax.Array, jax.Array]:
            sums, weights = stack_nll(adapters, frozen.params, batch)
            nll = sums / jnp.maximum(collectives.total(weights, axis_name), 1e-9)  # this device's part of the mean
            return jnp.sum(nll), nll

        def hold_apart(adapters: Adapter) -> tuple[jax.Array, jax.Array]:
            value = separation(adapters, frozen)
            return frozen.penalty_weight * value, value

        grads, nll = jax.grad(fit, has_aux=True)(collectives.varying(state.adapters, axis_name))
        grads, nll = collectives.total((grads, nll), axis_name)
        apart, overlap = jax.grad(hold_apart, has_aux=True)(state.adapters)
        grads = jax.tree.map(jnp.add, grads, apart)
        updates, optimizer_state = jax.vmap(optimizer.update)(grads, state.optimizer, state.adapters)
        adapters = keep_out(optax.apply_updates(state.adapters, updates), frozen, projection)
        metrics = {"nll": nll, "penalty": overlap, "gradient_norm": jax.vmap(optax.tree.norm)(grads)}
        return TrainState(adapters, optimizer_state, state.step + 1), metrics

    return step
