"""Grid points of scaling coefficients, decoded in one call: what a surface of task metrics is drawn with.

A task measures one model at a time and asks each the same prompts. So the models of all points share their decoding:
a batch is decoded for all of them when the first asks for it, in one compiled call that maps over the strengths alone,
and the others are reported. Weights are never merged. Knows nothing of tasks and text.

Axes: P points, B batch, N new tokens.
"""

import hashlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rr_jax.generation.generator import Generator
from rr_jax.generation.loop import Generated, generate_tokens
from rr_jax.generation.sampling import Sampling
from rr_jax.generation.text import Decode
from rr_jax.lora.algebra import at_strengths
from rr_jax.models.config import ModelConfig
from rr_jax.models.hub import LanguageModel
from rr_jax.models.spec import Adapter, Params


def generators_at(
    lm: LanguageModel,
    points: Any,
    *,
    forget: Adapter,
    retain: Adapter | None,
    before: Adapter | None = None,
    strategy: str = "vmap",
) -> list[Generator]:
    """Returns, for each p, a generator of `lm + before + points[p, 0] * forget + points[p, 1] * retain`, never merged.

    Args:
      lm: the model before all of it.
      points: [P, 2].
      forget, retain, before: as for `dynamics.surface.loss_surface`.
      strategy: "vmap" decodes all points together, P times the rows and the cache; "map" in turn, for a CPU.
    """
    strengths = jnp.asarray(points, jnp.float32)
    known: dict[str, Any] = {}

    def decoding_of(index: int) -> Decode:
        def decode(
            params: Params,
            tokens: Any,
            mask: Any,
            keys: jax.Array,
            config: ModelConfig,
            sampling: Sampling,
            **asked: Any,
        ) -> Generated:
            asked.pop("adapters")  # the point's own, which are among those of all
            name = _digest((tokens, mask, jax.random.key_data(keys), sampling, asked))
            if name not in known:
                found = _decode_all(
                    params, before, forget, retain, strengths, tokens, mask, keys, config, sampling, strategy=strategy,
                    **asked,
                )  # fmt: skip
                known[name] = jax.device_get(found)
            its: Generated = jax.tree.map(lambda leaf: leaf[index], known[name])
            return its

        return decode

    return [
        Generator(lm, adapters=at_strengths(before, forget, retain, point), decode=decoding_of(index))
        for index, point in enumerate(np.asarray(points, np.float32))
    ]


@partial(jax.jit, static_argnames=("strategy", "max_new_tokens"))
def _decode_all(
    params: Params,
    before: Adapter | None,
    forget: Adapter,
    retain: Adapter | None,
    points: jax.Array,
    *asked: Any,
    strategy: str,
    max_new_tokens: int,
    **more: Any,
) -> Generated:
    """Runs `generate_tokens` at each of the points [P, 2]; all leaves have a leading axis P."""

    def one(point: jax.Array) -> Generated:
        adapters = at_strengths(before, forget, retain, point)
        return generate_tokens(params, *asked, max_new_tokens=max_new_tokens, adapters=adapters, **more)

    found: Generated = jax.vmap(one)(points) if strategy == "vmap" else jax.lax.map(one, points)
    return found


def _digest(tree: Any) -> str:
    """Names what a batch is decoded from: equal for equal arrays of equal shapes, and plain values."""
    leaves, shape = jax.tree.flatten(tree)
    found = hashlib.sha256(str(shape).encode())
    for leaf in leaves:
        array = np.asarray(leaf)
        found.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return found.hexdigest()
