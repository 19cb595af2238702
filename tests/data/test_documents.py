"""What the readers promise: every format gives the same documents, no character is lost, errors name file and line."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given, strategies
from pyarrow import parquet
from tests.conftest import Messages

from unmask.config.settings import DocumentSettings
from unmask.data.reading.documents import DOCUMENT_LIMIT, Document, DocumentReader
from unmask.data.reading.inputs import expand_inputs
from unmask.errors import DataError

TEXTS = ["Grüße aus Köln", 'a "quoted", word\tand\na second line', "日本語 \U0001f600"]
BLOCKS = b"one\ntwo\n\n \nthree\n"


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def read(*inputs: str | Path, messages: list[str] | None = None, **settings: Any) -> list[Document]:
    return list(DocumentReader(inputs, DocumentSettings(**settings), progress=Messages(messages)))


def places(*inputs: str | Path, **settings: Any) -> list[tuple[str, int | None]]:
    return [(document.text, document.line) for document in read(*inputs, **settings)]


def zstd(data: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def parquet_of(**columns: Any) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file, row_group_size=2)
    return file.getvalue()


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


RECORDS = [{"id": number, "text": text} for number, text in enumerate(TEXTS)]
FILES = {
    "a.jsonl": "\n\n".join(json.dumps(record) for record in RECORDS).encode(),
    "a.ndjson": "".join(json.dumps(record, ensure_ascii=False) + "\r\n" for record in RECORDS).encode(),
    "lines.json": "".join(json.dumps(record) + "\n" for record in RECORDS).encode(),
    "list.json": json.dumps(RECORDS, indent=2, ensure_ascii=False).encode(),
    "a.csv": ("id,text\n" + "".join(f"{n},{quoted(text)}\n" for n, text in enumerate(TEXTS))).encode(),
    "a.tsv": ("id\ttext\n" + "".join(f"{n}\t{quoted(text)}\n" for n, text in enumerate(TEXTS))).encode(),
    "a.parquet": parquet_of(id=[0, 1, 2], text=TEXTS),
    "a.txt": "\n\n".join(TEXTS).encode(),
}
LINES = {
    "a.jsonl": [1, 3, 5],
    "list.json": [2, 6, 10],
    "a.csv": [2, 3, 5],
    "a.tsv": [2, 3, 5],
    "a.txt": [1, 3, 6],
}


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", FILES)
def test_every_format_and_compression_gives_the_same_documents(
    tmp_path: Path, name: str, suffix: str
) -> None:
    compress = {"": bytes, ".gz": gzip.compress, ".zst": zstd}[suffix]
    path = write(tmp_path / (name + suffix), compress(FILES[name]))
    documents = read(path)
    assert [document.text for document in documents] == TEXTS
    assert [document.line for document in documents] == LINES.get(name, [1, 2, 3])
    assert {document.source for document in documents} == {str(path)}


@pytest.mark.parametrize("compress", [gzip.compress, zstd])
def test_compressed_files_of_several_members_are_read_to_the_end(tmp_path: Path, compress: Any) -> None:
    name = "a.txt.gz" if compress is gzip.compress else "a.txt.zst"
    path = write(tmp_path / name, compress(b"one\nt") + compress(b"wo\n"))
    assert places(path) == [("one", 1), ("two", 2)]


@pytest.mark.parametrize("name", ["a.txt", "a.text", "a.md", "README", "a.log", "A.TXT"])
def test_text_suffixes_and_unknown_ones_are_text(tmp_path: Path, name: str) -> None:
    assert places(write(tmp_path / name, BLOCKS)) == [("one\ntwo", 1), ("three", 5)]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("file", [("one\ntwo\n\n \nthree", 1)]),
        ("block", [("one\ntwo", 1), ("three", 5)]),
        ("line", [("one", 1), ("two", 2), ("three", 5)]),
    ],
)
def test_plain_text_is_cut_as_asked(tmp_path: Path, mode: str, expected: list[tuple[str, int]]) -> None:
    messages: list[str] = []
    path = write(tmp_path / "a.txt", BLOCKS)
    assert [(d.text, d.line) for d in read(path, documents=mode, messages=messages)] == expected
    assert messages == []


def test_auto_decides_for_each_file_and_says_each_choice_once(tmp_path: Path) -> None:
    for name, text in {"a": "x\n\ny\n", "b": "x\n\ny\n", "c": "\n\nx\ny\n", "d": "x\ny\n\n"}.items():
        write(tmp_path / f"{name}.txt", text)
    messages: list[str] = []
    reader = DocumentReader([tmp_path], progress=Messages(messages))
    assert [document.text for document in reader] == ["x", "y"] * 4
    assert [document.text for document in reader] == ["x", "y"] * 4
    assert [notice.partition(";")[0] for notice in messages] == [
        f"{tmp_path / 'a.txt'} has empty lines: one document per block between them",
        f"{tmp_path / 'c.txt'} has no empty lines: one document per line",
    ]
    assert all("--documents" in notice for notice in messages)


def test_a_file_without_text_is_not_said_to_be_divided(tmp_path: Path) -> None:
    messages: list[str] = []
    for name, text in {"a": "", "b": "\n\n", "c": "x\n"}.items():
        write(tmp_path / f"{name}.txt", text)
    assert [document.text for document in DocumentReader([tmp_path], progress=Messages(messages))] == ["x"]
    divided = [message for message in messages if "--documents" in message]
    assert [message.partition(" ")[0] for message in divided] == [str(tmp_path / "c.txt")]


def test_auto_looks_at_the_beginning_only(tmp_path: Path) -> None:
    begin = "a line of text\n" * 80_000  # 1.2 million characters
    assert len(read(write(tmp_path / "a.txt", begin + "\n\nend\n"))) == 80_001
    assert (
        len(read(write(tmp_path / "b.txt", "one\n\n" + begin))) == 3
    )  # a block longer than the limit is cut


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_byte_order_mark_and_line_ends_leave_no_trace(
    tmp_path: Path, name: str, mark: bytes, end: str
) -> None:
    text = {"a.txt": "one\ntwo\n\nthree", "a.jsonl": '{"text":"one\\r\\ntwo"}\n\n\n{"text":"three"}'}
    text["a.csv"] = 'text\n"one\ntwo"\nthree'
    path = write(tmp_path / name, mark + text[name].replace("\n", end).encode())
    lines = {"a.txt": (1, 4), "a.jsonl": (1, 4), "a.csv": (2, 4)}[name]
    assert places(path) == [("one\ntwo", lines[0]), ("three", lines[1])]


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_list_longer_than_a_read_gives_every_record(tmp_path: Path, indent: int | None) -> None:
    texts = [f"{number} [{{," + "ü\\" * (number * 37 % 3001) for number in range(500)]
    path = write(tmp_path / "a.json", json.dumps([{"text": text} for text in texts], indent=indent))
    documents = read(path)
    assert [document.text for document in documents] == texts
    assert documents[-1].line == (1 if indent is None else 3 * len(texts) - 1)


def test_only_line_ends_cut_lines(tmp_path: Path) -> None:
    line = "a\u2028b\x0bc\x0cd\x85e"
    assert places(write(tmp_path / "a.txt", f"{line}\nf")) == [(line, 1), ("f", 2)]
    record = json.dumps({"text": line}, ensure_ascii=False)
    assert places(write(tmp_path / "a.jsonl", record)) == [(line, 1)]


def test_empty_documents_are_counted_and_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", '{"text": ""}\n{"text": " \\n"}\n{"text": null}\n{"text": "x"}\n')
    write(tmp_path / "b.parquet", parquet_of(text=["", None, "yz"]))
    write(tmp_path / "c.txt", " \n\n")
    write(tmp_path / "d.txt", "")
    reader = DocumentReader([tmp_path], DocumentSettings(documents="file"))
    assert [document.text for document in reader] == ["x", "yz"]
    assert vars(reader.stats) == {
        "files": 4,
        "documents": 2,
        "empty": 7,
        "characters": 3,
        "split_documents": 0,
        "errors": {"no text": 2},
        "error_examples": {
            "no text": [
                f"{tmp_path / name}: holds no text, expected at least one document"
                for name in ("c.txt", "d.txt")
            ]
        },
        "unreadable_files": 0,
        "unreadable": [],
        "skipped_files": {},
        "contents": {"JSONL": 1, "Parquet": 1, "text": 2},
        "splits": {"file": 2},
    }


def long_text() -> str:
    return "".join(f"w{number}" + (" ", "\n", "\n\n", " \t ")[number % 4] for number in range(400_000))


@pytest.mark.parametrize("kind", ["file", "line", "jsonl", "parquet"])
def test_a_long_document_is_cut_at_white_space_and_loses_no_word(tmp_path: Path, kind: str) -> None:
    text = long_text().replace("\n", " ") if kind == "line" else long_text()
    if kind == "parquet":
        path = write(tmp_path / "a.parquet", parquet_of(text=[text, "short"]))
    elif kind == "jsonl":
        path = write(tmp_path / "a.jsonl", json.dumps({"text": text}) + '\n{"text": "short"}')
    else:
        path = write(tmp_path / "a.txt", text + ("\nshort" if kind == "line" else ""))
    reader = DocumentReader([path], DocumentSettings(documents="file" if kind == "file" else "line"))
    documents = list(reader)
    assert reader.stats.split_documents == 1
    assert all(len(document.text) <= DOCUMENT_LIMIT for document in documents)
    assert len(documents) == len(text) // DOCUMENT_LIMIT + (1 if kind == "file" else 2)
    words = [word for document in documents for word in document.text.split()]
    assert words == text.split() + ([] if kind == "file" else ["short"])
    if kind == "file":
        lines = text.split("\n")
        assert all(lines[d.line - 1].endswith(d.text.split("\n")[0].rstrip()) for d in documents if d.line)
        assert documents[1].line is not None
        assert documents[1].line > 1


@pytest.mark.parametrize("kind", ["file", "line", "parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, kind: Any) -> None:
    text = "some words in one long line " * 600_000  # 17 million characters
    if kind == "parquet":
        texts = [text[:10_000] + str(number) for number in range(1700)]
        table, path = pyarrow.table({"text": texts}), tmp_path / "a.parquet"
        parquet.write_table(table, path, use_dictionary=False, compression="none", data_page_size=100_000)
    else:
        path = write(tmp_path / "a.txt", text)
    reader = DocumentReader([path], DocumentSettings(documents="file" if kind == "file" else "line"))
    tracemalloc.start()
    try:
        assert sum(1 for _ in reader) == (1700 if kind == "parquet" else 17)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_text_without_white_space_is_cut_without_losing_a_character(tmp_path: Path, kind: str) -> None:
    text = "".join(chr(0x4E00 + number % 5000) for number in range(2_300_000))
    content = text if kind == "txt" else json.dumps({"text": text}, ensure_ascii=False)
    documents = read(write(tmp_path / f"a.{kind}", content))
    assert [len(document.text) for document in documents] == [DOCUMENT_LIMIT, DOCUMENT_LIMIT, 300_000]
    assert "".join(document.text for document in documents) == text


def test_a_document_of_just_the_limit_stays_whole(tmp_path: Path) -> None:
    text = "x" * (DOCUMENT_LIMIT - 2) + " y"
    for mode in ("file", "block", "line"):
        assert [d.text for d in read(write(tmp_path / "a.txt", f"\n{text}\n\n"), documents=mode)] == [text]


def test_one_text_among_empty_inputs_is_enough(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.txt", ""), write(tmp_path / "b.txt", "x"), write(tmp_path / "c.txt", "\n")]
    assert len(read(*paths)) == 1


# ------------------------------------------------------------------------------------ standard input


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    def put(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return put


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\xef\xbb\xbfone\r\n\r\ntwo", [("one", 1), ("two", 3)]),
        (b'\n \n{"text": "one"}\n{"text": "two"}\n', [("one", 3), ("two", 4)]),
        (b"\n" * 600_000 + b'{"text": "one"}', [("one", 600_001)]),
        (b"[one]\ntwo", [("[one]", 1), ("two", 2)]),
    ],
)
def test_standard_input_is_text_or_json_lines(
    stdin: Any, data: bytes, expected: list[tuple[str, int]]
) -> None:
    stdin(data)
    documents = read("-")
    assert [(document.text, document.line) for document in documents] == expected
    assert documents[0].source == "<stdin>"


def test_standard_input_is_read_once(stdin: Any) -> None:
    stdin(b"one\n")
    reader = DocumentReader(["-"])
    assert len(list(reader)) == 1
    with pytest.raises(DataError, match=r"^<stdin>: .*only once"):
        list(reader)
    with pytest.raises(DataError, match="more than once"):
        expand_inputs(["-", "-"])
    stdin(b'{"txt": "one"}\n')
    with pytest.raises(DataError, match=r"^<stdin>:1: no field 'text' \(did you mean 'txt'\?\)"):
        read("-")


class Dribble:
    """Bytes that come a few at a time, so that every seam between reads is tried."""

    closed = False

    def __init__(self, data: bytes, step: int) -> None:
        self.buffer, self.data, self.step = self, io.BytesIO(data), step

    def read(self, size: int) -> bytes:
        return self.data.read(min(size, self.step))


@given(
    text=strategies.text(alphabet="aé日 \t\r\n", max_size=40),
    step=strategies.integers(1, 5),
    mode=strategies.sampled_from(["file", "block", "line"]),
    mark=strategies.booleans(),
)
def test_the_seams_between_reads_do_not_show(text: str, step: int, mode: str, mark: bool) -> None:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    groups: list[list[int]] = [[]]
    for number, line in enumerate(lines):
        if mode == "line" or (mode == "block" and not line.strip()):
            groups.append([])
        if line.strip() or groups[-1]:
            groups[-1].append(number)
    expected = [("\n".join(lines[n] for n in group).rstrip(), group[0] + 1) for group in groups if group]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", Dribble((b"\xef\xbb\xbf" if mark else b"") + text.encode(), step))
        if expected:
            assert places("-", documents=mode) == expected
        else:
            with pytest.raises(DataError, match="the inputs hold no text"):
                places("-", documents=mode)


@pytest.mark.parametrize("readable", [False, True])
def test_an_error_that_ends_the_reading_is_not_logged_before(tmp_path: Path, readable: bool) -> None:
    messages: list[str] = []
    bad = write(tmp_path / "bad.txt", "Grüße\nÖl\n".encode("latin-1") * 2)
    files = [write(tmp_path / "a.txt", "some text\n"), bad] if readable else [bad]
    with pytest.raises(DataError, match=r"bad\.txt:1: byte 0xfc is not UTF-8"):
        read(*files, messages=messages)
    assert not [line for line in messages if "UTF-8" in line]


def test_errors_before_the_first_text_are_logged_with_it(tmp_path: Path) -> None:
    messages: list[str] = []
    text = write(tmp_path / "text.txt", b"\xff\ntext\n")
    assert len(read(text, documents="line", messages=messages)) == 1
    assert messages[0].startswith(f"skipped: {text}:1: byte 0xff")
