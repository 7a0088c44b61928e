"""A tiny random model whose outputs vary, and a tokenizer of sixty words."""

import jax
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rr_jax.models.config import ModelConfig
from rr_jax.models.hub import LanguageModel
from rr_jax.models.spec import Params, init_params

WORDS = 60


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Ids: 0 unknown, 1 start, 2 end, 3 upwards the words w0, w1, ..."""
    words = ["<unk>", "<s>", "</s>", *(f"w{n}" for n in range(WORDS))]
    core = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def lm(tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    config = ModelConfig(
        family="qwen3",
        vocab_size=WORDS + 3,
        embed_dim=24,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=6,
        ffn_dim=40,
        norm_eps=1e-4,
        rope_theta=500.0,
        tied_embeddings=False,  # a tied model of random weights repeats its last token
        qk_norm="head",
        sliding_window=20,
        max_positions=128,
        bos_token_id=1,
        eos_token_ids=(2,),
    )

    @jax.jit
    def make(key: jax.Array) -> Params:
        params = init_params(key, config)
        # Weights of the usual small size give nearly equal logits: everything but the norms is made larger.
        params["embed"], params["head"] = params["embed"] * 20, params["head"] * 20
        params["layers"] = {k: v if k.endswith("norm") else v * 10 for k, v in params["layers"].items()}
        return params

    return LanguageModel(config, make(jax.random.key(5)), tokenizer)


@pytest.fixture(scope="session")
def prompts() -> list[str]:
    """Eleven prompts of 1 to 26 words in no order of length: eight in the bucket of 16 tokens, three in that of 32."""
    lengths = [5, 26, 1, 17, 9, 3, 22, 5, 12, 6, 7]
    return [" ".join(f"w{(7 * n + 3 * place) % WORDS}" for place in range(size)) for n, size in enumerate(lengths)]
