"""Attention masks and the rotary angles beside them: causal order, packed rows, padding, sliding windows.

Axes: B batch, S queries, T keys.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rr_jax.models import layers
from rr_jax.models.config import ModelConfig


def segment_positions(segment_ids: Int[Array, "B S"]) -> Int[Array, "B S"]:
    """Returns positions [B, S] counted from the start of each run of equal segment ids."""
    columns = jnp.broadcast_to(jnp.arange(segment_ids.shape[1], dtype=jnp.int32)[None, :], segment_ids.shape)
    before = jnp.concatenate([jnp.full_like(segment_ids[:, :1], -1), segment_ids[:, :-1]], axis=1)
    starts = jnp.where(segment_ids != before, columns, 0)
    return columns - jax.lax.cummax(starts, axis=1)


class AttentionMask(NamedTuple):
    """Says what a layer's queries may attend to, and gives the rotary angles that go with its kind of layer.

    Attributes:
      visible: [B, S, T] bool, the keys that each query sees.
      angles: cosine and sine of the queries' positions, [B, S, rotated / 2] each; None without rotary positions.
    """

    visible: Bool[Array, "B S T"]
    angles: tuple[Float[Array, "B S rotated/2"], Float[Array, "B S rotated/2"]] | None


def make_masks(
    positions: Int[Array, "B S"], key_positions: Int[Array, "B T"], allowed: Bool[Array, " B #S T"], config: ModelConfig
) -> tuple[AttentionMask, ...]:
    """Returns one mask for all layers; or two, of the layers that see everything and of those that slide.

    Args:
      positions: [B, S] of the queries.
      key_positions: [B, T].
      allowed: [B, S or 1, T], what may be seen but for the order of positions.
    """
    distance = positions[:, :, None] - key_positions[:, None, :]
    causal = (distance >= 0) & allowed
    rotary = config.positions == "rotary"
    if config.sliding_window is None:
        return (AttentionMask(causal, layers.rotary_angles(positions, config) if rotary else None),)
    near = causal & (distance < config.sliding_window)
    local = AttentionMask(near, layers.rotary_angles(positions, config, local=True) if rotary else None)
    if config.sliding_layers is None:
        return (local,)
    return AttentionMask(causal, layers.rotary_angles(positions, config) if rotary else None), local


def mask_of_layer(masks: tuple[AttentionMask, ...], slides: Bool[Array, ""] | None) -> AttentionMask:
    """Returns the mask of one layer of a scan; `slides` is a bool scalar, traced, or None where all are alike."""
    if slides is None:
        return masks[0]
    mask: AttentionMask = jax.tree.map(lambda whole, near: jnp.where(slides, near, whole), *masks)
    return mask


def slides_by_layer(config: ModelConfig) -> Bool[Array, " L"] | None:
    """Returns [L] bool, which layers slide; None when all are alike."""
    return None if config.sliding_layers is None else jnp.asarray(config.sliding_layers)
