"""Runs programs that a model wrote, in another process with little power, and says how each of them ended.

A clean Python process (`worker.py`) is started for a whole list of programs and forks once per program. Our
own process never forks and never executes model text: it may hold JAX, devices and many threads.

What confines a program: a process of its own, killed at the time limit; limits on CPU time, memory, new descriptors
(no file, socket or pipe can be opened), bytes written and new processes; root gives up its rights first; output goes
to /dev/null; builtins without `open`; a short list of importable modules, as copies of their public names; attributes
that lead from ordinary objects to the interpreter's insides (`__subclasses__`, `f_back`, ...) are refused. A program
passes only when the harness, after the last line has run, writes a secret to a pipe that the program cannot name:
leaving early, with whatever exit status, is not passing.

What this is not: a security boundary against a determined attacker. Python cannot confine Python, the kernel is
shared, and a program that finds a way around the list of refused attributes can forge a pass. It is built for what
models write by accident or by habit. Run untrusted models in a container or a virtual machine.

POSIX only (fork and resource limits). Knows nothing of models, tests or scores.
"""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

WORKER = Path(__file__).with_name("worker.py")
SLACK_SECONDS = 60.0  # beyond what the programs may take together, for a machine that is busy


class Result(NamedTuple):
    """Says how a program ended.

    `reason` is "passed", "failed assertion", "error: TypeName" (the uncaught exception; "error: Forbidden" for an
    attribute the sandbox refuses), "syntax error", "timeout" or "killed" (it died, or left, without a word).
    """

    passed: bool
    reason: str


def run_programs(programs: Sequence[str], timeout: float = 3.0, workers: int = 2) -> list[Result]:
    """Runs each program in a sandboxed process of its own; see the module's docstring for what that means.

    String hashing and `random` are seeded, so that a program ends the same way each time.

    Args:
      programs: Python source texts, run as modules whose `__name__` is "program".
      timeout: seconds of wall time for each program. The default is that of HumanEval.
      workers: programs that run at the same time.

    Returns:
      A `Result` for each program, in order.

    Raises:
      ValueError: for a time limit or a number of workers that is not positive, or a program that is not a string.
      RuntimeError: on a system without POSIX processes, or when the worker process itself fails.
    """
    if os.name != "posix":
        raise RuntimeError(f"the sandbox needs a POSIX system (fork and resource limits), found {os.name!r}")
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout must be a positive number of seconds, found {timeout}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, found {workers}")
    for index, program in enumerate(programs):
        if not isinstance(program, str):
            raise ValueError(f"programs[{index}] must be a string, found {type(program).__name__}")
    if not programs:
        return []
    job = json.dumps({"programs": list(programs), "timeout": timeout, "workers": workers}).encode()
    limit = math.ceil(len(programs) / workers) * (timeout + 1.0) + SLACK_SECONDS
    reasons = json.loads(_run_worker(job, limit))
    return [Result(reason == "passed", reason) for reason in reasons]


def _run_worker(job: bytes, limit: float) -> bytes:
    """Returns the standard output of a worker that was given `job`; however this ends, the worker and its programs end
    with it."""
    # Not -I, which is -E -P -s, because -E would ignore the hash seed; the environment holds nothing else to ignore.
    command = [sys.executable, "-P", "-s", "-S", "-B", "-W", "ignore", str(WORKER)]
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryDirectory(prefix="rr-jax-sandbox-") as folder,
        subprocess.Popen(
            command,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            cwd=folder,
            env={"PYTHONHASHSEED": "0"},
            start_new_session=True,  # an interrupt at the terminal reaches us alone, and we pass it on below
        ) as worker,
    ):
        try:
            output, errors = worker.communicate(job, timeout=limit)
        except BaseException as error:
            worker.send_signal(signal.SIGTERM)  # its handler kills the programs that are still running
            try:
                worker.wait(5.0)
            except subprocess.TimeoutExpired:
                worker.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise RuntimeError(f"the sandbox worker did not finish within {limit:.0f} s") from error
            raise
    if worker.returncode != 0:
        last = errors.decode(errors="replace").strip()[-500:]
        raise RuntimeError(f"the sandbox worker ended with status {worker.returncode}: {last}")
    return output
