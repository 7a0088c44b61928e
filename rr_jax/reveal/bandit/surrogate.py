"""The bandit's network, and the gradients of its output with respect to all weights, in factored form.

The gradient for a dense layer is outer(input of the layer, slope): the slope is the derivative of the output with
respect to the layer's pre-activation. Products of gradients therefore factor by layer, and neither an N x (number of
weights) Jacobian nor a gradient of one arm is ever built. This module must never know what is done with the products.
"""

from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

Init = Literal["scaled", "unit_normal"]
# Full precision, also where the default matmul would round to bfloat16 (TPU) or TF32 (GPU): the network is tiny.
PRECISION = jax.lax.Precision.HIGHEST


class Surrogate(nn.Module):
    """Computes f: [..., D] -> [...] by Dense - relu for each width of `hidden`, then Dense(1).

    Parameters are {layer_0, ..., layer_L}: {kernel [in, out], bias [out]}, in float32, or float64 under
    `jax_enable_x64`. "scaled" draws weights of variance 1/fan_in and zero biases, "unit_normal" all of them from N(0, 1).
    """

    hidden: tuple[int, ...]
    initialization: Init

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for number, width in enumerate((*self.hidden, 1)):
            last = number == len(self.hidden)
            if self.initialization == "scaled":
                bias_init = nn.initializers.zeros
                kernel_init = nn.initializers.zeros if last else nn.initializers.lecun_normal()
            else:
                kernel_init = bias_init = nn.initializers.normal(1.0)
            x = nn.Dense(
                width,
                name=f"layer_{number}",
                kernel_init=kernel_init,
                bias_init=bias_init,
                param_dtype=jnp.result_type(float),
                precision=PRECISION,
            )(x)
            x = x if last else nn.relu(x)
        return x[..., 0]


class Factors(NamedTuple):
    """Holds the gradients of N outputs, a list item a layer: inputs [N, in] and slopes [N, out].

    The gradient of output n is outer(inputs[n], slopes[n]) for a kernel and slopes[n] for a bias.
    """

    inputs: list[jax.Array]
    slopes: list[jax.Array]


def factors(params: Any, x: jax.Array) -> tuple[jax.Array, Factors]:
    """Returns f(x) [N] and the factors of its gradients, for x [N, D]: one pass forward, one back.

    The derivative of relu is 0 at 0, as in jax and torch.
    """
    layers = ordered(params)
    inputs, preactivations = [x], []
    for layer in layers:
        preactivations.append(dot(inputs[-1], layer["kernel"]) + layer["bias"][None, :])
        inputs.append(jax.nn.relu(preactivations[-1]))
    slope = jnp.ones_like(preactivations[-1])
    slopes = [slope]
    for layer, preactivation in zip(layers[:0:-1], preactivations[-2::-1], strict=True):
        slope = jnp.where(preactivation > 0, dot(slope, layer["kernel"].T), 0)
        slopes.append(slope)
    return preactivations[-1][:, 0], Factors(inputs[:-1], slopes[::-1])


def ordered(params: Any) -> list[Any]:
    """Returns the layers' parameters from the first to the output."""
    return [params[f"layer_{number}"] for number in range(len(params))]


def squares(gradients: Factors, weights: Any) -> jax.Array:
    """Returns sum_j weights_j g_j^2 of each gradient g, [N], for weights shaped like the parameters."""
    total = jnp.zeros(gradients.slopes[0].shape[0], gradients.slopes[0].dtype)
    for a, s, weight in zip(*gradients, ordered(weights), strict=True):
        total += jnp.sum(s**2 * (dot(a**2, weight["kernel"]) + weight["bias"][None, :]), axis=-1)
    return total


def norms(gradients: Factors) -> jax.Array:
    """Returns the inner product of each gradient with itself, [N]."""
    total = jnp.zeros(gradients.slopes[0].shape[0], gradients.slopes[0].dtype)
    for a, s in zip(*gradients, strict=True):
        total += (jnp.sum(a**2, axis=-1) + 1) * jnp.sum(s**2, axis=-1)
    return total


def kernel(gradients: Factors, others: Factors) -> jax.Array:
    """Returns the inner product of each gradient with each of the others, [N, M]."""
    total = jnp.zeros((gradients.slopes[0].shape[0], others.slopes[0].shape[0]), gradients.slopes[0].dtype)
    for a, s, b, t in zip(*gradients, *others, strict=True):
        total += (dot(a, b.T) + 1) * dot(s, t.T)
    return total


def dot(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns x @ y in full precision."""
    return jnp.matmul(x, y, precision=PRECISION)
