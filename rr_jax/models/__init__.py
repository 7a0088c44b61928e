"""Causal language models and encoders as pure functions of pytrees."""

from typing import TYPE_CHECKING

from rr_jax.lazy import names_of

if TYPE_CHECKING:
    from rr_jax.models.config import ModelConfig, RopeScaling
    from rr_jax.models.decoder import Cache, decode_step, forward, hidden_states, prefill, read_inputs, unembed
    from rr_jax.models.encoders.encoder import EncoderConfig, classify, encode, sentence_embedding
    from rr_jax.models.encoders.hub import Encoder, load_encoder
    from rr_jax.models.hub import LanguageModel, load, save
    from rr_jax.models.loss import row_nll, segment_nll, token_nll
    from rr_jax.models.spec import Adapter, ArraySpec, Params, init_params, linear_shapes, param_specs

__all__ = [
    "Adapter",
    "ArraySpec",
    "Cache",
    "Encoder",
    "EncoderConfig",
    "LanguageModel",
    "ModelConfig",
    "Params",
    "RopeScaling",
    "classify",
    "decode_step",
    "encode",
    "forward",
    "hidden_states",
    "init_params",
    "linear_shapes",
    "load",
    "load_encoder",
    "param_specs",
    "prefill",
    "read_inputs",
    "row_nll",
    "save",
    "segment_nll",
    "sentence_embedding",
    "token_nll",
    "unembed",
]
__getattr__, __dir__ = names_of(__name__, __file__)
