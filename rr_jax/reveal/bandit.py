"""NeuralUCB over a fixed pool of arms: a small network predicts rewards, a diagonal posterior says how unsure it is.

Everything here is a pure function of arrays with static shapes, so one bandit iteration (`step`) is one dispatch and
nothing recompiles as observations arrive. This module must never know what an arm is: it sees feature rows and rewards,
no language model, no text, no file.

Sources: INSTINCT (Lin et al., ICML 2024; `NeuralTSDiag` with style "ucb" in xqlin98/INSTINCT) and NeuralUCB (Zhou et
al., ICML 2020; `learner_diag.py` in uclaml/NeuralUCB). Where INSTINCT's code and this module differ, on purpose:

- INSTINCT picks its first arm with an untrained network and raw features. Here `step` fits before it scores, so the
  initial observations inform the first pick.
- INSTINCT divides by std + 1e-30, which explodes for other arms when a dimension is constant over the evaluated ones.
  Here a dimension whose std is below 1e-6 is centred and left unscaled.
- INSTINCT may pick an evaluated arm again. Here the caller's mask of available arms excludes them.
- Networks start variance-scaled rather than with all weights and biases from N(0, 1) (`init="unit_normal"`), which puts
  the first predictions and sigmas far above rewards in [0, 1]; nu is smaller for the same reason.
- INSTINCT computes in float64 and scores a random 1,000 of its 10,000 arms; here float32 and all arms.

As coded there and kept: nu inside the square root, no 1/width factor, U updated for the picked arm only and never
rebuilt, so the initial observations never enter it and it mixes gradients of differently trained weights; rewards are
not standardised; each fit restarts from the initial weights.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

Init = Literal["scaled", "unit_normal"]
STD_FLOOR = 1e-6
# float32 throughout, also where the default matmul would round to bfloat16 (TPU) or TF32 (GPU): the network is tiny.
PRECISION = jax.lax.Precision.HIGHEST


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class BanditConfig:
    """What a bandit depends on besides its data; hashable and static under `jit`.

    Attributes:
      hidden: width of the surrogate's one hidden layer.
      capacity: rows of the replay buffer; no smaller than the evaluations planned, or the oldest are forgotten.
      fit_steps: Adam steps of each fit (INSTINCT's scripts: 1,000).
      init: "scaled" (weights of variance 1/fan_in, zero biases) or "unit_normal" (INSTINCT: all of them N(0, 1)).
      nu: exploration, inside the square root of sigma (INSTINCT's scripts: 1, with unit_normal).
      lambda_: initial value of the posterior U, and the L2 weight divided by the number of observations. U is summed in
        float32: keep lambda_ at 1e-3 or more.
      learning_rate: Adam's.
    """

    hidden: int = 100
    capacity: int = 256
    fit_steps: int = 300
    init: Init = "scaled"
    nu: float = 1e-3
    lambda_: float = 0.1
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("hidden", "capacity", "fit_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"bandit {name} is {getattr(self, name)}, expected a positive integer")
        for name in ("lambda_", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"bandit {name} is {getattr(self, name)}, expected a number above 0")
        if not self.nu >= 0:
            raise ValueError(f"bandit nu is {self.nu}, expected 0 or more")
        if self.init not in get_args(Init):
            raise ValueError(f"bandit init is {self.init!r}, expected one of {', '.join(get_args(Init))}")


class Surrogate(nn.Module):
    """f: [..., D] -> [...], Dense(hidden) - relu - Dense(1). Parameters {hidden, output}: {kernel, bias}."""

    hidden: int
    initialization: Init

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.initialization == "scaled":
            kernel_init, bias_init = nn.initializers.lecun_normal(), nn.initializers.zeros
        else:
            kernel_init = bias_init = nn.initializers.normal(1.0)
        options = {"kernel_init": kernel_init, "bias_init": bias_init, "precision": PRECISION}
        x = nn.relu(nn.Dense(self.hidden, name="hidden", **options)(x))
        return nn.Dense(1, name="output", **options)(x)[..., 0]


@flax.struct.dataclass
class BanditState:
    """Everything a bandit remembers; a pytree of arrays of fixed shapes (C capacity, D features).

    Attributes:
      params: the surrogate's current weights.
      initial_params: the weights every fit restarts from.
      posterior: U, the diagonal of the design matrix, one positive number for each weight.
      features: [C, D] feature rows as observed, not standardised. Rows from min(count, C) on are padding.
      rewards: [C].
      count: [] int32, observations so far.
    """

    params: Any
    initial_params: Any
    posterior: Any
    features: jax.Array
    rewards: jax.Array
    count: jax.Array


class Scores(NamedTuple):
    """[N] each: predicted reward, its uncertainty, their sum. sigma far above the rewards means blind exploration."""

    mean: jax.Array
    sigma: jax.Array
    ucb: jax.Array


def init(key: jax.Array, config: BanditConfig, feature_dim: int) -> BanditState:
    """A bandit that has seen nothing: random weights, U = lambda_, an empty buffer."""
    params = Surrogate(config.hidden, config.init).init(key, jnp.zeros((1, feature_dim), jnp.float32))["params"]
    return BanditState(
        params=params,
        initial_params=params,
        posterior=jax.tree.map(lambda leaf: jnp.full_like(leaf, config.lambda_), params),
        features=jnp.zeros((config.capacity, feature_dim), jnp.float32),
        rewards=jnp.zeros((config.capacity,), jnp.float32),
        count=jnp.zeros((), jnp.int32),
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
        features=state.features.at[rows].set(features.astype(jnp.float32)),
        rewards=state.rewards.at[rows].set(rewards.astype(jnp.float32)),
        count=state.count + m,
    )


@jax.jit
def fit(state: BanditState, config: BanditConfig) -> BanditState:
    """Retrains the surrogate from its initial weights on everything observed.

    `fit_steps` full-batch steps of Adam on the mean squared error, with lambda_ / n times the weights added to the
    gradient (L2, not decoupled decay), inputs standardised over the observed rows; as coded in INSTINCT
    (`NeuralTSDiag.train`). With nothing observed the initial weights come back.
    """
    observed = _observed(state)
    n = jnp.sum(observed)
    inputs = jnp.where(observed[:, None], _standardize(state, state.features), 0.0)
    weights = observed / jnp.maximum(n, 1)
    network = Surrogate(config.hidden, config.init)
    optimizer = optax.chain(
        optax.add_decayed_weights(jnp.where(n > 0, config.lambda_ / jnp.maximum(n, 1), 0.0)),
        optax.adam(config.learning_rate),
    )

    def loss(params: Any) -> jax.Array:
        return jnp.sum(weights * (network.apply({"params": params}, inputs) - state.rewards) ** 2)

    def train(_: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        params, optimizer_state = carry
        updates, optimizer_state = optimizer.update(jax.grad(loss)(params), optimizer_state, params)
        return optax.apply_updates(params, updates), optimizer_state

    start = (state.initial_params, optimizer.init(state.initial_params))
    params, _ = jax.lax.fori_loop(0, config.fit_steps, train, start)
    return dataclasses.replace(state, params=params)


@jax.jit
def score(state: BanditState, features: jax.Array, config: BanditConfig) -> Scores:
    """UCB of every arm: f(x) + sigma(x), sigma = sqrt(lambda_ nu sum_j g_j^2 / U_j) with g the gradient of f(x).

    As coded in INSTINCT and NeuralUCB. For one hidden layer the sum factors over the hidden units, so the cost is
    O(N D hidden) and the N x (number of weights) Jacobian is never built. With a = W1 x + b1 and k = w2 [a > 0] the
    gradient is outer(x, k) for W1, k for b1, relu(a) for w2 and 1 for b2.

    Args:
      state: the bandit.
      features: [N, D] of the arms, not standardised.
      config: the bandit's.

    Raises:
      ValueError: features of another width than the bandit's.
    """
    _check_rows(state, features)
    x = _standardize(state, features.astype(jnp.float32))
    mean, active, slope = _forward(state.params, x)
    precision = jax.tree.map(jnp.reciprocal, state.posterior)
    through_hidden = _dot(x**2, precision["hidden"]["kernel"]) + precision["hidden"]["bias"][None, :]
    total = (
        jnp.sum(slope**2 * through_hidden, axis=-1)
        + _dot(active**2, precision["output"]["kernel"])[:, 0]
        + precision["output"]["bias"]
    )
    sigma = jnp.sqrt(config.lambda_ * config.nu * total)
    return Scores(mean, sigma, mean + sigma)


@jax.jit
def choose(state: BanditState, features: jax.Array, available: jax.Array, config: BanditConfig) -> jax.Array:
    """The arm with the highest UCB among the available ones, the first of equals; -1 when none is available.

    Args:
      state: the bandit.
      features: [N, D].
      available: [N] bool; evaluated arms are to be False.
      config: the bandit's.
    """
    return _best(score(state, features, config).ucb, available)


@jax.jit
def update_posterior(state: BanditState, feature: jax.Array, config: BanditConfig) -> BanditState:
    """U + g * g for the chosen arm, g the gradient of f at its standardised feature row [D]."""
    _check_rows(state, feature[None, :])
    network = Surrogate(config.hidden, config.init)
    x = _standardize(state, feature[None, :].astype(jnp.float32))
    gradient = jax.grad(lambda params: network.apply({"params": params}, x)[0])(state.params)
    return dataclasses.replace(state, posterior=jax.tree.map(lambda u, g: u + g * g, state.posterior, gradient))


@jax.jit
def step(
    state: BanditState, features: jax.Array, available: jax.Array, config: BanditConfig
) -> tuple[BanditState, jax.Array, Scores]:
    """One bandit iteration in one dispatch: fit, score all arms, choose, update U for the choice.

    The caller evaluates the arm, clears its entry of `available`, and hands its reward to `observe`.

    Args:
      state: the bandit.
      features: [N, D].
      available: [N] bool.
      config: the bandit's.

    Returns:
      The new state, the index of the chosen arm ([] int32, -1 and U unchanged when none is available), and the scores
      the choice was made by.
    """
    state = fit(state, config)
    scores = score(state, features, config)
    arm = _best(scores.ucb, available)
    updated = update_posterior(state, features[jnp.maximum(arm, 0)], config)
    posterior = jax.tree.map(lambda new, old: jnp.where(arm >= 0, new, old), updated.posterior, state.posterior)
    return dataclasses.replace(state, posterior=posterior), arm, scores


def _best(ucb: jax.Array, available: jax.Array) -> jax.Array:
    if available.shape != ucb.shape:
        raise ValueError(f"the mask of available arms has shape {available.shape}, expected {ucb.shape}")
    arm = jnp.argmax(jnp.where(available, ucb, -jnp.inf)).astype(jnp.int32)
    return jnp.where(jnp.any(available), arm, -1)


def _observed(state: BanditState) -> jax.Array:
    return jnp.arange(state.features.shape[0]) < state.count  # [C]


def _standardize(state: BanditState, features: jax.Array) -> jax.Array:
    """(features - mean) / std over the observed rows; unchanged when there are none."""
    observed = _observed(state)
    n = jnp.sum(observed)
    # Sums run over differences from one observed row, so a constant dimension has a std of exactly 0 in float32 too.
    origin = jnp.where(n > 0, state.features[0], 0.0)
    offsets = jnp.where(observed[:, None], state.features - origin[None, :], 0.0)
    mean = jnp.sum(offsets, axis=0) / jnp.maximum(n, 1)
    deviations = jnp.where(observed[:, None], offsets - mean[None, :], 0.0)
    std = jnp.sqrt(jnp.sum(deviations**2, axis=0) / jnp.maximum(n - 1, 1))  # n - 1 as torch.std, which INSTINCT calls
    std = jnp.where(std > STD_FLOOR, std, 1.0)
    return (features - origin[None, :] - mean[None, :]) / std[None, :]


def _forward(params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """f(x) [N], the hidden activations [N, hidden], and k = df/da [N, hidden]."""
    preactivation = _dot(x, params["hidden"]["kernel"]) + params["hidden"]["bias"][None, :]
    active = jax.nn.relu(preactivation)
    mean = _dot(active, params["output"]["kernel"])[:, 0] + params["output"]["bias"]
    return mean, active, jnp.where(preactivation > 0, params["output"]["kernel"][:, 0][None, :], 0.0)


def _dot(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.matmul(x, y, precision=PRECISION)


def _check_rows(state: BanditState, features: jax.Array) -> None:
    width = state.features.shape[1]
    if features.ndim != 2 or features.shape[1] != width:
        raise ValueError(f"features have shape {features.shape}, expected (rows, {width})")
