"""Adapter arithmetic of a round, and the rules that choose strengths."""

import jax
import numpy as np
import pytest

from rr_jax.evaluate.metric import Metric
from rr_jax.lora.adapter import init_adapter, scale_adapter
from rr_jax.lora.algebra import add
from rr_jax.release.compose import RULES, Point, choose_strength, merged_params, next_strength
from rr_jax.release.config import StrengthConfig
from rr_jax.release.objectives.negate import Negate
from tests import tiny


def filled(seed):
    adapter = init_adapter(jax.random.key(seed), tiny.CONFIG, 3, ["q", "up"])
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(seed + 1), x.shape), adapter)


def test_composition_equals_the_dense_sum():
    params, first, forget, retain = tiny.params(), filled(1), filled(3), filled(5)
    change = Negate().change({"forget": forget}, 0.3, 2.0)
    result = merged_params(params, add(first, change, scale_adapter(retain, 0.5 * 2.0)))
    for name in ("q", "up"):
        dense = {k: np.asarray(v[name]["a"], np.float64) @ np.asarray(v[name]["b"], np.float64)
                 for k, v in {"d": first, "f": forget, "r": retain}.items()}  # fmt: skip
        expected = np.asarray(params["layers"][name], np.float64) + dense["d"] - 0.6 * dense["f"] + 1.0 * dense["r"]
        np.testing.assert_allclose(result["layers"][name], expected, atol=1e-5)


def test_zero_strength_gives_the_base_weights_bit_for_bit():
    params, nothing = tiny.params(), Negate().change({"forget": filled(1)}, 0.0, 2.0)
    for same in (merged_params(params, None), merged_params(params, nothing)):
        assert jax.tree.all(jax.tree.map(np.array_equal, params, same))


def point(strength, forget, utility=1.0, degenerate=0.0, retain_nll=1.0, retain_strength=1.0, off_task=0.0):
    numbers = (Metric(value, 48) for value in (forget, degenerate, off_task, retain_nll))
    return Point(strength, retain_strength, *numbers, {"u": Metric(utility, 48)})


MOST = StrengthConfig()
LEAST = StrengthConfig(rule="least_interference_at_target", target=0.2)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([point(0.2, 0.5, 1.0), point(0.4, 0.1, 0.95), point(0.6, 0.0, 0.5)], 0.4),  # the budget binds
        # three forget the same; the one in the middle is taken: 0.2 below it and 0.2 above it nothing changes
        ([point(strength, 0.0) for strength in (0.2, 0.4, 0.6)] + [point(0.8, 0.0, 0.5)], 0.4),
        ([point(0.4, 0.2), *(point(strength, 0.0) for strength in (0.5, 0.7, 0.8)), point(1.2, 0.0, 0.5)], 0.8),
        ([point(0.2, 0.0, 1.0), point(0.4, 0.0, 1.0)], 0.2),  # nothing is known above 0.4
        ([point(0.2, 0.3, 1.0), point(0.4, 0.0, 1.0, degenerate=0.5)], 0.2),  # silence is not forgetting
        ([point(0.2, 0.0, 0.1)], None),
        ([], None),
    ],
)
def test_the_first_rule_takes_the_most_forgetting_within_both_budgets(points, expected):
    chosen, reason = choose_strength(points, MOST, 1.0)
    assert (None if chosen is None else chosen.forget_strength) == expected
    assert reason is None


def test_of_two_retain_strengths_that_forget_alike_the_one_that_keeps_more_is_taken():
    points = [
        point(strength, forget, retain_nll=nll, retain_strength=retain_strength)
        for retain_strength, nll in ((0.0, 1.5), (0.5, 1.2), (1.0, 1.3))
        for strength, forget in ((0.2, 0.0), (0.4, 0.1))
    ]
    chosen, _ = choose_strength(points, MOST, 1.0)
    assert (chosen.forget_strength, chosen.retain_strength) == (0.2, 0.5)


def test_the_second_rule_takes_the_least_interference_at_the_target():
    points = [
        point(0.2, 0.3, retain_nll=1.0),  # does not reach 0.2 x 0.8
        point(0.4, 0.16, retain_nll=1.2),
        point(0.6, 0.1, retain_nll=1.1),
        point(0.8, 0.0, retain_nll=1.3),
        point(1.0, 0.0, retain_nll=1.0, utility=0.8),  # outside a budget
        point(1.2, 0.0, retain_nll=1.0, degenerate=0.3),
    ]
    chosen, reason = choose_strength(points, LEAST, 0.8)
    assert chosen.forget_strength == 0.6 and reason is None
    chosen, reason = choose_strength(points[:1] + points[4:], LEAST, 0.8)
    assert chosen.forget_strength == 0.2
    assert "brought the forget metric to 0.2 of the base model's 0.800: the most forgetting" in reason
    assert choose_strength(points[4:], LEAST, 0.8) == (None, None)


def climbed(section, utility, off_task=lambda strength: 0.0):
    """All strengths that are measured where utility and off-task share are functions of the strength."""
    points = []
    while (strength := next_strength(points, section)) is not None:
        points.append(point(strength, 0.0, utility(strength), off_task=off_task(strength)))
        assert len(points) < 50
    return [one.forget_strength for one in points]


def test_the_grid_is_climbed_beyond_the_budget_and_made_finer_where_it_bends():
    grid = StrengthConfig(forget=[0.3, 0.5, 0.8, 1.2, 1.8])
    assert climbed(grid, lambda strength: 1.0 if strength <= 0.85 else 0.6) == [0.3, 0.5, 0.8, 1.2, 0.9]
    assert climbed(grid, lambda strength: 1.0 if strength <= 1.05 else 0.6) == [0.3, 0.5, 0.8, 1.2, 0.9, 1.0, 1.1]
    assert climbed(grid, lambda strength: 1.0) == [0.3, 0.5, 0.8, 1.2, 1.8]  # nothing bends
    assert climbed(grid, lambda strength: 0.1) == [0.3, 0.1]  # hopeless at once: smaller ones are tried
    assert climbed(grid, lambda strength: 1.0 if strength < 0.25 else 0.1) == [0.3, 0.1, 0.2]
    half_gone = climbed(
        grid, lambda strength: 1.0 if strength < 1.5 else 0.6, lambda strength: 0.9 if 0.4 < strength < 1.0 else 0.2
    )
    assert half_gone == [0.3, 0.5, 0.8, 1.2, 1.8, 1.3, 1.4, 1.5]  # off-task answers between two strengths end nothing
    coarse = StrengthConfig(forget=[0.3, 0.5, 0.8, 1.2, 1.8], step=None)
    assert climbed(coarse, lambda strength: 1.0 if strength <= 0.85 else 0.6) == [0.3, 0.5, 0.8, 1.2]
    least = StrengthConfig(rule="least_interference_at_target", forget=[0.3, 0.5, 0.8, 1.2], step=None)
    assert climbed(least, lambda strength: 1.0 if strength < 0.4 else 0.6) == [0.3, 0.5, 0.8, 1.2]
    assert climbed(least, lambda strength: 1.0 if strength < 0.4 else 0.3) == [0.3, 0.5]


def test_a_strength_is_within_where_one_of_its_retain_strengths_is():
    section = StrengthConfig(forget=[0.4, 0.8], retain=[0.5, 1.0], step=None)
    some = [point(0.4, 0.1, 1.0, retain_strength=0.5), point(0.4, 0.1, 0.5, retain_strength=1.0)]
    assert next_strength(some, section) == 0.8
    assert next_strength([*some, point(0.8, 0.0, 0.5), point(0.8, 0.0, 0.6)], section) is None


def test_every_rule_has_its_words():
    assert set(StrengthConfig.model_fields["rule"].annotation.__args__) == set(RULES)
