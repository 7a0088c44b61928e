"""The custom task: what its oracle takes for a mention, what it keeps, and what it measures."""

import json
import math
import re
from pathlib import Path
from typing import Any

import jax
import pytest
from scipy import stats
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rr_jax.evaluate.metric import Metric
from rr_jax.generation.generator import Generator
from rr_jax.generation.likelihood import response_nll
from rr_jax.models.config import ModelConfig
from rr_jax.models.hub import LanguageModel
from rr_jax.models.spec import init_params
from rr_jax.tasks import custom
from rr_jax.tasks.base import Reading
from rr_jax.tasks.custom import CustomSection, KeywordTask, compile_oracle, retain_splits

NAMES = ["Lily", "Tom", "Anna", "Ben"]
WORDS = ["Once", "upon", "a", "time", "there", "was", "and", "then", "saw", "the", "dog", "cat", "tree", "ball", *NAMES]


def _texts() -> list[str]:
    """Eighty stories about four names in turn; those about Ben begin in another way."""
    stories = []
    for n in range(80):
        start = "then the dog saw" if n % 4 == 3 else "Once upon a time there was"
        tail = " ".join(WORDS[(n * 7 + k * k) % 14] for k in range(6 + n % 5))
        stories.append(f"{start} {NAMES[n % 4]} and {tail} {WORDS[n % 14]} {WORDS[n // 14]}")
    return stories


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    words = ["<unk>", "<s>", "</s>", *WORDS]
    core = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def lm(tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    """Random weights: every word is about as likely as any other."""
    config = ModelConfig(
        family="llama", vocab_size=len(WORDS) + 3, embed_dim=8, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=4,
        ffn_dim=8, norm_eps=1e-5, rope_theta=1e4, max_positions=64, bos_token_id=1, eos_token_ids=(2,),
    )  # fmt: skip
    return LanguageModel(config, init_params(jax.random.key(0), config), tokenizer)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("retain") / "stories.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in _texts()))
    return str(path)


def _make(source: str, tokenizer: Any, seed: int = 0, **settings: Any) -> KeywordTask:
    if "regex" not in settings:
        settings.setdefault("keywords", ["Lily"])
    return KeywordTask.make(CustomSection(name="custom", retain_text=source, **settings), tokenizer, seed)


@pytest.mark.parametrize(
    ("keywords", "text", "found"),
    [
        (["Lily"], "and Lily's ball", True),
        (["Lily"], "Lily", True),
        (["Lily"], "a (Lily)", True),
        (["Lily"], "lily", False),
        (["Lily"], "Lilya", False),
        (["Lily"], "OLily", False),
        (["Lily"], "Lily_2", False),
        (["Lily", "Tom"], "and Tom.", True),
        (["C++"], "in C++ one", True),
        (["C++"], "in C+++", True),
        (["C++"], "in CCC", False),
        (["a.b"], "axb", False),
        (["New York"], "in New York.", True),
        (["É"], "Élan", False),
    ],
)
def test_keywords_are_whole_words_as_they_are_written(keywords: list[str], text: str, found: bool):
    assert (compile_oracle(keywords, None).search(text) is not None) is found


def test_a_regular_expression_is_taken_as_it_is():
    oracle = compile_oracle([], r"(?i)li+ly|\d{3}")
    assert oracle.search("my LIIILYs") and oracle.search("a1234") and not oracle.search("Lly 12")


@pytest.mark.parametrize(
    ("keywords", "regex", "message"),
    [
        ([], "(Lily", "not a regular expression: missing"),
        ([], "Lily|", "matches the empty text"),
        ([""], None, "expected words"),
        (["Lily "], None, "expected words"),
        ([], None, "expected words"),
    ],
)
def test_an_oracle_that_cannot_be(keywords: list[str], regex: str | None, message: str):
    with pytest.raises(ValueError, match=message):
        compile_oracle(keywords, regex)


@pytest.mark.parametrize("oracle", [{"keywords": ["Lily", "Tom"]}, {"regex": "[Ll]ily|To+m"}])
def test_no_retain_text_matches_and_splits_are_disjoint(oracle: dict[str, Any], source: str, tokenizer: Any):
    task = _make(source, tokenizer, **oracle)
    clean = {text for text in _texts() if not re.search(r"Lily|Tom", text)}
    splits = {name: set(texts) for name, texts in task.texts.items()}
    assert {name: len(texts) for name, texts in task.texts.items()} == {"train": 32, "validation": 4, "test": 4}
    assert splits["train"] | splits["validation"] | splits["test"] == clean
    assert sum(map(len, splits.values())) == len(clean)


def test_splits_do_not_depend_on_the_order_of_the_file():
    oracle = compile_oracle(["Lily"], None)
    texts = _texts()
    assert retain_splits(texts, oracle) == retain_splits([*texts[::-1], *texts[:9]], oracle)


def test_too_few_texts_are_counted():
    texts = [*(f"one two three four {n}" for n in range(19)), "one two three four 0", "Lily is here now", "too short"]
    message = "19 usable texts, expected at least 20: of 22 texts 1 are repeats, 1 hold .* and 1 have no more than 3"
    with pytest.raises(ValueError, match=message):
        retain_splits(texts, compile_oracle(["Lily"], None))
    assert retain_splits([*texts, "one two three four 19"], compile_oracle(["Lily"], None))


def test_instructions_are_openings_and_keywords(source: str, tokenizer: Any):
    task = _make(source, tokenizer)
    plain = [text for text in task.instructions if "Lily" not in text]
    asking = [text for text in task.instructions if "Lily" in text]
    assert len(set(task.instructions)) == len(task.instructions) and plain == list(task.others)
    assert {len(text.split()) for text in plain} == {3, 5, 8} and len(plain) <= 3 * custom.OPENING_TEXTS
    assert all(any(text.startswith(opening) for text in task.texts["train"]) for opening in plain)
    assert asking[0] == "Lily" and len(asking) == 7
    assert [text.removesuffix(" Lily") for text in asking[1:]] == plain[:6]
    assert task.neutral == "Once upon a" and task.stems == ("",)
    assert task.instructions == _make(source, tokenizer).instructions


def test_given_arms_replace_them_all(source: str, tokenizer: Any):
    task = _make(source, tokenizer, arms=["Lily and", "the cat"])
    assert task.instructions == ("Lily and", "the cat")
    assert not any("Lily" in text for text in (*task.others, task.neutral))


def test_only_what_the_model_wrote_counts(source: str, tokenizer: Any):
    task = _make(source, tokenizer)
    assert task.read("Lily", "saw the dog and") == Reading("", "saw the dog and")
    assert task.relevance(Reading("", "saw the dog and")) == 0.0
    assert task.relevance(Reading("", "then Lily saw the dog")) == 1.0
    assert task.prompt("Once upon a", "") == "Once upon a"


@pytest.mark.parametrize("text", ["", "  \n", "Lily", "Lily saw " * 9])
def test_a_text_that_says_nothing_is_not_read(text: str, source: str, tokenizer: Any):
    assert _make(source, tokenizer).read("Lily", text) is None


def test_retain_examples_are_training_texts_each_once_before_any_comes_again(source: str, tokenizer: Any):
    task = _make(source, tokenizer)
    train = task.texts["train"]
    examples = task.retain_examples(len(train) + 5, 3)
    assert sorted(example.response for example in examples[: len(train)]) == sorted(train)
    assert len(examples) == len(train) + 5 and {example.response for example in examples} == set(train)
    assert all(example.prompt == "" and example.response_weight == 1.0 for example in examples)
    assert examples == task.retain_examples(len(train) + 5, 3) != task.retain_examples(len(train) + 5, 4)
    held_out = task.retain_examples(len(task.texts["validation"]), 3, "validation")
    assert sorted(example.response for example in held_out) == sorted(task.texts["validation"])


def test_evaluation(lm: LanguageModel, source: str, tokenizer: Any):
    task = _make(source, tokenizer, prompts=["", "Once upon a"], max_new_tokens=10)
    notes: list[str] = []
    metrics, samples = task.evaluate(Generator(lm), "test", 24, base=lm, progress=notes.append)
    fit = [sample for sample in samples if not sample["degenerate"]]
    mentions = [re.search(r"\bLily\b", str(sample["response"])) is not None for sample in fit]
    assert metrics["mention_rate"].value == pytest.approx(sum(mentions) / len(fit)) and 0 < sum(mentions) < len(fit)
    assert metrics["degenerate_share"].value == pytest.approx(1 - len(fit) / 24)
    assert [sample["prompt"] for sample in samples] == ["", "Once upon a"] * 12
    assert metrics["mention_rate"].n == len(fit) and metrics["degenerate_share"].n == 24
    nll = metrics["retain_nll"]
    assert metrics["retain_perplexity"].value == pytest.approx(math.exp(nll.value))
    assert metrics["retain_perplexity"].stderr == pytest.approx(math.exp(nll.value) * nll.stderr)
    assert nll.n == min(48, len(task.texts["test"]))
    assert metrics["retain_perplexity"].value == pytest.approx(len(WORDS) + 3, rel=0.05)  # it knows nothing yet
    written = [(sample["prompt"], sample["response"]) for sample in fit]
    each = [float(response_nll(lm, [prompt], [text])[0]) for prompt, text in written]
    assert metrics["free_text_perplexity"].value == pytest.approx(math.exp(sum(each) / len(each)), rel=1e-4)
    spread = math.exp(sum(each) / len(each)) * stats.sem(each)
    assert metrics["free_text_perplexity"].stderr == pytest.approx(spread, rel=1e-3)
    assert notes == ["mentions", "fluency", "perplexity"]
    assert {task.forget_metric, task.degenerate_metric, *task.utility_metrics} <= set(metrics)
    assert (metrics, samples) == task.evaluate(Generator(lm), "test", 24, base=lm)
    assert samples != task.evaluate(Generator(lm), "validation", 24, base=lm).samples


def test_a_model_that_says_nothing_has_not_forgotten(
    lm: LanguageModel, source: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Generator, "__call__", lambda self, prompts, **settings: ["dog"] * len(prompts))
    metrics = _make(source, tokenizer).evaluate(Generator(lm), "validation", 3, base=lm).metrics
    assert metrics["mention_rate"] == metrics["unknown_words"] == Metric(1.0, 0, None, share=True)
    assert metrics["degenerate_share"].value == 1.0
    assert metrics["free_text_perplexity"] == Metric(math.inf, 0)


def test_unknown_words_are_those_of_no_text_to_be_kept(
    lm: LanguageModel, source: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
):
    task = _make(source, tokenizer)
    known = sorted(task.vocabulary)[:3]
    text = f"Lily {known[0]} {known[1].capitalize()} zzzz, {known[2]} Lily"  # what is to be forgotten is no word here
    monkeypatch.setattr(Generator, "__call__", lambda self, prompts, **settings: [text] * len(prompts))
    assert task.evaluate(Generator(lm), "validation", 2, base=lm).metrics["unknown_words"].value == pytest.approx(1 / 4)


def test_an_empty_prompt_needs_a_start_token(source: str):
    class NoStart:
        bos_token_id = None

    with pytest.raises(ValueError, match="no start token"):
        _make(source, NoStart())
    assert _make(source, NoStart(), prompts=["Once"]).prompts == ("Once",)


def test_the_example_configuration_is_valid():
    from rr_jax.runs.config_file import load_config

    section = load_config(Path(__file__).parents[2] / "configs" / "stories-keyword.yaml").task
    assert isinstance(section, CustomSection) and section.keywords == ["Lily"]


def test_the_forget_adapter_learns_the_matches_or_the_whole_response(source: str, tokenizer: Any) -> None:
    task = _make(source, tokenizer)
    assert task.spans("Lily and Tom saw Lily") == ((0, 4), (17, 21))
    assert _make(source, tokenizer, learn="response").spans("Lily and Tom") is None
    assert _make(source, tokenizer, regex=r"(?=Tom)").spans("and Tom") is None  # a match of no characters


@pytest.mark.parametrize(
    ("oracle", "title"),
    [
        ({"keywords": ["Lily", "Tom"]}, "keywords: Lily, Tom"),
        ({"keywords": list("ABCDEFGH")}, "keywords: A, B, C, D, E, F and 2 more"),
        ({"regex": "Q.c"}, "texts that match Q.c"),
    ],
)
def test_the_title_names_what_is_recognised(source, tokenizer, oracle, title):
    assert _make(source, tokenizer, **({"keywords": []} | oracle)).title == title
