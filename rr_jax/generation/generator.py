"""Defines what evaluation asks: prompts and settings in, texts out, whatever stands behind it.

A generator is a model, what is added to its weights without being merged, and how a batch is decoded. A guard, or a
decoding that many models share, is another `decode`. Knows no task and no run.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from rr_jax.generation.loop import generate_tokens
from rr_jax.generation.text import Decode, generate
from rr_jax.models.config import ModelConfig
from rr_jax.models.hub import LanguageModel
from rr_jax.models.spec import Adapter, Params


@dataclasses.dataclass(frozen=True)
class Generator:
    """Answers prompts with a model.

    Attributes:
      lm: config, weights, tokenizer and chat.
      adapters: what is added to the weights without being merged into them, as in `forward`.
      decode: called as `generation.loop.generate_tokens`.
      cost: metrics of what the answers so far cost beside their tokens; a plain model has none.
    """

    lm: LanguageModel
    adapters: Adapter | None = None
    decode: Decode = generate_tokens
    cost: Callable[[], dict[str, Any]] = dict

    def __call__(self, prompts: Sequence[str], **settings: Any) -> list[str]:
        """Returns one text a prompt; the settings are those of `generation.text.generate`."""
        return generate(self.lm, prompts, adapters=self.adapters, decode=self.decode, **settings)

    @property
    def params(self) -> Params:
        """Returns the weights, without the adapters."""
        return self.lm.params

    @property
    def config(self) -> ModelConfig:
        """Returns the model's static description."""
        return self.lm.config

    @property
    def tokenizer(self) -> Any:
        """Returns the tokenizer."""
        return self.lm.tokenizer

    @property
    def chat(self) -> bool:
        """Returns whether prompts are a user's messages in the chat template."""
        return self.lm.chat

    @property
    def streams(self) -> bool:
        """Returns whether an answer can be shown while it is decoded."""
        return self.decode is generate_tokens and self.adapters is None
