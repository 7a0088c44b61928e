"""How unsure a linear model in the gradients is: v(g) = g^T U^-1 g for a diagonal and for a full matrix U.

Both take gradients in factored form and never build one, nor a matrix with a row for each weight. This module must
never know which gradients enter U or what v is used for.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rr_jax.reveal.bandit import surrogate
from rr_jax.reveal.bandit.surrogate import Factors

Variance = Callable[[Factors], jax.Array]  # gradients of N outputs to v [N]


def diagonal(u: Any) -> Variance:
    """Returns sum_j g_j^2 / u_j for U = diag(u), u positive and shaped like the parameters (as coded in INSTINCT and
    NeuralUCB)."""
    precision = jax.tree.map(jnp.reciprocal, u)
    return lambda gradients: surrogate.squares(gradients, precision)


def add_square(u: Any, gradient: Factors) -> Any:
    """Returns u + g * g for one gradient."""
    layers = zip(surrogate.ordered(u), *gradient, strict=True)
    return {
        f"layer_{number}": {"kernel": layer["kernel"] + a.T**2 * s**2, "bias": layer["bias"] + s[0] ** 2}
        for number, (layer, a, s) in enumerate(layers)
    }


def exact(seen: Factors, lambda_: float) -> Variance:
    """Computes with U = lambda I + sum_i g_i g_i^T over the n gradients `seen`, by way of K, the n x n inner products
    of them.

    g^T U^-1 g = (k(g, g) - k^T (K + lambda I)^-1 k) / lambda, with k the inner products of g with the n (the matrix
    inversion lemma). The subtraction leaves the rounding of k(g, g): where that exceeds lambda, gradients in the span of
    those seen have a variance of the right size and not more. A gradient of 0 changes nothing.
    """
    gram = surrogate.kernel(seen, seen)
    # Eigenvalues rather than a Cholesky factor, which fails when rounding makes K + lambda I indefinite.
    values, vectors = jnp.linalg.eigh(gram)
    weights = 1 / (jnp.maximum(values, 0) + lambda_)
    # U's largest eigenvalue is at most this, so no variance is below k(g, g) over it: rounding never leads to 0.
    largest = lambda_ + jnp.trace(gram)

    def variance(gradients: Factors) -> jax.Array:
        whole = surrogate.norms(gradients)
        along = surrogate.dot(surrogate.kernel(gradients, seen), vectors)
        left = whole - jnp.sum(along**2 * weights[None, :], axis=-1)
        return jnp.maximum(left / lambda_, whole / largest)

    return variance
