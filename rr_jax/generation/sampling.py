"""Chooses the next token from logits: greedy, temperature, top-k and top-p.

The numbers are traced, so a sweep over temperatures compiles once; only the machinery that is needed (argmax, noise,
noise after a sort) is static. Knows nothing about models, caches or text.
"""

import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key


@flax.struct.dataclass
class Sampling:
    """Says what `sample_tokens` does; `make_sampling` makes one.

    Attributes:
      temperature: float32 scalar the logits are divided by.
      top_k: int32 scalar; only the k most likely tokens are drawn, 0 for all.
      top_p: float32 scalar; only the smallest set of most likely tokens whose probability reaches p is drawn.
      method: static. "greedy" ignores all numbers, "temperature" ignores top_k and top_p, "filtered" sorts.
    """

    temperature: Float[Array, ""] | Float[np.ndarray, ""]
    top_k: Int[Array, ""] | Int[np.ndarray, ""]
    top_p: Float[Array, ""] | Float[np.ndarray, ""]
    method: str = flax.struct.field(pytree_node=False)


def make_sampling(temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Sampling:
    """Returns the cheapest `Sampling` that does what the numbers say; temperature 0 is greedy.

    Raises:
      ValueError: when a number is outside its range.
    """
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature is {temperature}, expected a finite number of at least 0 (0 is greedy)")
    if top_k != int(top_k) or top_k < 0:
        raise ValueError(f"top_k is {top_k}, expected a whole number of at least 0 (0 keeps every token)")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}, expected a number above 0 and at most 1 (1 keeps every token)")
    drawn = "temperature" if top_k == 0 and top_p == 1 else "filtered"
    # Typed NumPy scalars: a Python number would be weakly typed and compile a second time beside an array.
    return Sampling(
        temperature=np.asarray(temperature, np.float32),
        top_k=np.asarray(top_k, np.int32),
        top_p=np.asarray(top_p, np.float32),
        method="greedy" if temperature == 0 else drawn,
    )


def sample_tokens(logits: Float[Array, "B V"], keys: Key[Array, " B"], sampling: Sampling) -> Int[Array, " B"]:
    """Draws one token [B] int32 per row of logits [B, V], each row drawn with its own key of keys [B].

    A row's token depends on its own logits and key alone. Greedy takes the first of equal logits.
    """
    logits = logits.astype(jnp.float32)
    if sampling.method == "greedy":
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    if sampling.method not in ("temperature", "filtered"):
        raise ValueError(f"method is {sampling.method!r}, expected 'greedy', 'temperature' or 'filtered'")
    scaled = logits / sampling.temperature
    if sampling.method == "filtered":
        scaled = filter_logits(scaled, sampling.top_k, sampling.top_p)
    return jax.vmap(jax.random.categorical)(keys, scaled).astype(jnp.int32)


def filter_logits(
    logits: Float[Array, "B V"],
    top_k: Int[Array, ""] | Int[np.ndarray, ""],
    top_p: Float[Array, ""] | Float[np.ndarray, ""],
) -> Float[Array, "B V"]:
    """Returns logits [B, V] with every token outside top-k, then outside top-p, at minus infinity.

    The order and meaning are those of Hugging Face's TopKLogitsWarper and TopPLogitsWarper: top-p sees the distribution
    that top-k left, keeps the token that crosses p, and always keeps one token. Both keep the top of the sorted row, so
    one sort serves both and a single threshold is left. Tokens that tie with the last one kept are kept too (Hugging
    Face's top-p splits such ties by their place in an unstable sort).
    """
    vocab = logits.shape[-1]
    ordered = _ascending(logits)
    first = jnp.where(top_k == 0, 0, jnp.maximum(vocab - top_k, 0))
    kept = ordered >= jax.lax.dynamic_index_in_dim(ordered, first, axis=-1, keepdims=True)
    # Summed from the least likely token upwards, where float32 is exact enough for p close to 1.
    tail = jnp.cumsum(jax.nn.softmax(jnp.where(kept, ordered, -jnp.inf), axis=-1), axis=-1)
    most_likely = (jnp.arange(vocab) == vocab - 1)[None, :]
    kept = kept & ((tail > 1 - top_p) | most_likely | (top_p >= 1))
    threshold = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= threshold, logits, -jnp.inf)


def _ascending(logits: jax.Array) -> jax.Array:
    """Sorts each row of float32 logits from small to large.

    Sorted as integers whose order is that of the floats (negative numbers have the bits below the sign turned over):
    XLA's float comparator, which puts NaNs and zeros in order too, is four times slower on CPU.
    """
    bits = jax.lax.bitcast_convert_type(logits, jnp.int32)
    ordered = jax.lax.sort(jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits), dimension=-1, is_stable=False)
    return jax.lax.bitcast_convert_type(jnp.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered), jnp.float32)
