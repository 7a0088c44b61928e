"""NeuralUCB as published, in float64 NumPy: every gradient written out for one arm at a time, Adam from its paper."""

from typing import Any

import jax
import numpy as np

D = 5


def data(n: int, seed: int = 0, width: int = D) -> tuple[np.ndarray, np.ndarray]:
    """Feature rows [n, width] and rewards [n] in [0, 1], float32."""
    rng = np.random.default_rng(seed)
    return (3 + 2 * rng.normal(size=(n, width))).astype(np.float32), rng.uniform(size=n).astype(np.float32)


def network(hidden: tuple[int, ...], width: int = D, seed: int = 0) -> dict[str, Any]:
    """Random parameters, no weight and no bias 0."""
    rng = np.random.default_rng(seed)
    sizes = (width, *hidden, 1)
    return {
        f"layer_{i}": {
            "kernel": rng.normal(size=(sizes[i], sizes[i + 1])) * sizes[i] ** -0.5,
            "bias": rng.normal(size=sizes[i + 1]),
        }
        for i in range(len(sizes) - 1)
    }


def as_float64(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def forward(params: Any, x: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Inputs of each layer, and f(x) [N]."""
    inputs = [x]
    for i in range(len(params)):
        out = inputs[-1] @ params[f"layer_{i}"]["kernel"] + params[f"layer_{i}"]["bias"]
        inputs.append(np.maximum(out, 0))
    return inputs[:-1], out[:, 0]


def gradient(params: Any, x: np.ndarray, upstream: np.ndarray) -> Any:
    """Gradient of sum_i upstream_i f(x_i) with respect to the parameters, by backpropagation."""
    inputs, _ = forward(params, x)
    result, delta = {}, upstream[:, None]
    for i in reversed(range(len(params))):
        result[f"layer_{i}"] = {"kernel": inputs[i].T @ delta, "bias": delta.sum(0)}
        delta = delta @ params[f"layer_{i}"]["kernel"].T * (inputs[i] > 0)
    return result


def jacobian(params: Any, x: np.ndarray) -> np.ndarray:
    """[N, number of weights]: one gradient an arm, leaves in the order of `flat`."""
    return np.array([flat(gradient(params, row[None, :], np.ones(1))) for row in x])


def standardize(evaluated: np.ndarray, x: np.ndarray) -> np.ndarray:
    std = evaluated.std(0, ddof=1)
    return (x - evaluated.mean(0)) / np.where(std > 1e-6, std, 1.0)


def adam(params: Any, x: np.ndarray, rewards: np.ndarray, config: Any) -> Any:
    """Full-batch Adam on standardised rows, L2 in the gradient as in torch."""
    n = len(rewards)
    first, second = jax.tree.map(np.zeros_like, params), jax.tree.map(np.zeros_like, params)
    for t in range(1, config.fit_steps + 1):
        grad = gradient(params, x, 2 * (forward(params, x)[1] - rewards) / n)
        grad = jax.tree.map(lambda g, p: g + config.lambda_ / n * p, grad, params)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grad)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, grad)
        rate, second_bias = config.learning_rate / (1 - 0.9**t), 1 - 0.999**t
        updates = jax.tree.map(lambda m, v, r=rate, b=second_bias: r * m / (np.sqrt(v / b) + 1e-8), first, second)
        params = jax.tree.map(np.subtract, params, updates)
    return params


def fit(params: Any, evaluated: np.ndarray, rewards: np.ndarray, config: Any) -> Any:
    return adam(params, standardize(evaluated, evaluated), rewards, config)


def diagonal_sigma(params: Any, u: Any, x: np.ndarray, config: Any) -> np.ndarray:
    """As coded: sqrt(sum lambda nu g g / U) for each arm, from its gradient."""
    return np.sqrt((config.lambda_ * config.nu * jacobian(params, x) ** 2 / flat(u)).sum(1))


def exact_sigma(params: Any, seen: np.ndarray, x: np.ndarray, config: Any) -> np.ndarray:
    """With U written out and inverted."""
    g, observed = jacobian(params, x), jacobian(params, seen)
    inverse = np.linalg.inv(config.lambda_ * np.eye(g.shape[1]) + observed.T @ observed)
    return np.sqrt(config.lambda_ * config.nu * np.einsum("np,pq,nq->n", g, inverse, g))
