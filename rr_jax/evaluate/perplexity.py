"""Perplexity of packed rows under a model: exp of the mean negative log-likelihood of a weighted token.

Token perplexity of separate samples, with no sliding window: comparable between models that share a tokenizer, not
with word perplexity. Knows packed rows, never texts or tokenizers.
"""

import math

import jax
import numpy as np

from rr_jax.data.batches import in_order
from rr_jax.data.packing import Packed
from rr_jax.evaluate.metric import Metric, ratio_of
from rr_jax.models.config import ModelConfig
from rr_jax.models.loss import Batch, segment_nll, token_nll
from rr_jax.models.spec import Adapter, Params

_batch_nll = jax.jit(token_nll)  # the config is a static pytree: one compilation for each model and batch shape


@jax.jit
def _batch_and_segments(
    params: Params, batch: Batch, config: ModelConfig, adapters: Adapter | None
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    whole = token_nll(params, batch, config, adapters=adapters)
    return *whole, *segment_nll(params, batch, config, adapters=adapters)


def mean_nll(
    params: Params, packed: Packed, config: ModelConfig, *, adapters: Adapter | None = None, batch_size: int = 8
) -> float:
    """Returns the mean NLL in nats, weighted by `packed.weights`; batches are summed in float64 before the one
    division.

    The rows are taken in order, `batch_size` at a time; the last batch is filled up with empty rows of no weight.

    Raises:
      ValueError: when no token of the rows has a weight.
    """
    total, weight = 0.0, 0.0
    for batch in in_order(packed, batch_size):
        batch_total, batch_weight = jax.device_get(_batch_nll(params, batch, config, adapters=adapters))
        total, weight = total + float(batch_total), weight + float(batch_weight)
    return _mean(total, weight, packed)


def nll_metric(
    params: Params, packed: Packed, config: ModelConfig, *, adapters: Adapter | None = None, batch_size: int = 8
) -> Metric:
    """Returns `mean_nll` with its standard error over texts, the packed segments that have a weighted token.

    Args, Raises: as `mean_nll`.
    """
    total, weight = 0.0, 0.0
    sums, weights = [], []
    for batch in in_order(packed, batch_size):
        found = jax.device_get(_batch_and_segments(params, batch, config, adapters))
        total, weight = total + float(found[0]), weight + float(found[1])
        counted = found[3] > 0
        sums.append(found[2][counted])
        weights.append(found[3][counted])
    value = _mean(total, weight, packed)
    return ratio_of(np.concatenate(sums).tolist(), np.concatenate(weights).tolist(), value=value)


def _mean(total: float, weight: float, packed: Packed) -> float:
    if weight <= 0.0:
        raise ValueError(f"the {len(packed.tokens)} rows have no weighted token, expected at least one")
    return total / weight


def perplexity(mean_nll: float) -> float:
    """Returns exp of a mean NLL in nats; infinite where that overflows, as for a model that has been destroyed."""
    try:
        return math.exp(mean_nll)
    except OverflowError:
        return math.inf
