"""Runs side by side: the same rows in the same order, nothing computed twice, and no process left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from rr_jax.runs.config_file import parse_config
from rr_jax.studies.sweeps import jobs
from rr_jax.studies.sweeps.jobs import Job
from tests import tiny

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="looks at processes as Linux shows them")


def write(path, folder, out, **changes):
    (path / "base.yaml").write_text(yaml.safe_dump(tiny.run_config(path / "unused", folder)))
    strengths = {str(strength): {"release.strength.retain": [strength]} for strength in (1.0, 0.5)}
    tree = {"base": "base.yaml", "out": str(path / out), "seeds": [0, 1], "overrides": {"rounds": 1}, "stack": "off"}
    (path / f"{out}.yaml").write_text(
        yaml.safe_dump(tree | {"axes": {"strength": strengths}} | changes, sort_keys=False)
    )
    return path / f"{out}.yaml"


def start(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "rr_jax.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def descendants(pid):
    """Processes below a process, and how many cores each may use."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found |= {child: len(os.sched_getaffinity(child))} | descendants(child)
    return found


def gone(pids, seconds):
    """Whether all of them have ended within a time; one that nobody has waited for is at an end too."""

    def alive(pid):
        try:
            return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return False

    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(alive, pids))


@pytest.mark.slow
def test_rows_are_in_order_and_shared_stages_are_computed_once(folder, tmp_path):
    tables = {}
    for count in (1, 2):
        process = start("sweep", write(tmp_path, folder, f"jobs{count}"), "--jobs", count)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        lines = [line for line in errors.splitlines() if line.startswith("run ")]
        assert sorted(line.partition(":")[0] for line in lines) == [
            "run 1 of 4 (1.0, seed 0)", "run 2 of 4 (1.0, seed 1)", "run 3 of 4 (0.5, seed 0)", "run 4 of 4 (0.5, seed 1)",
        ]  # fmt: skip
        assert all(": done (" in line for line in lines)
        found = json.loads((tmp_path / f"jobs{count}" / "sweep.json").read_text())["rows"]
        tables[count] = [{name: value for name, value in row.items() if name != "seconds"} for row in found]
        for seed in (0, 1):  # what the first run with a seed has computed
            run = tmp_path / f"jobs{count}" / "runs" / f"0.5-seed{seed}"
            taken = json.loads((run / "manifest.json").read_text())["taken_over"]
            assert {"round 1, reveal": f"1.0-seed{seed}", "round 1, train": f"1.0-seed{seed}"}.items() <= taken.items()
    assert [(row["strength"], row["seed"]) for row in tables[2]] == [("1.0", 0), ("1.0", 1), ("0.5", 0), ("0.5", 1)]
    for one, other in zip(tables[1], tables[2], strict=True):
        numbers = one.keys() - {"strength"}
        assert one.keys() == other.keys()
        for name in numbers:  # the number of cores may change the order of a sum
            value = other[name]
            assert one[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-5)), name


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_no_worker_outlives_the_command(folder, tmp_path, end):
    process = start("sweep", write(tmp_path, folder, "sweep"), "--jobs", 2)
    first = tmp_path / "sweep" / "runs" / "1.0-seed0" / "checkpoints" / "1"
    limit = time.monotonic() + 200
    while not first.exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    below = descendants(process.pid)
    assert first.exists() and len(below) >= 2
    cores = len(os.sched_getaffinity(0))
    assert max(below.values()) <= (cores + 1) // 2
    process.send_signal(end)
    _, errors = process.communicate(timeout=60)
    assert gone(below, 10)
    if end == signal.SIGINT:
        assert process.returncode == 130
        assert errors.splitlines()[-1] == "rr-jax: stopped; the same command resumes from the last finished stage"
        assert "Traceback" not in errors


def test_what_is_wrong_with_a_run_is_one_line_whoever_runs_it(folder, tmp_path):
    changes = {"axes": {"model": {"there": {}, "missing": {"model": str(tmp_path / "nowhere")}}}, "seeds": [0]}
    process = start("sweep", write(tmp_path, folder, "sweep", **changes), "--jobs", 2)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 2
    assert errors.splitlines()[-1].startswith("rr-jax: ") and "nowhere" in errors.splitlines()[-1]
    assert "Traceback" not in errors


def test_the_first_of_those_that_share_is_the_first_to_run(tmp_path, folder):
    config = parse_config(tiny.run_config(tmp_path / "run", folder))
    base, reveal, other = tmp_path / "0", tmp_path / "1", tmp_path / "2"
    waiting = {
        0: Job(config),
        1: Job(config, waits=[(0, base), (0, reveal)]),
        2: Job(config, waits=[(0, base)]),
        3: Job(config, waits=[(0, base), (2, other)]),
    }
    assert jobs._ready(waiting, set()) == [0]
    del waiting[0]
    assert jobs._ready(waiting, set()) == []
    base.write_text("")
    assert jobs._ready(waiting, set()) == [2]
    reveal.write_text("")
    assert jobs._ready(waiting, set()) == [2, 1]
    other.write_text("")
    assert jobs._ready(waiting, set()) == [2, 1, 3]
    base.unlink()
    assert jobs._ready(waiting, {0}) == [2, 1, 3]  # a run that is over makes nothing more
