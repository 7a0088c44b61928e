"""Other ways of asking: what each asks, that it is the same measurement, and what happens when there is no room."""

import dataclasses

import pytest

from rr_jax.models.hub import load
from rr_jax.tasks.config import CodeTask, CustomTask, NerTask, ToxicityTask
from rr_jax.tasks.prompt_variants import askings
from rr_jax.tasks.registry import make_task
from rr_jax.tasks.true_data import forget_examples
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
    return CustomTask(name="custom", keywords=["Lily"], retain_text=str(path), prompts=["Once", ""], max_new_tokens=16)


@pytest.mark.parametrize(
    ("section", "prefill"),
    [
        (NerTask(name="ner", forget="date"), " DATE:"),
        (ToxicityTask(name="toxicity"), " What a"),
        (CodeTask(name="code"), "\ndef f(x):"),
    ],
)
def test_a_begun_answer_gets_the_target_from_the_base_model(base, section, prefill):
    task = make_task(section, base.tokenizer, 0)
    ways, shots = askings(section, task, base, PROMPTS, seed=3)
    assert list(ways) == ["wording_train", "wording_validation", "prefill", "few_shot"]
    assert shots == 3
    assert [ways[name].asking.wording for name in ("wording_train", "wording_validation")] == ["train", "validation"]
    assert ways["prefill"].asking.prefill == prefill
    shown = [example.prompt + example.response for example in forget_examples(section, task, 3, 3)]
    assert ways["few_shot"].asking.before == "".join(text + "\n" for text in shown)
    only = frozenset([task.forget_metric])
    assert ways["prefill"].evaluate(base, "test", 8, base=base, only=only).metrics[task.forget_metric] >= 0.6
    assert all(way.forget_metric == task.forget_metric for way in ways.values())


def test_as_many_examples_are_shown_as_leave_room(base, stories):
    for section in (NerTask(name="ner"), stories):
        task = make_task(section, base.tokenizer, 0)
        ways, _ = askings(section, task, base, PROMPTS, seed=0)
        whole = ways["few_shot"].asking.before if section is not stories else ways["few_shot"].prompts[1]
        shown = whole.rstrip("\n").split("\nQ:" if section is not stories else "\n")
        assert len(shown) == 3

        def tokens(text):
            return len(base.tokenizer(text)["input_ids"])

        needed = [tokens(whole + prompt) + task.max_new_tokens for prompt in PROMPTS]
        for positions, expected in ((needed[0], {3}), (needed[0] - 1, {1, 2}), (task.max_new_tokens + 8, {0})):
            small = dataclasses.replace(base, config=dataclasses.replace(base.config, max_positions=positions))
            ways, shots = askings(section, task, small, PROMPTS, seed=0)
            assert shots in expected
            assert ("few_shot" in ways) == (shots > 0)


def test_a_custom_task_asks_with_openings_and_with_the_target_itself(base, stories):
    task = make_task(stories, base.tokenizer, 0)
    ways, shots = askings(stories, task, base, list(task.prompts), seed=0)
    assert shots == 3 and list(ways) == ["openings", "named", "few_shot"]
    assert ways["openings"].prompts == tuple(task.others)
    assert set(ways["named"].prompts) == {text for text in task.instructions if "Lily" in text} != set()
    for prompt, own in zip(ways["few_shot"].prompts, task.prompts, strict=True):
        *shown, last = prompt.split("\n")
        assert last == own and len(shown) == 3
        assert all(line.startswith("Then Lily saw dog") for line in shown)  # the sentence, not the whole text


def test_any_other_task_has_no_other_ways():
    assert askings(NerTask(name="ner"), tiny.EchoTask(tiny.weight_metrics), tiny.model(), [], 0) == ({}, 0)
