"""NeuralUCB against a float64 transcription of the published algorithm, and against random choice."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rr_jax.reveal import bandit
from rr_jax.reveal.bandit import BanditConfig
from tests.reveal.bandit import reference
from tests.reveal.bandit.reference import D, as_float64, data, flat

SMALL = BanditConfig(hidden=(7,), capacity=12, fit_steps=5, nu=0.3, lambda_=0.2, learning_rate=0.01)
DIAGONAL = dataclasses.replace(SMALL, posterior="diagonal")
THOMPSON = BanditConfig(posterior="thompson", capacity=8, fit_steps=5)
POSTERIORS = ("exact", "diagonal", "thompson")
start = jax.jit(bandit.init, static_argnames=("config", "feature_dim"))


@partial(jax.jit, static_argnames="config")
def begin(key, features, rewards, config):
    """A bandit that has made its first observations, before any fit."""
    return bandit.observe(bandit.init(key, config, features.shape[1]), features, rewards)


def single(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), tree)


def finite(tree):
    return all(np.all(np.isfinite(leaf)) for leaf in map(np.asarray, jax.tree.leaves(tree)))


def assert_same(got, expected):
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def single_threaded_torch():
    """torch, or a skip; threads cost far more than they gain on matrices this small."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return torch


def observed_state(config: BanditConfig = SMALL, n: int = 8) -> tuple[bandit.BanditState, np.ndarray, np.ndarray]:
    """A bandit with random weights, and a diagonal that differs from weight to weight as after several picks."""
    features, rewards = data(n)
    state = begin(jax.random.key(3), features, rewards, config)
    state = state.replace(params=single(reference.network(config.hidden)), picks=np.int32(1))
    if config.posterior == "diagonal":
        rng = np.random.default_rng(9)
        u = jax.tree.map(lambda leaf: np.float32(rng.uniform(0.2, 3, leaf.shape)), state.posterior)
        state = state.replace(posterior=u)
    return state, features, rewards


@pytest.mark.parametrize("posterior", ["exact", "diagonal"])
@pytest.mark.parametrize("hidden", [(7,), (6, 9), (6, 5, 4)])
def test_scores_equal_those_from_explicit_gradients_in_float64(posterior, hidden):
    config = dataclasses.replace(SMALL, posterior=posterior, hidden=hidden)
    state, evaluated, _ = observed_state(config)
    arms, _ = data(20, seed=1)
    scores = bandit.score(state, arms, config)
    params = as_float64(state.params)
    seen, x = (
        reference.standardize(evaluated.astype(np.float64), part.astype(np.float64)) for part in (evaluated, arms)
    )
    np.testing.assert_allclose(scores.mean, reference.forward(params, x)[1], rtol=1e-5, atol=1e-5)
    if posterior == "diagonal":
        np.testing.assert_allclose(
            scores.sigma, reference.diagonal_sigma(params, as_float64(state.posterior), x, config), rtol=1e-5
        )
    else:
        np.testing.assert_allclose(scores.sigma, reference.exact_sigma(params, seen, x, config), rtol=1e-4)
    np.testing.assert_array_equal(scores.ucb, np.asarray(scores.mean) + np.asarray(scores.sigma))


def test_the_exact_sigma_equals_the_explicit_inverse_in_float64():
    config = dataclasses.replace(SMALL, hidden=(6, 5))
    evaluated, rewards = data(8)
    arms, _ = data(20, seed=1)
    with jax.enable_x64(True):
        state = bandit.fit(begin(jax.random.key(3), evaluated, rewards, config), config)
        scores = bandit.score(state, np.concatenate([evaluated, arms]), config)
        assert scores.sigma.dtype == jnp.float64
    evaluated, arms = evaluated.astype(np.float64), arms.astype(np.float64)
    seen, x = (reference.standardize(evaluated, part) for part in (evaluated, np.concatenate([evaluated, arms])))
    np.testing.assert_allclose(
        scores.sigma, reference.exact_sigma(as_float64(state.params), seen, x, config), rtol=1e-5
    )


@pytest.mark.parametrize("posterior", ["exact", "diagonal"])
def test_many_arms_are_scored_in_chunks_as_a_few_are(posterior):
    config = dataclasses.replace(SMALL, posterior=posterior)
    state, _, _ = observed_state(config)
    arms, _ = data(2 * bandit.CHUNK + 7, seed=1)
    scores = bandit.score(state, arms, config)
    parts = [bandit.score(state, arms[i : i + 411], config) for i in range(0, len(arms), 411)]
    assert [len(part.mean) for part in parts] == [411] * 5
    for whole, pieces in zip(scores, zip(*parts, strict=True), strict=True):
        np.testing.assert_allclose(whole, np.concatenate(pieces), rtol=1e-5, atol=1e-5)
    for n in (bandit.CHUNK, bandit.CHUNK + 1):
        np.testing.assert_allclose(bandit.score(state, arms[:n], config).ucb, scores.ucb[:n], rtol=1e-5, atol=1e-5)


def test_initial_state():
    config = BanditConfig(hidden=(20, 8), posterior="diagonal", lambda_=0.7)
    state = start(jax.random.key(0), config, 50)
    assert all(np.all(np.asarray(leaf) == np.float32(0.7)) for leaf in jax.tree.leaves(state.posterior))
    assert jax.tree.structure(state.posterior) == jax.tree.structure(state.params)
    assert state.params["layer_1"]["kernel"].shape == (20, 8)
    assert start(jax.random.key(0), BanditConfig(), 50).posterior is None


def test_update_adds_the_squared_gradient_of_the_chosen_arm_only_to_the_posterior():
    state, evaluated, _ = observed_state(DIAGONAL)
    arm = data(1, seed=4)[0]
    updated = bandit.update_posterior(state, arm[0], DIAGONAL)
    x = reference.standardize(evaluated.astype(np.float64), arm.astype(np.float64))
    expected = flat(as_float64(state.posterior)) + reference.jacobian(as_float64(state.params), x)[0] ** 2
    np.testing.assert_allclose(flat(as_float64(updated.posterior)), expected, rtol=1e-5, atol=1e-6)
    assert int(updated.picks) == int(state.picks) + 1
    same = updated.replace(posterior=state.posterior, picks=state.picks)
    assert_same(same, state)
    assert float(bandit.score(updated, arm, DIAGONAL).sigma[0]) < float(bandit.score(state, arm, DIAGONAL).sigma[0])


@pytest.mark.parametrize("hidden", [(7,), (6, 5)])
def test_an_evaluated_arm_is_certain_and_sigma_shrinks_for_it(hidden):
    config = dataclasses.replace(SMALL, hidden=hidden)
    state, _, _ = observed_state(config)
    arms, rewards = data(20, seed=5)
    before = bandit.score(state, arms, config).sigma
    for arm in (2, 6):
        after = bandit.observe(state, arms[arm][None, :], rewards[arm][None])
        sigma = bandit.score(after, arms, config).sigma
        assert float(sigma[arm]) < 0.9 * float(before[arm])
        # g^T U^-1 g < 1 for a gradient that is in U.
        assert float(sigma[arm]) <= (config.lambda_ * config.nu) ** 0.5 * (1 + 1e-5)


def test_fit_equals_float64_adam_and_restarts_from_the_initial_weights():
    state, evaluated, rewards = observed_state()
    fitted = bandit.fit(state, SMALL)
    initial = as_float64(state.initial_params)
    expected = reference.fit(initial, evaluated.astype(np.float64), rewards.astype(np.float64), SMALL)
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5), fitted.params, expected)
    again = bandit.fit(fitted, SMALL)
    assert_same(again.params, fitted.params)


def torch_network(params):
    """The network of one hidden layer in torch, float64."""
    torch = single_threaded_torch()
    model = torch.nn.Sequential(torch.nn.Linear(D, len(params["layer_0"]["bias"])), torch.nn.ReLU())
    model.append(torch.nn.Linear(model[0].out_features, 1)).double()
    with torch.no_grad():
        for layer, name in ((model[0], "layer_0"), (model[2], "layer_1")):
            layer.weight.copy_(torch.tensor(np.asarray(params[name]["kernel"], np.float64).T.copy()))
            layer.bias.copy_(torch.tensor(np.asarray(params[name]["bias"], np.float64)))
    return model


def test_fit_equals_torch_adam_with_weight_decay():
    torch = single_threaded_torch()
    state, evaluated, rewards = observed_state()
    model = torch_network(state.initial_params)
    x, y = torch.tensor(evaluated, dtype=torch.float64), torch.tensor(rewards, dtype=torch.float64)
    x = (x - x.mean(0)) / x.std(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=SMALL.learning_rate, weight_decay=SMALL.lambda_ / len(y))
    for _ in range(SMALL.fit_steps):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x).view(-1), y).backward()
        optimizer.step()
    fitted = bandit.fit(state, SMALL).params
    for layer, name in ((model[0], "layer_0"), (model[2], "layer_1")):
        np.testing.assert_allclose(fitted[name]["kernel"], layer.weight.detach().numpy().T, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(fitted[name]["bias"], layer.bias.detach().numpy(), rtol=1e-5, atol=1e-5)


# The last has fewer rows than features: it is fitted in principal axes.
@pytest.mark.parametrize("config", [SMALL, DIAGONAL, dataclasses.replace(SMALL, capacity=4)])
def test_padding_of_the_buffer_does_not_matter(config):
    n = config.capacity - 1
    state, _, _ = observed_state(config, n)
    arms, _ = data(20, seed=2)
    clean = bandit.fit(state, config)
    expected = bandit.score(clean, arms, config)
    # Not even what is not a number: padding is left out, not multiplied by zero.
    for features, rewards in ((1e9, -1e9), (np.nan, np.nan)):
        poisoned = state.replace(features=np.array(state.features), rewards=np.array(state.rewards))
        poisoned.features[n:], poisoned.rewards[n:] = features, rewards
        dirty = bandit.fit(poisoned, config)
        assert jax.tree.all(jax.tree.map(np.array_equal, clean.params, dirty.params))
        assert jax.tree.all(jax.tree.map(np.array_equal, bandit.score(dirty, arms, config), expected))


def test_a_larger_buffer_gives_the_same_fit():
    roomy = dataclasses.replace(SMALL, capacity=40)
    small, _, _ = observed_state()
    large, _, _ = observed_state(roomy)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        bandit.fit(small, SMALL).params,
        bandit.fit(large, roomy).params,
    )


@pytest.mark.parametrize("value", [0.0, 0.1, 1234.567])
def test_a_dimension_constant_over_the_evaluated_arms_does_not_explode_for_others(value):
    features, rewards = data(8)
    arms, _ = data(20, seed=1)
    features[:, 2] = value
    arms[:, 2] = value + 0.5
    state, arm, scores = bandit.step(begin(jax.random.key(3), features, rewards, SMALL), arms, np.ones(20, bool), SMALL)
    assert finite(state)
    # The other arms are half a unit off in that dimension: they stay on the scale of arms that are not.
    arms[:, 2] = value
    near = bandit.score(bandit.fit(state, SMALL), arms, SMALL)
    assert np.max(scores.sigma) < 3 * np.max(near.sigma)
    assert 0 <= int(arm) < 20


def test_without_the_floor_an_arm_that_differs_explodes_and_the_bandit_lives_on():
    config = dataclasses.replace(DIAGONAL, floor_std=False)
    features, rewards = data(8)
    arms, _ = data(20, seed=1)
    features[:, 2], arms[:, 2] = 1.5, 1.5
    arms[4, 2] = 2.0
    for x64 in (False, True):
        with jax.enable_x64(x64):
            state = begin(jax.random.key(3), features, rewards, config)
            state, arm, scores = bandit.step(state, arms, np.ones(20, bool), config)
            assert int(arm) == 4
            assert np.asarray(scores.sigma)[4] > 1e12
            assert finite((state, scores))
            state = bandit.observe(state, arms[4:5], rewards[:1])
            _, _, scores = bandit.step(state, arms, np.ones(20, bool), config)
            assert np.max(np.asarray(scores.sigma)) < 1e3


def test_nothing_or_one_arm_observed_is_finite():
    state = start(jax.random.key(3), SMALL, D)
    assert_same(bandit.fit(state, SMALL).params, state.initial_params)
    arms, rewards = data(20)
    assert finite(bandit.score(state, arms, SMALL).ucb)
    state, _, scores = bandit.step(bandit.observe(state, arms[:1], rewards[:1]), arms, np.ones(20, bool), SMALL)
    assert finite(scores.ucb)


def test_choose_takes_the_best_available_arm():
    state, _, _ = observed_state()
    arms, _ = data(20, seed=5)
    order = np.argsort(-np.asarray(bandit.score(state, arms, SMALL).ucb))
    available = np.ones(20, bool)
    for expected in order:
        assert int(bandit.choose(state, arms, available, SMALL)) == expected
        available[expected] = False
    assert int(bandit.choose(state, arms, available, SMALL)) == -1
    stepped, arm, _ = bandit.step(state, arms, available, SMALL)
    assert int(arm) == -1
    assert_same(stepped.posterior, state.posterior)


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_step_is_fit_score_choose_update(posterior):
    config = dataclasses.replace(SMALL, posterior=posterior)
    state, _, _ = observed_state(config)
    arms, _ = data(20, seed=5)
    available = np.arange(20) % 2 == 0
    key = jax.random.key(17)
    stepped, arm, scores = bandit.step(state, arms, available, config, key)
    by_hand = bandit.fit(state, config)
    expected = bandit.choose(by_hand, arms, available, config, key)
    assert int(arm) == int(expected)
    np.testing.assert_allclose(scores.ucb, bandit.score(by_hand, arms, config).ucb, rtol=1e-5)
    by_hand = bandit.update_posterior(by_hand, arms[int(arm)], config)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), stepped, by_hand)


def test_thompson_draws_from_the_normal_of_mean_and_sigma():
    config = dataclasses.replace(SMALL, posterior="thompson")
    state, _, _ = observed_state(config)
    arms, _ = data(20, seed=5)
    scores = bandit.score(state, arms, config)
    assert_same(scores, bandit.score(state, arms, SMALL))  # mean and sigma are exact's
    keys = jax.jit(jax.random.split, static_argnums=1)(jax.random.key(17), 4000)
    draws = np.asarray(jax.jit(jax.vmap(bandit.draw, (0, None)))(keys, scores))
    sigma = np.asarray(scores.sigma)
    assert np.max(np.abs(draws.mean(0) - scores.mean) / sigma) < 4 / 4000**0.5
    assert np.max(np.abs(draws.std(0) / sigma - 1)) < 4 / 8000**0.5
    unit = (draws - draws.mean(0)) / draws.std(0)
    assert np.max(np.abs(unit.T @ unit / 4000 - np.eye(20))) < 4.5 / 4000**0.5  # arms are drawn apart
    # The arm is the best of the available draws, so the key decides.
    available = np.arange(20) != int(np.argmax(draws[0]))
    chosen = [int(bandit.choose(state, arms, available, config, key)) for key in keys[:20]]
    assert chosen == [int(arm) for arm in np.argmax(np.where(available, draws[:20], -np.inf), axis=1)]
    assert len(set(chosen)) > 1


@pytest.mark.parametrize("posterior", ["exact", "diagonal"])
def test_picks_follow_the_float64_reference(posterior):
    config = BanditConfig(
        posterior=posterior, hidden=(6,), capacity=16, fit_steps=20, nu=0.05, lambda_=0.1, learning_rate=0.01
    )
    arms, rewards = data(30, seed=11)
    state = begin(jax.random.key(1), arms[:6], rewards[:6], config)
    initial = as_float64(state.initial_params)
    u = jax.tree.map(lambda leaf: np.full_like(leaf, config.lambda_), initial)
    evaluated, available = list(range(6)), np.arange(30) >= 6
    for _ in range(8):
        state, arm, scores = bandit.step(state, arms, available, config)
        seen = arms[evaluated].astype(np.float64)
        params = reference.fit(initial, seen, rewards[evaluated].astype(np.float64), config)
        x = reference.standardize(seen, arms.astype(np.float64))
        if posterior == "diagonal":
            sigma = reference.diagonal_sigma(params, u, x, config)
        else:
            sigma = reference.exact_sigma(params, reference.standardize(seen, seen), x, config)
        ucb = reference.forward(params, x)[1] + sigma
        np.testing.assert_allclose(np.asarray(scores.ucb)[available], ucb[available], rtol=1e-4, atol=1e-4)
        expected = int(np.argmax(np.where(available, ucb, -np.inf)))
        assert int(arm) == expected
        picked = reference.gradient(params, x[expected : expected + 1], np.ones(1))
        u = jax.tree.map(lambda u, g: u + g * g, u, picked)
        available = np.asarray(bandit.retire(jnp.asarray(available), arm, config))
        evaluated.append(expected)
        state = bandit.observe(state, arms[expected][None, :], rewards[expected][None])
    assert len(set(evaluated)) == 14


def test_the_preset_follows_a_torch_transcription_of_instinct_in_float64():
    torch = single_threaded_torch()
    config = bandit.instinct()
    arms, rewards = data(12, seed=11)
    arms[:, 1] *= 0.1
    evaluated = [0, 3, 5, 8]
    with jax.enable_x64(True):
        state = start(jax.random.key(1), config, D)
        for leaf in jax.tree.leaves(state.params):
            assert leaf.size < 50 or abs(np.std(np.asarray(leaf)) - 1) < 0.2
        state = bandit.observe(state, arms[evaluated], rewards[evaluated])
        available = bandit.retire(jnp.asarray(np.ones(12, bool)), jnp.asarray(np.array(evaluated)), config)
        assert np.all(np.asarray(available))  # evaluated arms stay in the running
        u = torch.full((100 * D + 201,), 0.1, dtype=torch.float64)
        x, y = torch.tensor(arms, dtype=torch.float64), torch.tensor(rewards, dtype=torch.float64)
        model, mean, std = torch_network(state.initial_params), 0.0, 1.0
        for _ in range(4):
            state, arm, scores = bandit.step(state, arms, available, config)
            mu, sigma, gradients = [], [], []
            for row in (x - mean) / std:
                model.zero_grad()
                mu.append(model(row[None, :]).sum())
                mu[-1].backward()
                gradients.append(torch.cat([weight.grad.flatten() for weight in model.parameters()]))
                sigma.append(torch.sqrt(torch.sum(0.1 * 1.0 * gradients[-1] * gradients[-1] / u)))
            mu, sigma = torch.stack(mu).detach().numpy(), torch.stack(sigma).numpy()
            np.testing.assert_allclose(scores.mean, mu, rtol=1e-5)
            np.testing.assert_allclose(scores.sigma, sigma, rtol=1e-5)
            chosen = int(np.argmax(mu + sigma))
            assert int(arm) == chosen
            u += gradients[chosen] ** 2
            np.testing.assert_allclose(np.sort(flat(as_float64(state.posterior))), np.sort(u.numpy()), rtol=1e-5)
            evaluated.append(chosen)
            state = bandit.observe(state, arms[chosen][None, :], rewards[chosen][None])
            model, seen = torch_network(state.initial_params), x[evaluated]
            mean, std = seen.mean(0), seen.std(0) + 1e-30
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=0.1 / len(evaluated))
            for _ in range(1000):
                optimizer.zero_grad()
                torch.nn.functional.mse_loss(model((seen - mean) / std).view(-1), y[evaluated]).backward()
                optimizer.step()
        assert int(state.picks) == 4


@pytest.mark.parametrize("config", [SMALL, DIAGONAL, dataclasses.replace(bandit.instinct(), fit_steps=5), THOMPSON])
def test_nothing_recompiles_as_observations_arrive(config):
    traces = []

    @jax.jit
    def counted(state, features, available, key):
        traces.append(1)
        state, arm, scores = bandit.step(state, features, available, config, key)
        chosen = features[arm][None, :]
        information = bandit.promising(state, scores, available), bandit.exploration_ratio(scores, available)
        return bandit.observe(state, chosen, jnp.ones(1)), bandit.retire(available, arm, config), information

    arms, rewards = data(10)
    state = begin(jax.random.key(3), arms[:2], rewards[:2], config)
    available = jnp.asarray(np.arange(10) >= 2)
    for key in jax.random.split(jax.random.key(17), 5):
        state, available, _ = counted(state, arms, available, key)
    assert len(traces) == 1
    assert int(state.count) == 7 and int(state.picks) == 5
    assert np.sum(np.asarray(available)) == (8 if config.repick else 3)


def test_it_is_promising_while_an_available_upper_bound_is_above_the_best_reward():
    state, _, _ = observed_state()
    state = state.replace(rewards=np.float32([*np.linspace(0.1, 0.7, 8), 9, 9, 9, 9]))
    mean, sigma = np.float32([0.3, 0.6, 0.9]), np.float32([0.3, 0.05, 0.1])
    scores = bandit.Scores(mean, sigma, mean + sigma)
    assert bool(bandit.promising(state, scores, np.array([True, True, True]), 1.0))
    assert not bool(bandit.promising(state, scores, np.array([True, True, False]), 1.0))
    assert bool(bandit.promising(state, scores, np.array([True, False, False]), 1.5))
    assert not bool(bandit.promising(state, scores, np.array([False, True, False]), 1.5))
    assert not bool(bandit.promising(state, scores, np.zeros(3, bool)))
    nothing = start(jax.random.key(0), SMALL, D)
    assert bool(bandit.promising(nothing, scores, np.array([True, False, False])))


def test_the_exploration_ratio_is_mean_sigma_over_mean_size_of_the_prediction():
    mean, sigma = np.float32([0.2, -0.6, 5.0]), np.float32([0.1, 0.3, 7.0])
    scores = bandit.Scores(mean, sigma, mean + sigma)
    assert float(bandit.exploration_ratio(scores, np.array([True, True, False]))) == pytest.approx(0.5, rel=1e-5)
    assert float(bandit.exploration_ratio(scores, np.zeros(3, bool))) == 0.0


def test_observe_appends_and_a_full_buffer_forgets_the_oldest():
    features, rewards = data(15)
    state = start(jax.random.key(3), SMALL, D)
    for first in range(0, 15, 5):
        state = bandit.observe(state, features[first : first + 5], rewards[first : first + 5])
        if first == 5:
            np.testing.assert_array_equal(np.asarray(state.features)[:10], features[:10])
            np.testing.assert_array_equal(np.asarray(state.features)[10:], 0)
    assert int(state.count) == 15
    np.testing.assert_array_equal(state.features, np.concatenate([features[12:], features[3:12]]))
    np.testing.assert_array_equal(state.rewards, np.concatenate([rewards[12:], rewards[3:12]]))
    # Wrapped, the fit is that of a fresh bandit with the twelve newest observations.
    fresh = begin(jax.random.key(3), features[3:], rewards[3:], SMALL)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        bandit.fit(state, SMALL).params,
        bandit.fit(fresh, SMALL).params,
    )


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_a_bandit_finds_better_arms_than_random_choice(posterior):
    config = BanditConfig(posterior=posterior, hidden=(32,), capacity=48, fit_steps=150, learning_rate=3e-3)
    picked, blind, best, best_blind = [], [], [], []
    rngs = [np.random.default_rng(seed) for seed in range(5)]
    arms = np.stack([rng.normal(size=(200, 8)) for rng in rngs]).astype(np.float32)
    towards, across = np.stack([rng.normal(size=(2, 8)) / 8**0.5 for rng in rngs], axis=1)[..., None]
    rewards = np.exp(-((arms @ across) ** 2)) / (1 + np.exp(-4 * arms @ towards))
    rewards = rewards[..., 0].astype(np.float32)
    initial = np.stack([rng.choice(200, 8, replace=False) for rng in rngs])
    problem = np.arange(5)[:, None]
    available = np.ones((5, 200), bool)
    available[problem, initial] = False
    unseen = [np.flatnonzero(mask) for mask in available]
    # The five bandits learn apart, in one program.
    begin_all = jax.vmap(partial(begin, config=config))
    step = jax.jit(jax.vmap(lambda state, arms, available, key: bandit.step(state, arms, available, config, key)))
    observe = jax.jit(jax.vmap(bandit.observe))
    key = jax.jit(jax.vmap(jax.random.key))
    state = begin_all(key(np.arange(5)), arms[problem, initial], rewards[problem, initial])
    found = np.zeros((5, 0), int)
    for pick in range(40):
        state, arm, _ = step(state, arms, available, key(np.full(5, pick)))
        arm = np.asarray(arm)[:, None]
        found = np.concatenate([found, arm], axis=1)
        available[problem, arm] = False
        state = observe(state, arms[problem, arm], rewards[problem, arm])
    for rng, rewards_, unseen_, found_ in zip(rngs, rewards, unseen, found, strict=True):
        assert len(set(found_)) == 40
        draws = np.array([rewards_[rng.choice(unseen_, 40, replace=False)] for _ in range(100)])
        picked.append(rewards_[found_].mean())
        blind.append(draws.mean())
        best.append(rewards_.max() - rewards_[found_].max())
        best_blind.append(np.mean(rewards_.max() - draws.max(axis=1)))
    assert np.mean(picked) > 1.4 * np.mean(blind)
    assert np.mean(best) < 0.5 * np.mean(best_blind)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": ()}, r"hidden is \(\), expected one or more positive widths"),
        ({"hidden": (7, 0)}, r"hidden is \(7, 0\)"),
        ({"posterior": "full"}, "posterior is 'full', expected one of exact, diagonal, thompson"),
        ({"capacity": -1}, "capacity is -1"),
        ({"fit_steps": 0}, "fit_steps is 0"),
        ({"lambda_": 0.0}, "lambda_ is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"nu": -1.0}, "nu is -1.0"),
        ({"init": "zeros"}, "init is 'zeros', expected one of scaled, unit_normal"),
    ],
)
def test_a_config_out_of_range_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        BanditConfig(**change)


def test_shapes_that_do_not_fit_are_refused():
    state = start(jax.random.key(3), SMALL, D)
    features, rewards = data(13)
    with pytest.raises(ValueError, match=r"rewards have shape \(3,\), expected \(4,\)"):
        bandit.observe(state, features[:4], rewards[:3])
    with pytest.raises(ValueError, match="13 observations at once do not fit a buffer of capacity 12"):
        bandit.observe(state, features, rewards)
    with pytest.raises(ValueError, match=r"features have shape \(13, 4\), expected \(rows, 5\)"):
        bandit.score(state, features[:, :4], SMALL)
    with pytest.raises(ValueError, match=r"available arms has shape \(5,\), expected \(13,\)"):
        bandit.choose(state, features, np.ones(5, bool), SMALL)
    with pytest.raises(ValueError, match="the posterior 'thompson' has no key to draw with"):
        bandit.step(state, features, np.ones(13, bool), dataclasses.replace(SMALL, posterior="thompson"))
