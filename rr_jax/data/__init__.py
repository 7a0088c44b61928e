"""Texts from files and hubs, packed into rows of fixed shape and taken in batches."""

from typing import TYPE_CHECKING

from rr_jax.lazy import names_of

if TYPE_CHECKING:
    from rr_jax.data.batches import in_order, take_batch
    from rr_jax.data.packing import Example, Packed, encode_prompt, first_rows, pack_examples
    from rr_jax.data.padding import TokenBatch, token_batches
    from rr_jax.data.sources import load_texts

__all__ = [
    "Example",
    "Packed",
    "TokenBatch",
    "encode_prompt",
    "first_rows",
    "in_order",
    "load_texts",
    "pack_examples",
    "take_batch",
    "token_batches",
]
__getattr__, __dir__ = names_of(__name__, __file__)
