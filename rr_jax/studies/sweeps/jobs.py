"""Runs side by side: a few worker processes, each with its share of the cores, which end when whoever started them does.

A worker does one run after the other, so that what it has compiled serves the next. Knows runs by their configuration;
never what they are for.
"""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any, NamedTuple

from rr_jax.runs.config import RunConfig
from rr_jax.runs.rounds import NothingRevealed
from rr_jax.studies.attacks import attack
from rr_jax.studies.experiment import run
from rr_jax.training.loop import TrainingDiverged

POLL = 0.1  # seconds between two looks at whether a stage that others wait for is there


class Job(NamedTuple):
    """Describes one run.

    Attributes:
      config: of the run.
      siblings: as for `rounds.run`.
      waits: what it waits for, so that it need not be computed twice: (which job, a path that this job makes); a job
        that is over has made all it will.
      attack_steps: steps of relearning with which the model is attacked afterwards; none: it is not.
    """

    config: RunConfig
    siblings: Sequence[Path] = ()
    waits: Sequence[tuple[int, Path]] = ()
    attack_steps: Sequence[int] = ()


class _Worker(NamedTuple):
    process: Any
    pipe: Any


Over = Callable[[int, str | None, float], None]


def run_job(job: Job) -> str | None:
    """Runs, and returns why the run could not go on, or None: a result like any other.

    Raises:
      ValueError: as `rounds.run` and `attack`, for all else.
    """
    try:
        run(job.config, siblings=job.siblings)
        if job.attack_steps:
            attack(Path(job.config.out), steps=job.attack_steps, compared=False)
    except (NothingRevealed, TrainingDiverged) as error:
        return str(error)
    return None


def run_jobs(jobs: dict[int, Job], count: int, over: Over) -> None:
    """Runs jobs in at most `count` processes, those first that nobody waits for in vain.

    Args:
      jobs: by number; a job waits only for jobs of smaller numbers.
      count: of processes, at least 1.
      over: called with (number, what `run_job` returned, seconds) for each job, in the order in which they end.

    Raises:
      ValueError: as `run_job`; or a worker died. The other workers are stopped, and their runs can be resumed.
    """
    waiting, ended = dict(jobs), set[int]()
    workers = _start(min(count, len(jobs)))
    idle, busy = list(workers), dict[Any, tuple[_Worker, int, float]]()
    try:
        while waiting or busy:
            for number in _ready(waiting, ended)[: len(idle)]:
                worker = idle.pop()
                worker.pipe.send(waiting.pop(number)._replace(waits=()))
                busy[worker.pipe] = (worker, number, time.perf_counter())
            for pipe in connection.wait(list(busy), POLL if waiting and idle else None):
                worker, number, start = busy.pop(pipe)
                failure = _receive(worker, jobs[number].config.out)
                idle.append(worker)
                ended.add(number)
                over(number, failure, time.perf_counter() - start)
    finally:
        for worker in workers:
            _stop(worker)


def _ready(waiting: dict[int, Job], ended: set[int]) -> list[int]:
    """Returns the jobs that wait for nothing any more: the first of those that share much before the others."""
    ready = [
        number for number, job in waiting.items() if all(other in ended or path.exists() for other, path in job.waits)
    ]
    return sorted(ready, key=lambda number: (len(waiting[number].waits), number))


def _start(count: int) -> list[_Worker]:
    """Starts workers, each on its share of this process's cores from its very first thread on."""
    method = multiprocessing.get_context("spawn")  # a copy of a process with threads may hang
    workers = []
    limits = hasattr(os, "sched_setaffinity")  # not everywhere
    cores = sorted(os.sched_getaffinity(0)) if limits else []
    # a child inherits both: an interruption is this process's to hear
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        for worker in range(count):
            if limits:
                share = cores[worker * len(cores) // count : (worker + 1) * len(cores) // count]
                os.sched_setaffinity(0, share or [cores[worker % len(cores)]])
            here, there = method.Pipe()
            process = method.Process(target=_work, args=(there,), daemon=True)
            process.start()
            there.close()
            workers.append(_Worker(process, here))
    finally:
        if limits:
            os.sched_setaffinity(0, cores)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return workers


def _receive(worker: _Worker, out: str) -> str | None:
    """Returns what became of a worker's job."""
    try:
        kind, value, trace = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join(5)
        raise ValueError(
            f"the process of {out} ended with exit code {worker.process.exitcode}, expected a result; the same command "
            "resumes from the last finished stage"
        ) from None
    if kind == "over":
        return None if value is None else str(value)
    error = (ValueError if kind == "refused" else RuntimeError)(value)
    error.add_note(trace)
    raise error


def _stop(worker: _Worker) -> None:
    """Ends a worker and all that it started."""
    worker.pipe.close()
    for end in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(worker.process.pid, end)
        except OSError:  # not a group of its own yet, or gone
            worker.process.kill()
        worker.process.join(2)
        if worker.process.exitcode is not None:
            return


def _work(pipe: Any) -> None:
    """Takes jobs until there are no more."""
    os.setpgid(0, 0)  # so that it can be ended together with what it starts
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            os._exit(0)  # not by way of Python, which may crash on threads that are still at work
        try:
            answer: tuple[str, str | None, str] = ("over", run_job(job), "")
        except (ValueError, OSError) as error:
            answer = ("refused", str(error) or type(error).__name__, traceback.format_exc())
        except Exception as error:
            answer = ("broken", f"{type(error).__name__}: {error}", traceback.format_exc())
        pipe.send(answer)


def _end_with_parent() -> None:
    """Makes this process end with its parent, however that ends: no worker outlives it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGTERM)
    os._exit(1)
