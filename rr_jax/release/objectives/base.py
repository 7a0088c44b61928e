"""The base class of objectives: a section of the configuration that is also the loss of the forget adapter.

An objective says which rows it looks at, its loss, what else is trained beside the forget adapter, and what a trained
adapter adds to the weights at a strength. It never knows where the rows come from, the retain adapter's place, or rounds.
"""

import abc
from typing import ClassVar, Self

import jax

from rr_jax.lora.adapter import scale_adapter
from rr_jax.models.config import ModelConfig
from rr_jax.models.loss import token_nll
from rr_jax.models.spec import Adapter, Params
from rr_jax.section import Section
from rr_jax.training.loss import Loss, Rows, Term

FORGET, RETAIN = "forget", "retain"  # sets of rows, and the adapters trained on them


class Objective(Section, abc.ABC):
    """Defines one way to train the forget adapter and to apply it. A subclass gives `terms`, and `change` if it subtracts.

    Fields that are numbers (float) are traced: a sweep over them compiles once.

    Attributes:
      no_surface: why its strengths span no surface around the model before the round; None where they do.
      exports: whether the change of the weights can be written as a model or an adapter.
      stacks: whether several trainings can be one compiled step.
    """

    name: str
    no_surface: ClassVar[str | None] = None
    exports: ClassVar[bool] = True
    stacks: ClassVar[bool] = True

    @property
    def rows(self) -> tuple[str, ...]:
        """Returns the sets of rows that the loss looks at, among "forget" and "retain"."""
        return (FORGET,)

    def companions(self) -> dict[str, Loss]:
        """Returns further adapters that are trained in the same step, and their losses."""
        return {}

    def numbers(self) -> dict[str, float]:
        """Returns the fields that are traced."""
        return {key: value for key, value in self if isinstance(value, float)}

    def static(self) -> Self:
        """Returns what a step is compiled for: each number is 1, or 0 where it switches something off."""
        return self.model_copy(update={key: float(value != 0.0) for key, value in self.numbers().items()})

    @abc.abstractmethod
    def terms(
        self,
        params: Params,
        adapter: Adapter,
        rows: dict[str, Rows],
        config: ModelConfig,
        numbers: dict[str, jax.Array],
    ) -> dict[str, Term]:
        """Returns the terms of the loss, as `rr_jax.training.loss.Loss` says."""

    def change(self, trained: dict[str, Adapter], strength: float, scale: float) -> Adapter:
        """Returns what is added to the weights, in factor form; by default the forget adapter, whose loss forgets.

        Args:
          trained: "forget", and the companions.
          strength: 1 is the method as published.
          scale: alpha / rank of the adapters.
        """
        return scale_adapter(trained[FORGET], strength * scale)


def retain_term(
    params: Params, adapter: Adapter, rows: dict[str, Rows], config: ModelConfig, weight: jax.Array
) -> dict[str, Term]:
    """Returns the weighted mean NLL of the retain rows under the forget adapter; nothing where there are none."""
    if RETAIN not in rows:
        return {}
    return {"retain_nll": Term(*token_nll(params, rows[RETAIN], config, adapters=adapter), weight)}
