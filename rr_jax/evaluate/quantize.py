"""Weights rounded to few bits and back: what a model says after an ordinary compression.

Round to nearest, symmetric, no calibration: the plainest of the methods, so that nothing but rounding is tested. Knows
arrays and where a model keeps them, never tasks or files.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from rr_jax.models.spec import LINEAR_MODULES, Params


def quantize_params(params: Params, bits: int, group: int | None = None) -> Params:
    """Returns the parameters with every linear weight, embedding and head rounded; norms and biases are the same
    arrays.

    Each output channel of a linear map is rounded on its own, and each row (token, position) of an embedding: a tied
    head's channels are the embedding's rows.

    Args:
      params: as in `forward`.
      bits: of a weight, 2 to 8.
      group: of so many inputs at a time, each group with a scale of its own; None: all inputs share one.

    Raises:
      ValueError: bits or group outside their range.
    """
    layers = dict(params["layers"])
    for name in LINEAR_MODULES:
        if name in layers:
            layers[name] = round_weights(layers[name], bits, group, axis=-2)
    rounded = {**params, "layers": layers}
    for name, axis in (("embed", -1), ("positions", -1), ("head", -2)):
        if name in params:
            rounded[name] = round_weights(params[name], bits, group, axis=axis)
    return rounded


def round_weights(
    weights: Float[Array, "*shape"], bits: int, group: int | None, *, axis: int
) -> Float[Array, "*shape"]:
    """Rounds w to scale * round(w / scale), with scale = max |w| / (2^(bits - 1) - 1), the maximum over a group along
    `axis`.

    So |w - scale * round(w / scale)| <= scale / 2. Halves go to the even integer; a group of zeros stays zero; the last
    group may be shorter. Formed in float32 and returned in the dtype of `weights`, whose own rounding comes on top.

    Args:
      weights: any shape.
      bits: 2 to 8.
      group: length of a group along `axis`; None: all of it.
      axis: the axis of the inputs.

    Raises:
      ValueError: bits or group outside their range.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"bits is {bits}, expected 2 to 8")
    if group is not None and group < 1:
        raise ValueError(f"group is {group}, expected at least 1 input")
    moved = jnp.moveaxis(weights.astype(jnp.float32), axis, -1)
    size = moved.shape[-1]
    length = size if group is None else min(group, size)
    padding = -size % length  # zeros do not change a group's maximum
    padded = jnp.pad(moved, [(0, 0)] * (moved.ndim - 1) + [(0, padding)])
    groups = padded.reshape(*moved.shape[:-1], -1, length)
    scale = jnp.max(jnp.abs(groups), axis=-1, keepdims=True) / (2 ** (bits - 1) - 1)
    rounded = scale * jnp.round(groups / jnp.where(scale == 0, 1.0, scale))
    back = rounded.reshape(padded.shape)[..., :size]
    return jnp.moveaxis(back, -1, axis).astype(weights.dtype)
