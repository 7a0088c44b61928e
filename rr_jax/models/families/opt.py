"""OPT: learned positions with two spare rows, LayerNorms, ReLU."""

from typing import Any

from rr_jax.models.config import ModelConfig
from rr_jax.models.families import common
from rr_jax.models.families.tensors import Tensor, linear, norm

ARCHITECTURE = "OPTForCausalLM"
PREFIX = "model."
TENSORS = (
    Tensor("model.decoder.embed_tokens.weight", ("embed",)),
    Tensor("model.decoder.embed_positions.weight", ("positions",)),
    *norm("model.decoder.final_layer_norm", "final_norm"),
    Tensor("lm_head.weight", ("head",), flipped=True),
    *norm("model.decoder.layers.{}.self_attn_layer_norm", "attn_norm"),
    *norm("model.decoder.layers.{}.final_layer_norm", "mlp_norm"),
    *linear("model.decoder.layers.{}.self_attn.q_proj", "q"),
    *linear("model.decoder.layers.{}.self_attn.k_proj", "k"),
    *linear("model.decoder.layers.{}.self_attn.v_proj", "v"),
    *linear("model.decoder.layers.{}.self_attn.out_proj", "o"),
    *linear("model.decoder.layers.{}.fc1", "up"),
    *linear("model.decoder.layers.{}.fc2", "down"),
)
POSITION_OFFSET = 2
NORM_EPS = 1e-5  # fixed in the Hugging Face code
OWN_FIELDS = {
    *("ffn_dim", "word_embed_proj_dim", "activation_function", "enable_bias", "layer_norm_elementwise_affine"),
    *("init_std", "prefix", "output_projection", "_remove_final_layer_norm"),
}


def config_from_hf(hf: dict[str, Any]) -> ModelConfig:
    """Translates config.json. Raises ValueError for a field that changes the computation and is not implemented."""
    fields = common.read_fields(hf, "OPTConfig", OWN_FIELDS)
    if fields["word_embed_proj_dim"] != fields["hidden_size"]:
        common.refuse("word_embed_proj_dim", fields["word_embed_proj_dim"], f"hidden_size, {fields['hidden_size']}")
    if hf.get("_remove_final_layer_norm"):
        common.refuse("_remove_final_layer_norm", True, "False")
    biased = fields["enable_bias"]
    return common.base_config(
        fields,
        "opt",
        names={"ffn_dim": "ffn_dim"},
        norm="layer" if fields["layer_norm_elementwise_affine"] else "plain",
        norm_eps=NORM_EPS,
        positions="learned",
        position_offset=POSITION_OFFSET,
        qkv_bias=biased,
        out_bias=biased,
        mlp_bias=biased,
        gated=False,
        activation=common.activation(fields, "activation_function"),
    )


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """Returns config.json that transformers loads with the same numbers."""
    return {
        **common.token_fields(config, ARCHITECTURE),
        "hidden_size": config.embed_dim,
        "word_embed_proj_dim": config.embed_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "ffn_dim": config.ffn_dim,
        "max_position_embeddings": config.max_positions,
        "activation_function": common.written_activation(config),
        "enable_bias": config.mlp_bias,
        "layer_norm_elementwise_affine": config.norm == "layer",
    }
