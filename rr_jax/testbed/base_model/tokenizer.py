"""The testbed's tokenizer: byte-level BPE trained on the world's text, with every entity word as one whole token.

Whole tokens make copying a name one step instead of many, which is what lets a tiny model bind entities at all; the
numbers below 100 are whole for the same reason. A whole word is a token together with the space before it; elsewhere
(after a bracket or a new line) it falls back to pieces, and any text decodes to itself because the pieces are bytes.
"""

import re
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from rr_jax.testbed.world.lexicon import ENTITY_WORDS

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
PIECES = 1024
WHOLE_WORDS = (*ENTITY_WORDS, *map(str, range(100)))

# Numbers in pairs of digits, words with their space, new lines one by one, runs of spaces, and the signs that remain.
_SPLIT = r" ?\d{1,2}| ?[A-Za-z]+|\n| +| ?[^\sA-Za-z\d]+|\s"
_WHOLE = re.compile(rf" (?:{'|'.join(WHOLE_WORDS)})\b")


def train(texts: Iterable[str], pieces: int = PIECES) -> PreTrainedTokenizerFast:
    """Trains a tokenizer of `pieces` byte-level BPE pieces on `texts`, and of the whole words after them.

    Returns:
      A tokenizer with `<pad>` 0, `<s>` 1 and `</s>` 2 that puts `<s>` at the front unless `add_special_tokens=False`.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=pieces,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Whole words become tokens of their own below, so pieces learnt from them would be wasted.
    core.train_from_iterator((_WHOLE.sub("", text) for text in texts), trainer)
    core.add_tokens([AddedToken(f" {word}", normalized=False) for word in WHOLE_WORDS])
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, core.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
