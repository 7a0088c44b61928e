"""rr_jax: Reveal and Release in JAX. Make a causal language model forget something without the data to forget.

The names below are imported when they are first used: importing JAX takes seconds, which `rr-jax --help` need not wait.
"""

import logging
import os
from typing import TYPE_CHECKING

from rr_jax.lazy import names_of

if TYPE_CHECKING:
    from rr_jax.generation.text import generate
    from rr_jax.models.decoder import forward
    from rr_jax.models.hub import LanguageModel, save
    from rr_jax.models.reading import Progress, Shardings
    from rr_jax.runs.loop import load_round
    from rr_jax.runs.saved import load_run
    from rr_jax.studies.experiment import run

# That there is no torch is as it should be here; transformers says so once, when it is first imported. Everything else
# that it has to say comes through.
logging.getLogger("transformers").addFilter(lambda record: "PyTorch was not found" not in str(record.msg))

__version__ = "0.1.0"
__all__ = ["LanguageModel", "__version__", "forward", "generate", "load", "load_round", "load_run", "run", "save"]
__getattr__, __dir__ = names_of(__name__, __file__)


def load(
    source: str | os.PathLike[str],
    dtype: str = "float32",
    revision: str | None = None,
    chat: bool | None = False,
    shardings: "Shardings | None" = None,
    progress: "Progress | None" = None,
) -> "LanguageModel":
    """Loads a model as `rr_jax.models.load` does; "testbed" is the one that is shipped, "./testbed" a folder."""
    from rr_jax.models import hub
    from rr_jax.testbed import BASE

    return hub.load(BASE if source == "testbed" else source, dtype, revision, chat, shardings, progress)
