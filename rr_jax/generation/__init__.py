"""Sampling from a language model: token choice, the decoding loop, and strings in and out."""

from typing import TYPE_CHECKING

from rr_jax.lazy import names_of

if TYPE_CHECKING:
    from rr_jax.generation.features import last_hidden
    from rr_jax.generation.generator import Generator
    from rr_jax.generation.likelihood import response_nll
    from rr_jax.generation.loop import Generated, generate_tokens
    from rr_jax.generation.prompts import encode_prompts
    from rr_jax.generation.sampling import Sampling, filter_logits, make_sampling, sample_tokens
    from rr_jax.generation.stream import stream_text
    from rr_jax.generation.text import Generation, generate

__all__ = [
    "Generated",
    "Generation",
    "Generator",
    "Sampling",
    "encode_prompts",
    "filter_logits",
    "generate",
    "generate_tokens",
    "last_hidden",
    "make_sampling",
    "response_nll",
    "sample_tokens",
    "stream_text",
]
__getattr__, __dir__ = names_of(__name__, __file__)
