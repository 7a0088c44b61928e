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
from rr_jax.models.loss import segment_nll, token_nll
from rr_jax.models.spec import Adapter, Params

_batch_nll = jax.jit(token_nll)  # the config is a static pytree: one compilation for each model and batch shape
_segment_nll = jax.jit(segment_nll)


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
    if weight <= 0.0:
        raise ValueError(f"the {len(packed.tokens)} rows have no weighted token, expected at least one")
    return total / weight


def nll_metric(
    params: Params, packed: Packed, config: ModelConfig, *, adapters: Adapter | None = None, batch_size: int = 8
) -> Metric:
    """Returns `mean_nll` with its standard error over texts, the packed segments that have a weighted token.

    Args, Raises: as `mean_nll`.
    """
    # by its own program: one that gives the texts' sums as well may round the value in another way
    value = mean_nll(params, packed, config, adapters=adapters, batch_size=batch_size)
    sums, weights = [], []
    for batch in in_order(packed, batch_size):
        nll, weight = jax.device_get(_segment_nll(params, batch, config, adapters=adapters))
        sums.append(nll[weight > 0])
        weights.append(weight[weight > 0])
    return ratio_of(np.concatenate(sums).tolist(), np.concatenate(weights).tolist(), value=value)


def perplexity(mean_nll: float) -> float:
    """Returns exp of a mean NLL in nats; infinite where that overflows, as for a model that has been destroyed."""
    try:
        return math.exp(mean_nll)
    except OverflowError:
        return math.inf
