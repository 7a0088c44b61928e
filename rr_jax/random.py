"""Named random streams: every random choice of a run has a name, and its key follows from that name alone.

A key never depends on batch size, device count or on what was drawn before, so a restarted run repeats itself.
"""

import zlib

import jax
from jaxtyping import Array, Int, Key


def stream(seed: int, purpose: str, round_index: int = 0, index: int | Int[Array, ""] | None = None) -> Key[Array, ""]:
    """Returns the key of one purpose in one round: `fold_in` of (purpose, round[, index]) into `key(seed)`.

    Args:
      seed: the run's seed.
      purpose: what is drawn, such as "reveal/soft-prompts"; hashed with CRC-32, which is stable across processes.
      round_index: the round it is drawn in; 0 for what belongs to no round.
      index: the global index of the item, when each item has a key of its own.
    """
    key = jax.random.key(seed)
    key = jax.random.fold_in(key, zlib.crc32(purpose.encode()))
    key = jax.random.fold_in(key, round_index)
    return key if index is None else jax.random.fold_in(key, index)


def derive_seed(seed: int, purpose: str, round_index: int = 0) -> int:
    """Returns a 31-bit seed of one purpose in one round, for what wants a number instead of a key."""
    return zlib.crc32(f"{seed}/{purpose}/{round_index}".encode()) & 0x7FFFFFFF
