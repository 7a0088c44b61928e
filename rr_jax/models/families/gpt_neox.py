"""GPT-NeoX and Pythia: attention and MLP side by side, partly rotated heads, a projection fused head by head."""

from typing import Any

from rr_jax.models.config import ModelConfig
from rr_jax.models.families import common
from rr_jax.models.families.tensors import Tensor, linear, norm

ARCHITECTURE = "GPTNeoXForCausalLM"
PREFIX = "gpt_neox."
TENSORS = (
    Tensor("gpt_neox.embed_in.weight", ("embed",)),
    *norm("gpt_neox.final_layer_norm", "final_norm"),
    Tensor("embed_out.weight", ("head",), flipped=True),
    *norm("gpt_neox.layers.{}.input_layernorm", "attn_norm"),
    *norm("gpt_neox.layers.{}.post_attention_layernorm", "mlp_norm"),
    *linear("gpt_neox.layers.{}.attention.query_key_value", "q", "k", "v", heads=True),
    *linear("gpt_neox.layers.{}.attention.dense", "o"),
    *linear("gpt_neox.layers.{}.mlp.dense_h_to_4h", "up"),
    *linear("gpt_neox.layers.{}.mlp.dense_4h_to_h", "down"),
)
OWN_FIELDS = {"layer_norm_eps", "use_parallel_residual", "attention_bias", "rotary_pct", "rotary_emb_base"}


def config_from_hf(hf: dict[str, Any]) -> ModelConfig:
    """Translates config.json. Raises ValueError for a field that changes the computation and is not implemented."""
    fields = common.read_fields(hf, "GPTNeoXConfig", OWN_FIELDS)
    biased = fields["attention_bias"]
    return common.base_config(
        fields,
        "gpt_neox",
        norm="layer",
        norm_eps=float(fields["layer_norm_eps"]),
        parallel_residual=fields["use_parallel_residual"],
        qkv_bias=biased,
        out_bias=biased,
        mlp_bias=True,
        gated=False,
    )


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """Returns config.json that transformers loads with the same numbers."""
    share = config.rotated / config.head_dim
    return {
        **common.token_fields(config, ARCHITECTURE),
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.ffn_dim,
        "max_position_embeddings": config.max_positions,
        "hidden_act": common.written_activation(config),
        "layer_norm_eps": config.norm_eps,
        "use_parallel_residual": config.parallel_residual,
        "attention_bias": config.qkv_bias,
        "rope_parameters": {**common.rope_fields(config), "partial_rotary_factor": share},
        "rotary_pct": share,
        "rotary_emb_base": config.rope_theta,
    }
