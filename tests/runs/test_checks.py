"""What a run cannot do is said before its folder is there."""

import dataclasses

import pytest

from rr_jax.models.hub import LanguageModel, save
from rr_jax.runs import loop as rounds
from rr_jax.runs.config_file import load_config, parse_config
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tiny model with 64 positions; its tokenizer has one token a character and a start token."""
    path = tmp_path_factory.mktemp("model") / "tiny"
    save(LanguageModel(dataclasses.replace(tiny.CONFIG, max_positions=64), tiny.params(), tiny.tokenizer()), path)
    return path


@pytest.fixture
def refused(folder, tmp_path):
    """The one line that a run with such changes ends with."""

    def run(made=None, arms=None, **changes):
        config = tiny.run_config(tmp_path / "run", folder, **changes)
        config["reveal"]["arms"] |= arms or {}
        with pytest.raises(ValueError) as caught:
            rounds.run(parse_config(config), task=made)
        assert not (tmp_path / "run").exists()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return run


def echo(**changes):
    return dataclasses.replace(tiny.EchoTask(tiny.weight_metrics), **changes)


def test_what_is_generated_leaves_room_for_the_prompt(refused):
    assert "task echo: 64 tokens are to be generated, but the model has 64 positions" in refused(
        echo(max_new_tokens=64)
    )
    # the start token and 50 characters
    long = refused(echo(max_new_tokens=14, instructions=("b" * 50,)))
    assert "a prompt of 51 tokens" in long and "the 14 of task echo do not fit the 64 positions" in long
    assert "a prompt of 51 tokens ('soft prompt, ')" in refused(echo(max_new_tokens=14), {"soft_tokens": 50})
    written = {"soft_tokens": 10, "instruction_tokens": 40, "path": "instruction"}
    assert "a prompt of 51 tokens ('an instruction that a model writes')" in refused(echo(max_new_tokens=14), written)
    assert "text after them are 31 tokens, instruction_tokens 34" in refused(
        None, written | {"soft_tokens": 30, "instruction_tokens": 34}
    )


def test_a_prompt_of_a_custom_tasks_evaluation_counts_too(refused, tmp_path):
    (tmp_path / "texts.txt").write_text("\n\n".join(f"a fox ran {i} times" for i in range(40)))
    task = {"name": "custom", "keywords": ["hen"], "retain_text": str(tmp_path / "texts.txt"), "max_new_tokens": 14}
    message = refused(task=task | {"prompts": ["c" * 50]})
    assert "a prompt of 51 tokens ('cccc" in message and "the 14 of task.max_new_tokens do not fit" in message


def test_a_testbed_task_asks_a_model_of_the_testbed(refused):
    message = refused(task={"name": "testbed/toxicity"})
    assert "task.name: testbed/toxicity asks in the testbed's own prompts" in message
    assert "use model=testbed, or task.name=custom" in message


def test_the_paths_of_an_example_are_asked_for(tmp_path):
    config = load_config("configs/stories-keyword.yaml", [f"out={tmp_path / 'run'}"])
    with pytest.raises(
        ValueError, match=r"^model \(path/to/stories260K\), task.retain_text \(path/to/stories.jsonl.gz\)"
    ):
        rounds.run(config)
    assert not (tmp_path / "run").exists()


def test_a_pool_without_arms_is_refused(refused):
    assert "the pool has no arms" in refused(echo(instructions=()), {"soft": 0})


def test_a_run_without_rounds_has_no_model(folder, tmp_path):
    rounds.run(parse_config(tiny.run_config(tmp_path / "run", folder, until="reveal", rounds=1)))
    with pytest.raises(ValueError, match="was run until: reveal and has no model of its own; round 0 is the base"):
        rounds.load_round(str(tmp_path / "run"))
    assert rounds.load_round(str(tmp_path / "run"), 0)[2] == 0


def test_a_constraint_must_be_able_to_act(refused):
    def apart(rounds=1, place="joint", rank=2, targets=("q",), **constraint):
        adapter = {"rank": rank, "alpha": 4.0, "targets": list(targets)}
        release = {"adapter": adapter, "retain": {"place": place}, "orthogonality": constraint}
        return refused(rounds=rounds, release=release)

    assert "penalty is 'olora', but with release.retain.place 'none'" in apart(place="none", penalty="olora")
    assert "projection is 'complement', but with release.retain.place 'none'" in apart(
        place="none", penalty="none", projection="complement"
    )
    assert "rank, directions and memory take 34 directions of the 16 inputs of 'q'" in apart(projection="null_space")
    assert "take 18 directions of the 16 inputs" in apart(rank=8, rounds=2, penalty="activations", directions=10)
    assert "take 24 directions" in apart(rank=8, rounds=2, penalty="none", projection="complement", memory=True)
    assert "memory holds apart from earlier rounds" in apart(memory=True)
    without_pairs = apart(rounds=2, memory=True, penalty="activations", directions=2)
    assert "found penalty 'activations' with weight 1, projection 'none'" in without_pairs
    assert "with weight 0, projection 'none'" in apart(rounds=2, memory=True, penalty="olora", penalty_weight=0.0)
    assert "'complement' makes what penalty 'olora' adds up zero" in apart(penalty="olora", projection="complement")
    assert "'null_space' makes what penalty 'activations' adds up zero" in apart(
        penalty="activations", projection="null_space", directions=2
    )
    # two adapters that read, or write, everything have no angle to be held apart by
    assert "take 20 directions of the 16 inputs of 'q'" in apart(rank=10, penalty="input_angles")
    assert "take 10 directions of the 8 outputs of 'v'" in apart(rank=5, penalty="output_angles", targets=("q", "v"))
    # whatever the constraint, an adapter has no more directions than its module
    assert "release.adapter.rank: 17 is above 16, the smaller side of 'q'" in apart(rank=17)
