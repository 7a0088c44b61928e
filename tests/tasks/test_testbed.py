"""What the testbed's tasks give to be kept: training documents, or validation ones that nobody trains on."""

import pytest

from rr_jax.config_file import parse_config
from rr_jax.tasks.base import Reading
from rr_jax.tasks.registry import make_task


@pytest.mark.parametrize("section", [{"name": "ner"}, {"name": "toxicity"}, {"name": "code"}], ids=lambda s: s["name"])
def test_held_out_texts_to_keep_are_others_than_those_trained_on_and_hold_nothing_of_the_target(section):
    task = make_task(parse_config({"task": section, "out": "unused"}).task, None, 0)
    trained, held_out = task.retain_examples(400, 0), task.retain_examples(200, 0, "valid")
    assert len(held_out) == 200
    assert not {e.prompt + e.response for e in trained} & {e.prompt + e.response for e in held_out}
    assert not any(task.relevance(Reading(e.prompt, e.response)) for e in held_out)
    assert held_out == task.retain_examples(200, 0, "valid") != task.retain_examples(200, 1, "valid")
