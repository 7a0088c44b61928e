"""Losses of methods that are given data to forget, in one pure training step for one adapter, and how each is applied.

A step serves plain jit, pmap and shard_map as `objective.make_step` does: sums and counts are reduced over devices.
Knows nothing of where the data came from.

Axes: B batch, J sets of rows (forget, then retain if it is used), S sequence.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from rr_jax.lora.adapter import scale_adapter
from rr_jax.lora.algebra import ext_sub
from rr_jax.models.config import ModelConfig
from rr_jax.models.decoder import Adapter, Params
from rr_jax.models.loss import segment_nll, token_nll
from rr_jax.parallel import collectives
from rr_jax.release.config import LOSSES
from rr_jax.training.step import Metrics, TrainState, make_optimizer, make_schedule

BETA = {"npo": 0.1, "simnpo": 4.5}  # the authors': NPO's code, and SimNPO's for TOFU's forget10


@flax.struct.dataclass
class Given:
    """What a step reads and never changes; the numbers are traced scalars, so other values never recompile.

    Attributes:
      params: the weights the adapter is trained on; without it they are the reference of NPO.
      retain_weight: of the retain loss.
      beta: of NPO and SimNPO.
      margin: gamma of SimNPO.
    """

    params: Params
    retain_weight: jax.Array
    beta: jax.Array
    margin: jax.Array


def npo_terms(nll: jax.Array, reference: jax.Array, beta: jax.Array) -> jax.Array:
    """-(2 / beta) log sigmoid(beta (nll - reference)) of each sequence, nats.

    Zhang et al., 2024, equation 3, with -log pi = nll. As beta goes to 0 its gradient becomes that of gradient ascent.
    """
    return 2 / beta * jax.nn.softplus(-beta * (nll - reference))


def simnpo_terms(mean_nll: jax.Array, beta: jax.Array, margin: jax.Array) -> jax.Array:
    """-(2 / beta) log sigmoid(beta mean_nll - margin) of each sequence, nats; `mean_nll` is a token's.

    Fan et al., 2024. OPTML-Group/Unlearn-Simple multiplies the margin by beta too; the two agree at its 0.
    """
    return 2 / beta * jax.nn.softplus(-(beta * mean_nll - margin))


def uses_retain(method: str, retain_weight: float) -> bool:
    """Whether the loss has a retain term."""
    return method in LOSSES and method != "gradient_ascent" and retain_weight > 0


def make_baseline_step(
    config: ModelConfig, optimizer: optax.GradientTransformation, *, scale: float, method: str, sequence: str = "sum"
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Builds `step(state, frozen, batch, *, axis_name=None) -> (state, metrics)`.

    The loss is F + retain_weight R, where R is the mean NLL of the retain rows' tokens, and F is
    gradient_ascent, grad_diff: minus the mean NLL of the forget rows' tokens;
    npo, simnpo: the mean of `npo_terms` or `simnpo_terms` over the packed segments that have a weighted token.

    Args:
      scale: alpha / rank of the adapter.
      method: a name among `LOSSES`.
      sequence: whether the NLL of a sequence in npo is the "sum" (NPO's authors) or the "mean" (SOUL) of its tokens'.

    `state` is a `TrainState` of one adapter, `frozen` a `Given`. `batch` holds "tokens", "segment_ids" and "weights",
    [B, J, S] each; with J = 1 there is no R. `metrics` holds the scalars "loss", "forget_nll", "retain_nll" (nats a
    token), "gradient_norm" and, of `make_baseline_optimizer`'s sophia, "clipped".

    Raises:
      ValueError: for an unknown method or sequence.
    """
    if method not in LOSSES:
        raise ValueError(f"baseline loss is {method!r}, expected {', '.join(LOSSES)}")
    if sequence not in ("sum", "mean"):
        raise ValueError(f"sequence is {sequence!r}, expected 'sum' or 'mean'")

    def forget_part(adapter: Adapter, frozen: Given, rows: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
        """Sum and count of F, sum and weight of the NLL, all of this device."""
        nll, weights = segment_nll(frozen.params, rows, config, adapters=adapter)  # [B, S + 1]
        plain = jnp.sum(nll), jnp.sum(weights)
        if method in ("gradient_ascent", "grad_diff"):
            return -plain[0], plain[1], *plain
        present = weights > 0
        tokens = jnp.where(present, weights, 1.0)
        if method == "npo":
            reference, _ = segment_nll(frozen.params, rows, config)
            length = tokens if sequence == "mean" else jnp.ones_like(tokens)
            terms = npo_terms(nll / length, reference / length, frozen.beta)
        else:
            terms = simnpo_terms(nll / tokens, frozen.beta, frozen.margin)
        return jnp.sum(jnp.where(present, terms, 0.0)), jnp.sum(present.astype(jnp.float32)), *plain

    def step(
        state: TrainState, frozen: Given, batch: dict[str, jax.Array], *, axis_name: str | None = None
    ) -> tuple[TrainState, Metrics]:
        rows = [{name: array[:, j] for name, array in batch.items()} for j in range(batch["tokens"].shape[1])]

        def share(total: jax.Array, count: jax.Array) -> jax.Array:
            """This device's part of a mean over all devices."""
            return total / jnp.maximum(collectives.total(count, axis_name), 1e-9)

        def fit(adapter: Adapter) -> tuple[jax.Array, dict[str, jax.Array]]:
            scaled = scale_adapter(adapter, scale)
            total, count, nll, weight = forget_part(scaled, frozen, rows[0])
            loss, parts = share(total, count), {"forget_nll": share(nll, weight)}
            if len(rows) > 1:
                parts["retain_nll"] = share(*token_nll(frozen.params, rows[1], config, adapters=scaled))
                loss = loss + frozen.retain_weight * parts["retain_nll"]
            return loss, parts | {"loss": loss}

        grads, parts = jax.grad(fit, has_aux=True)(collectives.varying(state.adapters, axis_name))
        grads, parts = collectives.total((grads, parts), axis_name)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.adapters)
        adapter = optax.apply_updates(state.adapters, updates)
        metrics = parts | {"gradient_norm": optax.tree.norm(grads)}
        clipped = optax.tree.get(optimizer_state, "clipped")
        if clipped is not None:
            metrics["clipped"] = clipped
        return TrainState(adapter, optimizer_state, state.step + 1), metrics

    return step


class ClippedState(NamedTuple):
    """Share of the coordinates whose last step sophia clipped: at 1 it is sign descent, whatever the curvature."""

    clipped: jax.Array


def make_baseline_optimizer(
    name: str, steps: int, learning_rate: float, weight_decay: float, clip: float
) -> optax.GradientTransformation:
    """`objective.make_optimizer` ("adamw"), or optax's Sophia with what SOUL puts in ("sophia").

    From OPTML-Group/SOUL `src/optim/sophia.py` come the squared gradient of the whole loss as curvature, taken at every
    step, betas (0.9, 0.95) with the momentum updated twice a step, which is once with 0.9^2, and rho * batch = 0.04 *
    5120. It differs from that code in: the momentum's bias is corrected; a step divides by the curvature known before
    it (the first by none: a sign step, of no length under the warm-up); 1e-15 is the least divisor, not added to it; the
    learning rate goes by `objective.make_schedule`, not linearly; weights are an adapter's, in float32. There too
    nearly all coordinates are clipped once the gradient's norm is.

    Raises:
      ValueError: for an unknown name.
    """
    if name == "adamw":
        return make_optimizer(steps, learning_rate, weight_decay, clip)
    if name != "sophia":
        raise ValueError(f"optimizer is {name!r}, expected 'adamw' or 'sophia'")
    sophia = optax.contrib.sophia(
        1.0,
        b1=0.9**2,
        b2=0.95,
        eps=1e-15,
        gamma=0.04 * 5120,
        weight_decay=0.0,
        update_interval=1,
        hessian_diagonal_fn=optax.stateless(lambda grads, _: jax.tree.map(jnp.square, grads)),
    )

    def note(updates: Any, state: ClippedState, params: Any = None) -> tuple[Any, ClippedState]:
        count = sum(jnp.sum(jnp.abs(leaf) >= 1.0) for leaf in jax.tree.leaves(updates))
        return updates, ClippedState(count / optax.tree.size(updates))

    noted = optax.GradientTransformation(lambda params: ClippedState(jnp.zeros(())), note)
    return optax.chain(
        optax.clip_by_global_norm(clip),
        sophia,  # already points downhill, so what follows keeps the sign
        noted,
        optax.add_decayed_weights(-weight_decay),
        optax.scale_by_schedule(make_schedule(steps, learning_rate)),
    )


def with_strength(method: str, trained: dict[str, Adapter], strength: float, scale: float) -> Adapter:
    """What a baseline adds to the weights, in factor form.

    Args:
      method: any but reveal_and_release.
      trained: "forget", and for ext_sub also "retain", its expert.
      strength: of the adapter whose loss forgets (added), of the task vector (subtracted), or alpha of ext_sub.
      scale: alpha / rank of the adapters.
    """
    if method == "ext_sub":
        return ext_sub(scale_adapter(trained["retain"], scale), scale_adapter(trained["forget"], scale), strength)
    sign = -1.0 if method == "task_vector" else 1.0
    return scale_adapter(trained["forget"], sign * strength * scale)
