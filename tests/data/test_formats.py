"""What is wrong with a file is said in one line, with the file, its line and what to do; here it is refused for it."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from unmask.config.settings import DocumentSettings
from unmask.data.reading.documents import DocumentReader
from unmask.errors import DataError


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def zstd(data: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def parquet_of(**columns: Any) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
PARQUET = parquet_of(text=["x"] * 9)
NO_COLUMN = r" no column 'text' \(did you mean 'txt'\?\); there are 'id', 'txt'; choose with --text-field"
BROKEN_FILES: dict[str, tuple[str, str | bytes, str]] = {
    "latin-1": (
        "a.txt",
        b"one\r\ntwo K\xf6ln\r\n",
        r":2: byte 0xf6 is not UTF-8 \(after 5 bytes of the line\); it may be windows-1252: give --encoding windows-1252",
    ),
    "latin-1 after a BOM": (
        "a.txt",
        b"\xef\xbb\xbf\n\n\xf6",
        r":3: byte 0xf6 is not UTF-8 \(after 0 bytes of the line\)",
    ),
    "latin-1 far in": (
        "a.txt",
        b"\n" * 700_000 + b"x\xf6",
        r":700001: byte 0xf6 is not UTF-8 \(after 1 byte ",
    ),
    "cut off character": ("a.txt", "one\nü".encode()[:-1], r":2: byte 0xc3 is not UTF-8"),
    "utf-16": ("a.txt", "one".encode("utf-16"), r":1: UTF-16 by its byte order mark"),
    "utf-16 without a mark": ("a.txt", "one".encode("utf-16-le"), r":1: binary data, or UTF-16"),
    "NUL": ("a.txt", b"one\ntwo\n\0x", r":3: 1 NUL byte in a document, the first after 0 bytes"),
    "binary": ("a.md", b"\x89PNG\r\n\x1a\n\0\0", r":3: binary data"),
    "gzip": ("a.txt", gzip.compress(b"x"), r": holds gzip data: give the file the suffix \.gz"),
    "zstd": ("a.csv", zstd(b"x"), r": holds zstd data: give the file the suffix \.zst"),
    "parquet": ("a.jsonl", PARQUET, r": holds Parquet data: give the file the suffix \.parquet"),
    "zip": ("a.csv", b"PK\x03\x04...", r": holds a zip archive .* export the text"),
    "git lfs": ("a.txt", LFS, r": this is a Git LFS pointer, not the file; run git lfs pull"),
    "git lfs, parquet": ("a.parquet", LFS, r": this is a Git LFS pointer"),
    "git lfs, gzip": ("a.txt.gz", LFS, r": this is a Git LFS pointer"),
    "not gzip": ("a.txt.gz", "x", r": not gzip although its suffix is \.gz"),
    "not zstd": ("a.txt.zst", "text", r": not zstd although its suffix is \.zst"),
    "empty gzip": ("a.txt.gz", "", r": not gzip although its suffix is \.gz: an empty file"),
    "cut gzip": (
        "a.txt.gz",
        gzip.compress(os.urandom(9000).hex().encode())[:-99],
        r":1: damaged or truncated gzip",
    ),
    "cut zstd": ("a.txt.zst", zstd(os.urandom(9000).hex().encode())[:-99], r":1: damaged or truncated zstd"),
    "garbage after gzip": ("a.txt.gz", gzip.compress(b"x\n") + b"no", r":1: damaged or truncated gzip"),
    "not parquet": ("a.parquet", "text,id\n", r": not Parquet although its suffix says so"),
    "empty parquet": ("a.parquet", "", r": not Parquet although its suffix says so"),
    "cut parquet": ("a.parquet", PARQUET[:-9], r": the Parquet file is truncated"),
    "damaged parquet": ("a.parquet", b"PAR1" + b"x" * 99 + b"PAR1", r": damaged Parquet data after row 0"),
    "parquet column": ("a.parquet", parquet_of(id=[1], txt=["x"]), ":" + NO_COLUMN),
    "parquet type": ("a.parquet", parquet_of(text=[1]), r": column 'text' holds int64, expected strings"),
    "broken JSON": ("a.jsonl", '{"text": "x"}\n\n{"text": "x}\n', r":3: broken JSON \(.*column 10\)"),
    "list in jsonl": ("a.jsonl", "[\n{}]", r":1: broken JSON .* a list of objects belongs in a \.json file"),
    "deep JSON": ("a.jsonl", "[" * 100_000, r":1: broken JSON"),
    "JSON array line": ("a.jsonl", '{"text": "x"}\n["x"]\n', r":2: expected a JSON object, found a list"),
    "JSON null line": ("a.jsonl", "null\n", r":1: expected a JSON object, found null"),
    "JSON field": ("a.jsonl", '{"id": 1, "txt": "x"}', ":1:" + NO_COLUMN.replace("column", "field")),
    "JSON empty object": ("a.jsonl", "{}", r":1: no field 'text'; there are none"),
    "JSON number": ("a.jsonl", '{"text": 5}', r":1: field 'text' holds a number, expected a string"),
    "surrogate": (
        "a.jsonl",
        r'{"text": "ab\ud83d"}',
        r":1: half of a surrogate pair \(\\ud83d\) is not text \(after 2 bytes of field 'text'\)",
    ),
    "list: broken": ("a.json", '[{"text": "x"},\n\n{"text": }]', r":3: broken JSON \(Expecting value"),
    "list: no comma": ("a.json", '[{"text": "x"}\n{"text": "x"}]', r":2: broken JSON \(expected ',' or '\]'"),
    "list: not closed": ("a.json", '[{"text": "x"},\n', r":2: broken JSON"),
    "list: more behind": ("a.json", '[{"text": "x"}]\n]', r":2: broken JSON \(text after the end"),
    "list: empty, more behind": ("a.json", "[]\n{}", r":2: broken JSON \(text after the end"),
    "list: a number": ("a.json", '[{"text": "x"},\n5]', r":2: expected a JSON object, found a number"),
    "list: in an object": (
        "a.json",
        '{"data": [{"txt": "x"}]}',
        r":1: no field 'text' \(did you mean 'txt'\?\)",
    ),
    "object: two lists": ("a.json", '{"a": ["x"], "b": ["y"]}', r":1: no field 'text'; there are 'a', 'b'"),
    "nested field": ("a.jsonl", '{"note": {"text": "x"}}', r":1: no field 'text' .*there are 'note\.text'"),
    "list: field": ("a.json", '[\n{"id": 1, "txt": "x"}]', ":2:" + NO_COLUMN.replace("column", "field")),
    "json: a broken object": ("a.json", '\n{\n"text": }', r":3: broken JSON \(Expecting value, column 9\)"),
    "json: a comma too many": ("a.json", '{\n "data": [\n{"text": "x"},\n]\n}', r":4: broken JSON \(Exp"),
    "json: a broken line": ("a.json", '{"text": \n{"text": "x"}', r":1: broken JSON .*one object per line"),
    "csv column": ("a.csv", "\nid,txt\n1,x\n", ":2:" + NO_COLUMN),
    "csv twice": ("a.csv", "text,text\n1,x\n", r":1: 2 columns have the name 'text'; rename"),
    "csv separator": ("a.csv", "id;body\n1;x\n", r":1: no column 'text'; there are 'id', 'body'"),
    "tsv separator": ("a.tsv", "id,body\n1,x\n", r":1: no column 'text'; there are 'id', 'body'"),
    "csv ragged": ("a.csv", 'id,text\n1,"x\ny"\n2,x,y\n', r":4: the row has 3 fields, expected 2 "),
    "csv short": ("a.csv", "id,text\n1,x\n\n2\n", r":4: the row has 1 field, expected 2 "),
    "csv open quote": ("a.csv", 'text\nx\n"y\nz\n', r":3: broken quoting in the row that begins here"),
    "csv stray quote": ("a.csv", 'text,id\n"x" y\nz,1\n', r":2: broken quoting .* with \"\" for each"),
    "empty": ("a.txt", "", r": holds no text, expected at least one document"),
    "empty csv": ("a.csv", "", r": holds no text"),
    "header only": ("a.csv", "id,text\n", r": holds no text"),
    "empty list": ("a.json", " [ ] ", r": holds no text"),
}


@pytest.mark.parametrize("error", BROKEN_FILES)
def test_faults_in_a_file_name_file_and_line(tmp_path: Path, error: str) -> None:
    name, content, pattern = BROKEN_FILES[error]
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}{pattern}") as caught:
        list(DocumentReader([path], DocumentSettings(strict=True)))
    assert "\n" not in str(caught.value)


def test_records_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.data.reading.files.RECORD_LIMIT", 1_000_000)
    records = [json.dumps({"text": "x" * size}) for size in (700_000, 700_000, 700_000, 1_500_000)]
    path = write(tmp_path / "a.jsonl", "\n".join(records))
    with pytest.raises(
        DataError, match=r"a\.jsonl:4: a line of 1,500,012 characters, expected at most 1,000,000"
    ):
        list(DocumentReader([path], DocumentSettings(strict=True)))


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.json"])
def test_no_text_at_all_is_an_error(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, "")
    with pytest.raises(DataError, match=r"^the inputs hold no text; expected at least one document in .*a\."):
        list(DocumentReader([path]))
