"""Where the text stands in records: paths, several fields, lists, separators, encodings and compressions."""

from __future__ import annotations

import bz2
import io
import json
import lzma
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pytest
from pyarrow import parquet
from tests.conftest import Messages

from unmask.api.texts import text_values
from unmask.config.settings import DocumentSettings
from unmask.data.reading.characters import guess_encoding
from unmask.data.reading.documents import DocumentReader
from unmask.errors import ConfigError, DataError


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def texts(*paths: Path, messages: list[str] | None = None, **settings: Any) -> list[str]:
    reader = DocumentReader(paths, DocumentSettings(**settings), progress=Messages(messages))
    return [document.text for document in reader]


NESTED = [{"id": 1, "note": {"body": "Grüße", "parts": ["a", "b"]}}, {"note": {"body": "日本語"}}]


@pytest.mark.parametrize("field", ["note.body", "/note/body"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_a_field_of_an_inner_object(tmp_path: Path, kind: str, field: str) -> None:
    content: str | bytes = json.dumps(NESTED)
    if kind == "jsonl":
        content = "\n".join(map(json.dumps, NESTED))
    elif kind == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(NESTED), file := io.BytesIO())
        content = file.getvalue()
    path = write(tmp_path / f"a.{kind}", content)
    assert texts(path, text_field=field) == ["Grüße", "日本語"]


def test_pointers_escape_and_count(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", json.dumps({"a/b": {"c~d": [{"x.y": "deep"}]}, "n.m": "flat", "n": {"m": "x"}})
    )
    assert texts(path, text_field="/a~1b/c~0d/0/x.y") == ["deep"]
    assert texts(path, text_field="n.m") == ["flat"]  # a key that is spelled so comes first


FIELDS = 'content,body,"Note Text, final"'


def test_of_several_fields_the_first_that_is_filled(tmp_path: Path) -> None:
    records = [
        {"body": "b", "content": "c"},
        {"content": None, "body": "d"},
        {"Note Text, final": "e"},
        {"content": ""},
    ]
    paths = [
        write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, records))),
        write(tmp_path / "b.csv", 'id,"Note Text, final"\n1,f\n'),
        write(tmp_path / "c.tsv", "body\tcontent\ng\th\ni\t\n"),
    ]
    assert texts(*paths, text_field=FIELDS) == ["c", "d", "e", "f", "h", "i"]
    with pytest.raises(
        DataError, match=r"no column 'content' or 'body' or 'Note Text, final'; there are 'txt'"
    ):
        texts(write(tmp_path / "d.csv", "txt\nx\n"), text_field=FIELDS)


def test_a_field_with_an_open_quote_is_named_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"""no field 'a,"b'; there are 'txt'"""):
        texts(write(tmp_path / "a.jsonl", '{"txt": "x"}\n'), text_field='a,"b')


def test_fields_of_tables_in_memory() -> None:
    frame = pandas.DataFrame({"content": ["a", None], "body": ["b", "c"]})
    assert list(text_values(frame, "content,body", "text")) == ["a", "c"]
    assert list(text_values(NESTED, "note.body", "text")) == ["Grüße", "日本語"]
    with pytest.raises(ConfigError, match=r"no column 'x' or 'y'; there are 'content', 'body'"):
        list(text_values(frame, "x,y", "text"))


@pytest.mark.parametrize("indent", [None, 2])
def test_lists_in_objects_and_lists_of_strings(tmp_path: Path, indent: int | None) -> None:
    records = [{"text": f"text {number}"} for number in range(3)]
    wanted = [record["text"] for record in records]
    for name, value in {
        "data": {"version": {"data": [1]}, "data": records},
        "two lists": {"labels": [{"name": "x"}], "data": records, "more": 1},
        "strings": wanted,
        "strings in an object": {"data": wanted},
        "lines": {"text": wanted},
        "one": {"text": "\n".join(wanted), "tags": [{"text": "no"}]},
    }.items():
        path = write(tmp_path / "a.json", "\n\n" * (name == "one") + json.dumps(value, indent=indent))
        reader = DocumentReader([path])
        documents = list(reader)
        assert "\n".join(document.text for document in documents) == "\n".join(wanted), name
        assert reader.stats.errors == {}
        if name == "data" and indent:
            assert [document.line for document in documents] == [8, 11, 14]


@pytest.mark.parametrize("mark", [";", "\t", "|", ","])
def test_the_separator_is_found_or_given(tmp_path: Path, mark: str) -> None:
    path = write(tmp_path / "a.csv", f'id{mark}text\n1{mark}"a{mark} b"\n')
    messages: list[str] = []
    assert texts(path, messages=messages) == [f"a{mark} b"]
    assert any("the separator is" in text for text in messages) == (mark != ",")
    assert texts(path, delimiter="tab" if mark == "\t" else mark) == [f"a{mark} b"]
    with pytest.raises(DataError, match="no column 'text'"):
        texts(path, delimiter="#")
    with pytest.raises(ValueError, match="delimiter must be one character or 'tab', not ';;'"):
        DocumentSettings(delimiter=";;")


def test_a_separator_is_said_once(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{number}.csv", "id;text\n1;a\n") for number in range(3)]
    messages: list[str] = []
    reader = DocumentReader(paths, progress=Messages(messages))
    assert len(list(reader)) == len(list(reader)) == 3
    assert messages == [f"{paths[0]}: the separator is ';' by the first row; change with --delimiter"]


def test_ragged_rows_and_stray_quotes_are_read_as_by_pandas(tmp_path: Path) -> None:
    content = 'text,id,more\n"a" b,1,x\nc "d" e,2,x\n"f ""g""",3\nh\n"i\nj",4,x\n'
    path = write(tmp_path / "a.csv", content)
    assert texts(path) == pandas.read_csv(path)["text"].tolist() == ["a b", 'c "d" e', 'f "g"', "h", "i\nj"]
    reader = DocumentReader([path])
    list(reader)
    assert reader.stats.errors == {"short row": 2}


@pytest.mark.parametrize(
    ("suffix", "compress", "kind"), [("bz2", bz2.compress, "bzip2"), ("xz", lzma.compress, "xz")]
)
def test_bz2_and_xz(tmp_path: Path, suffix: str, compress: Any, kind: str) -> None:
    data = "".join(f"line {number} of the text\n" for number in range(5_000)).encode()
    path = write(tmp_path / f"a.txt.{suffix}", compress(data[:60_000]) + compress(data[60_000:]))
    assert "\n".join(texts(path)) + "\n" == data.decode()
    half = write(tmp_path / f"b.txt.{suffix}", compress(data)[: -len(compress(data)) // 3])
    with pytest.raises(DataError, match=f"damaged or truncated {kind} data"):
        texts(half, strict=True)
    with pytest.raises(DataError, match=f"not {kind} although its suffix is .{suffix}"):
        texts(write(tmp_path / f"c.txt.{suffix}", "text"))
    with pytest.raises(DataError, match=f"holds {kind} data"):
        texts(write(tmp_path / "c.txt", compress(data)))


SENTENCES = {
    "windows-1252": "Grüße aus Köln, “ça va”",
    "windows-1251": "Больной жалуется на боли в груди",
    "koi8-r": "Больной жалуется на боли в груди",
    "gb18030": "患者主诉胸痛三天。",
    "shift_jis": "患者は胸の痛みを訴えている。",
    "euc-kr": "환자는 가슴 통증을 호소합니다.",
}


@pytest.mark.parametrize("encoding", SENTENCES)
def test_the_message_guesses_an_encoding_and_the_option_reads_it(tmp_path: Path, encoding: str) -> None:
    text = SENTENCES[encoding]
    assert guess_encoding(text.encode(encoding)) == encoding
    path, table = tmp_path / "a.txt", write(tmp_path / "b.csv", f'text\n"{text}"\n'.encode(encoding))
    write(path, text.encode(encoding))
    for given in (path, table):
        with pytest.raises(
            DataError, match=f"is not UTF-8 .*it may be {encoding}: give --encoding {encoding}"
        ):
            texts(given)
    utf8 = (
        write(tmp_path / "c.txt", text),
        write(tmp_path / "d.jsonl", json.dumps({"text": text}, ensure_ascii=False)),
    )
    assert texts(path, table, *utf8, encoding=encoding) == [text] * 4


def test_encodings_without_a_mark(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "one Größe".encode("utf-16-le"))
    with pytest.raises(
        DataError, match=r"binary data, or UTF-16 without a byte order mark \(try --encoding utf-16-le"
    ):
        texts(path)
    assert texts(path, encoding="utf-16-le") == ["one Größe"]
    assert texts(write(tmp_path / "b.txt", "one".encode("utf-16")), encoding="windows-1252") == ["one"]
    with pytest.raises(ValueError, match="encoding must be one that Python knows"):
        DocumentSettings(encoding="utf-7000")
