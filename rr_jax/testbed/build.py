"""From a seed to a folder with the base model: tokenizer, training, rounding to bfloat16, saving."""

from pathlib import Path

import jax
import jax.numpy as jnp

from rr_jax.models.hub import LanguageModel, save
from rr_jax.testbed.training import Recipe, Report, train, train_tokenizer


def build(out: str | Path, seed: int, recipe: Recipe, report: Report) -> LanguageModel:
    """Trains a base model and writes it as a Hugging Face folder in bfloat16.

    Args:
      out: the folder to write.
      seed: of everything.
      recipe: sizes and phases.
      report: receives lines of progress.

    Returns:
      The language model as written: bfloat16 parameters.
    """
    report(f"tokenizer of {recipe.tokenizer_documents} documents")
    tokenizer = train_tokenizer(seed, recipe)
    config, params = train(seed, recipe, tokenizer, report)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    lm = LanguageModel(config, rounded, tokenizer)
    save(lm, out)
    report(f"wrote {out}")
    return lm
