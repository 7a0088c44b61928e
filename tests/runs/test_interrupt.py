"""Ctrl-C and SIGTERM: one line that says how to go on, exit code 130 or 143, and a run that does go on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests import tiny
from tests.command import rr_jax

ROOT = Path(__file__).parents[2]
STOPPED = "rr-jax: stopped; the same command resumes from the last finished stage"


# a shell that starts the tests in the background makes them, and all that they start, ignore SIGINT
HEARS_SIGINT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from rr_jax.cli import main
main()
"""


def start(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", HEARS_SIGINT, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def interrupt_when(process, path, number=signal.SIGINT):
    """Sends a signal as soon as a path is there; the exit code and the lines on stderr."""
    end = time.monotonic() + 240
    while not path.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert path.exists(), errors
    return process.returncode, errors.splitlines()


STAGES = ["config.yaml", "search_01.partial.jsonl", "checkpoints/1", "checkpoints/3", "checkpoints/6"]


@pytest.mark.parametrize(
    ("points", "number"),
    [
        (STAGES[:1], signal.SIGINT),
        (STAGES[:1], signal.SIGTERM),
        pytest.param(STAGES, signal.SIGINT, marks=pytest.mark.slow),
    ],
    ids=["one", "terminated", "five"],
)
def test_an_interrupted_run_says_so_and_goes_on(folder, tmp_path, points, number):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tiny.run_config(tmp_path / "run", folder)))
    command = ("run", tmp_path / "config.yaml")
    for point in points:
        code, lines = interrupt_when(start(*command), tmp_path / "run" / point, number)
        assert code == 128 + number, (point, lines)  # 130 and 143
        assert lines[-1] == STOPPED and not any("Traceback" in line for line in lines), (point, lines)
    finished = rr_jax(*command)
    assert finished.returncode == 0, finished.stderr
    assert "selected round:" in finished.stdout


def test_an_interruption_that_python_would_swallow_is_one_too():
    """As when it meets a callback of the garbage collector, where nothing can be raised."""
    code = """
import sys
from rr_jax import cli

class Collected:
    def __del__(self):
        raise KeyboardInterrupt

def app(*arguments, **options):
    Collected()
    raise AssertionError("went on")

cli.app, sys.argv = app, ["rr-jax", "run"]
cli.main()
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (130, STOPPED + "\n")


def test_other_commands_promise_nothing(folder, tmp_path):
    """A prompt is shown as soon as the model is there; its continuation takes a while."""
    process = start("generate", folder, "--prompt", "abc", "--max-new-tokens", "2000", "--temperature", "1")
    assert process.stdout.readline() == "> abc\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (130, "rr-jax: stopped\n")
