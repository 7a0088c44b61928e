"""Optimizers by name, made of traced numbers: another learning rate, decay or clip never recompiles.

Knows gradients and schedules; never what is trained.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from rr_jax.registry import Registry, function_of
from rr_jax.training.config import TrainConfig


@flax.struct.dataclass
class Hyperparameters:
    """Holds the numbers of a training that are traced scalars.

    Attributes:
      learning_rate: the peak.
      weight_decay, clip: as in `TrainConfig`.
      scale: alpha / rank of every adapter.
      penalty_weight: lambda of the constraint.
    """

    learning_rate: jax.Array
    weight_decay: jax.Array
    clip: jax.Array
    scale: jax.Array
    penalty_weight: jax.Array


def hyperparameters(section: TrainConfig, scale: float, penalty_weight: float) -> Hyperparameters:
    """Returns the traced numbers of a training."""
    numbers = (section.learning_rate, section.weight_decay, section.clip, scale, penalty_weight)
    return Hyperparameters(*(jnp.asarray(number, jnp.float32) for number in numbers))


def make_schedule(steps: int) -> optax.Schedule:
    """Returns the share of the peak learning rate by step: linear warm-up over a tenth of the steps, cosine to .1."""
    warmup = max(1, steps // 10)
    return optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup, max(steps, warmup + 1), 0.1)


Optimizer = Callable[[Hyperparameters, optax.Schedule], optax.GradientTransformation]


def adamw(numbers: Hyperparameters, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Returns AdamW after clipping by the global norm."""
    return optax.chain(
        optax.clip_by_global_norm(numbers.clip),  # type: ignore[arg-type, unused-ignore]  # a traced scalar will do
        optax.adamw(lambda step: numbers.learning_rate * schedule(step), weight_decay=numbers.weight_decay),
    )


class ClippedState(NamedTuple):
    """Holds the share of coordinates whose last step sophia clipped: at 1 it is sign descent, whatever the curvature."""

    clipped: jax.Array


def sophia(numbers: Hyperparameters, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Returns optax's Sophia with what SOUL puts in, after clipping by the global norm.

    From OPTML-Group/SOUL `src/optim/sophia.py` come the squared gradient of the whole loss as curvature, taken at every
    step, betas (0.9, 0.95) with the momentum updated twice a step, which is once with 0.9^2, and rho * batch = 0.04 *
    5120. It differs from that code in: the momentum's bias is corrected; a step divides by the curvature known before
    it (the first by none: a sign step, of no length under the warm-up); 1e-15 is the least divisor, not added to it; the
    learning rate goes by `make_schedule`, not linearly; weights are an adapter's, in float32. There too nearly all
    coordinates are clipped once the gradient's norm is.
    """
    core = optax.contrib.sophia(
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
        optax.clip_by_global_norm(numbers.clip),
        core,  # already points downhill, so what follows keeps the sign
        noted,
        optax.add_decayed_weights(-numbers.weight_decay),
        optax.scale_by_schedule(lambda step: numbers.learning_rate * schedule(step)),
    )


OPTIMIZERS: Registry[Optimizer] = Registry(
    "optimizer",
    {"adamw": f"{__name__}:adamw", "sophia": f"{__name__}:sophia"},
    adapt=function_of("numbers", "schedule"),
)
