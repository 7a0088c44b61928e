"""NeuralUCB over a fixed pool of arms: a small network predicts rewards, a posterior says how unsure it is.

Everything here is a pure function of arrays with static shapes, so one bandit iteration (`step`) is one dispatch and
nothing recompiles as observations arrive. This module must never know what an arm is: it sees feature rows and rewards,
no language model, no text, no file.

Sources: INSTINCT (Lin et al., ICML 2024; `NeuralTSDiag` in xqlin98/INSTINCT at 10edbb3) and NeuralUCB (Zhou et al.,
ICML 2020; `learner_diag.py` in uclaml/NeuralUCB). sigma^2 = lambda nu g^T U^-1 g, g the gradient of f(x) with respect to
all weights, in one of three ways (`BanditConfig.posterior`):

- "diagonal", as coded in INSTINCT: U = lambda + sum of g * g over the picked arms, each g taken with the weights and the
  standardisation of its pick. U is never rebuilt, so it mixes gradients of differently trained networks, an arm may look
  as uncertain after its evaluation as before, and the initial observations never enter it.
- "exact": U = lambda I + sum of g g^T over all observed arms, the initial ones too, every g taken anew with the current
  weights. That is the posterior of one linear model, the network linearised where it stands: an evaluated arm is
  certain, and nothing but feature rows needs keeping. Gradients kept from past picks would be features of other models.
- "thompson": the exact posterior; the arm is chosen by a draw from Normal(mean, sigma) in place of the upper bound.

Arms are scored in chunks of CHUNK rows, and the factored products of `surrogate` and `posterior` build no gradient of
an arm: memory beyond the features is that of a few weight-sized arrays and of a few [CHUNK, max(D, hidden, capacity)]
ones, whatever the number of arms.

As coded in INSTINCT and kept: nu inside the square root, no 1/width factor, rewards not standardised, each fit restarts
from the initial weights. Where the defaults differ on purpose, the preset `instinct` has the other behaviour.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from rr_jax.reveal.bandit import posterior, surrogate
from rr_jax.reveal.bandit.config import BanditConfig
from rr_jax.reveal.bandit.fitting import train
from rr_jax.reveal.bandit.surrogate import Factors, Surrogate

STD_FLOOR = 1e-6
CHUNK = 1024  # arms scored at a time


@flax.struct.dataclass
class BanditState:
    """Holds everything a bandit remembers; it is a pytree of arrays of fixed shapes (C capacity, D features).

    Numbers are float32, or float64 when `jax_enable_x64` was set as the state was made.

    Attributes:
      params: the surrogate's current weights.
      initial_params: the weights every fit restarts from.
      posterior: the diagonal U, one positive number for each weight; None unless the posterior is "diagonal".
      features: [C, D] feature rows as observed, not standardised. Rows from min(count, C) on are padding.
      rewards: [C].
      count: [] int32, observations so far.
      picks: [] int32, arms chosen by `step` so far.
    """

    params: Any
    initial_params: Any
    posterior: Any
    features: jax.Array
    rewards: jax.Array
    count: jax.Array
    picks: jax.Array


class Scores(NamedTuple):
    """Holds each arm's predicted reward, its uncertainty, and their sum, [N] each."""

    mean: jax.Array
    sigma: jax.Array
    ucb: jax.Array


@partial(jax.jit, static_argnames=("config", "feature_dim"))
def init(key: jax.Array, config: BanditConfig, feature_dim: int) -> BanditState:
    """Returns a bandit that has seen nothing: random weights, U = lambda_, an empty buffer."""
    dtype = jnp.result_type(float)
    params = Surrogate(config.hidden, config.init).init(key, jnp.zeros((1, feature_dim), dtype))["params"]
    diagonal = jax.tree.map(lambda leaf: jnp.full_like(leaf, config.lambda_), params)
    return BanditState(
        params=params,
        initial_params=params,
        posterior=diagonal if config.posterior == "diagonal" else None,
        features=jnp.zeros((config.capacity, feature_dim), dtype),
        rewards=jnp.zeros((config.capacity,), dtype),
        count=jnp.zeros((), jnp.int32),
        picks=jnp.zeros((), jnp.int32),
    )


@jax.jit
def observe(state: BanditState, features: jax.Array, rewards: jax.Array) -> BanditState:
    """Appends m evaluated arms to the buffer; once it is full the oldest rows are replaced.

    Args:
      state: the bandit.
      features: [m, D] of the evaluated arms.
      rewards: [m], finite.

    Raises:
      ValueError: shapes that do not fit the buffer or each other.
    """
    capacity = state.features.shape[0]
    _check_rows(state, features)
    m = features.shape[0]
    if rewards.shape != (m,):
        raise ValueError(f"rewards have shape {rewards.shape}, expected ({m},) beside {m} feature rows")
    if m > capacity:
        raise ValueError(f"{m} observations at once do not fit a buffer of capacity {capacity}")
    rows = (state.count + jnp.arange(m)) % capacity
    return dataclasses.replace(
        state,
        features=state.features.at[rows].set(features.astype(state.features.dtype)),
        rewards=state.rewards.at[rows].set(rewards.astype(state.rewards.dtype)),
        count=state.count + m,
    )


@jax.jit
def fit(state: BanditState, config: BanditConfig) -> BanditState:
    """Retrains the surrogate from its initial weights on everything observed.

    `fit_steps` full-batch steps of Adam on the mean squared error, with lambda_ / n times the weights added to the
    gradient (L2, not decoupled decay), inputs standardised over the observed rows; as coded in INSTINCT
    (`NeuralTSDiag.train`), but for `principal_axes`. With nothing observed the initial weights come back.
    """
    observed = _observed(state)
    n = jnp.maximum(jnp.sum(observed), 1)
    params = train(
        state.initial_params,
        jnp.where(observed[:, None], _standardizer(state, config)(state.features), 0),
        jnp.where(observed, state.rewards, 0),
        observed / n,
        steps=config.fit_steps,
        learning_rate=config.learning_rate,
        decay=jnp.where(observed[0], config.lambda_ / n, 0),
        principal_axes=config.principal_axes,
    )
    return dataclasses.replace(state, params=params)


@jax.jit
def score(state: BanditState, features: jax.Array, config: BanditConfig) -> Scores:
    """Returns the UCB of every arm, f(x) + sigma(x), with the current weights and the posterior of `config`.

    O(N D (hidden + capacity)) operations for one hidden layer, the diagonal posterior without capacity.

    Args:
      state: the bandit.
      features: [N, D] of the arms, not standardised.
      config: the bandit's.

    Raises:
      ValueError: features of another width than the bandit's.
    """
    _check_rows(state, features)
    standardize = _standardizer(state, config, blind=_blind(state, config))
    if config.posterior == "diagonal":
        variance = posterior.diagonal(state.posterior)
    else:
        observed = _observed(state)[:, None]
        _, (inputs, slopes) = surrogate.factors(state.params, jnp.where(observed, standardize(state.features), 0))
        seen = Factors(inputs, [jnp.where(observed, slope, 0) for slope in slopes])  # the gradient of padding is 0
        variance = posterior.exact(seen, config.lambda_)
    n = features.shape[0]
    rows = min(n, CHUNK)
    # The last chunk reaches back into the one before, so all have one shape; its rows known already are left out below.
    starts = jnp.minimum(jnp.arange(0, n, CHUNK), n - rows)

    def chunk(start: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = standardize(jax.lax.dynamic_slice_in_dim(features, start, rows).astype(state.features.dtype))
        mean, gradients = surrogate.factors(state.params, x)
        return mean, jnp.sqrt(config.lambda_ * config.nu * variance(gradients))

    def join(parts: jax.Array) -> jax.Array:
        return jnp.concatenate([parts[:-1].reshape(-1), parts[-1, len(starts) * rows - n :]])

    mean, sigma = map(join, jax.lax.map(chunk, starts))
    return Scores(mean, sigma, mean + sigma)


def draw(key: jax.Array, scores: Scores) -> jax.Array:
    """Draws from Normal(mean, sigma) for each arm, [N], independent between arms (INSTINCT's style "ts")."""
    return scores.mean + scores.sigma * jax.random.normal(key, scores.mean.shape, scores.mean.dtype)


@jax.jit
def choose(
    state: BanditState, features: jax.Array, available: jax.Array, config: BanditConfig, key: jax.Array | None = None
) -> jax.Array:
    """Returns the available arm with the highest UCB, or with the highest draw ("thompson"); -1 when none is available.

    Args:
      state: the bandit.
      features: [N, D].
      available: [N] bool; evaluated arms are to be False.
      config: the bandit's.
      key: of this choice's draws, for "thompson" alone.

    Raises:
      ValueError: shapes that do not fit, or "thompson" without a key.
    """
    return _best(score(state, features, config), available, config, key)


@jax.jit
def update_posterior(state: BanditState, feature: jax.Array, config: BanditConfig) -> BanditState:
    """Counts the pick of an arm with this feature row [D]; the diagonal U grows by its g * g, g of the current weights.

    The exact posterior follows from what is observed and has nothing to update.
    """
    _check_rows(state, feature[None, :])
    u = state.posterior
    if config.posterior == "diagonal":
        standardize = _standardizer(state, config, blind=_blind(state, config))
        _, gradient = surrogate.factors(state.params, standardize(feature[None, :].astype(state.features.dtype)))
        u = posterior.add_square(u, gradient)
    return dataclasses.replace(state, posterior=u, picks=state.picks + 1)


@jax.jit
def step(
    state: BanditState, features: jax.Array, available: jax.Array, config: BanditConfig, key: jax.Array | None = None
) -> tuple[BanditState, jax.Array, Scores]:
    """Does one iteration of the bandit in one dispatch: fit, score all arms, choose, update the posterior for the choice.

    The caller evaluates the arm, takes it out of the running with `retire`, and hands its reward to `observe`.

    Args:
      state: the bandit.
      features: [N, D].
      available: [N] bool.
      config: the bandit's.
      key: of this choice's draws, for "thompson" alone.

    Returns:
      The new state, the index of the chosen arm ([] int32, -1 and the posterior unchanged when none is available), and
      the scores the choice was made by.

    Raises:
      ValueError: shapes that do not fit, or "thompson" without a key.
    """
    if config.blind_first_pick:
        state = jax.lax.cond(state.picks == 0, lambda state: state, lambda state: fit(state, config), state)
    else:
        state = fit(state, config)
    scores = score(state, features, config)
    arm = _best(scores, available, config, key)
    picked = update_posterior(state, features[jnp.maximum(arm, 0)], config)
    return jax.tree.map(lambda new, old: jnp.where(arm >= 0, new, old), picked, state), arm, scores


def retire(available: jax.Array, arms: jax.Array, config: BanditConfig) -> jax.Array:
    """Returns the mask [N] of arms that may still be picked once `arms` [m] (indices) are evaluated."""
    return available if config.repick else available.at[arms].set(False)


def promising(state: BanditState, scores: Scores, available: jax.Array, width: float = 8.0) -> jax.Array:
    """Returns whether mean + width sigma of some available arm is above the best reward in the buffer, [] bool.

    False is the posterior's reason to stop early: by its own account nothing better is left. nu is set for good choices
    and not for calibration: with the default one, errors of the mean measured 1 to 5 sigma on functions of 64 to 1,024
    features. One sigma stops far too early there; eight cost 0.03 of the best reward at most, and may never stop.
    """
    best = jnp.max(jnp.where(_observed(state), state.rewards, -jnp.inf))
    return jnp.any(available & (scores.mean + width * scores.sigma > best))


def exploration_ratio(scores: Scores, available: jax.Array) -> jax.Array:
    """Returns mean sigma over mean |predicted reward| of the available arms, []; 0 when none is available.

    Far above 1 the choice ignores what was learned and only explores; far below 1 it only exploits.
    """
    sigma, mean = (jnp.sum(jnp.where(available, jnp.abs(part), 0)) for part in (scores.sigma, scores.mean))
    return sigma / jnp.maximum(mean, jnp.finfo(mean.dtype).tiny)


def _best(scores: Scores, available: jax.Array, config: BanditConfig, key: jax.Array | None) -> jax.Array:
    if available.shape != scores.ucb.shape:
        raise ValueError(f"the mask of available arms has shape {available.shape}, expected {scores.ucb.shape}")
    values = scores.ucb
    if config.posterior == "thompson":
        if key is None:
            raise ValueError("the posterior 'thompson' has no key to draw with, expected a PRNG key")
        values = draw(key, scores)
    arm = jnp.argmax(jnp.where(available, values, -jnp.inf)).astype(jnp.int32)
    return jnp.where(jnp.any(available), arm, -1)


def _observed(state: BanditState) -> jax.Array:
    return jnp.arange(state.features.shape[0]) < state.count  # [C]


def _blind(state: BanditState, config: BanditConfig) -> jax.Array | bool:
    return config.blind_first_pick and state.picks == 0


def _standardizer(
    state: BanditState, config: BanditConfig, blind: jax.Array | bool = False
) -> Callable[[jax.Array], jax.Array]:
    """Returns (features - mean) / std over the observed rows as a function; no change when there are none, or when
    blind."""
    observed = _observed(state)
    n = jnp.sum(observed)
    # Sums run over differences from one observed row, so a constant dimension has a std of exactly 0 in float32 too.
    origin = jnp.where(n > 0, state.features[0], 0.0)
    offsets = jnp.where(observed[:, None], state.features - origin[None, :], 0.0)
    offset = jnp.sum(offsets, axis=0) / jnp.maximum(n, 1)
    deviations = jnp.where(observed[:, None], offsets - offset[None, :], 0.0)
    std = jnp.sqrt(jnp.sum(deviations**2, axis=0) / jnp.maximum(n - 1, 1))  # n - 1 as torch.std, which INSTINCT calls
    if config.floor_std:
        std = jnp.where(std > STD_FLOOR, std, 1.0)
    else:
        # INSTINCT's 1e-30 squared is outside float32, and an infinite U would spoil every later score.
        std += 1e-30 if std.dtype == jnp.float64 else 1e-15
    unchanged = (n == 0) | blind
    mean, std = jnp.where(unchanged, 0.0, origin + offset), jnp.where(unchanged, 1.0, std)
    return lambda features: (features - mean[None, :]) / std[None, :]


def _check_rows(state: BanditState, features: jax.Array) -> None:
    width = state.features.shape[1]
    if features.ndim != 2 or features.shape[1] != width:
        raise ValueError(f"features have shape {features.shape}, expected (rows, {width})")
