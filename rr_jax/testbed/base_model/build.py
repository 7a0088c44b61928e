"""From a seed to a folder with the base model: tokenizer, training, saving in bfloat16."""

from pathlib import Path

from rr_jax.models.hub import LanguageModel, load, save
from rr_jax.testbed.base_model.training import Recipe, Report, train, train_tokenizer


def build(out: str | Path, seed: int, recipe: Recipe, report: Report) -> LanguageModel:
    """Trains a base model and writes it as a Hugging Face folder in bfloat16.

    Args:
      out: the folder to write; must not exist or be empty.
      seed: of everything.
      recipe: sizes and phases.
      report: receives lines of progress.

    Returns:
      The language model as it reads from the folder: float32 parameters, rounded to bfloat16.

    Raises:
      ValueError: the folder holds something; known before anything is trained.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder; a model is only written to a new one")
    report(f"tokenizer of {recipe.tokenizer_documents} documents")
    tokenizer = train_tokenizer(seed, recipe)
    config, params = train(seed, recipe, tokenizer, report)
    save(LanguageModel(config, params, tokenizer), out, dtype="bfloat16")
    report(f"wrote {out}")
    return load(out)
