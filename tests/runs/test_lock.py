"""Two processes on one run folder: the second is refused in one line, and readers leave the first one's work alone."""

import os
import socket
import subprocess
import sys

import pytest

from rr_jax.runs.config_file import parse_config
from rr_jax.runs.lock import FolderInUse, locked, refuse_in_use
from rr_jax.runs.loop import load_deltas, run
from rr_jax.studies.surface import draw_surface
from tests import tiny

HOLD = """
import sys, time
from pathlib import Path
from rr_jax.runs.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder():
    """A process that holds a folder until it is killed."""
    started = []

    def hold(folder):
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_folder_in_use_is_refused_and_its_holder_named(folder, tmp_path, holder):
    out = tmp_path / "run"
    process = holder(out)
    said = (
        rf"out: {out} is in use by process {process.pid} on {socket.gethostname()}, since \d{{4}}-.*: wait for its end"
    )
    config = parse_config(tiny.run_config(out, folder, rounds=1))
    with pytest.raises(FolderInUse, match=said):
        run(config)
    assert sorted(path.name for path in out.iterdir()) == [".lock", ".lock.json"]  # nothing was written beside it
    process.kill()  # and the lock is gone with it, whatever it left
    process.wait()
    assert run(config).status == "complete"
    assert not (out / ".lock.json").exists()


def test_it_is_held_by_this_process_too_and_free_afterwards(tmp_path):
    with locked(tmp_path), pytest.raises(FolderInUse, match=f"by process {os.getpid()} on"):
        refuse_in_use(tmp_path)
    refuse_in_use(tmp_path)
    refuse_in_use(tmp_path / "not there")
    assert not (tmp_path / "not there").exists()


def test_readers_leave_what_is_being_written_alone(folder, tmp_path):
    """Orbax writes a checkpoint under a temporary name: opening the folder to write would clear that away."""
    out = tmp_path / "run"
    run(parse_config(tiny.run_config(out, folder, rounds=1)))
    under_way = out / "checkpoints" / "5.orbax-checkpoint-tmp"
    (under_way / "arrays").mkdir(parents=True)
    with locked(out):
        assert load_deltas(out, 1)[2] == 1
        assert draw_surface(out, 1, forget_strength=[0.0], retain_strength=[0.0]).round_index == 1
    assert (under_way / "arrays").is_dir()


def test_a_folder_whose_run_was_killed_before_its_first_file_is_begun_anew(folder, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    for name in (".lock", ".lock.json", "manifest.json", ".config.yaml.17.tmp"):
        (out / name).write_text("{")
    assert run(parse_config(tiny.run_config(out, folder, rounds=1))).status == "complete"
    other = tmp_path / "other"
    other.mkdir()
    (other / ".git").write_text("mine")
    for text, said in (("", "is empty, expected keys"), ("a: [", "is not valid YAML"), ("- a", "found list")):
        (out / "config.yaml").write_text(text)
        with pytest.raises(ValueError, match=f"out: .*config.yaml: {said}|out: .*config.yaml: .*{said}"):
            run(parse_config(tiny.run_config(out, folder, rounds=1)))
    with pytest.raises(ValueError, match="exists and is not a run folder"):
        run(parse_config(tiny.run_config(other, folder, rounds=1)))
