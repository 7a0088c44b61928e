"""Hostile, broken and honest programs: only the last kind passes, and none reaches anything outside."""

import gzip
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax.numpy as jnp
import pytest

from rr_jax.evaluate.sandbox import runner as sandbox
from rr_jax.evaluate.sandbox.pass_at_k import check_solutions
from rr_jax.evaluate.sandbox.runner import Result, run_programs

OUTCOMES = {
    # honest
    "x = 1\nassert x + 1 == 2": "passed",
    "from typing import List\nimport collections.abc, math\n"
    "def f(x: List[int]): return math.sqrt(x[0])\nassert f([4]) == 2": "passed",
    "def f(a): return eval('a * 2')\nexec('b = f(4)')\nassert b == 8": "passed",
    "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nassert P(1) == P(1)": "passed",
    "try:\n    {}['k']\nexcept KeyError as error:\n    pass\nprint('done')": "passed",
    # wrong
    "assert 1 == 2": "failed assertion",
    "undefined": "error: NameError",
    "class Mine(Exception): pass\nraise Mine": "error: Mine",
    "def f(): return f()\nf()": "error: RecursionError",
    "def f(:": "syntax error",
    "return 1": "syntax error",
    "x = '\0'": "syntax error",
    "x = '\ud800'": "syntax error",
    "(" * 1000 + ")" * 1000: "syntax error",
    "-" * 200_000 + "1": "syntax error",
    # leaves before its assertions
    "import sys\nsys.exit(0)\nassert False": "error: SystemExit",
    "raise SystemExit(0)\nassert False": "error: SystemExit",
    "exit(0)": "error: NameError",
    "import os\nos._exit(0)": "error: ImportError",
    # takes the assertions away
    "AssertionError = ValueError\nassert False": "failed assertion",
    "__builtins__['AssertionError'] = ValueError\nassert False": "failed assertion",
    "import builtins\nbuiltins.AssertionError = ValueError\nassert False": "error: ImportError",
    "class Meta(type):\n    @property\n    def __name__(cls): raise SystemExit\n"
    "class E(Exception, metaclass=Meta): pass\nraise E": "error: E",
    # takes the machine
    "while True: pass": "timeout",
    "while True: print('x' * 10**6)": "timeout",
    "import re\nre.match('(a+)+$', 'a' * 50 + 'b')": "timeout",
    "x = [0] * 10**10": "error: MemoryError",
    "import os\nwhile True: os.fork()": "error: ImportError",
    "open('escaped', 'w').write('x')": "error: NameError",
    "import socket": "error: ImportError",
    "import subprocess": "error: ImportError",
    "__import__('os').system('true')": "error: ImportError",
    # looks for the harness
    "import sys\nsys._getframe(1).f_locals": "error: Forbidden",
    "import sys\nsys._getframe(1)": "error: AttributeError",
    "try:\n    1 / 0\nexcept Exception as e:\n    frame = e.__traceback__.tb_frame.f_back": "error: Forbidden",
    "def f(e):\n    match e:\n        case Exception(__traceback__=t): return t\nf(Exception())": "error: Forbidden",
    "(i for i in ()).gi_frame": "error: Forbidden",
    "().__class__.__base__.__subclasses__()": "error: Forbidden",
    "getattr((), '__cl' + 'ass__').mro()": "error: Forbidden",
    "getattr(print, '__se' + 'lf__')": "error: Forbidden",
    "eval('print.__self__')": "error: Forbidden",
    "import collections\ncollections._sys": "error: AttributeError",
    "import typing\ntyping.sys": "error: AttributeError",
    "from string import Formatter": "error: ImportError",
    "from operator import attrgetter": "error: ImportError",
}


def test_how_programs_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    results = run_programs(list(OUTCOMES), timeout=1.0)
    found = dict(zip(OUTCOMES, results, strict=True))
    assert found == {program: Result(reason == "passed", reason) for program, reason in OUTCOMES.items()}
    assert not list(tmp_path.iterdir())


def _in_worker(script: str) -> subprocess.CompletedProcess[str]:
    """Runs a script that has the worker's own names, to reach the layers below the refusal of names."""
    source = f"import sys; sys.path.insert(0, {str(sandbox.WORKER.parent)!r})\nfrom worker import *\n{script}"
    return subprocess.run([sys.executable, "-S", "-c", source], capture_output=True, text=True, timeout=60)


ESCAPED = """
import socket
SAFE_BUILTINS.update(os=os, socket=socket, open=open, time=time, signal=signal)  # as if it had got out
"""


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("os._exit(0)", "killed"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed"),
        ("for n in range(3, 50):\n  try: os.write(n, b'0' * 32 + b' passed')\n  except OSError: pass", "killed"),
        ("os.fork()", "error: BlockingIOError"),
        ("socket.socket()", "error: OSError"),
        ("open('/etc/hosts')", "error: OSError"),
        ("open('written', 'w')", "error: OSError"),
        ("time.sleep(60)", "timeout"),
        ("for n in range(3, 50):\n  try: os.close(n)\n  except OSError: pass", "killed"),
        ("x = bytearray(10**9)", "error: MemoryError"),
    ],
)
def test_what_stops_a_program_that_got_out(program: str, reason: str):
    done = _in_worker(f"{ESCAPED}\nprint(supervise([{program!r}], 1.0, 1))")
    assert done.stdout.strip() == repr([reason]), done.stderr


def test_a_process_that_a_program_leaves_behind_is_ended_and_does_not_hold_up_the_rest():
    script = f"""{ESCAPED}
del resource.RLIMIT_NPROC  # processes allowed, the worst case
program = "pid = os.fork()\\nif pid == 0:\\n  while True: time.sleep(60)"
print(supervise([program, "x = 1"], 5.0, 1))
"""
    start = time.monotonic()
    done = _in_worker(script)
    assert done.stdout.strip() == "['passed', 'passed']", done.stderr
    assert time.monotonic() - start < 5.0


def test_hundreds_of_programs_in_seconds_in_order_from_a_process_with_jax_and_threads():
    stop = threading.Event()
    threads = [threading.Thread(target=stop.wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        assert float(jnp.arange(4.0).sum()) == 6.0
        start = time.monotonic()
        results = run_programs([f"assert {i} % 3" for i in range(300)])
        assert time.monotonic() - start < 10.0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert [result.passed for result in results] == [i % 3 != 0 for i in range(300)]


def test_waiting_programs_wait_together():
    start = time.monotonic()
    assert run_programs(["while True: pass"] * 4, timeout=1.0, workers=4) == [Result(False, "timeout")] * 4
    assert time.monotonic() - start < 3.9


def test_the_same_program_ends_the_same_way_each_time():
    program = "import random\nassert (hash('text') + random.getrandbits(64)) % 2"
    assert len({run_programs([program])[0].reason for _ in range(6)}) == 1


def test_an_interrupt_ends_worker_and_programs(monkeypatch: pytest.MonkeyPatch):
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen):
        def communicate(self, *_, **__):
            started.append(self)
            super().communicate(b'{"programs": ["while True: pass"], "timeout": 60, "workers": 1}', timeout=1.0)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(RuntimeError, match="did not finish"):
        run_programs(["x = 1"])
    assert started[0].returncode == 1  # ended by its own handler, which ends the programs first


def test_refused_arguments(monkeypatch: pytest.MonkeyPatch):
    assert run_programs([]) == []
    with pytest.raises(ValueError, match="timeout"):
        run_programs(["x"], timeout=0.0)
    with pytest.raises(ValueError, match="workers"):
        run_programs(["x"], workers=0)
    with pytest.raises(ValueError, match=r"programs\[1\] must be a string, found NoneType"):
        run_programs(["x", None])
    monkeypatch.setattr(sandbox, "WORKER", Path("/no/such/worker.py"))
    with pytest.raises(RuntimeError, match="status 2"):
        run_programs(["x"])
    monkeypatch.setattr(os, "name", "nt")
    with pytest.raises(RuntimeError, match="POSIX"):
        run_programs(["x"])


@pytest.mark.shared
def test_the_solutions_of_humaneval_and_mbpp_pass(shared: Path):
    def rows(path: str) -> list[dict]:
        with gzip.open(shared / "data" / path, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    human = rows("humaneval/HumanEval.jsonl.gz")
    mbpp = [row for row in rows("mbpp/mbpp.jsonl.gz") if row["task_id"] != 123]  # which takes seconds
    solutions = [row["prompt"] + row["canonical_solution"] for row in human] + [row["code"] for row in mbpp]
    tests = [f"{row['test']}\ncheck({row['entry_point']})" for row in human]
    tests += ["\n".join([row["test_setup_code"], *row["test_list"]]) for row in mbpp]
    results = check_solutions(solutions, tests, timeout=10.0)
    failed = {i: result.reason for i, result in enumerate(results) if not result.passed}
    assert not failed
