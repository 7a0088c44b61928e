"""NeuralUCB against a float64 NumPy transcription of the published algorithm, and against random choice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from rr_jax.reveal import bandit
from rr_jax.reveal.bandit import BanditConfig

D = 5
SMALL = BanditConfig(hidden=7, capacity=12, fit_steps=5, nu=0.3, lambda_=0.2, learning_rate=0.01)


def data(n: int, seed: int = 0, width: int = D) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return (3 + 2 * rng.normal(size=(n, width))).astype(np.float32), rng.uniform(size=n).astype(np.float32)


def as_float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


# The reference: everything in float64, gradients written out, Adam from its paper with L2 in the gradient as in torch.


def reference_forward(params, x):
    pre = x @ params["hidden"]["kernel"] + params["hidden"]["bias"]
    return pre, np.maximum(pre, 0) @ params["output"]["kernel"][:, 0] + params["output"]["bias"][0]


def reference_gradient(params, x, upstream):
    """Gradient of sum_i upstream_i f(x_i) with respect to the parameters."""
    pre, _ = reference_forward(params, x)
    k = params["output"]["kernel"][:, 0] * (pre > 0) * upstream[:, None]
    return {
        "hidden": {"kernel": x.T @ k, "bias": k.sum(0)},
        "output": {
            "kernel": (np.maximum(pre, 0) * upstream[:, None]).sum(0)[:, None],
            "bias": upstream.sum(keepdims=True),
        },
    }


def reference_standardize(evaluated, x):
    std = evaluated.std(0, ddof=1)
    return (x - evaluated.mean(0)) / np.where(std > 1e-6, std, 1.0)


def reference_fit(params, evaluated, rewards, config):
    x, n = reference_standardize(evaluated, evaluated), len(rewards)
    first, second = jax.tree.map(np.zeros_like, params), jax.tree.map(np.zeros_like, params)
    for t in range(1, config.fit_steps + 1):
        _, predicted = reference_forward(params, x)
        gradient = reference_gradient(params, x, 2 * (predicted - rewards) / n)
        gradient = jax.tree.map(lambda g, p: g + config.lambda_ / n * p, gradient, params)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradient)
        rate, second_bias = config.learning_rate / (1 - 0.9**t), 1 - 0.999**t
        updates = jax.tree.map(lambda m, v, r=rate, b=second_bias: r * m / (np.sqrt(v / b) + 1e-8), first, second)
        params = jax.tree.map(np.subtract, params, updates)
    return params


def reference_scores(params, posterior, x, config):
    mean = reference_forward(params, x)[1]
    sigma = np.empty(len(x))
    for i in range(len(x)):
        g = reference_gradient(params, x[i : i + 1], np.ones(1))
        ratios = jax.tree.map(lambda g, u: (config.lambda_ * config.nu * g * g / u).sum(), g, posterior)
        sigma[i] = np.sqrt(sum(jax.tree.leaves(ratios)))
    return mean, sigma


def observed_state(config: BanditConfig = SMALL, n: int = 8) -> tuple[bandit.BanditState, np.ndarray, np.ndarray]:
    features, rewards = data(n)
    state = bandit.observe(bandit.init(jax.random.key(3), config, D), features, rewards)
    # A posterior that differs from weight to weight, as after several picks.
    leaves, structure = jax.tree.flatten(state.posterior)
    rng = np.random.default_rng(9)
    leaves = [jnp.asarray(rng.uniform(0.2, 3, leaf.shape), jnp.float32) for leaf in leaves]
    return state.replace(posterior=structure.unflatten(leaves)), features, rewards


@pytest.mark.parametrize("init", ["scaled", "unit_normal"])
def test_sigma_equals_the_explicit_jacobian_and_the_float64_reference(init):
    config = BanditConfig(hidden=7, capacity=12, fit_steps=5, nu=0.3, lambda_=0.2, init=init)
    state, evaluated, _ = observed_state(config)
    arms, _ = data(20, seed=1)
    scores = bandit.score(state, arms, config)

    x = reference_standardize(evaluated.astype(np.float64), arms.astype(np.float64))
    network = bandit.Surrogate(config.hidden, config.init)
    gradient = jax.vmap(jax.grad(lambda p, row: network.apply({"params": p}, row)), (None, 0))
    jacobian = jax.vmap(lambda tree: ravel_pytree(tree)[0])(gradient(state.params, jnp.asarray(x, jnp.float32)))
    weights = ravel_pytree(state.posterior)[0]
    explicit = np.sqrt(config.lambda_ * config.nu * np.sum(np.asarray(jacobian) ** 2 / np.asarray(weights), axis=1))
    np.testing.assert_allclose(scores.sigma, explicit, rtol=1e-5)

    mean, sigma = reference_scores(as_float64(state.params), as_float64(state.posterior), x, config)
    np.testing.assert_allclose(scores.sigma, sigma, rtol=1e-5)
    np.testing.assert_allclose(scores.mean, mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(scores.ucb, scores.mean + scores.sigma)


def test_initial_state_and_unit_normal_initialisation():
    config = BanditConfig(hidden=200, init="unit_normal", lambda_=0.7)
    state = bandit.init(jax.random.key(0), config, 50)
    for leaf in (state.params["hidden"]["kernel"], state.params["hidden"]["bias"], state.params["output"]["kernel"]):
        assert abs(float(jnp.std(leaf)) - 1) < 0.15
    assert all(bool(jnp.all(leaf == jnp.float32(0.7))) for leaf in jax.tree.leaves(state.posterior))
    assert jax.tree.structure(state.posterior) == jax.tree.structure(state.params)
    scaled = bandit.init(jax.random.key(0), BanditConfig(hidden=200), 50)
    assert abs(float(jnp.std(scaled.params["hidden"]["kernel"])) * 50**0.5 - 1) < 0.05
    assert not jnp.any(scaled.params["hidden"]["bias"])


def test_update_adds_the_squared_gradient_of_the_chosen_arm_only_to_the_posterior():
    state, evaluated, _ = observed_state()
    arm = data(1, seed=4)[0]
    updated = bandit.update_posterior(state, arm[0], SMALL)
    x = reference_standardize(evaluated.astype(np.float64), arm.astype(np.float64))
    gradient = reference_gradient(as_float64(state.params), x, np.ones(1))
    expected = jax.tree.map(lambda u, g: u + g * g, as_float64(state.posterior), gradient)
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6), updated.posterior, expected
    )
    jax.tree.map(np.testing.assert_array_equal, updated.replace(posterior=state.posterior), state)


def test_fit_equals_float64_adam_and_restarts_from_the_initial_weights():
    state, evaluated, rewards = observed_state()
    fitted = bandit.fit(state, SMALL)
    expected = reference_fit(
        as_float64(state.initial_params), evaluated.astype(np.float64), rewards.astype(np.float64), SMALL
    )
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5), fitted.params, expected)
    again = bandit.fit(fitted, SMALL)
    jax.tree.map(np.testing.assert_array_equal, again.params, fitted.params)


def test_fit_equals_torch_adam_with_weight_decay():
    torch = pytest.importorskip("torch")
    state, evaluated, rewards = observed_state()
    initial = state.initial_params
    model = torch.nn.Sequential(torch.nn.Linear(D, SMALL.hidden), torch.nn.ReLU(), torch.nn.Linear(SMALL.hidden, 1))
    model.double()
    with torch.no_grad():
        for layer, name in ((model[0], "hidden"), (model[2], "output")):
            layer.weight.copy_(torch.tensor(np.asarray(initial[name]["kernel"], np.float64).T.copy()))
            layer.bias.copy_(torch.tensor(np.asarray(initial[name]["bias"], np.float64)))
    x, y = torch.tensor(evaluated, dtype=torch.float64), torch.tensor(rewards, dtype=torch.float64)
    x = (x - x.mean(0)) / x.std(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=SMALL.learning_rate, weight_decay=SMALL.lambda_ / len(y))
    for _ in range(SMALL.fit_steps):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x).view(-1), y).backward()
        optimizer.step()
    fitted = bandit.fit(state, SMALL).params
    for layer, name in ((model[0], "hidden"), (model[2], "output")):
        np.testing.assert_allclose(fitted[name]["kernel"], layer.weight.detach().numpy().T, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(fitted[name]["bias"], layer.bias.detach().numpy(), rtol=1e-5, atol=1e-5)


def test_padding_of_the_buffer_does_not_matter():
    state, _, _ = observed_state(n=8)
    poisoned = state.replace(features=state.features.at[8:].set(1e9), rewards=state.rewards.at[8:].set(-1e9))
    arms, _ = data(6, seed=2)
    clean, dirty = bandit.fit(state, SMALL), bandit.fit(poisoned, SMALL)
    jax.tree.map(np.testing.assert_array_equal, clean.params, dirty.params)
    np.testing.assert_array_equal(bandit.score(clean, arms, SMALL).ucb, bandit.score(dirty, arms, SMALL).ucb)
    # Not even what is not a number: padding is left out, not multiplied by zero.
    infinite = state.replace(features=state.features.at[8:].set(jnp.nan))
    jax.tree.map(np.testing.assert_array_equal, clean.params, bandit.fit(infinite, SMALL).params)


def test_a_larger_buffer_gives_the_same_fit():
    roomy = BanditConfig(hidden=7, capacity=40, fit_steps=5, nu=0.3, lambda_=0.2, learning_rate=0.01)
    small, _, _ = observed_state()
    large, _, _ = observed_state(roomy)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        bandit.fit(small, SMALL).params,
        bandit.fit(large, roomy).params,
    )


@pytest.mark.parametrize("value", [0.0, 0.1, 1234.567])
def test_a_dimension_constant_over_the_evaluated_arms_does_not_explode_for_others(value):
    features, rewards = data(7)
    arms, _ = data(10, seed=1)
    features[:, 2] = value
    arms[:, 2] = value + 0.5
    state = bandit.observe(bandit.init(jax.random.key(3), SMALL, D), features, rewards)
    state, arm, scores = bandit.step(state, arms, np.ones(10, bool), SMALL)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(state))
    # The other arms are half a unit off in that dimension: they stay on the scale of arms that are not.
    arms[:, 2] = value
    near = bandit.score(bandit.fit(state, SMALL), arms, SMALL)
    assert float(jnp.max(scores.sigma)) < 3 * float(jnp.max(near.sigma))
    assert 0 <= int(arm) < 10


def test_nothing_or_one_arm_observed_is_finite():
    state = bandit.init(jax.random.key(3), SMALL, D)
    jax.tree.map(np.testing.assert_array_equal, bandit.fit(state, SMALL).params, state.initial_params)
    arms, rewards = data(10)
    assert bool(jnp.all(jnp.isfinite(bandit.score(state, arms, SMALL).ucb)))
    state, _, scores = bandit.step(bandit.observe(state, arms[:1], rewards[:1]), arms, np.ones(10, bool), SMALL)
    assert bool(jnp.all(jnp.isfinite(scores.ucb)))


def test_choose_takes_the_best_available_arm():
    state, _, _ = observed_state()
    arms, _ = data(9, seed=5)
    order = np.argsort(-np.asarray(bandit.score(state, arms, SMALL).ucb))
    available = np.ones(9, bool)
    for expected in order:
        assert int(bandit.choose(state, arms, available, SMALL)) == expected
        available[expected] = False
    assert int(bandit.choose(state, arms, available, SMALL)) == -1
    stepped, arm, _ = bandit.step(state, arms, available, SMALL)
    assert int(arm) == -1
    jax.tree.map(np.testing.assert_array_equal, stepped.posterior, state.posterior)


def test_step_is_fit_score_choose_update():
    state, _, _ = observed_state()
    arms, _ = data(9, seed=5)
    available = np.arange(9) % 2 == 0
    stepped, arm, scores = bandit.step(state, arms, available, SMALL)
    by_hand = bandit.fit(state, SMALL)
    expected = bandit.choose(by_hand, arms, available, SMALL)
    assert int(arm) == int(expected)
    np.testing.assert_allclose(scores.ucb, bandit.score(by_hand, arms, SMALL).ucb, rtol=1e-5)
    by_hand = bandit.update_posterior(by_hand, arms[int(arm)], SMALL)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), stepped, by_hand)


def test_picks_follow_the_float64_reference():
    config = BanditConfig(hidden=6, capacity=16, fit_steps=20, nu=0.05, lambda_=0.1, learning_rate=0.01)
    arms, rewards = data(30, seed=11)
    state = bandit.observe(bandit.init(jax.random.key(1), config, D), arms[:6], rewards[:6])
    initial, posterior = as_float64(state.initial_params), as_float64(state.posterior)
    evaluated, available = list(range(6)), np.arange(30) >= 6
    for _ in range(8):
        state, arm, scores = bandit.step(state, arms, available, config)
        seen = arms[evaluated].astype(np.float64)
        params = reference_fit(initial, seen, rewards[evaluated].astype(np.float64), config)
        x = reference_standardize(seen, arms.astype(np.float64))
        mean, sigma = reference_scores(params, posterior, x, config)
        np.testing.assert_allclose(scores.ucb, mean + sigma, rtol=1e-4, atol=1e-4)
        expected = int(np.argmax(np.where(available, mean + sigma, -np.inf)))
        assert int(arm) == expected
        gradient = reference_gradient(params, x[expected : expected + 1], np.ones(1))
        posterior = jax.tree.map(lambda u, g: u + g * g, posterior, gradient)
        available[expected] = False
        evaluated.append(expected)
        state = bandit.observe(state, arms[expected][None, :], rewards[expected][None])


def test_nothing_recompiles_as_observations_arrive():
    traces = []

    @jax.jit
    def counted(state, features, available, config):
        traces.append(1)
        state, arm, _ = bandit.step(state, features, available, config)
        chosen = features[arm][None, :]
        return bandit.observe(state, chosen, jnp.ones(1)), available.at[arm].set(False)

    arms, rewards = data(10)
    state = bandit.observe(bandit.init(jax.random.key(3), SMALL, D), arms[:2], rewards[:2])
    available = jnp.arange(10) >= 2
    for _ in range(5):
        state, available = counted(state, arms, available, SMALL)
    assert len(traces) == 1
    assert int(state.count) == 7


def test_observe_appends_and_a_full_buffer_forgets_the_oldest():
    features, rewards = data(15)
    state = bandit.init(jax.random.key(3), SMALL, D)
    for start in range(0, 15, 5):
        state = bandit.observe(state, features[start : start + 5], rewards[start : start + 5])
        if start == 5:
            np.testing.assert_array_equal(state.features[:10], features[:10])
            np.testing.assert_array_equal(state.features[10:], 0)
    assert int(state.count) == 15
    np.testing.assert_array_equal(state.features, np.concatenate([features[12:], features[3:12]]))
    np.testing.assert_array_equal(state.rewards, np.concatenate([rewards[12:], rewards[3:12]]))
    # Wrapped, the fit is that of a fresh bandit with the twelve newest observations.
    fresh = bandit.observe(bandit.init(jax.random.key(3), SMALL, D), features[3:], rewards[3:])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        bandit.fit(state, SMALL).params,
        bandit.fit(fresh, SMALL).params,
    )


def test_a_bandit_finds_better_arms_than_random_choice():
    config = BanditConfig(hidden=32, capacity=48, fit_steps=150, learning_rate=3e-3)
    picked, blind, best, best_blind = [], [], [], []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        arms = rng.normal(size=(200, 8)).astype(np.float32)
        towards, across = rng.normal(size=(2, 8)) / 8**0.5
        rewards = (np.exp(-((arms @ across) ** 2)) / (1 + np.exp(-4 * arms @ towards))).astype(np.float32)
        initial = rng.choice(200, 8, replace=False)
        available = np.ones(200, bool)
        available[initial] = False
        unseen = np.flatnonzero(available)
        state = bandit.observe(bandit.init(jax.random.key(seed), config, 8), arms[initial], rewards[initial])
        found = []
        for _ in range(40):
            state, arm, _ = bandit.step(state, arms, available, config)
            found.append(int(arm))
            available[found[-1]] = False
            state = bandit.observe(state, arms[found[-1]][None, :], rewards[found[-1]][None])
        assert len(set(found)) == 40
        draws = np.array([rewards[rng.choice(unseen, 40, replace=False)] for _ in range(100)])
        picked.append(rewards[found].mean())
        blind.append(draws.mean())
        best.append(rewards.max() - rewards[found].max())
        best_blind.append(np.mean(rewards.max() - draws.max(axis=1)))
    assert np.mean(picked) > 1.4 * np.mean(blind)
    assert np.mean(best) < 0.5 * np.mean(best_blind)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 0}, "hidden is 0"),
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
    state = bandit.init(jax.random.key(3), SMALL, D)
    features, rewards = data(13)
    with pytest.raises(ValueError, match=r"rewards have shape \(3,\), expected \(4,\)"):
        bandit.observe(state, features[:4], rewards[:3])
    with pytest.raises(ValueError, match="13 observations at once do not fit a buffer of capacity 12"):
        bandit.observe(state, features, rewards)
    with pytest.raises(ValueError, match=r"features have shape \(13, 4\), expected \(rows, 5\)"):
        bandit.score(state, features[:, :4], SMALL)
    with pytest.raises(ValueError, match=r"available arms has shape \(5,\), expected \(13,\)"):
        bandit.choose(state, features, np.ones(5, bool), SMALL)
