"""Training the bandit's network on what was observed: full-batch Adam, if need be in the principal axes of the inputs.

This module must never know where inputs and rewards come from: it sees standardised rows and their weights in the loss.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from rr_jax.reveal.bandit import surrogate


def train(
    initial: Any,
    inputs: jax.Array,
    rewards: jax.Array,
    weights: jax.Array,
    *,
    steps: int,
    learning_rate: float,
    decay: jax.Array | float,
    principal_axes: bool,
) -> Any:
    """Returns the parameters after `steps` full-batch steps of Adam from `initial` on the weighted squared error.

    With `principal_axes` and more features than rows, the first layer moves in the principal axes of the inputs alone, of
    which there are at most as many as rows. Predictions on the inputs depend on nothing else of it, so network and loss
    are the same and a step costs D / rows times less. The steps differ: Adam scales each axis by itself, and weights
    across the axes, which no gradient reaches, stay as they began and do not decay.

    Args:
      initial: the network's parameters.
      inputs: [n, D] standardised rows; rows that carry no weight are 0.
      rewards: [n].
      weights: [n] of the rows in the loss; 1 / (number of rows) gives the mean.
      steps: Adam steps.
      learning_rate: Adam's.
      decay: times the parameters is added to the gradient (L2, not decoupled decay).
      principal_axes: see above.
    """
    start, axes = initial, None
    if principal_axes and inputs.shape[1] > inputs.shape[0]:
        inputs, axes = _principal_axes(inputs)
        start = _with_first_kernel(start, surrogate.dot(axes.T, start["layer_0"]["kernel"]))
    optimizer = optax.chain(optax.add_decayed_weights(decay), optax.adam(learning_rate))

    def loss(params: Any) -> jax.Array:
        predicted, _ = surrogate.factors(params, inputs)
        return jnp.sum(weights * (predicted - rewards) ** 2)

    def move(_: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        params, optimizer_state = carry
        updates, optimizer_state = optimizer.update(jax.grad(loss)(params), optimizer_state, params)
        return optax.apply_updates(params, updates), optimizer_state

    params, _ = jax.lax.fori_loop(0, steps, move, (start, optimizer.init(start)))
    if axes is None:
        return params
    moved = params["layer_0"]["kernel"] - start["layer_0"]["kernel"]
    return _with_first_kernel(params, initial["layer_0"]["kernel"] + surrogate.dot(axes, moved))


def _principal_axes(inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns rows [n, D] in their own principal axes [n, n], and these axes [D, n]; axes beyond the rank are 0."""
    values, vectors = jnp.linalg.eigh(surrogate.dot(inputs, inputs.T))
    kept = values > values[-1] * len(values) * jnp.finfo(values.dtype).eps
    lengths = jnp.sqrt(jnp.where(kept, values, 1))
    vectors = jnp.where(kept[None, :], vectors, 0)
    return vectors * lengths[None, :], surrogate.dot(inputs.T, vectors / lengths[None, :])


def _with_first_kernel(params: Any, kernel: jax.Array) -> Any:
    return {**params, "layer_0": {**params["layer_0"], "kernel": kernel}}
