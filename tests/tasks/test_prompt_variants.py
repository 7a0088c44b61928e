"""Prompt variants: what each asks, that it is the same measurement, and what happens when there is no room."""

import dataclasses

import pytest

from rr_jax.generation.generator import Generator
from rr_jax.models.hub import load
from rr_jax.runs.config_file import parse_config
from rr_jax.tasks.registry import make_task
from rr_jax.testbed import BASE
from tests import tiny

PROMPTS = ["Q: Find all people: Ana is here.\nA:"]


@pytest.fixture(scope="module")
def base():
    return load(BASE, dtype="float32")


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    texts = [f"Ben went to the shop number {i}." for i in range(40)]
    texts += [f"The sun was hot. Then Lily saw dog {i}. It ran away." for i in range(5)]
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n\n".join(texts))
    return {
        "name": "custom",
        "keywords": ["Lily"],
        "retain_text": str(path),
        "prompts": ["Once", ""],
        "max_new_tokens": 16,
    }


def made(section, base):
    return make_task(parse_config({"task": section, "out": "unused"}).task, base.tokenizer, 0)


@pytest.mark.parametrize(
    ("section", "prefill"),
    [
        ({"name": "testbed/ner", "forget": "date"}, " DATE:"),
        ("testbed/toxicity", " What a"),
        ("testbed/code", "\ndef f(x):"),
    ],
)
def test_a_begun_answer_gets_the_target_from_the_base_model(base, section, prefill):
    task = made(section, base)
    variants, shots = task.prompt_variants(base, PROMPTS, seed=3)
    assert list(variants) == ["wording_train", "wording_validation", "prefill", "few_shot"]
    assert shots == 3
    assert [variants[name].variant.wording for name in ("wording_train", "wording_validation")] == [
        "train",
        "validation",
    ]
    assert variants["prefill"].variant.prefill == prefill
    shown = [example.prompt + example.response for example in task.true_examples(3, 3)]
    assert variants["few_shot"].variant.before == "".join(text + "\n" for text in shown)
    only = frozenset([task.forget_metric])
    assert (
        variants["prefill"].evaluate(Generator(base), "test", 8, base=base, only=only).metrics[task.forget_metric].value
        >= 0.6
    )
    assert all(variant.forget_metric == task.forget_metric for variant in variants.values())


def test_as_many_examples_are_shown_as_leave_room(base, stories):
    for section in ("testbed/ner", stories):
        task = made(section, base)
        variants, _ = task.prompt_variants(base, PROMPTS, seed=0)
        whole = variants["few_shot"].variant.before if section is not stories else variants["few_shot"].prompts[1]
        shown = whole.rstrip("\n").split("\nQ:" if section is not stories else "\n")
        assert len(shown) == 3

        def tokens(text):
            return len(base.tokenizer(text)["input_ids"])

        needed = [tokens(whole + prompt) + task.max_new_tokens for prompt in PROMPTS]
        for positions, expected in ((needed[0], {3}), (needed[0] - 1, {1, 2}), (task.max_new_tokens + 8, {0})):
            small = dataclasses.replace(base, config=dataclasses.replace(base.config, max_positions=positions))
            variants, shots = task.prompt_variants(small, PROMPTS, seed=0)
            assert shots in expected
            assert ("few_shot" in variants) == (shots > 0)


def test_a_custom_task_asks_with_openings_and_with_the_target_itself(base, stories):
    task = made(stories, base)
    variants, shots = task.prompt_variants(base, list(task.prompts), seed=0)
    assert shots == 3 and list(variants) == ["openings", "named", "few_shot"]
    assert variants["openings"].prompts == tuple(task.others)
    assert set(variants["named"].prompts) == {text for text in task.instructions if "Lily" in text} != set()
    for prompt, own in zip(variants["few_shot"].prompts, task.prompts, strict=True):
        *shown, last = prompt.split("\n")
        assert last == own and len(shown) == 3
        assert all(line.startswith("Then Lily saw dog") for line in shown)  # the sentence, not the whole text


def test_a_task_has_no_variants_unless_it_says_so():
    assert tiny.EchoTask(tiny.weight_metrics).prompt_variants(tiny.model(), [], 0) == ({}, 0)
