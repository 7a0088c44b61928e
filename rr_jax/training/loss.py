"""What an adapter is trained towards: sums over rows, so that devices and batches add up exactly.

A loss says which sets of rows it looks at and gives named terms. It never knows where the rows come from, how many
adapters are trained beside it, or by which optimizer.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax

from rr_jax.models.config import ModelConfig
from rr_jax.models.loss import token_nll
from rr_jax.models.spec import Adapter, Params

Rows = dict[str, jax.Array]  # "tokens", "segment_ids" and "weights", [B, S] each


class Term(NamedTuple):
    """Holds one mean in a loss, as a sum and a count of this device.

    Attributes:
      total, units: scalars; the term is the sum of all devices' totals over the sum of their units.
      weight: what the term counts in the loss; None for one that is logged and not trained on.
    """

    total: jax.Array
    units: jax.Array
    weight: jax.Array | float | None = 1.0


class Loss(Protocol):
    """Computes the loss of one adapter. It is hashable: equal losses compile once."""

    @property
    def rows(self) -> tuple[str, ...]:
        """Returns the names of the sets of rows it looks at."""
        ...

    def numbers(self) -> dict[str, float]:
        """Returns the numbers that are traced, so that other values never recompile."""
        ...

    def static(self) -> "Loss":
        """Returns the loss with every traced number at one fixed value: what a step is compiled for."""
        ...

    def terms(
        self,
        params: Params,
        adapter: Adapter,
        rows: dict[str, Rows],
        config: ModelConfig,
        numbers: dict[str, jax.Array],
    ) -> dict[str, Term]:
        """Returns the terms by name.

        Args:
          params: the weights under the adapter; without it they are the reference model.
          adapter: scaled by alpha / rank.
          rows: the sets of rows named by `rows`.
          numbers: those of `numbers`, as scalars.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """Computes the mean negative log-likelihood of one set of rows, nats a token."""

    name: str

    @property
    def rows(self) -> tuple[str, ...]:
        """Returns the one set of rows."""
        return (self.name,)

    def numbers(self) -> dict[str, float]:
        """Returns nothing: there is no number in it."""
        return {}

    def static(self) -> "Likelihood":
        """Returns the loss itself."""
        return self

    def terms(
        self, params: Params, adapter: Adapter, rows: dict[str, Rows], config: ModelConfig, numbers: dict[str, Any]
    ) -> dict[str, Term]:
        """Returns the term "nll"."""
        return {"nll": Term(*token_nll(params, rows[self.name], config, adapters=adapter))}
