"""Batches are a pure function of (seed, index), and every epoch has every row once."""

import numpy as np
import pytest

from rr_jax.data.batches import take_batch
from rr_jax.data.packing import Packed


def _packed(rows: int) -> Packed:
    """Row r is [r, r, r], its segments [r + 100, ...] and its weights [r / 8, ...]."""
    numbers = np.repeat(np.arange(rows, dtype=np.int32)[:, None], 3, axis=1)
    return Packed(numbers, numbers + 100, (numbers / 8).astype(np.float32))


def _stream(packed: Packed, seed: int, size: int, batches: int) -> list[int]:
    return np.concatenate([take_batch(packed, seed, i, size)["tokens"][:, 0] for i in range(batches)]).tolist()


def test_a_batch_depends_on_seed_and_index_alone():
    packed = _packed(11)
    late = take_batch(packed, 3, 7, 4)
    for index in range(7):
        take_batch(packed, 3, index, 4)
    again = take_batch(packed, 3, 7, 4)
    assert all(np.array_equal(late[name], again[name]) for name in late)
    assert _stream(packed, 3, 4, 11) != _stream(packed, 4, 4, 11)


@pytest.mark.parametrize("size", [1, 4, 11, 25])
def test_every_row_once_an_epoch(size: int):
    """44 epochs of 11 rows are cut into batches that do not divide an epoch, or hold several."""
    rows = _stream(_packed(11), 0, size, -(-44 * 11 // size))
    epochs = [rows[start : start + 11] for start in range(0, 44 * 11, 11)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 44


def test_the_batch_size_does_not_change_the_order_of_rows():
    assert _stream(_packed(7), 5, 3, 14) == _stream(_packed(7), 5, 6, 7)


def test_the_three_arrays_stay_together():
    batch = take_batch(_packed(9), 1, 2, 5)
    assert set(batch) == {"tokens", "segment_ids", "weights"}
    assert np.array_equal(batch["segment_ids"], batch["tokens"] + 100)
    assert np.array_equal(batch["weights"], batch["tokens"] / np.float32(8))


def test_no_rows():
    with pytest.raises(ValueError, match="no rows"):
        take_batch(_packed(0), 0, 0, 2)
