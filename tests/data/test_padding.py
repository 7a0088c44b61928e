"""Few shapes, every text once, padding on the side asked for."""

import numpy as np
import pytest

from rr_jax.data.padding import bucket, token_batches

LENGTHS = (5, 40, 16, 17, 2, 9, 33, 1, 16, 12, 3)


def test_bucket_ladder() -> None:
    ladder = sorted({bucket(length) for length in range(1, 2049)})
    assert ladder == [16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048]
    assert all(bucket(length) >= length for length in range(1, 2049))
    assert [bucket(size) for size in ladder] == ladder


@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_cover_every_text_once(side: str) -> None:
    encoded = [[n + 1] * size for n, size in enumerate(LENGTHS)]
    seen = []
    for batch in token_batches(encoded, 5, side=side, pad_id=77):
        assert batch.tokens.shape == batch.mask.shape == (5, batch.tokens.shape[1])
        for index, row in enumerate(batch.rows):
            seen.append(int(row))
            length, count = bucket(len(encoded[row])), len(encoded[row])
            padding = [77] * (length - count)
            assert batch.tokens[index].tolist() == (
                padding + encoded[row] if side == "left" else encoded[row] + padding
            )
            np.testing.assert_array_equal(batch.mask[index], batch.tokens[index] != 77)
        assert not batch.mask[len(batch.rows) :].any()
        assert (batch.tokens[len(batch.rows) :] == 77).all()
    assert sorted(seen) == list(range(len(LENGTHS)))


def test_no_bucket_goes_beyond_the_longest() -> None:
    lengths = {batch.tokens.shape[1] for batch in token_batches([[1], [1] * 20, [1] * 40], 8, side="right", longest=40)}
    assert lengths == {16, 32, 40}


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(3, 64, [8]), (9, 64, [16]), (64, 64, [64]), (70, 64, [64, 8]), (30, 24, [24, 8]), (2, 1, [1, 1]), (4, 3, [3, 3])],
)
def test_batch_sizes_are_few(count: int, batch_size: int, sizes: list[int]) -> None:
    assert [len(batch.tokens) for batch in token_batches([[1, 2]] * count, batch_size, side="left")] == sizes


def test_no_batch_size() -> None:
    with pytest.raises(ValueError, match="batch_size is 0, expected at least 1"):
        list(token_batches([[1]], 0, side="left"))
