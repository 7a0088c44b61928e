"""The same texts from every format, and one clear line for everything that can be wrong with a source."""

import gzip
import json
import os
from pathlib import Path

import pytest

from rr_jax.data.sources import load_texts, text_hash

TEXTS = ['Once there was a fox.\nIt ran, "far" away.', "Zwölf Äpfel", "The end."]


def _write(path: Path) -> None:
    """TEXTS with an empty and a missing one between them."""
    rows = [{"text": text, "n": n} for n, text in enumerate([TEXTS[0], "  ", TEXTS[1], None, TEXTS[2]])]
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix == ".parquet":
        import datasets

        table = {name: [row[name] for row in rows] for name in ("text", "n")}
        datasets.Dataset.from_dict(table).to_parquet(path)
        return
    if suffix == ".txt":
        data = "\n\n" + "\n \t\n\n".join(TEXTS) + "\n\n"
    elif suffix == ".csv":
        quoted = ["" if row["text"] is None else '"{}"'.format(row["text"].replace('"', '""')) for row in rows]
        data = "text,n\n" + "".join(f"{text},{n}\n" for n, text in enumerate(quoted))
    elif suffix == ".json":
        data = json.dumps(rows)
    else:
        data = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(data.encode(), mtime=0) if path.suffix == ".gz" else data.encode())


@pytest.mark.parametrize(
    "name", ["a.txt", "a.txt.gz", "a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "a.csv", "a.csv.gz", "a.parquet"]
)
def test_every_format(name: str, tmp_path: Path):
    _write(tmp_path / name)
    assert load_texts(str(tmp_path / name), "text", 10) == TEXTS
    assert load_texts(str(tmp_path / name), "text", 2) == TEXTS[:2]
    assert os.listdir(tmp_path) == [name]


def test_windows_line_ends(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\r\nthree\r\n")
    assert load_texts(str(tmp_path / "a.txt"), "text", 10) == ["one\ntwo", "three"]


def test_a_name_is_not_a_pattern(tmp_path: Path):
    (tmp_path / "a[b]*").mkdir()
    _write(tmp_path / "a[b]*" / "c?.jsonl")
    assert load_texts(str(tmp_path / "a[b]*" / "c?.jsonl"), "text", 10) == TEXTS


def test_a_relative_path_and_another_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.jsonl").write_text('{"story": "one"}\n{"story": "two"}\n')
    monkeypatch.chdir(tmp_path)
    assert load_texts("a.jsonl", "story", 10) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"story": "x", "id": 1}\n', "there is no field 'text', found 'id', 'story'"),
        ("a.csv", b"story,id\nx,1\n", "there is no field 'text', found 'id', 'story'"),
        ("a.jsonl", b'{"text": 3}\n', "field 'text' of row 0 is int, expected text"),
        ("a.jsonl", b'{"text": " "}\n', "there is no text in it"),
        ("a.txt", b" \n\n \n", "there is no text in it"),
        ("a.txt", b"", "there is no text in it"),
        ("a.jsonl", b"", "there is no text in it"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0), "there is no text in it"),
        ("a.csv", b"", "there is no text in it"),
        ("a.json", b"{not json", "cannot be read"),
        ("a.jsonl", b'{"text": "one"}\n{broken\n', "cannot be read"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "abc"}\n' * 100, mtime=0)[:-12], "cannot be read"),
        ("a.txt.gz", b"plain", "cannot be read"),
        ("a.txt", b"\xff\xfe\xfa", "cannot be read"),
        ("a.parquet", b"PAR1 but no more", "cannot be read"),
        ("a.docx", b"x", "ends in '.docx', expected .txt"),
    ],
)
def test_what_is_wrong_with_a_file(
    name: str, data: bytes, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        load_texts(str(path), "text", 10)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("source", ["missing.jsonl", "/no/such/file", "./missing", "no/such/file.csv.gz", ""])
def test_a_path_that_is_not_there(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"there is no file|is not a file"):
        load_texts(source, "text", 10)


def test_a_hub_id_without_the_hub():
    with pytest.raises(ValueError, match="nobody/nothing: no such file, and the hub could not provide"):
        load_texts("nobody/nothing", "text", 10)


def test_a_folder(tmp_path: Path):
    with pytest.raises(ValueError, match="is not a file"):
        load_texts(str(tmp_path), "text", 10)


def test_the_hash_sees_order_and_borders():
    hashes = {text_hash(texts) for texts in (["ab", "c"], ["a", "bc"], ["c", "ab"], ["abc"], [])}
    assert len(hashes) == 5
    assert text_hash(["ab", "c"]) == text_hash(("ab", "c"))
