"""The files of a run folder other than checkpoints: configuration, manifest, metrics, revealed texts, samples, summary.

Everything is written to a temporary name and moved into place, so a reader never sees half a file.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax

from rr_jax.reveal.collect import Collection
from rr_jax.runs.checkpoint import STAGES
from rr_jax.runs.config import RunConfig
from rr_jax.runs.config_file import differing_keys, dump_config, plain, read_yaml
from rr_jax.runs.lock import HOLDER, LOCK

PACKAGES = ("rr-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "datasets", "numpy")


def write_text(path: Path, text: str) -> None:
    """Replaces a file as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # of a report, two processes may write at once
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file as a whole; keys keep their order."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file; an empty one where there is no file.

    Raises:
      ValueError: names the file, when it holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: is not valid JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Replaces a JSON-lines file as a whole."""
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def append_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Adds records to a JSON-lines file."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the records of a JSON-lines file; a last line cut off by a killed process is left out.

    Raises:
      ValueError: another line is damaged; names the file and the line.
    """
    records = []
    for number, record in parsed_lines(path):
        if isinstance(record, str):
            raise ValueError(f"{path}, line {number}: expected a JSON object, found {record[:60]!r}")
        records.append(record)
    return records


def parsed_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Gives the lines of a JSON-lines file with their numbers: records, and as texts the damaged ones.

    A last line that was cut off is not given.
    """
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")  # not splitlines: a text may hold other line ends
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            record = json.loads(line.decode())  # a byte that is no text damages its own line alone
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict) or number < len(lines):
            yield number, record if isinstance(record, dict) else line.decode(errors="replace")


def check_config(folder: Path, config: RunConfig) -> None:
    """Refuses a folder made by another configuration.

    Raises:
      ValueError: names the differing keys; or that the folder holds something that is no run.
    """
    path = folder / "config.yaml"
    if not path.exists():
        # a process killed while it began a run leaves hidden files and the manifest, which is written anew
        if folder.exists() and (not folder.is_dir() or any(not _of_a_beginning(path) for path in folder.iterdir())):
            raise ValueError(f"out: {folder} exists and is not a run folder (it has no config.yaml); choose another")
        return
    found = read_yaml(path, "out:")
    keys = [key for key in differing_keys(found, plain(config)) if key != "out"]
    if keys:
        raise ValueError(
            f"out: {folder} was made by a configuration that differs in {', '.join(keys)}; choose another folder, or "
            "give the same values to resume"
        )


def _of_a_beginning(path: Path) -> bool:
    hidden = path.name.startswith(".") and path.name.endswith(".tmp")
    return hidden or path.name in (LOCK, HOLDER, "manifest.json")


def start_folder(folder: Path, config: RunConfig, data_hashes: dict[str, str]) -> None:
    """Writes config.yaml and manifest.json unless a run is being resumed."""
    if (folder / "config.yaml").exists():
        return
    write_json(folder / "manifest.json", manifest(config, data_hashes))
    write_text(folder / "config.yaml", dump_config(config))


def read_run(folder: Path) -> RunConfig:
    """Returns the configuration of a run folder.

    Raises:
      ValueError: when it is none.
    """
    from rr_jax.runs.config_file import load_config

    if not (folder / "config.yaml").is_file():
        raise ValueError(f"{folder} is not a run folder: it has no config.yaml")
    return load_config(folder / "config.yaml")


def manifest(config: RunConfig, data_hashes: dict[str, str]) -> dict[str, Any]:
    """Returns what a run was made with: versions, commit, devices, seed, hashes of data."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "unknown"
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "versions": versions,
        "git_commit": _git_commit(),
        "devices": {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
        "processes": jax.process_count(),
        "seed": config.seed,
        "data": data_hashes,
    }


def note_seconds(folder: Path, name: str, seconds: float) -> None:
    """Adds the time of a stage to the manifest: times are no results and stay out of the summary."""
    found = read_json(folder / "manifest.json")
    found["seconds"] = found.get("seconds", {}) | {name: round(seconds, 2)}
    write_json(folder / "manifest.json", found)


def _git_commit() -> str | None:
    """Returns the commit of the package's source, if it lies in a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def write_revealed(folder: Path, round_index: int, collected: Collection, keep: str) -> None:
    """Writes the forget set of a round with its lineage, and beside it what was left out and why.

    With keep "hashes" texts are replaced by their SHA-256.
    """
    name = f"round_{round_index:02d}"
    for file, records in (
        (name, [dict(vars(item)) for item in collected.revealed]),
        (f"{name}_left_out", [item._asdict() for item in collected.dropped]),
    ):
        if keep == "hashes":
            for record in records:
                written = ("instruction",) if record.get("kind") == "written" else ()
                for field in ("context", "response", "text", *written):
                    if field in record:
                        record[f"{field}_sha256"] = sha256(record.pop(field))
        write_lines(folder / "revealed" / f"{file}.jsonl", records)


def sha256(text: str) -> str:
    """Returns the SHA-256 hex digest of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def set_damage_aside(folder: Path) -> None:
    """Moves damaged lines of metrics.jsonl into metrics.damaged.txt, with a warning; the others stay as they are."""
    path, aside = folder / "metrics.jsonl", folder / "metrics.damaged.txt"
    whole: list[dict[str, Any]] = []
    damaged: list[str] = []
    for _, record in parsed_lines(path):
        if isinstance(record, dict) and _is_logged(record):
            whole.append(record)
        else:
            damaged.append(record if isinstance(record, str) else json.dumps(record))
    if damaged:
        with aside.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in damaged)
        write_lines(path, whole)
        warnings.warn(f"{path}: {len(damaged)} damaged lines were set aside in {aside}", stacklevel=2)


def _is_logged(record: dict[str, Any]) -> bool:
    whole = all(type(record.get(name)) is int for name in ("round", "step"))
    return whole and record.get("stage") in ("base", *STAGES)


class MetricsLog:
    """Writes metrics.jsonl: one line a logged step, {"round", "stage", "step", name: value}.

    Opening it drops the lines of stages that were not completed, so that a resumed run does not repeat them.
    """

    def __init__(self, folder: Path, completed: Callable[[int, str], bool]) -> None:
        self.path = folder / "metrics.jsonl"
        write_lines(self.path, [r for r in read_lines(self.path) if completed(r["round"], r["stage"])])

    def write(self, round_index: int, stage: str, step: int, values: dict[str, float]) -> None:
        """Appends one line."""
        line = json.dumps({"round": round_index, "stage": stage, "step": step} | values)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
