"""Safetensors files of a folder, one or sharded with an index: what is in them, one tensor at a time, and writing them.

Whatever is wrong with a file becomes a ValueError of one line that names it. Nothing pickled is ever opened. Knows
tensors by name, shape and dtype, never which model they belong to.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_FLOATS = {"F64", "F32", "F16", "BF16"}
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


class WeightFiles:
    """Reads the tensors of a folder by name. `opened` makes one."""

    def __init__(self, paths: Mapping[Path, frozenset[str] | None]) -> None:
        self._open: dict[Path, Any] = {}
        self._stack = contextlib.ExitStack()
        self._path_of: dict[str, Path] = {}
        for path, wanted in paths.items():
            names = self._file(path).keys()
            # a shard may hold a stale copy of what the index says is in another
            self._path_of |= dict.fromkeys((name for name in names if wanted is None or name in wanted), path)
        self.forget()

    @property
    def names(self) -> Sequence[str]:
        """Returns the names of all tensors, file by file."""
        return tuple(self._path_of)

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raises ValueError unless the tensor is unquantised floating point of this shape; reads its header only."""
        path = self._path_of[name]
        with _named(path):
            header = self._file(path).get_slice(name)
            found, dtype = tuple(header.get_shape()), header.get_dtype()
        if dtype not in _FLOATS:
            raise ValueError(f"{path}: {name} is {dtype}, expected unquantised floating point, 16 bits or more")
        if found != shape:
            raise ValueError(f"{path}: {name} has shape {list(found)}, the config expects {list(shape)}")

    def read(self, name: str) -> np.ndarray:
        """Reads one tensor."""
        path = self._path_of[name]
        with _named(path):
            tensor: np.ndarray = self._file(path).get_tensor(name)
        return tensor

    def forget(self) -> None:
        """Closes the files until they are needed again: what was mapped of them leaves the memory."""
        self._open.clear()
        self._stack.close()

    def _file(self, path: Path) -> Any:
        import safetensors

        if path not in self._open:
            with _named(path):
                self._open[path] = self._stack.enter_context(safetensors.safe_open(str(path), framework="numpy"))
        return self._open[path]


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[WeightFiles]:
    """Opens the weight files of a model folder.

    Raises:
      ValueError: there are none, the index is wrong, or a file is truncated or corrupt.
    """
    files = WeightFiles(weight_files(folder))
    try:
        yield files
    finally:
        files.forget()


@contextlib.contextmanager
def opened_file(path: Path) -> Iterator[WeightFiles]:
    """Opens one safetensors file. Raises ValueError when it is truncated or corrupt."""
    files = WeightFiles({path: None})
    try:
        yield files
    finally:
        files.forget()


def weight_files(folder: Path) -> dict[Path, frozenset[str] | None]:
    """Returns the safetensors files of a folder, one or as the index lists them, and what is to be read of each: the
    tensors that the index says are there, or all (None)."""
    if (folder / SINGLE).is_file():
        return {folder / SINGLE: None}
    if not (folder / INDEX).is_file():
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        beside = f" (found {', '.join(pickled)}; pickled weights are never opened: {convert_hint(folder)})"
        raise ValueError(f"{folder} has no {SINGLE} and no {INDEX}{beside if pickled else ''}")
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{folder / INDEX} has no weight_map object")
    names = sorted(set(map(str, weight_map.values())))
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise ValueError(f"{folder / INDEX} lists {name}, which is not a file in {folder}")
    return {folder / name: frozenset(key for key, file in weight_map.items() if file == name) for name in names}


def convert_hint(folder: Path) -> str:
    """Says what to do with a folder of pickled weights that one trusts."""
    return (
        'if you trust them, convert to safetensors with python -c "import transformers as t; '
        f"t.AutoModelForCausalLM.from_pretrained('{folder}').save_pretrained('{folder}-safetensors')\""
    )


def write(
    folder: Path,
    tensors: Sequence[tuple[str, Callable[[], np.ndarray]]],
    sizes: Sequence[int],
    max_shard_bytes: int,
) -> None:
    """Writes tensors, made one shard at a time, as one file or as numbered shards with an index.

    Args:
      tensors: (name, what makes it) in order.
      sizes: of each in bytes.
      max_shard_bytes: what goes into one file, unless a single tensor is larger.
    """
    from safetensors.numpy import save_file

    shards: list[list[int]] = [[]]
    filled = 0
    for index, size in enumerate(sizes):
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(index)
        filled += size
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        content = {tensors[index][0]: tensors[index][1]() for index in shard}
        weight_map |= dict.fromkeys(content, file)
        save_file(content, folder / file, metadata={"format": "pt"})  # transformers reads no file without it
        (folder / file).chmod(_ordinary_mode(folder))  # safetensors writes for the owner alone
    if len(shards) > 1:
        listing = {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(listing, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. Raises ValueError that names the file when there is none or it holds something else."""
    if not path.is_file():
        raise ValueError(f"{path.parent} has no {path.name}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # includes undecodable bytes
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a JSON {type(value).__name__}, expected an object")
    return value


def _ordinary_mode(folder: Path) -> int:
    """Returns the mode that a new file in a folder of this mode has: without the permission to run it."""
    return folder.stat().st_mode & 0o666


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns whatever safetensors reports about the bytes of a file into a ValueError that names it."""
    import safetensors

    try:
        yield
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is truncated or corrupt: {error}") from error
