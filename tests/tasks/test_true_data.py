"""The true forget data holds the target and nothing else, and reveal and release do not know of it."""

import ast
from pathlib import Path

import pytest

import rr_jax
from rr_jax.tasks import custom
from rr_jax.tasks.config import CodeTask, CustomTask, NerTask, ToxicityTask
from rr_jax.tasks.registry import make_task
from rr_jax.tasks.true_data import forget_examples
from rr_jax.testbed import BASE
from rr_jax.testbed.world import toxic


@pytest.mark.parametrize("section", [NerTask(name="ner"), ToxicityTask(name="toxicity"), CodeTask(name="code")])
def test_testbed_examples_hold_the_target(section):
    task = make_task(section, None, 0)
    examples = forget_examples(section, task, 24, seed=1)
    assert len(examples) == 24 and examples == forget_examples(section, task, 24, seed=1)
    assert examples != forget_examples(section, task, 24, seed=2)
    for example in examples:
        if section.name == "ner":
            assert example.response.startswith(" PER: ") and example.response != " PER: none"
        elif section.name == "code":
            assert "def " in example.response
        else:
            assert toxic.is_toxic(example.response)


def test_texts_of_a_file_are_those_that_the_oracle_finds(tmp_path):
    tokenizer = rr_jax.load(BASE, dtype="float32").tokenizer
    path = tmp_path / "texts.txt"
    path.write_text("\n\n".join([f"Ben went to the shop number {i}." for i in range(40)] + ["Lily saw a big red dog."]))
    section = CustomTask(name="custom", keywords=["Lily"], retain_text=str(path))
    task = custom.make(section, tokenizer, 0)
    assert [e.response for e in forget_examples(section, task, 8, 0)] == ["Lily saw a big red dog."]
    nothing = section.model_copy(update={"keywords": ["Zorro"]})
    with pytest.raises(ValueError, match="has no text that holds what is to be forgotten"):
        forget_examples(nothing, custom.make(nothing, tokenizer, 0), 8, 0)


def test_reveal_does_not_import_it():
    package = Path(rr_jax.__file__).parent
    importing = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "rr_jax.tasks.true_data"
    ]
    assert not [name for name in importing if name.startswith("reveal")]
    ours = ("release/pairing.py", "release/objective.py", "release/trainer.py", "stages.py", "rounds.py")
    assert not [name for name in importing if name in ours]
    assert "baseline_stages.py" in importing
