"""Random tiny models in the Hugging Face format, with hyper-parameters as far from the defaults as they go."""

from typing import Any

import pytest

TOKENS = {"vocab_size": 61, "bos_token_id": 1, "eos_token_id": [2, 7], "pad_token_id": 0}
SHAPE = {
    **TOKENS,
    "hidden_size": 24,
    "intermediate_size": 38,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-3,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,  # with head_dim 6 one frequency is kept, one interpolated, one divided
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
THETA = {"rope_type": "default", "rope_theta": 50_000.0}
LINEAR = {"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0}
SLIDES = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}
MIXED = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
GPT2 = {
    **TOKENS,
    "n_embd": 24,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "layer_norm_epsilon": 1e-3,
}
OPT = {
    **TOKENS,
    "hidden_size": 24,
    "word_embed_proj_dim": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "ffn_dim": 38,
    "max_position_embeddings": 62,
}
NEOX = {
    **TOKENS,
    "hidden_size": 24,
    "intermediate_size": 38,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "max_position_embeddings": 64,
    "layer_norm_eps": 1e-3,
}
GEMMA = {**SHAPE, **MIXED, "head_dim": 10, "query_pre_attn_scalar": 7}
PHI3 = {key: value for key, value in SHAPE.items() if key != "num_key_value_heads"}
# Name -> (class name, config). The first variant of a family stands for it where one is enough.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {**SHAPE, "head_dim": 10, "rope_parameters": THETA, "tie_word_embeddings": False}),
    "llama-llama3": ("Llama", {**SHAPE, "head_dim": 6, "rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama-linear": ("Llama", {**SHAPE, "num_key_value_heads": 1, "rope_parameters": LINEAR}),
    "llama-biases": ("Llama", {**SHAPE, "attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"}),
    "mistral": ("Mistral", {**SHAPE, "head_dim": 8, "rope_parameters": THETA, "sliding_window": 4}),
    "mistral-full": (
        "Mistral",
        {**SHAPE, "rope_parameters": THETA, "sliding_window": None, "tie_word_embeddings": True},
    ),
    "qwen2": ("Qwen2", {**SHAPE, "rope_parameters": THETA, "tie_word_embeddings": True}),
    "qwen2-sliding": ("Qwen2", {**SHAPE, "rope_parameters": THETA, **SLIDES}),
    "qwen2-mixed": ("Qwen2", {**SHAPE, "rope_parameters": THETA, **SLIDES, "max_window_layers": 2}),
    "qwen3": ("Qwen3", {**SHAPE, "head_dim": 10, "rope_parameters": THETA, "tie_word_embeddings": False}),
    "qwen3-biases": ("Qwen3", {**SHAPE, "head_dim": 6, "rope_parameters": THETA, "attention_bias": True}),
    "gpt2": ("GPT2", {**GPT2, "n_inner": 38, "activation_function": "gelu_new"}),
    "gpt2-untied": (
        "GPT2",
        {**GPT2, "scale_attn_weights": False, "activation_function": "relu", "tie_word_embeddings": False},
    ),
    "opt": ("OPT", OPT),
    "opt-plain": (
        "OPT",
        {**OPT, "enable_bias": False, "layer_norm_elementwise_affine": False, "activation_function": "gelu"},
    ),
    "gpt_neox": ("GPTNeoX", {**NEOX, "rope_parameters": {**THETA, "partial_rotary_factor": 0.5}}),
    "gpt_neox-sequential": (
        "GPTNeoX",
        {
            **NEOX,
            "use_parallel_residual": False,
            "attention_bias": False,
            "hidden_act": "gelu_fast",
            "rope_parameters": {**LINEAR, "partial_rotary_factor": 0.25},
            "tie_word_embeddings": True,
        },
    ),
    "gemma2": (
        "Gemma2",
        {**GEMMA, "rope_parameters": THETA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "gemma2-uncapped": (
        "Gemma2",
        {
            **GEMMA,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "attention_bias": True,
            "layer_types": ["full_attention"] * 3,
            "hidden_activation": "gelu",
            "tie_word_embeddings": False,
        },
    ),
    "gemma3_text": (
        "Gemma3Text",
        {**GEMMA, "rope_parameters": {"full_attention": LINEAR, "sliding_attention": {**THETA, "rope_theta": 300.0}}},
    ),
    "gemma3_text-pattern": (
        "Gemma3Text",
        {**GEMMA, "layer_types": None, "sliding_window_pattern": 2, "head_dim": 6, "final_logit_softcapping": 5.0},
    ),
    "phi3": ("Phi3", {**SHAPE, "rope_parameters": {**THETA, "partial_rotary_factor": 0.7}, "sliding_window": 4}),
    "phi3-full": ("Phi3", {**PHI3, "rope_parameters": THETA, "tie_word_embeddings": True}),
    "olmo": ("Olmo", {**SHAPE, "rope_parameters": THETA, "clip_qkv": 0.5}),
    "olmo-biases": ("Olmo", {**SHAPE, "rope_parameters": LINEAR, "attention_bias": True, "tie_word_embeddings": True}),
    "olmo2": ("Olmo2", {**SHAPE, "rope_parameters": THETA}),
    "olmo2-tied": ("Olmo2", {**SHAPE, "rope_parameters": LINEAR, "attention_bias": True, "tie_word_embeddings": True}),
}
FIRST = {name.split("-")[0]: name for name in reversed(VARIANTS)}  # family -> its first variant


def build(name: str) -> Any:
    """A random torch model of one of `VARIANTS`: norms are not ones and biases not zeros, as they are when trained."""
    torch = pytest.importorskip("torch")
    import transformers

    class_name, fields = VARIANTS[name]
    config = getattr(transformers, f"{class_name}Config")(**fields)
    model_name = class_name.removesuffix("Text") + ("LMHeadModel" if class_name == "GPT2" else "ForCausalLM")
    model = getattr(transformers, model_name)._from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if "norm" in path or ".ln_" in path:
                shift = -1.0 if "Gemma" in class_name else 0.0  # what is stored is the weight minus one
                weight.uniform_(0.5 + shift, 1.5 + shift, generator=generator)
            else:
                weight.normal_(0.0, 0.3, generator=generator)
    return model
