"""What each position of a layer may see, and the rotary angles it sees by: packed rows, padding, sliding windows.

Axes: B batch, S queries, T keys.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rr_jax.models import layers
from rr_jax.models.config import ModelConfig


def segment_positions(segment_ids: jax.Array) -> jax.Array:
    """Positions [B, S] counted from the start of each run of equal segment ids."""
    columns = jnp.broadcast_to(jnp.arange(segment_ids.shape[1], dtype=jnp.int32)[None, :], segment_ids.shape)
    before = jnp.concatenate([jnp.full_like(segment_ids[:, :1], -1), segment_ids[:, :-1]], axis=1)
    starts = jnp.where(segment_ids != before, columns, 0)
    return columns - jax.lax.cummax(starts, axis=1)


class View(NamedTuple):
    """How a layer sees positions: the keys [B, S, T] visible to each query, and the rotary angles of the queries."""

    visible: jax.Array
    angles: tuple[jax.Array, jax.Array] | None


def make_views(
    positions: jax.Array, key_positions: jax.Array, allowed: jax.Array, config: ModelConfig
) -> tuple[View, ...]:
    """One view for all layers; or two, of the layers that see everything and of those that slide.

    Args:
      positions: [B, S] of the queries.
      key_positions: [B, T].
      allowed: [B, S or 1, T], what may be seen but for the order of positions.
    """
    distance = positions[:, :, None] - key_positions[:, None, :]
    causal = (distance >= 0) & allowed
    rotary = config.positions == "rotary"
    if config.sliding_window is None:
        return (View(causal, layers.rotary_angles(positions, config) if rotary else None),)
    near = causal & (distance < config.sliding_window)
    local = View(near, layers.rotary_angles(positions, config, local=True) if rotary else None)
    if config.sliding_layers is None:
        return (local,)
    return View(causal, layers.rotary_angles(positions, config) if rotary else None), local


def view_of_layer(views: tuple[View, ...], slides: jax.Array | None) -> View:
    """The view of one layer of a scan."""
    if slides is None:
        return views[0]
    view: View = jax.tree.map(lambda whole, near: jnp.where(slides, near, whole), *views)
    return view


def slides_by_layer(config: ModelConfig) -> jax.Array | None:
    """[L] bool, which layers slide; None when all are alike."""
    return None if config.sliding_layers is None else jnp.asarray(config.sliding_layers)
