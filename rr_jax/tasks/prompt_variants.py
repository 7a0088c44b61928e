"""What prompt variants of several tasks share: true examples shown before a prompt, as many as leave room.

Knows prompts and lengths; never a task, an adapter or a file.
"""

from collections.abc import Sequence

from rr_jax.data.packing import encode_prompt
from rr_jax.models.hub import LanguageModel

SHOTS = 3  # true examples shown before the question


def fitting(lm: LanguageModel, texts: Sequence[str], prompts: Sequence[str], new_tokens: int) -> tuple[str, int]:
    """Returns as many of the texts, one a line, as fit before the longest prompt, and how many they are."""
    for count in range(len(texts), 0, -1):
        before = "".join(f"{text}\n" for text in texts[:count])
        longest = max(len(encode_prompt(lm.tokenizer, before + prompt, lm.chat)) for prompt in prompts)
        if longest + new_tokens <= lm.config.max_positions:
            return before, count
    return "", 0
