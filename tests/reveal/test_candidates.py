"""The pool of a round: what is in it, what the bandit sees of it, and that answers depend on their own place alone."""

import dataclasses

import numpy as np
import pytest

from rr_jax.generation.features import last_hidden
from rr_jax.generation.text import generate
from rr_jax.reveal.candidates import make_candidates, respond
from rr_jax.reveal.config import ArmsConfig
from tests import tiny

TASK = tiny.EchoTask(metrics=lambda lm: {}, stems=("a", "b"))


@pytest.fixture(scope="module")
def lm():
    return tiny.model()


def test_the_pool_has_texts_of_all_sources_once_and_then_soft_prompts(lm, tmp_path):
    (tmp_path / "more.txt").write_text("from a file\na\n")
    section = ArmsConfig(texts=str(tmp_path / "more.txt"), templates=["say {x}"], slots={"x": ["b", "c"]}, soft=3)
    made = make_candidates(lm, TASK, section, seed=0, round_index=1)
    assert [arm.text for arm in made.arms] == ["a", "b", "c", "d", "from a file", "say b", "say c", "a", "b", "a"]
    assert [arm.kind for arm in made.arms] == ["text"] * 7 + ["soft"] * 3
    assert made.soft.shape == (3, 5, 16)
    np.testing.assert_allclose(made.features[:7], last_hidden(lm, [arm.text for arm in made.arms[:7]]), atol=1e-6)
    np.testing.assert_allclose(made.features[7:], last_hidden(lm, ["a", "b", "a"], soft_prompts=made.soft), atol=1e-6)
    other = make_candidates(lm, TASK, section, seed=0, round_index=2)
    assert not np.allclose(other.soft, made.soft)


def test_written_instructions_are_greedy_texts_after_soft_prompts_each_once(lm):
    section = ArmsConfig(soft=8, path="instruction", instruction_tokens=4)
    direct = make_candidates(lm, TASK, section.model_copy(update={"path": "direct"}), seed=0, round_index=1)
    made = make_candidates(lm, TASK, section, seed=0, round_index=1)
    stems = [TASK.stems[j % 2] for j in range(8)]
    written = [
        f"{s}{t}".strip()
        for s, t in zip(stems, generate(lm, stems, soft_prompts=direct.soft, max_new_tokens=4), strict=True)
    ]
    found = [arm for arm in made.arms if arm.kind == "written"]
    assert [arm.text for arm in found] == list(dict.fromkeys(text for text in written if text not in TASK.instructions))
    assert [arm.index for arm in made.arms] == list(range(len(made.arms)))
    for arm in found:
        np.testing.assert_allclose(made.features[arm.index], direct.features[4 + arm.soft], atol=1e-6)
        assert written[arm.soft] == arm.text
    assert made.soft_of(found) is None  # they are asked as texts


def test_another_model_may_write_them_if_it_has_the_same_vocabulary(lm):
    section = ArmsConfig(soft=4, path="instruction", instruction_tokens=4)
    other = dataclasses.replace(lm, params=tiny.params(seed=3))
    ours = make_candidates(lm, TASK, section, seed=0, round_index=1)
    theirs = make_candidates(lm, TASK, section, seed=0, round_index=1, proposer=other)
    assert [arm.text for arm in ours.arms] != [arm.text for arm in theirs.arms]
    np.testing.assert_allclose(theirs.features[:4], last_hidden(other, ["a", "b", "c", "d"]), atol=1e-6)
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["new"])
    with pytest.raises(ValueError, match=r"proposer has 63 token ids that are not the model's 62.*same vocabulary"):
        make_candidates(lm, TASK, section, seed=0, round_index=1, proposer=dataclasses.replace(lm, tokenizer=tokenizer))


def test_an_answer_depends_on_its_place_alone(lm):
    made = make_candidates(lm, TASK, ArmsConfig(soft=4), seed=0, round_index=1)
    chosen = [made.arms[i] for i in (0, 5, 2, 6, 5, 1)]
    settings = {"max_new_tokens": 10, "temperature": 1.0, "seed": 3}
    together = respond(lm, made, chosen, first_index=7, **settings)
    apart = [respond(lm, made, [arm], first_index=7 + i, **settings)[0] for i, arm in enumerate(chosen)]
    assert together == apart
    assert len(set(together)) == 6


def test_an_empty_pool_is_refused(lm):
    nothing = tiny.EchoTask(metrics=lambda lm: {}, instructions=())
    with pytest.raises(ValueError, match="the pool has no arms"):
        make_candidates(lm, nothing, ArmsConfig(soft=0), seed=0, round_index=1)
