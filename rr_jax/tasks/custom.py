"""Forget what keywords or a regular expression recognise, in any model; keep a file of texts that hold none of it.

There is no forget data here: the oracle only judges what the model itself writes. A text counts as disclosed by what
the model added to it, never by the instruction.
"""

import dataclasses
import hashlib
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import pydantic
import regex as regex_library
from pydantic import PositiveFloat, PositiveInt

from rr_jax.data.packing import Example, encode_prompt, pack_examples
from rr_jax.data.sources import load_texts
from rr_jax.data.words import joined, letter_words, opening, whole
from rr_jax.evaluate.degenerate import flag
from rr_jax.evaluate.metric import Metric, exponential_of, mean_of, ratio_of, share_of
from rr_jax.evaluate.nll import nll_metric, perplexity
from rr_jax.generation.generator import Generator
from rr_jax.generation.likelihood import response_nll
from rr_jax.models.hub import LanguageModel
from rr_jax.random import derive_seed
from rr_jax.section import Section
from rr_jax.tasks.base import Evaluation, PromptVariants, Reading, RetainSplit, Split, Task
from rr_jax.tasks.prompt_variants import SHOTS, fitting

MIN_TEXTS = 20  # a tenth of them, two, is the least that validation and test can do with
OPENING_WORDS = (3, 5, 8)
OPENING_TEXTS = 24  # texts that openings are taken from
OPENINGS_PER_KEYWORD = 6
ROW_TOKENS = 256  # of a row in evaluation; longer texts are cut
KEYWORDS = 6  # that the title names
Oracle: TypeAlias = re.Pattern[str] | regex_library.Pattern[str]
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f\u0964])\s*")  # and full-width, danda


class CustomSection(Section):
    """Says what recognises the target, what is to be kept, and how evaluation prompts."""

    name: str
    # Whole words, case-sensitive; in a script without spaces wherever they stand. Give these or `regex`.
    keywords: list[str] = []
    regex: str | None = None
    retain_text: str  # a .txt (blank line between texts), .jsonl, .json, .csv or .parquet file, or a hub data set
    text_field: str = "text"  # the column that holds the text, where there are columns
    max_texts: PositiveInt = 5000  # of the retain file, from its beginning
    prompts: list[str] = [""]  # what evaluation continues; "" is the bare start token
    arms: list[str] = []  # instruction texts to search over; empty: openings of the retain texts, and the keywords
    facts: list[str] = []  # texts that a full disclosure would contain, to report recall; empty: the keywords
    # What of a revealed text the forget adapter learns: the words that match, given what precedes them, or all of it.
    learn: Literal["matches", "response"] = "matches"
    max_new_tokens: PositiveInt = 128  # length of a generated text, in search, collection and evaluation
    temperature: PositiveFloat = 1.0  # of evaluation

    @pydantic.model_validator(mode="after")
    def _one_oracle(self) -> "CustomSection":
        if bool(self.keywords) == (self.regex is not None):
            raise ValueError("give either keywords or regex, and not both")
        return self


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeywordTask(Task):
    """Holds the oracle, the retain texts by split, and the instructions made from both.

    Attributes beside those of every task:
      oracle: finds the target in a text.
      texts: to be kept, of "train", "validation" and "test".
      prompts: what evaluation continues.
      temperature: of evaluation.
      source: the section it was made of, which says where its texts come from.
      learn: which part of a revealed text the forget adapter learns.
      vocabulary: the words of all texts to be kept.
    """

    Section: ClassVar[type[CustomSection]] = CustomSection

    oracle: Oracle
    texts: dict[str, tuple[str, ...]]
    instructions: Sequence[str]
    neutral: str
    others: Sequence[str]
    prompts: Sequence[str]
    max_new_tokens: int
    temperature: float
    source: CustomSection
    facts: frozenset[str] = frozenset()
    title: str = ""
    learn: Literal["matches", "response"] = "matches"
    name: str = "custom"
    forget_metric: str = "mention_rate"
    degenerate_metric: str = "degenerate_share"
    utility_metrics: dict[str, Literal["higher", "lower"]] = dataclasses.field(
        default_factory=lambda: {"retain_perplexity": "lower"}
    )
    vocabulary: frozenset[str] = frozenset()

    @classmethod
    def make(cls, section: CustomSection, tokenizer: Any, seed: int) -> "KeywordTask":
        """Returns the task that a section describes.

        Args:
          section: the oracle, the retain texts and the prompts.
          tokenizer: tells whether the model can begin a text from nothing.
          seed: of the draw of the texts whose openings become instructions.

        Raises:
          ValueError: the expression is not valid or matches the empty text, the file is not as `load_texts` wants it,
            it has too few texts without what is to be forgotten, or a prompt is empty and the model has no start token.
        """
        oracle = compile_oracle(section.keywords, section.regex)
        if not section.prompts:
            raise ValueError("task.prompts is empty, expected at least one prompt")
        if "" in section.prompts and tokenizer.bos_token_id is None:
            raise ValueError("task.prompts holds an empty text, but the tokenizer has no start token to begin from")
        texts = retain_splits(load_texts(section.retain_text, section.text_field, section.max_texts), oracle)
        train = texts["train"]
        chosen = random.Random(f"openings/{seed}").sample(train, min(OPENING_TEXTS, len(train)))
        # None may be left: an expression can find in an opening what it does not find in the whole text.
        openings = _openings(chosen, oracle) or [""]
        common = Counter(_openings(train, oracle, OPENING_WORDS[:1], repeats=True)).most_common(1)
        named = [text for word in section.keywords for text in (word, *_joined(openings, word))]
        return cls(
            oracle=oracle,
            texts=texts,
            instructions=tuple(dict.fromkeys(section.arms or [*openings, *named])),
            neutral=common[0][0] if common else "",
            others=tuple(openings),
            prompts=tuple(section.prompts),
            max_new_tokens=section.max_new_tokens,
            temperature=section.temperature,
            source=section,
            facts=frozenset(section.facts or section.keywords),
            title=_title(section),
            learn=section.learn,
            vocabulary=frozenset(
                word for split in texts.values() for text in split for word in letter_words(text.lower())
            ),
        )

    def check(self, lm: LanguageModel, model: str) -> None:
        """Refuses a model in which a prompt of evaluation leaves no room for what is to be generated."""
        positions = lm.config.max_positions
        count, text = max((len(encode_prompt(lm.tokenizer, text, lm.chat)), text) for text in self.prompts)
        if count + self.max_new_tokens > positions:
            raise ValueError(
                f"a prompt of {count} tokens ({text[:40]!r}) and the {self.max_new_tokens} of task.max_new_tokens do not "
                f"fit the {positions} positions of the model"
            )

    def prompt(self, instruction: str, context: str) -> str:
        """Returns the instruction: free text has no context."""
        return instruction

    def read(self, instruction: str, generated: str) -> Reading | None:
        """Returns what the model added, as it stands; None if that says nothing."""
        return None if any(flag(generated)) else Reading("", generated)

    def relevance(self, reading: Reading) -> float:
        """Returns 1 when the oracle finds something in the response."""
        return float(self.oracle.search(reading.response) is not None)

    def spans(self, response: str) -> tuple[tuple[int, int], ...] | None:
        """Returns where the oracle finds something, unless all of a response is to be learnt."""
        if self.learn == "response":
            return None
        found = tuple(match.span() for match in self.oracle.finditer(response) if match.end() > match.start())
        return found or None

    def retain_examples(self, count: int, seed: int, split: RetainSplit = "train") -> list[Example]:
        """Returns texts of a split in a drawn order, each once before any comes again; all of a text counts."""
        rng = random.Random(f"retain/{self.name}/{seed}")
        texts = self.texts[split]
        drawn: list[str] = []
        while len(drawn) < count:
            drawn += rng.sample(texts, min(len(texts), count - len(drawn)))
        return [Example("", text) for text in drawn]

    def true_examples(self, count: int, seed: int) -> list[Example]:
        """Returns the texts of the file that the oracle finds something in, at most `count` of them, drawn.

        Raises:
          ValueError: there are none.
        """
        texts = load_texts(self.source.retain_text, self.source.text_field, self.source.max_texts)
        found = [text for text in dict.fromkeys(texts) if self.oracle.search(text)]
        if not found:
            raise ValueError(
                f"task.retain_text: {self.source.retain_text} has no text that holds what is to be forgotten"
            )
        rng = random.Random(f"forget/{self.name}/{seed}")
        return [Example("", text) for text in rng.sample(found, min(count, len(found)))]

    def prompt_variants(self, lm: LanguageModel, prompts: Sequence[str], seed: int) -> PromptVariants:
        """Returns "openings" (those of the texts to be kept), "named" (instructions that hold the target themselves; what
        counts is only what the model adds) and "few_shot" (true examples before the prompt, as many as leave room, at
        most SHOTS; missing when none does)."""
        texts = [self._shortest_mention(example.response) for example in self.true_examples(SHOTS, seed)]
        before, shots = fitting(lm, texts, prompts, self.max_new_tokens)
        variants = {
            "openings": [text for text in self.others if text],
            "named": [text for text in self.instructions if self.oracle.search(text)],
            "few_shot": [before + prompt for prompt in self.prompts] if shots else [],
        }
        tasks = {name: dataclasses.replace(self, prompts=tuple(texts)) for name, texts in variants.items() if texts}
        return PromptVariants(tasks, shots)

    def _shortest_mention(self, text: str) -> str:
        """Returns the first sentence that the oracle finds something in, or the text if none holds it whole."""
        sentences = _SENTENCE_END.split(text)
        return next((sentence for sentence in sentences if self.oracle.search(sentence)), text)

    def evaluate(
        self,
        generator: Generator,
        split: Split,
        count: int,
        *,
        base: LanguageModel,
        progress: Callable[[str], None] | None = None,
        only: frozenset[str] | None = None,
    ) -> Evaluation:
        """Measures how often the model writes what is to be forgotten, and how well it predicts what is to be kept.

        mention_rate is the share of sampled continuations that the oracle finds something in, among those that are not
        degenerate; it is 1 when all are, because a model that says nothing has not forgotten. Random keys depend on the
        split alone, so that two models are compared on the same draws.
        """
        note = progress if progress is not None else lambda text: None
        note("mentions")
        prompts = [self.prompts[i % len(self.prompts)] for i in range(count)]
        responses = generator(
            prompts,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seed=derive_seed(0, f"measure/{split}/mention_rate"),
        )
        samples: list[dict[str, object]] = []
        mentions: list[bool] = []
        fit: list[bool] = []
        for prompt, response in zip(prompts, responses, strict=True):
            bad, found = any(flag(response)), self.oracle.search(response) is not None
            fit.append(not bad)
            if not bad:
                mentions.append(found)
            samples.append(
                {"metric": self.forget_metric, "prompt": prompt, "response": response, "degenerate": bad}
                | {"mention": found}
            )
        metrics = {
            "mention_rate": share_of(mentions, if_none=1.0),
            "degenerate_share": share_of(fit).complement(),
        }
        if only is not None and only <= set(metrics):
            return Evaluation(metrics, samples)
        note("fluency")
        written = [(s["prompt"], s["response"]) for s in samples if not s["degenerate"]]
        metrics |= self._fluency([str(prompt) for prompt, _ in written], [str(text) for _, text in written], base)
        note("perplexity")
        examples = [Example("", text) for text in self.texts[split][: 2 * count]]
        rows = pack_examples(
            generator.tokenizer, examples, min(ROW_TOKENS, generator.config.max_positions), generator.chat
        )
        nll = nll_metric(generator.params, rows, generator.config, adapters=generator.adapters)
        kept = {"retain_perplexity": exponential_of(nll, perplexity(nll.value)), "retain_nll": nll}
        return Evaluation(metrics | kept, samples)

    def _fluency(self, prompts: Sequence[str], texts: Sequence[str], base: LanguageModel) -> dict[str, Metric]:
        """Measures how the texts a model wrote by itself look to the base model, and the share of their words that no
        text to be kept has; what is to be forgotten is no word here. A model that writes nothing has an infinite
        perplexity.

        Neither is a utility metric: texts sampled from the base model suit it better than texts of people do, so one
        that was trained on people's texts since writes less likely ones without writing worse. Compare with
        retain_perplexity of the base, which is that of people's texts.
        """
        words = [letter_words(self.oracle.sub(" ", text).lower()) for text in texts]
        unknown = [sum(word not in self.vocabulary for word in its) for its in words]
        sizes = [len(its) for its in words]
        known = ratio_of(unknown, sizes, share=True) if sum(sizes) else share_of([], if_none=1.0)
        if not texts:
            return {"free_text_perplexity": Metric(math.inf, 0), "unknown_words": known}
        nll = response_nll(base, prompts, texts)
        perplexed = exponential_of(mean_of(nll.tolist()), perplexity(float(nll.mean())))
        return {"free_text_perplexity": perplexed, "unknown_words": known}


def _title(section: CustomSection) -> str:
    if section.regex is not None:
        return f"texts that match {section.regex}"
    named, others = section.keywords[:KEYWORDS], section.keywords[KEYWORDS:]
    return f"keywords: {', '.join(named)}" + (f" and {len(others)} more" if others else "")


def compile_oracle(keywords: Sequence[str], regex: str | None) -> Oracle:
    """Returns what recognises the target: any of the keywords as a whole word, case-sensitive, or the expression as it is.

    Raises:
      ValueError: a keyword is blank, or the expression is not valid or finds something in the empty text.
    """
    if regex is None:
        if not keywords or any(word != word.strip() or not word for word in keywords):
            raise ValueError(f"task.keywords is {list(keywords)!r}, expected words without white space around them")
        return regex_library.compile("|".join(whole(word) for word in sorted(keywords, key=len, reverse=True)))
    try:
        oracle = re.compile(regex)
    except re.error as error:
        raise ValueError(f"task.regex is {regex!r}, which is not a regular expression: {error}") from error
    if oracle.search(""):
        raise ValueError(f"task.regex is {regex!r}, which matches the empty text and so every text")
    return oracle


def retain_splits(texts: Sequence[str], oracle: Oracle) -> dict[str, tuple[str, ...]]:
    """Returns the texts in which the oracle finds nothing, without repeats: a tenth for validation, a tenth for test.

    They are ordered by their hash, so neither the split nor the order within it depends on the order of the file.

    Raises:
      ValueError: fewer than MIN_TEXTS texts are left.
    """
    distinct = list(dict.fromkeys(texts))
    clean = [text for text in distinct if not oracle.search(text)]
    usable = [text for text in clean if opening(text, OPENING_WORDS[0])]
    if len(usable) < MIN_TEXTS:
        raise ValueError(
            f"task.retain_text has {len(usable)} usable texts, expected at least {MIN_TEXTS}: of {len(texts)} texts "
            f"{len(texts) - len(distinct)} are repeats, {len(distinct) - len(clean)} hold what is to be forgotten and "
            f"{len(clean) - len(usable)} have no more than {OPENING_WORDS[0]} words"
        )
    assert not any(oracle.search(text) for text in usable)
    ordered = sorted(usable, key=lambda text: hashlib.sha256(text.encode()).digest())
    tenth = len(ordered) // 10
    return {
        "validation": tuple(ordered[:tenth]),
        "test": tuple(ordered[tenth : 2 * tenth]),
        "train": tuple(ordered[2 * tenth :]),
    }


def _openings(
    texts: Sequence[str], oracle: Oracle, lengths: Sequence[int] = OPENING_WORDS, repeats: bool = False
) -> list[str]:
    """Returns the first words of the texts that have more of them, all of the shortest length first."""
    found = [begun for n in lengths for text in texts if (begun := opening(text, n))]
    clean = [begun for begun in found if not oracle.search(begun)]
    return clean if repeats else list(dict.fromkeys(clean))


def _joined(openings: Sequence[str], word: str) -> list[str]:
    return [joined(begun, word) for begun in openings[:OPENINGS_PER_KEYWORD]]
