"""Computes the trade-off as a surface: the loss of packed rows at all strengths of two adapters, in one compiled call.

The call maps over the strengths alone. Weights are never merged: the adapters enter the forward pass as factors,
concatenated along R, with the strengths on `b`. So a surface shows updates before a merge rounds them, which for float32
weights is the same. Knows adapters and packed rows; never tasks, runs, files or how a point was chosen.

Axes: F strengths of the forget adapter, T of the retain adapter, P = F * T points, K batches of B rows, S sequence.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rr_jax.data.packing import Packed
from rr_jax.lora.algebra import at_strengths
from rr_jax.models.config import ModelConfig
from rr_jax.models.loss import token_nll
from rr_jax.models.spec import Adapter, Params

NO_RETAIN = [0.0]  # the strengths of a retain adapter that is not there


def loss_surface(
    params: Params,
    rows: Mapping[str, Packed],
    config: ModelConfig,
    *,
    forget: Adapter,
    retain: Adapter | None,
    forget_strength: Sequence[float],
    retain_strength: Sequence[float],
    before: Adapter | None = None,
    strategy: str = "vmap",
    batch_size: int = 8,
) -> dict[str, Float[np.ndarray, "F T"]]:
    """Computes the mean NLL of rows, {name: [F, T]} in nats, under the weights
    `params + before + forget_strength * forget + retain_strength * retain`.

    It compiles once for a number of points, of batches and the shapes of the factors, whatever the strengths.

    Args:
      params: the base weights.
      rows: name -> packed rows.
      config: of the model.
      forget, retain: what is added at strength 1, sign and alpha / rank included; retain may be None.
      forget_strength, retain_strength: growing strengths with 0 among them; of no retain adapter [0].
      before: what is added at every point, such as the deltas of earlier rounds.
      strategy: how points are computed, "vmap" (all at once, for accelerators) or "map" (one after the other, for CPU).
      batch_size: B, rows of a forward pass; with "vmap" P times as many.

    Raises:
      ValueError: a grid that is not as described, or rows in which no token has a weight.
    """
    check_grid("forget_strength", forget_strength)
    check_grid("retain_strength", retain_strength)
    if retain is None and list(retain_strength) != NO_RETAIN:
        raise ValueError(
            f"retain_strength is {_text(retain_strength)}, but there is no retain adapter: expected 0 alone"
        )
    points = np.array(list(itertools.product(forget_strength, retain_strength)), np.float32)  # [P, 2]
    batches = {name: _batches(packed, batch_size) for name, packed in rows.items()}
    sums = jax.device_get(point_sums(params, before, forget, retain, points, batches, config, strategy=strategy))
    surface = {}
    for name, (totals, weights) in sums.items():  # [P, K] each
        weight = np.asarray(weights, np.float64).sum(1)
        if not np.all(weight > 0.0):
            raise ValueError(f"the {len(rows[name].tokens)} {name} rows have no weighted token, expected at least one")
        mean = np.asarray(totals, np.float64).sum(1) / weight
        surface[name] = mean.reshape(len(forget_strength), len(retain_strength))
    return surface


def check_grid(name: str, values: Sequence[float]) -> None:
    """Refuses a grid of strengths that does not grow, or that lacks 0.

    Raises:
      ValueError: names the grid and what is wrong with it.
    """
    if not all(map(math.isfinite, values)) or any(a >= b for a, b in itertools.pairwise(values)):
        raise ValueError(f"{name} is {_text(values)}, expected finite numbers that grow")
    if 0.0 not in values:
        raise ValueError(
            f"{name} is {_text(values)}, expected 0 among them: a surface without it does not show the model that the "
            "adapters are added to"
        )


@partial(jax.jit, static_argnames="strategy")
def point_sums(
    params: Params,
    before: Adapter | None,
    forget: Adapter,
    retain: Adapter | None,
    points: Float[Array, "P 2"] | Float[np.ndarray, "P 2"],
    batches: dict[str, dict[str, jax.Array]],
    config: ModelConfig,
    *,
    strategy: str,
) -> dict[str, tuple[Float[Array, "P K"], Float[Array, "P K"]]]:
    """Computes the sums of the weighted NLL and of the weights, {name: ([P, K], [P, K])}, of batches [K, B, S] at
    points [P, 2]."""

    def one(point: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
        adapters = at_strengths(before, forget, retain, point)

        def batch_nll(batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
            return token_nll(params, batch, config, adapters=adapters)

        return {name: jax.lax.map(batch_nll, stack) for name, stack in batches.items()}

    return jax.vmap(one)(jnp.asarray(points)) if strategy == "vmap" else jax.lax.map(one, jnp.asarray(points))


def _batches(packed: Packed, size: int) -> dict[str, Any]:
    """Returns rows [N, S] as [K, B, S], filled up with empty rows of no weight."""
    missing = -len(packed.tokens) % size
    padded = {name: np.pad(array, ((0, missing), (0, 0))) for name, array in packed._asdict().items()}
    return {name: array.reshape(-1, size, array.shape[1]) for name, array in padded.items()}


def _text(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values) or "empty"
