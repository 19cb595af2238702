"""Records of files in which some are broken: what is wrong is said with its line, and the others come."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.conftest import Messages

from unmask.config.settings import DocumentSettings
from unmask.data.reading import files
from unmask.data.reading.documents import DocumentReader
from unmask.data.reading.errors import KEPT
from unmask.data.reading.records import Record, RecordReader
from unmask.errors import ConfigError, DataError


def read(path: Path, content: bytes | str, **arguments: Any) -> list[Any]:
    """Write a file and return its values with their lines, and the messages of its errors."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    found = []
    for item in RecordReader(path, **arguments):
        if isinstance(item, Record):
            assert item.source == str(path)
            found.append((item.line, dict(item.values)))
        else:
            where = f"{path}:{item.line}: "
            assert str(item).startswith(where)
            found.append(str(item).removeprefix(where))
    return found


def test_lines_of_text(tmp_path: Path) -> None:
    found = read(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\n\ntwo words \rthree")
    assert found == [
        (1, {"text": "one"}),
        (2, {"text": ""}),
        (3, {"text": "two words "}),
        (4, {"text": "three"}),
    ]


def test_a_bad_line_costs_only_itself(tmp_path: Path) -> None:
    one, two, three, four, five = read(tmp_path / "a.txt", b"one\nb\xe4d\nn\0l\n\xff\xfe\nfive\n")
    assert (one, five) == ((1, {"text": "one"}), (5, {"text": "five"}))
    assert "byte 0xe4 is not UTF-8 (after 1 byte of the line)" in two
    assert "NUL byte (after 1 character)" in three
    assert "0xff" in four


def test_a_line_beyond_the_limit_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "RECORD_LIMIT", 1000)
    found = read(tmp_path / "a.txt", "one\n" + "x" * 3_000_000 + "\n" + "y" * 999 + "\nend")
    assert found[0] == (1, {"text": "one"})
    assert "3,000,001 characters, expected at most 1,000" in found[1]
    assert found[2:] == [(3, {"text": "y" * 999}), (4, {"text": "end"})]


def test_json_lines(tmp_path: Path) -> None:
    content = '{"text": "ä", "id": 1}\n\n{"text": \n[1]\n"x"\n{"text": "b"}'
    first, *errors, last = read(tmp_path / "a.jsonl", content)
    assert (first, last) == ((1, {"text": "ä", "id": 1}), (6, {"text": "b"}))
    for error, wanted in zip(
        errors, ["empty line", "broken JSON", "JSON object", "JSON object"], strict=True
    ):
        assert wanted in error


def test_tsv_with_names(tmp_path: Path) -> None:
    content = 'text\tid\nsay "hi" twice\t1\n"a ""b"" c"\t2\n"no" and "no"\t3\nshort\n\na\tb\tc\nlast\t4\n'
    found = read(tmp_path / "a.tsv", content)
    assert found[:3] == [
        (2, {"text": 'say "hi" twice', "id": "1"}),
        (3, {"text": 'a "b" c', "id": "2"}),
        (4, {"text": '"no" and "no"', "id": "3"}),
    ]
    assert found[3] == (5, {"text": "short"})
    assert "an empty line" in found[4]
    assert "3 fields, expected 2" in found[5]
    assert found[6] == (8, {"text": "last", "id": "4"})


def test_a_table_without_names_has_numbers(tmp_path: Path) -> None:
    found = read(tmp_path / "a.tsv", "one\ttwo\nthree\tfour\n", has_names=lambda row: False)
    assert found == [(1, {"1": "one", "2": "two"}), (2, {"1": "three", "2": "four"})]


def test_csv_rows_may_span_lines(tmp_path: Path) -> None:
    found = read(tmp_path / "a.csv", 'text,id\n"a, b\nc ""d""",1\ne,2\n')
    assert found == [(2, {"text": 'a, b\nc "d"', "id": "1"}), (4, {"text": "e", "id": "2"})]


def test_a_broken_quote_does_not_swallow_what_follows(tmp_path: Path) -> None:
    first, second, third, inch, error, last = read(
        tmp_path / "a.csv", 'text,id\na,1\n"5" pipe,2\nb,3\n5" pipe,4\n"open,5\nc,6\n'
    )
    assert (first, third, last) == (
        (2, {"text": "a", "id": "1"}),
        (4, {"text": "b", "id": "3"}),
        (7, {"text": "c", "id": "6"}),
    )
    assert inch == (5, {"text": '5" pipe', "id": "4"})
    assert second == (3, {"text": "5 pipe", "id": "2"})  # as pandas reads it
    assert "broken quoting" in error


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.csv:1: two columns have the same name"):
        read(tmp_path / "a.csv", "text,text\na,b\n")


def test_compressed_files_and_a_damaged_one(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(b"line %d of a file that is long enough\n" % n for n in range(30_000)))
    path = tmp_path / "a.txt.gz"
    path.write_bytes(whole)
    assert len(list(RecordReader(path))) == 30_000
    path.write_bytes(whole[: len(whole) // 2])
    *good, error = RecordReader(path)
    assert len(good) > 1000
    assert all(isinstance(item, Record) for item in good)
    assert isinstance(error, DataError)
    assert "truncated" in str(error)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", gzip.compress(b"text", mtime=0), "holds gzip data"),
        ("a.jsonl", b"%PDF-1.4\n", "holds a PDF"),
        ("a.txt.gz", b"text", "not gzip"),
    ],
)
def test_a_file_of_another_kind_is_a_fault_of_the_file(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path / name, content)


def test_what_cannot_be_read_is_refused_on_construction(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        RecordReader(tmp_path / "absent.txt")
    with pytest.raises(DataError, match="a folder"):
        RecordReader(tmp_path)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(ConfigError, match="write it as JSON Lines"):
        RecordReader(tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="text, jsonl, tsv, csv"):
        RecordReader(tmp_path / "a.parquet", "xml")


@pytest.mark.parametrize(
    ("content", "values", "messages"),
    [(b'\n {"text": "a"}\n', {"text": "a"}, 1), (b"a\n", {"text": "a"}, 0)],
)
def test_standard_input(
    monkeypatch: pytest.MonkeyPatch, content: bytes, values: dict[str, str], messages: int
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content), closed=False))
    told: list[str] = []
    reader = RecordReader("-", progress=Messages(told))
    assert reader.share() is None
    *_, found = reader
    assert isinstance(found, Record)
    assert (found.source, dict(found.values), len(told)) == ("<stdin>", values, messages)


def test_the_share_follows_the_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "x" * 20}) + "\n" for _ in range(10)), encoding="utf-8")
    reader = RecordReader(path)
    assert [reader.share() for _ in reader] == pytest.approx([n / 10 for n in range(1, 11)])


def test_utf16_with_its_mark_is_read(tmp_path: Path) -> None:
    assert read(tmp_path / "a.tsv", "text\tid\r\nä\t1\r\n".encode("utf-16")) == [
        (2, {"text": "ä", "id": "1"})
    ]


@pytest.mark.parametrize(
    ("content", "rows"),
    {
        "quoted fields may span lines": ('id\ttext\n1\t"a\tb\nc"\n2\td\n', [(2, "a\tb\nc"), (4, "d")]),
        "and be the first": ('text\tid\n"a\nb"\t1\nd\t2\n', [(2, "a\nb"), (4, "d")]),
        "open quotes are text": ('text\tid\n"a\t1\nb\t2\n', [(2, '"a'), (3, "b")]),
        "also if one closes later": ('text\tid\n"a\t1\nb"\t2\n', [(2, '"a'), (3, 'b"')]),
        "and a blank line is between": ('text\tid\n"\t1\nb\t2\n\n"\t3\n', [(2, '"'), (3, "b"), (5, '"')]),
        "a tab between quotes": ('text\tid\n"a\tb"\nc\t2\n', [(2, '"a'), (3, "c")]),
        "one column": ('text\n"a\nb"\n"c" d\n', [(2, "a\nb"), (4, '"c" d')]),
    }.values(),
)
def test_tsv_quotes_enclose_fields_or_are_text(
    tmp_path: Path, content: str, rows: list[tuple[int, str]]
) -> None:
    path = tmp_path / "a.tsv"
    found = [item for item in read(path, content) if isinstance(item, tuple)]  # and the errors of blank lines
    assert [(line, values["text"]) for line, values in found] == rows
    assert [(item.line, item.text) for item in DocumentReader([path])] == rows


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'{"text": "a"}\n\n{"text": \n[1]\n{"text": "b"}\n'),
        ("a.csv", b'id,text\n1,a\n\n2\n3,"b" c\n4,"d\ne"\n5,"open\n6,f\n'),
        ("a.tsv", b'id\ttext\n1\ta\n\n2\n2\tx\ty\n3\t"b" c\n4\t"d\ne"\n5\t"open\n6\tf\n'),
    ],
)
def test_text_to_train_on_and_records_are_read_alike(tmp_path: Path, name: str, content: bytes) -> None:
    found = read(tmp_path / name, content)
    reader = DocumentReader([tmp_path / name], DocumentSettings(documents="line"))
    assert [(item.line, item.text) for item in reader] == [
        (item[0], item[1]["text"]) for item in found if isinstance(item, tuple) and "text" in item[1]
    ]
    errors = [item for item in found if isinstance(item, str) and "an empty line" not in item]
    lost = {reason: count for reason, count in reader.stats.errors.items() if reason not in KEPT}
    assert len(errors) == sum(lost.values()) > 0
    for error in errors:
        assert any(
            example.endswith(error) for found in reader.stats.error_examples.values() for example in found
        )


def test_a_line_that_is_no_text_breaks_the_row_that_it_is_in(tmp_path: Path) -> None:
    error, broken, last = read(tmp_path / "a.csv", b'text,id\n"a\nb\xe4"\nc",1\nd,2\n')[:3]
    assert "0xe4" in error
    assert "its line 3 cannot be read" in broken
    assert 'c"' in str(last)


@pytest.mark.parametrize("mark", [";", "|", "\t", ","])
def test_the_separator_of_a_csv_file_is_found(tmp_path: Path, mark: str) -> None:
    messages: list[str] = []
    found = read(tmp_path / "a.csv", f"text{mark}label\na b{mark}1\n", progress=Messages(messages))
    assert found == [(2, {"text": "a b", "label": "1"})]
    assert len(messages) == (mark != ",")
    # One column, whose texts hold separators now and then.
    found = read(tmp_path / "b.csv", f'text\n"a{mark} b"\nc; d | e\n')
    assert found == [(2, {"text": f"a{mark} b"}), (3, {"text": "c; d | e"})]
