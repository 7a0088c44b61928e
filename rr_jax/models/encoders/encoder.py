"""BERT-type encoders as pure functions: hidden states, class logits, sentence embeddings.

One post-norm encoder for BERT, RoBERTa and DistilBERT, scanned over stacked layers; what tells them apart is in
`EncoderConfig`. Norms, pooled states and logits are float32. Nothing here knows about text, files or the names that
other software gives to weights.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rr_jax.models import layers
from rr_jax.models.layers import ACTIVATIONS
from rr_jax.models.spec import ArraySpec, Params


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Holds all that the forward pass depends on, static like `ModelConfig`.

    Axes: V vocabulary, D embed_dim, L num_layers, H num_heads, F ffn_dim, C classes (labels).

    Attributes:
      max_positions: rows of the table of learned positions.
      type_vocab_size: rows of the table of token types; 0 if the family has none.
      padded_positions: RoBERTa's positions: tokens other than `pad_token_id` are numbered from pad_token_id + 1, and
        the rest have position pad_token_id. Otherwise a token's position is its column.
      head_activation: between the two layers of the classification head.
      labels: the names of the C classes; () for an encoder without a head.
      multi_label: each label has a probability of its own (sigmoid), else they share one (softmax).
    """

    family: str
    vocab_size: int
    embed_dim: int
    num_layers: int
    num_heads: int
    ffn_dim: int
    norm_eps: float
    activation: str
    max_positions: int
    type_vocab_size: int
    pad_token_id: int
    padded_positions: bool = False
    head_activation: str = "tanh"
    labels: tuple[str, ...] = ()
    multi_label: bool = False

    def __post_init__(self) -> None:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim must be a multiple of num_heads, found {self.embed_dim} and {self.num_heads}")

    @property
    def max_tokens(self) -> int:
        """Returns the longest text, in tokens, that the positions reach."""
        return self.max_positions - (self.pad_token_id + 1 if self.padded_positions else 0)


def param_specs(config: EncoderConfig) -> dict[str, Any]:
    """Returns the tree of `ArraySpec` of an encoder's parameters; layers are stacked on a leading axis.

    Axes are named as in `spec.param_specs`, so that one rule of shardings serves decoders and encoders.
    """
    sizes = {
        "layers": config.num_layers,
        "embed": config.embed_dim,
        "heads": config.embed_dim,
        "ffn": config.ffn_dim,
        "vocab": config.vocab_size,
        "positions": config.max_positions,
        "types": config.type_vocab_size,
        "classes": len(config.labels),
    }

    def array(*axes: str, init: str = "normal") -> ArraySpec:
        return ArraySpec(tuple(sizes[axis] for axis in axes), axes, init)

    def linear(name: str, *axes: str) -> dict[str, ArraySpec]:
        return {name: array(*axes), f"{name}_bias": array(*axes[:-2], axes[-1], init="zeros")}

    def norm(name: str, *axes: str) -> dict[str, ArraySpec]:
        return {name: array(*axes, init="ones"), f"{name}_bias": array(*axes, init="zeros")}

    block: dict[str, ArraySpec] = {}
    for name in ("q", "k", "v"):
        block |= linear(name, "layers", "embed", "heads")
    block |= linear("o", "layers", "heads", "embed")
    block |= linear("up", "layers", "embed", "ffn") | linear("down", "layers", "ffn", "embed")
    block |= norm("attn_norm", "layers", "embed") | norm("mlp_norm", "layers", "embed")
    specs: dict[str, Any] = {"embed": array("vocab", "embed"), "positions": array("positions", "embed")}
    specs |= {**norm("embed_norm", "embed"), "layers": block}
    if config.type_vocab_size:
        specs["types"] = array("types", "embed")
    if config.labels:
        specs |= linear("dense", "embed", "embed") | linear("head", "embed", "classes")
    return specs


def encode(
    params: Params,
    tokens: Int[Array, "B S"],
    config: EncoderConfig,
    mask: Bool[Array, "B S"] | None = None,
    type_ids: Int[Array, "B S"] | None = None,
) -> Float[Array, "B S D"]:
    """Computes the states [B, S, D] after the last layer.

    Args:
      params: the tree that `param_specs` describes.
      tokens: [B, S] int32, texts padded on the right with `config.pad_token_id`.
      config: static.
      mask: [B, S] bool, real tokens; None: all are. States of padding mean nothing.
      type_ids: [B, S] int32, the segment of each token; None: all 0.

    Raises:
      ValueError: more tokens than positions, or type ids for a family that has none.
    """
    batch, length = tokens.shape
    if length > config.max_tokens:
        raise ValueError(f"tokens have {length} columns, expected at most {config.max_tokens}: the model's positions")
    x = _embed(params, tokens, config, type_ids)
    real = jnp.ones(tokens.shape, bool) if mask is None else mask.astype(bool)
    visible = jnp.broadcast_to(real[:, None, :], (batch, length, length))

    def block(x: jax.Array, weights: dict[str, jax.Array]) -> tuple[jax.Array, None]:
        return _layer(x, weights, visible, config), None

    x, _ = jax.lax.scan(block, x, params["layers"])
    return x


def classify(
    params: Params,
    tokens: Int[Array, "B S"],
    config: EncoderConfig,
    mask: Bool[Array, "B S"] | None = None,
    type_ids: Int[Array, "B S"] | None = None,
) -> Float[Array, "B C"]:
    """Computes class logits [B, C] float32 from the first token's last state, in the order of `config.labels`.

    Arguments as for `encode`.

    Raises:
      ValueError: the encoder has no classification head, or as for `encode`.
    """
    if not config.labels:
        raise ValueError(f"this {config.family} encoder has no classification head, expected one with labels")
    first = encode(params, tokens, config, mask, type_ids)[:, 0, :]
    pooled = ACTIVATIONS[config.head_activation](layers.linear(first, params["dense"], params["dense_bias"]))
    return layers.linear(pooled, params["head"], params["head_bias"]).astype(jnp.float32)


def probabilities(logits: Float[Array, "B C"], config: EncoderConfig) -> Float[Array, "B C"]:
    """Turns logits [B, C] into probabilities [B, C]: each label's own if `config.multi_label`, else they sum to one."""
    return jax.nn.sigmoid(logits) if config.multi_label else jax.nn.softmax(logits, axis=-1)


def mean_pool(states: Float[Array, "B S D"], mask: Bool[Array, "B S"]) -> Float[Array, "B D"]:
    """Returns the mean [B, D] float32 of the states [B, S, D] where mask [B, S] is set; zeros where it is set nowhere."""
    weights = mask.astype(jnp.float32)[:, :, None]
    total = jnp.sum(states.astype(jnp.float32) * weights, axis=1)
    return total / jnp.maximum(jnp.sum(weights, axis=1), 1.0)


def sentence_embedding(
    params: Params,
    tokens: Int[Array, "B S"],
    config: EncoderConfig,
    mask: Bool[Array, "B S"],
    *,
    normalize: bool,
) -> Float[Array, "B D"]:
    """Returns mean-pooled states [B, D] float32, of length one if `normalize` (static), as sentence-transformers'
    MiniLM does.

    Other arguments as for `encode`. Source: Reimers and Gurevych, Sentence-BERT (2019), section 3, MEAN strategy.
    """
    pooled = mean_pool(encode(params, tokens, config, mask), mask)
    if not normalize:
        return pooled
    return pooled / jnp.maximum(jnp.linalg.norm(pooled, axis=-1, keepdims=True), 1e-12)


def _embed(params: Params, tokens: jax.Array, config: EncoderConfig, type_ids: jax.Array | None) -> jax.Array:
    """Returns the normed sum [B, S, D] of the embeddings of tokens, positions and types."""
    if config.padded_positions:
        real = (tokens != config.pad_token_id).astype(jnp.int32)
        positions = jnp.cumsum(real, axis=1) * real + config.pad_token_id
    else:
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None, :], tokens.shape)
    x = params["embed"][tokens] + params["positions"][positions]
    if "types" in params:
        x = x + params["types"][jnp.zeros_like(tokens) if type_ids is None else type_ids]
    elif type_ids is not None:
        raise ValueError(f"type_ids are given, but a {config.family} encoder has no token types")
    return layers.layer_norm(x, params["embed_norm"], params["embed_norm_bias"], config.norm_eps)


def _layer(x: jax.Array, weights: dict[str, jax.Array], visible: jax.Array, config: EncoderConfig) -> jax.Array:
    """Applies one post-norm layer to x [B, S, D]; visible [B, S, S] is which tokens each token sees."""

    def project(x: jax.Array, name: str) -> jax.Array:
        return layers.linear(x, weights[name], weights[f"{name}_bias"])

    def norm(x: jax.Array, name: str) -> jax.Array:
        return layers.layer_norm(x, weights[name], weights[f"{name}_bias"], config.norm_eps)

    heads = (*x.shape[:2], config.num_heads, config.embed_dim // config.num_heads)
    q, k, v = (project(x, name).reshape(heads) for name in ("q", "k", "v"))
    x = norm(x + project(layers.attention(q, k, v, visible), "o"), "attn_norm")
    return norm(x + project(ACTIVATIONS[config.activation](project(x, "up")), "down"), "mlp_norm")
