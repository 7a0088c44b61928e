"""The decoding loop against a plain argmax loop over `forward`, and what must not change a row."""

import functools
from typing import Any

import jax
import numpy as np
import pytest

from rr_jax.generation.loop import Generated, generate_tokens
from rr_jax.generation.sampling import Sampling, make_sampling
from tests.jitted import forward

PAD = 62


@functools.cache
def row_keys() -> jax.Array:
    return jax.random.split(jax.random.key(7), 16)


def run(
    lm: Any,
    rows: list[list[int]],
    sampling: Sampling,
    *,
    length: int = 16,
    batch: int | None = None,
    buffer: int = 16,
    limit: int = 12,
    eos: tuple[int, ...] = (2,),
    keys: jax.Array | None = None,
) -> Generated:
    batch = batch or len(rows)
    tokens, mask = np.zeros((batch, length), np.int32), np.zeros((batch, length), bool)
    for n, row in enumerate(rows):
        tokens[n, length - len(row) :], mask[n, length - len(row) :] = row, True
    if keys is None:
        keys = row_keys()[:batch]
    return generate_tokens(
        lm.params,
        tokens,
        mask,
        keys,
        lm.config,
        sampling,
        max_new_tokens=buffer,
        limit=np.int32(limit),
        eos_ids=np.asarray(eos, np.int32),
        pad_id=np.int32(PAD),
    )


@pytest.fixture
def rows() -> list[list[int]]:
    return [np.random.default_rng(n).integers(3, 60, size).tolist() for n, size in enumerate((3, 9, 16, 1, 14, 6))]


def texts(generated: Generated) -> list[list[int]]:
    return [
        row[:n].tolist() for row, n in zip(np.asarray(generated.tokens), np.asarray(generated.lengths), strict=True)
    ]


def test_greedy_is_an_argmax_loop_over_forward(lm: Any, rows: list[list[int]]) -> None:
    generated = run(lm, rows, make_sampling(0.0), eos=())
    for n, row in enumerate(rows):
        ids = list(row)
        for _ in range(12):  # padded on the right here, so that one compilation serves all lengths
            tokens = np.array([ids + [0] * (28 - len(ids))], np.int32)
            logits = forward(lm.params, tokens, lm.config, mask=np.arange(28)[None, :] < len(ids))
            ids.append(int(np.argmax(np.asarray(logits)[0, len(ids) - 1])))
        assert texts(generated)[n] == ids[len(row) :]
    assert generated.steps == 12
    assert not np.asarray(generated.finished).any()
    assert len({tuple(text) for text in texts(generated)}) == len(rows)  # a model that says one thing proves nothing


def test_padding_after_the_end(lm: Any, rows: list[list[int]]) -> None:
    free = np.asarray(run(lm, rows, make_sampling(1.0), eos=()).tokens)
    ends = (int(free[0, 0]), int(free[1, 4]), int(free[2, 7]))
    generated = run(lm, rows, make_sampling(1.0), eos=ends)
    for n, row in enumerate(np.asarray(generated.tokens)):
        where = [t for t in range(12) if free[n, t] in ends]
        length = where[0] if where else 12
        assert np.asarray(generated.lengths)[n] == length
        assert np.asarray(generated.finished)[n] == bool(where)
        assert row[:length].tolist() == free[n, :length].tolist()
        assert set(row[length:].tolist()) == {PAD}
    assert np.asarray(generated.lengths)[0] == 0


def test_stops_when_all_rows_are_done(lm: Any, rows: list[list[int]]) -> None:
    free = np.asarray(run(lm, rows, make_sampling(1.0), eos=()).tokens)
    generated = run(lm, rows, make_sampling(1.0), eos=tuple(free[:, 3].tolist()))
    assert np.asarray(generated.finished).all()
    assert generated.steps == np.max(np.asarray(generated.lengths)) + 1 <= 4
    assert run(lm, rows, make_sampling(1.0), eos=tuple(free[:, 0].tolist())).steps == 1


def test_a_row_depends_on_itself_alone(lm: Any, rows: list[list[int]]) -> None:
    """Not on the batch size, on its place, on its neighbours, on the bucket or on rows that fill the batch."""
    sampling = make_sampling(1.2, 30, 0.95)
    keys = row_keys()
    expected = texts(run(lm, rows, sampling))
    for n, row in enumerate(rows):
        assert texts(run(lm, [row], sampling, keys=keys[n : n + 1])) == [expected[n]]
    assert texts(run(lm, rows[::-1], sampling, keys=keys[: len(rows)][::-1])) == expected[::-1]
    assert texts(run(lm, [rows[1]] * 3 + rows[3:], sampling))[3:] == expected[3:]
    assert texts(run(lm, rows, sampling, length=32, buffer=32)) == expected
    filled = run(lm, rows, sampling, batch=8)
    assert texts(filled) == [*expected, [], []]
    assert np.asarray(filled.finished)[len(rows) :].all()
    assert set(np.asarray(filled.tokens)[len(rows) :].ravel().tolist()) == {PAD}


def test_rows_that_fill_the_batch_do_not_keep_it_going(lm: Any, rows: list[list[int]]) -> None:
    first = int(np.asarray(run(lm, rows, make_sampling(0.0), eos=()).tokens)[0, 0])
    assert run(lm, rows[:1], make_sampling(0.0), batch=6, eos=(first,)).steps == 1


def test_another_key_gives_another_sample(lm: Any, rows: list[list[int]]) -> None:
    same = run(lm, [rows[0]] * 6, make_sampling(1.0), eos=())
    assert len({tuple(text) for text in texts(same)}) == 6


def test_the_limit_is_no_more_than_the_buffer(lm: Any, rows: list[list[int]]) -> None:
    assert run(lm, rows, make_sampling(0.0), eos=(), limit=99).steps == 16
    short = run(lm, rows, make_sampling(0.0), eos=(), limit=1)
    assert short.steps == 1
    assert np.asarray(short.lengths).tolist() == [1] * len(rows)


def test_nothing_recompiles_for_other_numbers(lm: Any, rows: list[list[int]]) -> None:
    run(lm, rows, make_sampling(1.0, 5, 0.9))
    before = generate_tokens._cache_size()
    for temperature, top_k, top_p, limit, end in ((0.5, 5, 0.9, 12, 2), (2, 0, 0.3, 3, 9), (1.0, 60, 1.0, 16, 4)):
        run(lm, rows[::-1], make_sampling(temperature, top_k, top_p), limit=limit, eos=(end,))
    assert generate_tokens._cache_size() == before
