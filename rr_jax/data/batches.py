"""Batch number i is a pure function of (seed, i): nothing to restore after an interruption, nothing to skip."""

from collections.abc import Iterator

import numpy as np

from rr_jax.data.packing import Packed


def take_batch(packed: Packed, seed: int, index: int, batch_size: int) -> dict[str, np.ndarray]:
    """Returns batch `index` of an endless stream in which every epoch is a new permutation of all rows.

    An epoch is a whole number of rows, not of batches: a batch may end one permutation and begin the next.

    Returns:
      "tokens", "segment_ids" and "weights", [batch_size, S] each.
    """
    count = len(packed.tokens)
    if count == 0:
        raise ValueError("the data has no rows, expected at least one")
    wanted = np.arange(index * batch_size, (index + 1) * batch_size)
    rows = np.empty(batch_size, np.int64)
    for epoch in np.unique(wanted // count):
        order = np.random.default_rng([seed, int(epoch)]).permutation(count)
        here = wanted // count == epoch
        rows[here] = order[wanted[here] % count]
    return {
        "tokens": packed.tokens[rows],
        "segment_ids": packed.segment_ids[rows],
        "weights": packed.weights[rows],
    }


def in_order(packed: Packed, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields all rows once, in order; the last batch is filled up with empty rows of no weight, so that nothing
    compiles again.

    Yields:
      "tokens", "segment_ids" and "weights", [batch_size, S] each.
    """
    for start in range(0, len(packed.tokens), batch_size):
        rows = {name: array[start : start + batch_size] for name, array in packed._asdict().items()}
        missing = batch_size - len(rows["tokens"])
        yield {name: np.pad(array, ((0, missing), (0, 0))) for name, array in rows.items()}
