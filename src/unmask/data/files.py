"""Files as bytes, text and lines: opened with care, decompressed, decoded strictly, never held whole.

Text is UTF-8 (a byte order mark is taken off, CRLF and CR become LF); ``.gz`` and ``.zst`` are decompressed on the
way. What cannot be read raises :class:`DataError` with file and, where there is one, line.
"""

from __future__ import annotations

import codecs
import errno
import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal, cast

from unmask.errors import DataError, did_you_mean

Kind = Literal["text", "jsonl", "json", "csv", "tsv", "parquet"]
Compression = Literal["gzip", "zstd"]
Line = tuple[int, str]  # line from 1, and the line with its "\n"; without one it goes on in the next item

CHUNK = 1 << 18
"""Bytes that are read at once; a line longer than this comes in pieces."""
RECORD_LIMIT = 100_000_000
"""Characters of one JSON object or CSV row: those have to be held whole, and memory is bounded."""

_KINDS: dict[str, Kind] = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
_COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}
PARQUET_MAGIC = b"PAR1"
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # after a first byte of 0x50 to 0x5f
_FOREIGN = (
    (_GZIP, "holds gzip data: give the file the suffix .gz, or decompress it first"),
    (_ZSTD, "holds zstd data: give the file the suffix .zst, or decompress it first"),
    (PARQUET_MAGIC, "holds Parquet data: give the file the suffix .parquet"),
    (b"PK\x03\x04", "holds a zip archive (.zip, .docx, .xlsx …): expected UTF-8 text; export the text first"),
    (b"%PDF-", "holds a PDF: expected UTF-8 text; extract the text first, for example with pdftotext"),
    (codecs.BOM_UTF16_LE, "holds UTF-16: expected UTF-8; convert it with iconv -f UTF-16 -t UTF-8"),
    (codecs.BOM_UTF16_BE, "holds UTF-16: expected UTF-8; convert it with iconv -f UTF-16 -t UTF-8"),
)


@dataclass(frozen=True, slots=True)
class FileFormat:
    """What the suffixes of a name say. ``known`` is false for a suffix that is only taken for text."""

    kind: Kind
    compression: Compression | None
    known: bool


def format_of(path: Path) -> FileFormat:
    """Return the format that the name says: ``notes.csv.gz`` is gzip of CSV, an unknown suffix is text."""
    compression = _COMPRESSIONS.get(path.suffix.lower())
    suffix = (path.with_suffix("") if compression else path).suffix.lower()
    return FileFormat(_KINDS.get(suffix, "text"), compression, suffix in _KINDS)


# ---------------------------------------------------------------------------------------------- files


def readable_stat(path: Path) -> os.stat_result:
    """Return the ``stat`` of a file or folder; a FIFO or device is refused here, before anything blocks on it.

    Raises:
        DataError: it does not exist, is no regular file or folder, or may not be looked at.
    """
    try:
        found = os.stat(path)
    except OSError as fault:
        raise cannot_open(path, fault) from None
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise DataError(
            "a pipe, socket or device, expected a regular file; to read a pipe give '-' and redirect it",
            path=path,
        )
    return found


def cannot_open(path: Path, fault: OSError) -> DataError:
    """Return the error that says why the system would not open ``path``."""
    if isinstance(fault, FileNotFoundError | NotADirectoryError):
        return missing(path)
    if isinstance(fault, PermissionError):
        return DataError("permission denied; make it readable for this user", path=path)
    if fault.errno == errno.ELOOP:
        return DataError("a loop of symbolic links; remove the link that leads back", path=path)
    return DataError(f"cannot be read ({fault.strerror or fault})", path=path)


def missing(path: Path) -> DataError:
    """Return the error for a path that is not there, with the nearest name that is."""
    if os.path.islink(path):
        return DataError("a symbolic link to nothing; mend or remove it", path=path)
    parent, name = path.parent, path.name
    while not os.path.isdir(parent) and parent != parent.parent:
        parent, name = parent.parent, parent.name
    near = did_you_mean(name, _names_in(parent))
    if parent == path.parent:
        what = f"no such file{near}"
    elif os.path.lexists(parent / name):
        what = f"no such file: {parent / name} is no folder"
    else:
        what = f"no such file: the folder {parent / name} does not exist{near}"
    return DataError(f"{what}; give a file, a folder, a glob, '-' or hf://org/name", path=path)


def _names_in(folder: Path) -> list[str]:
    """Return the names in a folder, of a very full one only some: they are for a hint, and comparing is slow."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in islice(entries, 2000)]
    except OSError:
        return []


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading its bytes, decompressed as its suffix says.

    Raises:
        DataError: it cannot be opened, or is not what its suffix says.
    """
    compression = format_of(path).compression
    readable_stat(path)
    try:
        file = path.open("rb")
    except OSError as fault:
        raise cannot_open(path, fault) from None
    with file:
        if compression:
            _check_compressed(file, compression, path)
        yield _decompressed(file, compression)


def _check_compressed(file: BinaryIO, compression: Compression, path: Path) -> None:
    head = file.read(4)
    file.seek(0)
    right = head[:2] == _GZIP if compression == "gzip" else head == _ZSTD or head[1:] == _ZSTD_SKIPPABLE
    if not right:
        came = "other data" if head else "an empty file"
        raise DataError(
            f"not {compression} although its suffix is {path.suffix}: {came}; rename it", path=path
        )


def _decompressed(file: BinaryIO, compression: Compression | None) -> BinaryIO:
    if compression == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if compression == "zstd":
        import pyarrow

        # pyarrow's stream reads frame after frame and, unlike others, says when the last one is cut off.
        return cast(BinaryIO, pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd"))
    return file


def read_bytes(stream: BinaryIO, source: str, line: int | None = None, size: int = CHUNK) -> bytes:
    """Read up to ``size`` bytes; what goes wrong on the way becomes a :class:`DataError` at ``line``."""
    try:
        return stream.read(size)
    except (EOFError, gzip.BadGzipFile, zlib.error) as fault:
        what = f"damaged or cut off gzip data ({fault}); fetch or compress the file again"
    except (OSError, ValueError) as fault:  # pyarrow reports broken zstd as an OSError
        if source.lower().endswith(".zst"):
            what = f"damaged or cut off zstd data ({fault}); fetch or compress the file again"
        else:
            what = f"cannot be read ({fault})"
    raise DataError(what, path=source, line=line)


def holds_text(path: Path) -> bool:
    """Say whether the first 8 KiB of a file (decompressed) are UTF-8 text, as far as one can see."""
    with opened(path) as stream:
        head = read_bytes(stream, str(path), size=8192)
    if b"\0" in head or _foreign(head):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def _foreign(head: bytes) -> str | None:
    return next((what for magic, what in _FOREIGN if head.startswith(magic)), None)


# ----------------------------------------------------------------------------------------------- text


def decoded(stream: BinaryIO, source: str) -> Iterator[str]:
    """Yield the text of a stream in chunks, with LF line ends and without a byte order mark.

    Raises:
        DataError: bytes that are not UTF-8, a NUL byte, or another format behind the name; with the line.
    """
    utf8 = codecs.getincrementaldecoder("utf-8-sig")()
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    taken, line = 0, 1
    while True:
        data = read_bytes(stream, source, line)
        if taken == 0 and (what := _foreign(data)):
            raise DataError(what, path=source)
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as fault:
            raise _not_utf8(fault, decoder, data, taken, source, line) from None
        if "\0" in text:
            line += text.count("\n", 0, text.index("\0"))
            raise DataError(
                "a NUL byte: binary data (or UTF-16), expected UTF-8 text", path=source, line=line
            )
        taken, line = taken + len(data), line + text.count("\n")
        if text:
            yield text
        if not data:
            return


def _not_utf8(
    fault: UnicodeDecodeError,
    decoder: io.IncrementalNewlineDecoder,
    data: bytes,
    taken: int,
    source: str,
    line: int,
) -> DataError:
    """Place the fault: ``fault.object`` ends where ``data`` ends but may begin earlier, with bytes left over."""
    good = len(data) - len(fault.object) + fault.start
    if good > 0:
        line += decoder.decode(data[:good], final=True).count("\n")
    found = f"byte 0x{fault.object[fault.start]:02x} at offset {taken + good} is not UTF-8"
    if b"\0" in fault.object[:4096]:
        return DataError(f"{found}: binary data, expected UTF-8 text", path=source, line=line)
    hint = "convert the file, for example with iconv -f WINDOWS-1252 -t UTF-8 (or LATIN1, GB18030 … as it is)"
    return DataError(f"{found}; {hint}", path=source, line=line)


def text_lines(chunks: Iterable[str]) -> Iterator[Line]:
    """Yield the lines of decoded chunks, each with its ``"\\n"``; a long line comes in pieces of one number."""
    number, rest = 1, ""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split("\n")
        for line in whole:
            yield number, line + "\n"
            number += 1
        if len(rest) > CHUNK:
            yield number, rest
            rest = ""
    if rest:
        yield number, rest


def whole_lines(chunks: Iterable[str], source: str) -> Iterator[Line]:
    """Yield whole lines, for formats whose records cannot be cut; a last line without ``"\\n"`` gets one."""
    held: list[str] = []
    size, last = 0, 1
    for number, piece in text_lines(chunks):
        if piece.endswith("\n"):
            yield number, "".join([*held, piece]) if held else piece
            held, size = [], 0
            continue
        held.append(piece)
        size, last = size + len(piece), number
        if size > RECORD_LIMIT:
            what = f"a line of more than {RECORD_LIMIT:,} characters; cut it into several records"
            raise DataError(what, path=source, line=number)
    if held:
        yield last, "".join(held) + "\n"
