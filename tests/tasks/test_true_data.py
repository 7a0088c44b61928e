"""The true forget data holds the target and nothing else, and reveal and release never ask for it."""

import ast
from pathlib import Path

import pytest

import rr_jax
from rr_jax.runs import loop
from rr_jax.runs.config_file import parse_config
from rr_jax.tasks.custom import CustomSection, KeywordTask
from rr_jax.tasks.registry import make_task
from rr_jax.testbed import BASE
from rr_jax.testbed.world import toxic
from tests import tiny

# the only code that may ask: the tasks themselves, training on true data, and attacks
ASKING = {"release/data.py", "studies/attacks.py"}


@pytest.mark.parametrize("name", ["testbed/ner", "testbed/toxicity", "testbed/code"])
def test_testbed_examples_hold_the_target(name):
    task = make_task(parse_config({"task": name, "out": "unused"}).task, None, 0)
    examples = task.true_examples(24, 1)
    assert len(examples) == 24 and examples == task.true_examples(24, 1)
    assert examples != task.true_examples(24, 2)
    for example in examples:
        if name == "testbed/ner":
            assert example.response.startswith(" PER: ") and example.response != " PER: none"
        elif name == "testbed/code":
            assert "def " in example.response
        else:
            assert toxic.is_toxic(example.response)


def test_texts_of_a_file_are_those_that_the_oracle_finds(tmp_path):
    tokenizer = rr_jax.load(BASE, dtype="float32").tokenizer
    path = tmp_path / "texts.txt"
    path.write_text("\n\n".join([f"Ben went to the shop number {i}." for i in range(40)] + ["Lily saw a big red dog."]))
    section = CustomSection(name="custom", keywords=["Lily"], retain_text=str(path))
    task = KeywordTask.make(section, tokenizer, 0)
    assert [e.response for e in task.true_examples(8, 0)] == ["Lily saw a big red dog."]
    nothing = section.model_copy(update={"keywords": ["Zorro"]})
    with pytest.raises(ValueError, match="has no text that holds what is to be forgotten"):
        KeywordTask.make(nothing, tokenizer, 0).true_examples(8, 0)


def test_only_attacks_and_training_on_true_data_name_it():
    package = Path(rr_jax.__file__).parent
    naming = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Attribute) and node.attr in ("true_examples", "prompt_variants"))
        or (isinstance(node, ast.Constant) and node.value in ("true_examples", "prompt_variants"))
    }
    assert {name for name in naming if not name.startswith("tasks/")} == ASKING


def test_a_run_on_revealed_text_never_asks_for_it(tmp_path):
    class Refusing(tiny.EchoTask):
        def true_examples(self, count, seed):
            raise AssertionError("the true data was asked for")

        prompt_variants = true_examples

    from rr_jax.models.hub import save

    save(tiny.model(), tmp_path / "model")
    config = parse_config(tiny.run_config(tmp_path / "run", tmp_path / "model"))
    assert loop.run(config, task=Refusing(tiny.weight_metrics)).status == "complete"
