"""How far forgetting gets in the way of what is to be kept, layer by layer: measured, not concluded from angles.

An orthogonal A does not say that the inputs of retain data have no part in its columns, nor where B writes. So what the
update does to real inputs is measured, and how the two gradients agree. Knows rows and adapters, not rounds or tasks.

Axes: L layers, R rank.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from rr_jax.data.batches import in_order
from rr_jax.data.packing import Packed, first_rows
from rr_jax.lora.activations import Directions, output_energy
from rr_jax.lora.adapter import scale_adapter
from rr_jax.lora.algebra import frobenius_norm
from rr_jax.lora.orthogonality import (
    activations_by_layer,
    angles_by_layer,
    frobenius_by_layer,
    olora_by_layer,
    overlap_by_layer,
    principal_cosines_by_layer,
    update_cosine_by_layer,
)
from rr_jax.models.config import ModelConfig
from rr_jax.models.loss import token_nll
from rr_jax.models.spec import Adapter, Params

Layers = dict[str, dict[str, list[float]]]  # measure, module, [L]
ANGLES = {"input_cosine": "a", "output_cosine": "b"}  # of which factor
ROWS = 32  # of each kind that are looked at
BATCH = 8


def output_ratio(
    params: Params, adapter: Adapter, retain: Packed, forget: Packed, config: ModelConfig
) -> dict[str, Float[np.ndarray, " L"]]:
    """Returns sqrt(E|x_retain dW|^2 / E|x_forget dW|^2), {module: [L]}: 0 where the update leaves retain inputs alone,
    1 where it acts on them as on those of the forget data. 0 where it acts on neither."""
    energies = [output_energy(params, adapter, first_rows(rows, ROWS), config) for rows in (retain, forget)]
    return {
        name: np.sqrt(kept / np.where(energies[1][name] > 0, energies[1][name], np.inf))
        for name, kept in energies[0].items()
    }


def gradient_cosine(
    params: Params, adapter: Adapter, retain: Packed, forget: Packed, config: ModelConfig, *, scale: float
) -> dict[str, Float[np.ndarray, " L"]]:
    """Returns the cosine of the gradients of the two losses with respect to B at B = 0, {module: [L]}.

    It is that of A^T dL/dW: the gradients of the weights seen through the directions that the trained adapter reads.
    Forgetting goes up the forget loss along it, so where the cosine is positive the retain loss goes up with it. 0 where
    a gradient is zero.

    Args:
      adapter: trained; its A is what is looked through.
      scale: alpha / rank.
    """
    start = {name: {"a": module["a"], "b": jnp.zeros_like(module["b"])} for name, module in adapter.items()}
    gradients = []
    for rows in (retain, forget):
        total: Any = None
        for batch in in_order(first_rows(rows, ROWS), BATCH):
            found = _gradient(params, start, batch, config, scale)
            total = found if total is None else jax.tree.map(jnp.add, total, found)
        gradients.append(jax.device_get(total))
    return {name: _cosine(gradients[0][name], gradients[1][name]) for name in adapter}


def overlaps(forget: Adapter, retain: Adapter) -> Layers:
    """Measures how far two adapters work in the same directions, {measure: {module: [L]}}: what each penalty looks at,
    whichever was trained with.

    "overlap" is what the normalised penalty averages, "olora" and "frobenius" are the terms of those sums,
    "input_angles" and "output_angles" mean cos^2 of what both read and write. "input_cosine" and "output_cosine" are of
    the smallest of these angles: 1 where the adapters share a direction, however different the rest.
    """
    nearest = {name: principal_cosines_by_layer(forget, retain, factor) for name, factor in ANGLES.items()}
    measures: dict[str, Mapping[str, Any]] = {
        "overlap": overlap_by_layer(forget, retain),
        "olora": olora_by_layer(forget, retain),
        "frobenius": frobenius_by_layer(forget, retain),
        "input_angles": angles_by_layer(forget, retain, "a"),
        "output_angles": angles_by_layer(forget, retain, "b"),
        "update_cosine": update_cosine_by_layer(forget, retain),
        **{name: {module: cosines[:, 0] for module, cosines in found.items()} for name, found in nearest.items()},
    }
    return {name: by_layer(found) for name, found in measures.items()}


def readings(adapter: Adapter, directions: dict[str, Directions] | None) -> Layers:
    """Measures how strongly an adapter reads given directions, relative to a random one, {"activations": {module:
    [L]}}; empty where no directions are known."""
    return {} if directions is None else {"activations": by_layer(activations_by_layer(adapter, directions))}


def sizes(adapter: Adapter) -> Layers:
    """Returns the Frobenius norms of an adapter's A and of its update A B, {measure: {module: [L]}}: a constraint may
    shrink what it is meant to turn."""
    inputs = {name: np.linalg.norm(module["a"], axis=(-2, -1)) for name, module in adapter.items()}
    return {"norm_a": by_layer(inputs), "norm_update": by_layer(frobenius_norm(adapter))}


def layer_values(measures: Layers) -> dict[str, float]:
    """Returns measures by module and layer as a line of metrics has them: {"measure/module/layer": value}."""
    return {
        f"{name}/{module}/{layer}": value
        for name, by_module in measures.items()
        for module, values in by_module.items()
        for layer, value in enumerate(values)
    }


def by_layer(values: Mapping[str, Any]) -> dict[str, list[float]]:
    """Returns {module: [L]} as plain numbers."""
    return {name: np.asarray(value, float).tolist() for name, value in values.items()}


@jax.jit
def _gradient(
    params: Params, adapter: Adapter, batch: dict[str, jax.Array], config: ModelConfig, scale: jax.Array | float
) -> dict[str, jax.Array]:
    """Returns the gradient of the summed loss with respect to each module's B."""

    def loss(b: dict[str, jax.Array]) -> jax.Array:
        whole = {name: {"a": adapter[name]["a"], "b": b[name]} for name in adapter}
        return token_nll(params, batch, config, adapters=scale_adapter(whole, scale))[0]

    return jax.grad(loss)({name: module["b"] for name, module in adapter.items()})


def _cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    left, right = (np.asarray(value, np.float64).reshape(len(value), -1) for value in (one, other))
    size = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.asarray(np.sum(left * right, axis=1) / np.where(size > 0, size, np.inf))
