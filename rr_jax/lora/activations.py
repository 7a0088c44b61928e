"""Measures what the modules of a model read: dominant directions of their inputs, and how far an update acts on them.

Everything is a sum over tokens, streamed batch by batch: no input is kept, and no [in, in] matrix is formed unless the
module is so small that its sketch would be as wide. Knows rows and adapters, not what they are for.

Axes: B batch, S sequence, L layers, R rank, K directions, P probes of the sketch.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from rr_jax.data.batches import in_order
from rr_jax.data.packing import Packed
from rr_jax.models.config import ModelConfig
from rr_jax.models.decoder import read_inputs
from rr_jax.models.spec import Adapter, Params, linear_shapes

OVERSAMPLING = 16  # probes beyond twice the directions asked for
BATCH = 8  # rows read at a time


@flax.struct.dataclass
class Directions:
    """Holds the dominant directions of one module's inputs.

    Attributes:
      basis: [L, in, K], orthonormal, of falling energy.
      energy: [L, K], mean squared coefficient of an input along each.
      total: [L], mean squared norm of an input.
    """

    basis: Float[Array, " L in K"]
    energy: Float[Array, "L K"]
    total: Float[Array, " L"]


class Sketch(NamedTuple):
    """Holds sums over tokens: of x (x . probe) [L, in, P], of |x|^2 [L], and the number of tokens."""

    products: Float[np.ndarray, " L in P"]
    squares: Float[np.ndarray, " L"]
    tokens: float


def dominant_directions(
    params: Params,
    rows: Packed,
    config: ModelConfig,
    modules: tuple[str, ...],
    count: int,
) -> dict[str, Directions]:
    """Finds the `count` directions in which the inputs of each module have most energy, from one pass over the rows.

    With C = E[x x^T] over all real tokens, not centred, it is the Nystroem approximation C ~ Y (W^T Y)^+ Y^T from the
    sketch Y = C W with P = 2 K + 16 Gaussian probes, in the shifted form of Tropp et al., "Fixed-rank approximation of
    a positive-semidefinite matrix from streaming data" (NeurIPS 2017), Algorithm 3. Modules with no more inputs than
    that get the exact eigenvectors.

    Raises:
      ValueError: a module has no more inputs than directions asked for, or the rows have no tokens.
    """
    shapes = linear_shapes(config)
    for name in modules:
        if count >= shapes[name][0]:
            raise ValueError(
                f"{count} directions of the inputs of {name!r} are asked for, which has {shapes[name][0]}: a constraint "
                "must leave some"
            )
    rng = np.random.default_rng([0, count])
    probes = {name: _probes(rng, shapes[name][0], count) for name in modules}
    sums: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    tokens = 0.0
    for batch in in_order(rows, BATCH):
        found = _sketch(params, batch, probes, config)
        tokens += float(np.sum(batch["segment_ids"] > 0))
        for name, (products, squares) in jax.device_get(found).items():
            before = sums.get(name, (0.0, 0.0))
            sums[name] = (before[0] + products.astype(np.float64), before[1] + squares.astype(np.float64))
    if not tokens:
        raise ValueError("dominant directions of activations: the rows have no tokens, expected at least one")
    return {name: _from_sketch(probes[name], Sketch(*sums[name], tokens), count) for name in modules}


def output_energy(
    params: Params, adapter: Adapter, rows: Packed, config: ModelConfig
) -> dict[str, Float[np.ndarray, " L"]]:
    """Returns the mean over real tokens of |x a b|^2, {module: [L]}: how strongly an update that is not applied would
    act on what its module reads."""
    sums: dict[str, np.ndarray] = {name: np.zeros(module["a"].shape[0]) for name, module in adapter.items()}
    tokens = 0.0
    for batch in in_order(rows, BATCH):
        found = jax.device_get(_energy(params, batch, adapter, config))
        tokens += float(np.sum(batch["segment_ids"] > 0))
        sums = {name: total + found[name] for name, total in sums.items()}
    return {name: total / max(tokens, 1.0) for name, total in sums.items()}


def _probes(rng: np.random.Generator, width: int, count: int) -> np.ndarray:
    """Returns [in, P]; the identity where a sketch would be as wide as the matrix itself."""
    number = 2 * count + OVERSAMPLING
    return np.eye(width, dtype=np.float32) if number >= width else rng.normal(size=(width, number)).astype(np.float32)


@jax.jit
def _sketch(
    params: Params,
    batch: dict[str, jax.Array],
    probes: dict[str, jax.Array],
    config: ModelConfig,
) -> dict[str, tuple[jax.Array, jax.Array]]:
    real = jnp.asarray(batch["segment_ids"] > 0, jnp.float32).reshape(-1, 1)

    def read(name: str, layer: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array] | None:
        if name not in probes:
            return None
        inputs = x.reshape(-1, x.shape[-1]).astype(jnp.float32) * real
        along = jnp.matmul(inputs, probes[name], precision=lax.Precision.HIGHEST)
        return jnp.matmul(inputs.T, along, precision=lax.Precision.HIGHEST), jnp.sum(inputs**2)

    return read_inputs(params, batch["tokens"], config, read, segment_ids=jnp.asarray(batch["segment_ids"]))


@jax.jit
def _energy(params: Params, batch: dict[str, jax.Array], adapter: Adapter, config: ModelConfig) -> dict[str, jax.Array]:
    real = jnp.asarray(batch["segment_ids"] > 0, jnp.float32)[:, :, None]

    def read(name: str, layer: jax.Array, x: jax.Array) -> jax.Array | None:
        if name not in adapter:
            return None
        a, b = adapter[name]["a"][layer], adapter[name]["b"][layer]
        inner = jnp.matmul(x.astype(jnp.float32) * real, a, precision=lax.Precision.HIGHEST)
        return jnp.sum(jnp.matmul(inner, b, precision=lax.Precision.HIGHEST) ** 2)

    return read_inputs(params, batch["tokens"], config, read, segment_ids=jnp.asarray(batch["segment_ids"]))


def _from_sketch(probes: np.ndarray, sketch: Sketch, count: int) -> Directions:
    """Computes the directions in float64 on the host: the matrices are [in, P], and their conditioning is what limits
    the result."""
    wide = probes.astype(np.float64)
    basis, energy = [], []
    for products in sketch.products / sketch.tokens:
        if len(wide) == wide.shape[1]:
            values, vectors = np.linalg.eigh((products + products.T) / 2)
            values, vectors = values[::-1], vectors[:, ::-1]
        else:
            shift = np.finfo(np.float32).eps * np.linalg.norm(products)
            shifted = products + shift * wide
            core = wide.T @ shifted
            weights, turned = np.linalg.eigh((core + core.T) / 2)
            sound = weights > np.finfo(np.float32).eps * weights[-1]  # a root of the core, where it is not rounding
            half = shifted @ (turned[:, sound] / np.sqrt(weights[sound]))
            vectors, singular, _ = np.linalg.svd(half, full_matrices=False)
            values = np.maximum(singular**2 - shift, 0.0)
        basis.append(vectors[:, :count])
        energy.append(np.maximum(values[:count], 0.0))
    total = sketch.squares / sketch.tokens
    return Directions(
        *(jnp.asarray(np.asarray(part), jnp.float32) for part in (np.stack(basis), np.stack(energy), total))
    )
