"""Random tiny models in the Hugging Face format, with hyper-parameters as far from the defaults as they go."""

from typing import Any

import pytest

SHAPE = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 38,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-3,
    "bos_token_id": 1,
    "eos_token_id": [2, 7],
    "pad_token_id": 0,
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
SLIDES = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"head_dim": 10, "rope_parameters": THETA, "tie_word_embeddings": False}),
    "llama-llama3": ("Llama", {"head_dim": 6, "rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama-linear": (
        "Llama",
        {"num_key_value_heads": 1, "rope_parameters": {"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0}},
    ),
    "mistral": ("Mistral", {"head_dim": 8, "rope_parameters": THETA, "sliding_window": 4}),
    "mistral-full": ("Mistral", {"rope_parameters": THETA, "sliding_window": None, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", {"rope_parameters": THETA, "tie_word_embeddings": True}),
    "qwen2-sliding": ("Qwen2", {"rope_parameters": THETA, **SLIDES}),
    "qwen3": ("Qwen3", {"head_dim": 10, "rope_parameters": THETA, "tie_word_embeddings": False}),
}


def build(name: str) -> Any:
    """A random torch model of one of `VARIANTS`: norms are not ones and biases not zeros, as they are when trained."""
    torch = pytest.importorskip("torch")
    import transformers

    family, specific = VARIANTS[name]
    config = getattr(transformers, f"{family}Config")(**{**SHAPE, **specific})
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if "norm" in path:
                weight.uniform_(0.5, 1.5, generator=generator)
            else:
                weight.normal_(0.0, 0.3, generator=generator)
    return model
