"""GPT-2: learned positions, LayerNorms, a plain MLP, biases everywhere, one fused projection."""

from typing import Any

from rr_jax.models.config import ModelConfig
from rr_jax.models.families import common
from rr_jax.models.families.tensors import Tensor, linear, norm

ARCHITECTURE = "GPT2LMHeadModel"
PREFIX = "transformer."
TENSORS = (
    Tensor("transformer.wte.weight", ("embed",)),
    Tensor("transformer.wpe.weight", ("positions",)),
    *norm("transformer.ln_f", "final_norm"),
    Tensor("lm_head.weight", ("head",), flipped=True),
    *norm("transformer.h.{}.ln_1", "attn_norm"),
    *norm("transformer.h.{}.ln_2", "mlp_norm"),
    # its linear layers are stored [in, out], as ours are
    *linear("transformer.h.{}.attn.c_attn", "q", "k", "v", flipped=False),
    *linear("transformer.h.{}.attn.c_proj", "o", flipped=False),
    *linear("transformer.h.{}.mlp.c_fc", "up", flipped=False),
    *linear("transformer.h.{}.mlp.c_proj", "down", flipped=False),
)
NAMES = {"embed_dim": "n_embd", "num_layers": "n_layer", "num_heads": "n_head", "max_positions": "n_positions"}
OWN_FIELDS = {
    *NAMES.values(),
    *("n_inner", "activation_function", "layer_norm_epsilon", "scale_attn_weights"),
    *("n_ctx", "reorder_and_upcast_attn", "gradient_checkpointing"),  # harmless
    *(f"summary_{name}" for name in ("type", "use_proj", "activation", "proj_to_labels")),  # of another head
}


def config_from_hf(hf: dict[str, Any]) -> ModelConfig:
    """Translates config.json. Raises ValueError for a field that changes the computation and is not implemented."""
    fields = common.read_fields(hf, "GPT2Config", OWN_FIELDS)
    return common.base_config(
        fields,
        "gpt2",
        names=NAMES,
        ffn_dim=fields["n_inner"] or 4 * fields["n_embd"],
        norm="layer",
        norm_eps=float(fields["layer_norm_epsilon"]),
        positions="learned",
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        gated=False,
        activation=common.activation(fields, "activation_function"),
        attention_scale=None if fields["scale_attn_weights"] else 1.0,
    )


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """Returns config.json that transformers loads with the same numbers."""
    return {
        **common.token_fields(config, ARCHITECTURE),
        **{field: getattr(config, ours) for ours, field in NAMES.items()},
        "n_inner": config.ffn_dim,
        "activation_function": "gelu_new" if config.activation == "gelu_tanh" else common.written_activation(config),
        "layer_norm_epsilon": config.norm_eps,
        "scale_attn_weights": config.attention_scale is None,
    }
