"""Files of a run folder that were damaged: what is whole goes on, and what is not is said."""

import json

import pytest

from rr_jax.runs.config_file import parse_config
from rr_jax.runs.folder import read_lines, set_damage_aside
from rr_jax.runs.loop import run
from tests import tiny

GOOD = [{"round": 1, "stage": "train", "step": step, "loss": 0.5} for step in range(3)]


def written(path, lines, end="\n"):
    path.write_bytes(("\n".join(lines) + end).encode() if isinstance(lines[0], str) else b"\n".join(lines))
    return path


def test_a_last_line_that_was_cut_off_is_left_out_and_another_one_is_named(tmp_path):
    lines = [json.dumps(one) for one in GOOD]
    assert read_lines(tmp_path / "none.jsonl") == []
    assert read_lines(written(tmp_path / "whole.jsonl", lines)) == GOOD
    assert read_lines(written(tmp_path / "cut.jsonl", [*lines, '{"round": 1, "st'], end="")) == GOOD
    broken = written(tmp_path / "broken.jsonl", [lines[0], '{"round": 1, "st', *lines[1:]])
    with pytest.raises(ValueError, match=r"broken.jsonl, line 2: expected a JSON object, found '{\"round\": 1, \"st'"):
        read_lines(broken)
    with pytest.raises(ValueError, match=r"list.jsonl, line 1: expected a JSON object, found '\[1\]'"):
        read_lines(written(tmp_path / "list.jsonl", ["[1]", *lines]))


def test_damaged_lines_are_set_aside_and_nothing_else_is_lost(tmp_path):
    lines = [json.dumps(one).encode() for one in GOOD]
    bad = [b"\xff\xfe", b'{"loss": 1}', b'{"round": 1', b"[" * 5000, b'{"round": 1, "stage": "\xff", "step": 1}']
    bad += [b'{"round": 1, "stage": "nap", "step": 1}', b'{"round": "x", "stage": "base", "step": 1}']
    written(tmp_path / "metrics.jsonl", [lines[0], *bad, *lines[1:], b'{"rou'])
    with pytest.warns(UserWarning, match=r"metrics.jsonl: 7 damaged lines were set aside in .*metrics.damaged.txt"):
        set_damage_aside(tmp_path)
    assert read_lines(tmp_path / "metrics.jsonl") == GOOD
    assert len((tmp_path / "metrics.damaged.txt").read_text().splitlines()) == 7
    set_damage_aside(tmp_path)  # nothing more to say


def test_a_run_goes_on_past_a_damaged_line(folder, tmp_path):
    config = parse_config(tiny.run_config(tmp_path / "run", folder, rounds=1))
    summary = run(config)
    path = tmp_path / "run" / "metrics.jsonl"
    before = path.read_text().splitlines()
    path.write_text("\n".join([*before[:3], "\0\0\0", *before[3:]]) + "\n")
    with pytest.warns(UserWarning, match="1 damaged lines were set aside"):
        assert run(config) == summary
    assert path.read_text().splitlines() == before
