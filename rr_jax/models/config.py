"""Everything the forward pass depends on, in one frozen value.

A `ModelConfig` is static: it is hashable, compared by value and may be passed into a jitted function like any other
argument. It knows nothing of Hugging Face: `families/` translates.
"""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the pretraining length.

    `kind` is "linear" (every frequency divided by `factor`) or "llama3" (only low frequencies, with a smooth
    transition between the two wavelengths that `low_freq_factor` and `high_freq_factor` define).
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder-only transformer with rotary positions, RMSNorm and a gated MLP.

    Axes: V vocabulary, D embed_dim, L num_layers, H num_heads, K num_kv_heads (H is a multiple of K), h head_dim,
    F ffn_dim.
    """

    family: str
    vocab_size: int
    embed_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_dim: int
    norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None = None
    tied_embeddings: bool = True
    qkv_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None  # a token sees itself and the window - 1 tokens before it
    max_positions: int = 2048
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads must be a multiple of num_kv_heads, found {self.num_heads} and {self.num_kv_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"rotary positions need an even head_dim, found {self.head_dim}")
