"""Texts from files and from the Hugging Face hub: the first so many, as plain strings.

Rows are streamed, so a large file is read no further than needed and no cache of it is left anywhere. Knows files and
columns, never tokenizers or tasks.
"""

import csv
import glob
import gzip
import hashlib
import itertools
import logging
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}  # of `datasets`
SUFFIXES = (".txt", ".csv", *BUILDERS)
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_HUB_SECONDS = 10.0
_BLANK_LINES = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+")


def load_texts(source: str, field: str, limit: int) -> list[str]:
    """Reads the first `limit` texts of a source, without the empty ones and without white space around them.

    Args:
      source: a .txt file (blank line between texts), a .jsonl, .json, .csv or .parquet file, each but the last also
        with .gz behind, or the id of a hub data set, of which the split "train" is taken.
      field: the column that holds the text; not used for .txt.
      limit: how many texts at most.

    Raises:
      ValueError: in one line: there is no such file or data set, it cannot be read, it has no such field (the fields
        it has are named), the field holds something else than text, or there is no text in it.
    """
    texts: Iterable[str]
    path = Path(source).expanduser()
    suffix = _suffix(path)
    if path.is_file():
        if suffix == ".txt":
            texts = _paragraphs(path)
        elif suffix == ".csv":
            texts = _column(_csv_rows(path), source, field)
        elif suffix in BUILDERS:
            texts = _column(_file_rows(path, BUILDERS[suffix]), source, field)
        else:
            raise ValueError(f"{source}: the name ends in {suffix!r}, expected {', '.join(SUFFIXES)}, or one with .gz")
    elif path.exists():
        raise ValueError(f"{source} is not a file; expected a file of texts or a hub data set")
    elif suffix in SUFFIXES or not _HUB_ID.fullmatch(source):
        raise ValueError(f"there is no file {source}")
    else:
        texts = _column(_hub_rows(source), source, field)
    kept = (stripped for text in texts if (stripped := text.strip()))
    try:
        found = list(itertools.islice(kept, limit))
    except ValueError as error:
        if type(error) is ValueError and str(error).startswith(f"{source}: "):
            raise
        raise ValueError(f"{source}: cannot be read ({_line(error)})") from error
    except Exception as error:  # damaged archives, Arrow and network errors have no common class
        raise ValueError(f"{source}: cannot be read ({_line(error)})") from error
    if not found:
        raise ValueError(f"{source}: there is no text in it")
    return found


def text_hash(texts: Sequence[str]) -> str:
    """Returns the SHA-256 of the texts in order, as hexadecimal digits; where one ends and the next begins counts."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


@contextmanager
def _only_raising() -> Iterator[None]:
    """Silences `datasets` (imported by now: that sets its level), which also logs what it raises: once is enough."""
    logger = logging.getLogger("datasets")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def _paragraphs(path: Path) -> Iterator[str]:
    """Reads paragraphs, not through `datasets`, which splits at "\\n\\n" alone: a blank line may hold spaces."""
    with _open(path, None) as file:
        yield from _BLANK_LINES.split(file.read())


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Reads a CSV file, not through `datasets`, which takes a column of digits for no text and leaves the file open."""
    csv.field_size_limit(2**31 - 1)  # a text may be longer than the 128 KiB that are the default
    with _open(path, "") as file:
        for row in csv.DictReader(file):
            yield {name: value for name, value in row.items() if name is not None}


def _open(path: Path, newline: str | None) -> IO[str]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline=newline)
    return path.open(encoding="utf-8-sig", newline=newline)


def _file_rows(path: Path, reader: str) -> Iterator[dict[str, Any]]:
    import datasets  # here because it takes a second, and most runs need no file

    # The name is taken for a pattern otherwise.
    data_files = glob.escape(str(path.absolute()))
    with _only_raising():
        try:
            rows = datasets.load_dataset(reader, data_files=data_files, split="train", streaming=True)
        except StopIteration:  # what it says of a file with nothing in it
            return
        yield from rows


def _hub_rows(source: str) -> Iterator[dict[str, Any]]:
    import datasets
    import huggingface_hub

    try:
        huggingface_hub.HfApi().dataset_info(source, timeout=_HUB_SECONDS)  # `datasets` itself retries for long
        rows = datasets.load_dataset(source, split="train", streaming=True)
    except Exception as error:  # whatever the network or the hub raises, the answer is the same
        message = f"{source}: no such file, and the hub could not provide a data set of that name ({_line(error)})"
        raise ValueError(message) from error
    yield from rows


def _column(rows: Iterable[dict[str, Any]], source: str, field: str) -> Iterator[str]:
    for number, row in enumerate(rows):
        if field not in row:
            raise ValueError(f"{source}: there is no field {field!r}, found {', '.join(map(repr, sorted(row)))}")
        value = row[field]
        if value is None:
            continue
        if not isinstance(value, str):
            raise ValueError(f"{source}: field {field!r} of row {number} is {type(value).__name__}, expected text")
        yield value


def _line(error: BaseException) -> str:
    """Returns the innermost reason in one line: `datasets` wraps what went wrong in words that do not say it."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
        return f"damaged archive: {error}"
    return " ".join(str(error).split())[:300] or type(error).__name__
