"""Judging, choosing and the loop around them: components, guards, budgets, baselines, replay."""

import dataclasses
import math

import numpy as np
import pytest

from rr_jax.evaluate.metric import Metric, share_of
from rr_jax.generation.likelihood import response_nll
from rr_jax.reveal.bandit import instinct
from rr_jax.reveal.candidates import make_candidates
from rr_jax.reveal.collect import best_arms, collect
from rr_jax.reveal.config import ArmsConfig, BanditSection, CollectConfig, RevealConfig, RewardConfig, SearchConfig
from rr_jax.reveal.judge import make_judge
from rr_jax.reveal.recall import disclosed_facts, recall
from rr_jax.reveal.search import search
from rr_jax.reveal.strategies import InOrder, Learned, bandit_config, make_strategy
from tests import tiny

TASK = tiny.EchoTask(metrics=lambda lm: {})
NO_GUARD = RewardConfig(samples=4, fluency_margin=None)


@pytest.fixture(scope="module")
def lm():
    return tiny.model()


def config(**changes):
    settings = {
        "arms": ArmsConfig(soft=8),
        "search": SearchConfig(initial=3, generations=32),
        "bandit": BanditSection(fit_steps=20),
        "reward": NO_GUARD,
        "collect": CollectConfig(size=12, min_size=1, generations=64, best_arms=3),
    }
    return RevealConfig(**{**settings, **changes})


def judge_of(lm, section=NO_GUARD, task=TASK, base=None):
    return make_judge(task, lm, base or lm, section, None, seed=0, round_index=1)


def run(lm, settings, task=TASK, **more):
    candidates = make_candidates(lm, task, settings.arms, seed=0, round_index=1)
    return search(lm, judge_of(lm, settings.reward, task), settings, candidates, seed=0, round_index=1, **more)


@pytest.mark.parametrize("strategy", ["neural_ucb", "epsilon_greedy", "random", "best_of_n"])
def test_each_strategy_spends_its_budget_on_different_arms(lm, strategy):
    spent = []
    settings = config(search=SearchConfig(strategy=strategy, initial=3, generations=34))
    found = run(lm, settings, progress=lambda done, of: spent.append((done, of)))
    arms = [one.arm.index for one in found.scored]
    expected = 4 if strategy == "best_of_n" else 8  # there are four texts; 34 responses are eight arms of four
    assert len(arms) == len(set(arms)) == expected
    assert found.ended == ("pool" if strategy == "best_of_n" else "budget")
    assert [one.generations for one in found.scored] == [4 * (i + 1) for i in range(expected)]
    assert [one.chosen_by for one in found.scored] == ["initial"] * 3 + [strategy] * (expected - 3)
    assert spent[-1] == (4 * expected, 32)
    if strategy == "best_of_n":
        assert {one.arm.kind for one in found.scored} == {"text"}


def test_strategies_share_the_initial_design(lm):
    starts = {
        strategy: [
            one.arm.index
            for one in run(lm, config(search=SearchConfig(strategy=strategy, initial=3, generations=12))).scored
        ]
        for strategy in ("neural_ucb", "epsilon_greedy", "random")
    }
    assert len(set(map(tuple, starts.values()))) == 1


def test_known_lines_are_believed_and_the_rest_is_the_same(lm):
    settings, lines = config(search=SearchConfig(initial=3, generations=32, batch=2)), []
    whole = run(lm, settings, remember=lines.extend)
    assert len(lines) == 8
    again = []
    resumed = run(lm, settings, known=lines[:5], remember=again.extend)
    assert again == lines[5:]
    assert [one.line() for one in resumed.scored] == [one.line() for one in whole.scored]


def test_the_bandit_finds_the_arms_that_score_where_chance_does_not(lm):
    """Sixty-four arms whose features tell their score; the best lies in a corner that eight random arms miss."""
    draw = np.random.default_rng(0)
    features = draw.normal(size=(64, 6)).astype(np.float32)
    value = 1 / (1 + np.exp(-features[:, 0] * 1.5 - features[:, 1]))
    best = {}
    for strategy in ("neural_ucb", "random"):
        found = []
        for seed in range(4):
            section = SearchConfig(strategy=strategy, initial=8, generations=1000)
            made = make_strategy(section, BanditSection(), features, [True] * 64, 24, seed=seed, round_index=1)
            arms = made.initial()
            made.observe(arms, value[arms].tolist())
            while len(arms) < 24:
                chosen = made.choose(1)
                arms += chosen
                made.observe(chosen, value[chosen].tolist())
            found.append(value[arms[8:]].mean())
        best[strategy] = np.mean(found)
    assert best["neural_ucb"] > best["random"] + 0.1


def test_only_the_best_of_the_initial_design_may_start_the_bandit():
    features = np.random.default_rng(0).normal(size=(20, 16)).astype(np.float32)
    section = SearchConfig(initial=6, keep=0.5, generations=1000)
    made = make_strategy(section, BanditSection(fit_steps=3), features, [True] * 20, 8, seed=0, round_index=1)
    assert isinstance(made, Learned)
    arms = made.initial()
    made.observe(arms, [0.1, 0.9, 0.2, 0.8, 0.7, 0.3])
    assert int(made.state.count) == 3
    np.testing.assert_allclose(np.sort(np.asarray(made.state.rewards)[:3]), [0.7, 0.8, 0.9], rtol=1e-6)
    assert not np.asarray(made.available)[arms].any()
    made.observe(made.choose(1), [0.0])
    assert int(made.state.count) == 4


def test_an_early_stop_says_so():
    """With no exploration, and one score above all predictions, nothing better is expected."""
    features = np.zeros((6, 16), np.float32)
    section = SearchConfig(initial=2, generations=1000, early_stop=True)
    made = make_strategy(section, BanditSection(fit_steps=5, nu=1e-12), features, [True] * 6, 8, seed=0, round_index=1)
    made.observe(made.initial(), [0.0, 1.0])
    assert made.choose(1) == []
    assert made.stopped


def test_epsilon_one_is_random_and_epsilon_zero_is_greedy():
    features = np.zeros((40, 16), np.float32)
    features[:, 0] = np.linspace(-1, 1, 40)
    picks = {}
    for epsilon in (0.0, 1.0):
        section = SearchConfig(strategy="epsilon_greedy", initial=10, generations=1000, epsilon=epsilon)
        made = make_strategy(section, BanditSection(), features, [True] * 40, 20, seed=1, round_index=1)
        arms = made.initial()
        made.observe(arms, features[arms, 0].tolist())
        picks[epsilon] = made.choose(6)
        free = [arm for arm in range(40) if arm not in arms]
        assert set(picks[epsilon]) <= set(free)
    assert np.mean(picks[0.0]) > np.mean(picks[1.0]) + 5
    assert len(set(picks[1.0])) == 6


def test_presets_and_a_pool_without_texts():
    assert bandit_config(BanditSection(preset="instinct"), 165) == instinct()
    assert bandit_config(BanditSection(hidden=[7, 5]), 9).hidden == (7, 5)
    with pytest.raises(ValueError, match="'best_of_n', but the pool has no instruction texts"):
        make_strategy(
            SearchConfig(strategy="best_of_n"), BanditSection(), np.zeros((3, 2)), [False] * 3, 2, seed=0, round_index=1
        )
    assert isinstance(
        make_strategy(
            SearchConfig(strategy="random"), BanditSection(), np.zeros((3, 2)), [False] * 3, 2, seed=0, round_index=1
        ),
        InOrder,
    )


def test_components_are_those_of_the_responses(lm):
    settings = config()
    candidates = make_candidates(lm, TASK, settings.arms, seed=0, round_index=1)
    judge = judge_of(lm)
    arms = [candidates.arms[0]] * 4
    texts = ["bcdfg hjkl mnpq", "", "abc abd xyz kkl", "bcdfg hjkl mnpq"]
    judged = judge.read(arms, texts)
    assert [one.counts for one in judged] == [True, False, True, True]
    relevant = [TASK.relevance(one.reading) if one.reading else 0.0 for one in judged]
    parts = judge.score(judged)
    assert parts.relevance == pytest.approx(sum(relevant) / 4)
    assert parts.fluency == 0.75
    shifts = judge.shift(candidates, arms, judged, seed=5)
    draw = np.random.default_rng(5)
    for text, relevance, shift in zip(texts, relevant, shifts, strict=True):
        if not (text and relevance):
            assert math.isnan(shift)
            continue
        other = TASK.others[int(draw.integers(2))]
        expected = response_nll(lm, [f"{other} "], [text])[0] - response_nll(lm, ["a"], [text])[0]
        assert shift == pytest.approx(expected, abs=1e-4)


def test_gibberish_does_not_count_and_the_base_model_says_what_that_is(lm):
    """What the base model finds far less likely than its own texts; a soft prompt does not excuse it."""
    sharp = dataclasses.replace(lm, params={**lm.params, "embed": lm.params["embed"] * 3})
    strict = judge_of(lm, RewardConfig(fluency_margin=0.0), base=sharp)
    candidates = make_candidates(lm, TASK, ArmsConfig(soft=2), seed=0, round_index=1)
    arm = candidates.arms[-1]
    own = [text for text in tiny_texts(sharp, arm.text) if text.strip()]
    odd = ["Kq 7z.Px0 9Jw", "xQ8.v Zr2 mL5"]
    counted = [one.counts for one in strict.read([arm] * (len(own) + 2), own + odd)]
    assert sum(counted[: len(own)]) >= len(own) // 2
    assert not any(counted[len(own) :])
    loose = judge_of(lm, RewardConfig(fluency_margin=None), base=sharp)
    assert all(one.counts for one in loose.read([arm] * 2, odd))


def tiny_texts(model, prompt):
    from rr_jax.generation.text import generate

    return generate(model, [prompt] * 8, max_new_tokens=12, temperature=1.0)


def test_kernels(lm):
    texts = ["abc def", "abc def", "ghi jkl mno", "zzz"]
    arm = make_candidates(lm, TASK, ArmsConfig(soft=0), seed=0, round_index=1).arms[0]
    for kernel in ("ngram", "hidden"):
        judge = judge_of(lm, RewardConfig(kernel=kernel, fluency_margin=None))
        judged = judge.read([arm] * 4, texts)
        assert 0 < judge.score(judged).diversity < 1
        same = judge.read([arm] * 4, ["abc def"] * 4)
        assert judge.score(same).diversity == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("value", [float("nan"), 1.5, -0.1])
def test_a_scorer_outside_its_range_is_refused(lm, value):
    class Odd(tiny.EchoTask):
        def relevance(self, reading):
            return value

    with pytest.raises(ValueError, match=f"task echo: relevance is {value}, expected a number in"):
        run(lm, config(), Odd(metrics=lambda lm: {}))


def test_a_scorer_that_never_varies_is_refused(lm):
    class Flat(tiny.EchoTask):
        def relevance(self, reading):
            return 0.5

    with pytest.raises(ValueError, match=r"relevance is 0.5 for each of \d+ responses to 8 arms"):
        run(lm, config(search=SearchConfig(initial=8, generations=32)), Flat(metrics=lambda lm: {}))


def test_collection_leaves_out_repeats_and_says_why(lm, monkeypatch):
    from rr_jax.reveal import collect as module

    said = [
        "abc def ghi jkl",
        "abc def ghi jkl",
        "abc def ghi jkl mno",
        "",
        "zzz yyy xxx",
        "kkk",
        "lll mmm nnn ooo",
        "qqq rrr sss",
    ]

    def respond(lm, candidates, chosen, first_index, **_):
        return [said[(first_index + i) % len(said)] for i in range(len(chosen))]

    class Picky(tiny.EchoTask):
        def relevance(self, reading):
            return 0.2 if reading.response.startswith("zzz") else 0.9

    monkeypatch.setattr(module, "respond", respond)
    task = Picky(metrics=lambda lm: {})
    settings = config(collect=CollectConfig(size=3, min_size=1, generations=8, best_arms=1, near_duplicate=0.6))
    candidates = make_candidates(lm, task, settings.arms, seed=0, round_index=1)
    judge = judge_of(lm, task=task)
    scored = search(lm, judge, settings, candidates, seed=0, round_index=1).scored
    found = collect(lm, judge, settings, candidates, scored, seed=0, round_index=1)
    assert [item.response for item in found.revealed] == ["abc def ghi jkl", "kkk", "lll mmm nnn ooo"]
    assert {(one.sample, one.reason) for one in found.dropped} == {
        (1, "duplicate"), (2, "near_duplicate"), (3, "unreadable"), (4, "irrelevant"), (7, "beyond_size"),
    }  # fmt: skip
    assert found.relevance().value == pytest.approx((6 * 0.9 + 0.2) / 8)
    exact = settings.model_copy(
        update={"collect": settings.collect.model_copy(update={"near_duplicate": 1.0, "size": 9})}
    )
    assert len(collect(lm, judge, exact, candidates, scored, seed=0, round_index=1).revealed) == 5
    quota = settings.model_copy(
        update={"collect": CollectConfig(size=4, min_size=1, generations=8, best_arms=2, arm_share=0.25)}
    )
    limited = collect(lm, judge, quota, candidates, scored, seed=0, round_index=1)
    assert len(limited.revealed) == 2 and {item.arm for item in limited.revealed} == {
        a.arm.index for a in best_arms(scored, 2)
    }
    assert "quota" in limited.reasons()


def test_nothing_useful_collects_nothing(lm):
    settings = config()
    candidates = make_candidates(lm, TASK, settings.arms, seed=0, round_index=1)
    found = collect(lm, judge_of(lm), settings, candidates, [], seed=0, round_index=1)
    assert found.revealed == found.dropped == [] and found.relevance() == Metric(0.0, 0)


def test_recall_counts_the_facts_told(lm):
    settings = config()
    candidates = make_candidates(lm, TASK, settings.arms, seed=0, round_index=1)
    judge = judge_of(lm)
    scored = search(lm, judge, settings, candidates, seed=0, round_index=1).scored
    revealed = collect(lm, judge, settings, candidates, scored, seed=0, round_index=1).revealed
    told = disclosed_facts(TASK, revealed)
    assert told == frozenset("aeiou") & set("".join(item.response for item in revealed))
    assert recall(TASK, told).value == len(told) / 5
    assert disclosed_facts(TASK, []) == frozenset()
    assert recall(tiny.EchoTask(metrics=lambda lm: {}), frozenset("ae")) == share_of([True, True, False, False, False])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": {"kernel": "encoder"}}, "'encoder' and reward.encoder go together"),
        ({"search": {"generations": 4}}, "search.generations is 4, below the 8 samples of one arm"),
        ({"collect": {"size": 4, "min_size": 5}}, "collect.min_size is 5, above collect.size 4"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        RevealConfig.model_validate(changes)
