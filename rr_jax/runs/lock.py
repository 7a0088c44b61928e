"""One process at a time works in a run folder: a lock that the system takes back when its process ends, however it ends.

Who reads a folder needs none. Knows folders only, never what a run is.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

LOCK, HOLDER = ".lock", ".lock.json"


class FolderInUse(ValueError):
    """Says that another process works in a folder."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a folder, which is made where it is not there, for this process alone.

    Raises:
      FolderInUse: another process holds it; names the process, its machine and since when.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise FolderInUse(
            f"out: {folder} is in use by {_holder(folder)}: wait for its end, or choose another folder"
        ) from None
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
        note = {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
        (folder / HOLDER).write_text(json.dumps(note) + "\n", encoding="utf-8")
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def refuse_in_use(folder: Path) -> None:
    """Raises FolderInUse where another process holds a folder; makes nothing."""
    if (folder / LOCK).exists():
        with locked(folder):
            pass


def _holder(folder: Path) -> str:
    try:
        note = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"process {note['pid']} on {note['host']}, since {note['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has just begun, or just ended
        return "another process"
