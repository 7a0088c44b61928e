"""Loss surfaces against merging every point, and what they refuse."""

import numpy as np
import pytest

from rr_jax.dynamics.surface import loss_surface, point_sums
from rr_jax.evaluate.nll import mean_nll
from rr_jax.lora.adapter import merge_adapter, scale_adapter
from tests import tiny

F, T = [0.0, 0.3, 0.7], [0.0, 1.0]
ROWS = {"forget": tiny.rows(1, 12), "retain": tiny.rows(2, 5, 12)}  # two batches, and one that is not full


BEFORE = tiny.random_adapter(1, 4, ["q", "v", "gate"])
FORGET = tiny.random_adapter(3, 2, ["q", "k", "down"])
RETAIN = tiny.random_adapter(5, 3, ["v", "down"])


def surface(forget_strength=F, retain_strength=T, rows=ROWS, retain=RETAIN, **options):
    return loss_surface(
        tiny.params(), rows, tiny.CONFIG, forget=FORGET, retain=retain, forget_strength=forget_strength,
        retain_strength=retain_strength, **options,
    )  # fmt: skip


def merged_nll(name, *parts):
    params = tiny.params()
    for part in parts:
        params = merge_adapter(params, part)
    return mean_nll(params, ROWS[name], tiny.CONFIG)


@pytest.mark.parametrize("strategy", ["vmap", "map"])
@pytest.mark.parametrize("before", [None, BEFORE], ids=["first round", "later round"])
def test_every_point_is_the_merged_model(strategy, before):
    found = surface(before=before, strategy=strategy)
    assert found.keys() == ROWS.keys()
    for name in ROWS:
        assert found[name].shape == (3, 2)
        for i, f in enumerate(F):
            for j, t in enumerate(T):
                parts = [scale_adapter(FORGET, f), scale_adapter(RETAIN, t), *([] if before is None else [before])]
                np.testing.assert_allclose(found[name][i, j], merged_nll(name, *parts), rtol=1e-5)
    assert np.ptp(found["forget"]) > 0.1


def test_without_a_retain_adapter_there_is_one_axis():
    found = surface(retain_strength=[0.0], retain=None, strategy="map")
    np.testing.assert_allclose(found["forget"], surface(retain_strength=[0.0], strategy="map")["forget"], rtol=1e-6)
    with pytest.raises(ValueError, match="retain_strength is 0, 1, but there is no retain adapter"):
        surface(retain=None)


def test_other_strengths_compile_nothing():
    surface(strategy="map")
    before = point_sums._cache_size()
    surface([-0.1, 0.0, 0.2], [0.0, 0.4], strategy="map")
    assert point_sums._cache_size() == before


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ([0.1, 0.2], "is 0.1, 0.2, expected 0 among them: a surface without it does not show the model"),
        ([], "is empty, expected 0 among them"),
        ([0.0, 0.2, 0.2], "is 0, 0.2, 0.2, expected finite numbers that grow"),
        ([0.0, float("nan")], "is 0, nan, expected finite"),
    ],
)
def test_a_grid_that_shows_nothing_is_one_line(grid, message):
    for name in ("forget_strength", "retain_strength"):
        with pytest.raises(ValueError, match=f"{name} {message}") as caught:
            surface(**{name: grid})
        assert "\n" not in str(caught.value)


def test_rows_without_a_weight_are_refused():
    empty = ROWS["forget"]._replace(weights=np.zeros_like(ROWS["forget"].weights))
    with pytest.raises(ValueError, match="the 12 forget rows have no weighted token"):
        surface(rows={"forget": empty}, strategy="map")
