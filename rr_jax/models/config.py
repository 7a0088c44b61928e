"""Everything the forward pass depends on, in one frozen value.

A `ModelConfig` is static: it is hashable, compared by value and may be passed into a jitted function like any other
argument. It knows nothing of Hugging Face: `families/` translates.
"""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Says how rotary frequencies are stretched beyond the pretraining length.

    `kind` is "linear" (every frequency divided by `factor`) or "llama3" (only low frequencies, with a smooth
    transition between the two wavelengths that `low_freq_factor` and `high_freq_factor` define).
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


_CHOICES = {
    "norm": ("rms", "layer", "plain"),
    "norm_place": ("pre", "post", "both"),
    "positions": ("rotary", "learned"),
    "qk_norm": (None, "head", "full"),
    "activation": ("silu", "gelu", "gelu_tanh", "relu"),
}


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Describes a decoder-only transformer. The defaults are those of Llama; families differ in the fields below.

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

    norm: str = "rms"  # RMSNorm; "layer": centred, with a bias; "plain": centred, without parameters
    norm_offset: float = 0.0  # added to the weights of every RMSNorm (Gemma stores weight - 1)
    norm_place: str = "pre"  # of each sublayer's input; "post": of its output; "both"
    parallel_residual: bool = False  # attention and MLP both read the layer's input (GPT-NeoX)

    positions: str = "rotary"  # or "learned": a table added to the embeddings
    position_offset: int = 0  # rows of that table before the first position's (OPT: 2)
    max_positions: int = 2048
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    rotary_dim: int | None = None  # leading entries of each head that are rotated; None: all
    local_rope_theta: float | None = None  # theta of the layers that slide, never scaled; None: that of all layers

    sliding_window: int | None = None  # a token sees itself and the window - 1 tokens before it
    sliding_layers: tuple[bool, ...] | None = None  # which layers have that window; None: all
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: str | None = None  # an RMSNorm of queries and keys: of each "head", or of the "full" projection
    attention_scale: float | None = None  # None: 1 / sqrt(h)
    attention_softcap: float | None = None  # scores become cap * tanh(scores / cap)
    clip_qkv: float | None = None  # queries, keys and values are clipped to +- this

    gated: bool = True  # down(act(gate x) * up x), or down(act(up x))
    activation: str = "silu"
    mlp_bias: bool = False

    embed_scale: float = 1.0
    tied_embeddings: bool = True
    logit_softcap: float | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                raise ValueError(f"{field} is {getattr(self, field)!r}, expected one of {choices}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads must be a multiple of num_kv_heads, found {self.num_heads} and {self.num_kv_heads}"
            )
        if self.positions == "rotary" and (self.rotated % 2 or not 0 < self.rotated <= self.head_dim):
            raise ValueError(
                f"rotary positions need an even number of rotated entries up to head_dim {self.head_dim}, "
                f"found {self.rotated}"
            )
        if self.sliding_layers is not None and len(self.sliding_layers) != self.num_layers:
            raise ValueError(f"sliding_layers names {len(self.sliding_layers)} layers, expected {self.num_layers}")
        if self.sliding_layers is not None and self.sliding_window is None:
            raise ValueError("sliding_layers is given without a sliding_window")

    @property
    def rotated(self) -> int:
        """Returns how many entries of each head carry the rotary position."""
        return self.head_dim if self.rotary_dim is None else self.rotary_dim
