"""rr_jax: Reveal and Release in JAX. Make a causal language model forget something without the data to forget."""

import logging
import os

# That there is no torch is as it should be here; transformers says so once, when it is first imported. Everything else
# that it has to say comes through.
logging.getLogger("transformers").addFilter(lambda record: "PyTorch was not found" not in str(record.msg))

from rr_jax.generation.text import generate
from rr_jax.models import hub
from rr_jax.models.hub import LanguageModel, Progress, Shardings, save
from rr_jax.models.transformer import forward
from rr_jax.rounds import load_round, run
from rr_jax.testbed import BASE

__version__ = "0.1.0"
__all__ = ["LanguageModel", "__version__", "forward", "generate", "load", "load_round", "run", "save"]


def load(
    source: str | os.PathLike[str],
    dtype: str = "float32",
    revision: str | None = None,
    chat: bool | None = False,
    shardings: Shardings | None = None,
    progress: Progress | None = None,
) -> LanguageModel:
    """As `rr_jax.models.hub.load`; "testbed" is the model that ships with the package ("./testbed" a folder)."""
    return hub.load(BASE if source == "testbed" else source, dtype, revision, chat, shardings, progress)
