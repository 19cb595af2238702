"""Files that nobody should feed to a reader, each in a folder of its own beside a good one.

    python tests/faults/hostile.py FOLDER [--large]

``--large`` makes the long line 500 MB instead of 5 MB. What is said of each case here is what its readers promise
(docs/reliability.md); test_hostile_text.py holds them to it.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

GOOD = "a good line of text"
LONG, LARGE = 5_000_000, 500_000_000
Make = bytes | str | Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """One hostile file.

    Attributes:
        name: what is wrong.
        file: its name.
        make: its content, or what makes it.
        reason: the reason that is counted, or ``None`` where nothing is wrong with the text itself.
        line: the line (of Parquet the row) that is named, if there is one.
        texts: the documents that are read from it all the same; ``None`` where there are too many to list.
    """

    name: str
    file: str
    make: Make
    reason: str | None
    line: int | None = None
    texts: tuple[str, ...] | None = ()


def zstd(data: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def parquet_of(**columns: Any) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file, compression="none")
    return file.getvalue()


def damaged(data: bytes, at: float) -> bytes:
    place = int(len(data) * at)
    return data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]


def unlike_text() -> str:
    """Text that hardly shrinks, so that a cut falls within it."""
    return "\n".join(f"{n} {n * 2654435761 % 2**61:x} {n * 40503 % 65521:x}" for n in range(20_000))


def _records(*texts: str) -> str:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


def _bad_utf8_parquet() -> bytes:
    values = pyarrow.array([b"one", b"tw\xf6", b"three"], pyarrow.binary()).cast(pyarrow.string(), safe=False)
    return parquet_of(text=values)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        before = os.getcwd()
        os.chdir(path.parent)  # the address of a socket may have some hundred characters only
        try:
            listener.bind(path.name)
        finally:
            os.chdir(before)


def _locked(path: Path) -> None:
    path.write_text("nobody may read this\n", encoding="utf-8")
    path.chmod(0)


def _folder_loop(path: Path) -> None:
    path.symlink_to(path.parent, target_is_directory=True)


def _self_loop(path: Path) -> None:
    path.symlink_to(path)


def _nowhere(path: Path) -> None:
    path.symlink_to(path.with_name("gone"))


def _long_line(path: Path, size: int = LONG, begin: str = "", end: str = "") -> None:
    piece = "some words of one very long line " * 1000
    with path.open("w", encoding="utf-8") as file:
        file.write(begin)
        for _ in range(-(-size // len(piece))):
            file.write(piece)
        file.write(end)


def _bomb(name: str) -> Make:
    def make(path: Path) -> None:
        block = b"boom " * (1 << 18)
        pack = gzip.compress if name == "gzip" else zstd
        path.write_bytes(pack(block) * 100)  # members of a file follow one another: 131 MB

    return make


def _odd_name(path: Path) -> None:
    path.write_bytes(b"one\n\xf6\n")


PARQUET = parquet_of(text=["one", "two"] * 500)
ONE_TWO = ("one", "two")
CASES = [
    # bytes
    Case("latin-1", "a.txt", b"one\ntwo K\xf6ln\ntwo\n", "not UTF-8", 2, ONE_TWO),
    Case("latin-1 in JSON", "a.jsonl", b'{"text": "one"}\n{"text": "K\xf6ln"}\n', "not UTF-8", 2, ("one",)),
    Case("latin-1 in CSV", "a.csv", b"id,text\n1,one\n2,K\xf6ln\n3,two\n", "not UTF-8", 3, ONE_TWO),
    Case("character cut off", "a.txt", "one\nü".encode()[:-1], "not UTF-8", 2, ("one",)),
    Case("overlong UTF-8", "a.txt", b"one\n\xc0\x80\ntwo\n", "not UTF-8", 2, ONE_TWO),
    Case("surrogate in UTF-8", "a.txt", b"one\n\xed\xa0\x80\ntwo\n", "not UTF-8", 2, ONE_TWO),
    Case("UTF-16", "a.txt", "one\ntwo\n".encode("utf-16"), "UTF-16", 1, ONE_TWO),
    Case("UTF-16, other order", "a.jsonl", b"\xfe\xff" + _records("one").encode("utf-16-be"), "UTF-16", 1, ("one",)),
    Case("UTF-32", "a.txt", "one\ntwo\n".encode("utf-32"), "UTF-32", 1, ONE_TWO),
    Case("UTF-16 cut off", "a.txt", "one\ntwo\n".encode("utf-16")[:-3], "not UTF-8", 2, ("one",)),
    Case("UTF-16 without a mark", "a.txt", "one\ntwo\n".encode("utf-16-le"), "binary data", 1),
    Case("NUL bytes", "a.txt", b"one\nt\0wo and some more text\n", "NUL bytes", 2, ("one", "two and some more text")),
    Case("NUL in JSON", "a.jsonl", r'{"text": "o\u0000ne"}', "NUL bytes", 1, ("one",)),
    Case("control characters", "a.txt", b"one\n\x1b[1mtwo\x1b[0m\n", "control characters", 2, ("one", "\x1b[1mtwo\x1b[0m")),
    Case("picture", "a.md", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary data", 3),
    Case("byte order mark", "a.txt", b"\xef\xbb\xbfone\ntwo\n", None, None, ONE_TWO),
    Case("literal special tokens", "a.txt", "[SEP] </s> [MASK] <mask>\n", None, None, ("[SEP] </s> [MASK] <mask>",)),
    # lines
    Case("CRLF", "a.txt", b"one\r\ntwo\r\n", None, None, ONE_TWO),
    Case("CR", "a.txt", b"one\rtwo\r", None, None, ONE_TWO),
    Case("mixed line ends", "a.txt", b"one\r\n1\r\n2\ntwo\n", "mixed line ends", 3, ("one", "1", "2", "two")),
    Case("empty", "a.txt", "", "no text"),
    Case("white space only", "a.txt", " \n\t\n  \n", "no text"),
    Case("a long line", "a.txt", _long_line, None, None, None),
    # compression and suffixes
    Case("gzip cut off", "a.txt.gz", gzip.compress(unlike_text().encode())[:-9000], "damaged compression", None, None),
    Case("gzip damaged", "a.txt.gz", damaged(gzip.compress(unlike_text().encode()), 0.7), "damaged compression", None, None),
    Case("more behind gzip", "a.txt.gz", gzip.compress(b"one\n") + b"no", "damaged compression", 2, ("one",)),
    Case("zstd cut off", "a.txt.zst", zstd(unlike_text().encode())[:-9000], "damaged compression", None, None),
    Case("gzip bomb", "a.txt.gz", _bomb("gzip"), "compression bomb", None, None),
    Case("zstd bomb", "a.txt.zst", _bomb("zstd"), "compression bomb", None, None),
    Case("Git LFS pointer", "a.txt", "version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    Case("empty gzip", "a.txt.gz", "", "wrong suffix"),
    Case("text called gzip", "a.txt.gz", "one\n", "wrong suffix"),
    Case("gzip called text", "a.txt", gzip.compress(b"one\n"), "wrong suffix"),
    Case("PDF called text", "a.txt", b"%PDF-1.4\n", "wrong suffix"),
    Case("Parquet called CSV", "a.csv", PARQUET, "wrong suffix"),
    Case("text called Parquet", "a.parquet", "one\n", "wrong suffix"),
    # records
    Case("broken JSON", "a.jsonl", _records("one") + '\n{"text": \n' + _records("two"), "broken JSON", 3, ONE_TWO),
    Case("deep JSON", "a.jsonl", _records("one") + "[" * 100_000 + "\n" + _records("two"), "broken JSON", 2, ONE_TWO),
    Case("endless number", "a.jsonl", '{"text": ' + "9" * 10_000 + "}\n" + _records("one"), "broken JSON", 1, ("one",)),
    Case("JSON list not closed", "a.json", '[{"text": "one"},\n{"text": "tw', "broken JSON", 2, ("one",)),
    Case("lone surrogate", "a.jsonl", '{"text": "a\\ud83d"}\n' + _records("one"), "lone surrogate", 1, ("one",)),
    Case("lone surrogate in a list", "a.json", '[{"text": "one"},\n{"text": "\\udfff"}]', "lone surrogate", 2, ("one",)),
    Case("no such field", "a.jsonl", _records("one") + '{"txt": "two"}\n', "no such field", 2, ("one",)),
    Case("no string", "a.jsonl", '{"text": 5}\n' + _records("one"), "not a string", 1, ("one",)),
    Case("no object", "a.jsonl", "null\n" + _records("one"), "not an object", 1, ("one",)),
    Case("ragged CSV", "a.csv", "id,text\n1,one\n2,two,three\n4\n5,two\n", "ragged row", 3, ONE_TWO),
    Case("open quote", "a.csv", 'id,text\n1,one\n2,"never closed\n3,two\n', "broken quoting", 3, ONE_TWO),
    Case("stray quote", "a.csv", 'id,text\n1,one\n2,"a" b\n3,two\n', None, texts=("one", "a b", "two")),
    Case("quote before the next row", "a.csv", 'id,text\n1,one\n2,"a\n3,"b"\n4,two\n', "broken quoting", 3, ("one", "b", "two")),
    Case("other separator", "a.csv", "id;text\n1;one\n", None, texts=("one",)),
    Case("other separator, no column", "a.csv", "id;txt\n1;one\n", "no such column", 1),
    Case("Parquet without the column", "a.parquet", parquet_of(txt=["one"]), "no such column"),
    Case("Parquet cut off", "a.parquet", PARQUET[:-9], "damaged Parquet"),
    Case("Parquet damaged", "a.parquet", b"PAR1" + b"x" * 99 + b"PAR1", "damaged Parquet"),
    Case("latin-1 in Parquet", "a.parquet", _bad_utf8_parquet(), "not UTF-8", 2, ("one", "three")),
    # the file system
    Case("no permission", "a.txt", _locked, "no permission"),
    Case("a link to itself", "a.txt", _self_loop, "loop of links"),
    Case("a folder within itself", "a", _folder_loop, "loop of links"),
    Case("a link to nothing", "a.txt", _nowhere, "no such file"),
    Case("FIFO", "a.txt", _fifo, "not a file"),
    Case("socket", "a.txt", _socket, "not a file"),
    Case("a name with spaces and a line feed", " a\n b .txt", "one\ntwo\n", None, None, ONE_TWO),
    Case("a error under such a name", "a\nb.txt", _odd_name, "not UTF-8", 2, ("one",)),
    Case("a name that is no text", os.fsdecode(b"a\xf6.txt"), _odd_name, "not UTF-8", 2, ("one",)),
]  # fmt: skip


def write_case(case: Case, folder: Path) -> Path:
    """Write a case, and a good file beside it, into a new folder; return the hostile file."""
    folder.mkdir(parents=True)
    (folder / "good.txt").write_text(GOOD + "\n", encoding="utf-8")
    path = folder / case.file
    if callable(case.make):
        case.make(path)
    else:
        path.write_bytes(case.make.encode() if isinstance(case.make, str) else case.make)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--large", action="store_true", help="a long line of 500 MB")
    arguments = parser.parse_args()
    for number, case in enumerate(CASES, 1):
        path = write_case(case, arguments.folder / f"{number:02d} {case.name}")
        if arguments.large and case.make is _long_line:
            _long_line(path, LARGE)
    print(f"{len(CASES)} hostile files in {arguments.folder}")


if __name__ == "__main__":
    main()
