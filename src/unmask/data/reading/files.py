"""Stream files as bytes, text and lines: open, decompress and decode.

Text is UTF-8 unless an encoding is given, or UTF-16 or UTF-32 with a byte order mark, which is removed; CRLF and CR
become LF. ``.gz``, ``.bz2``, ``.xz`` and ``.zst`` files are decompressed. A file that cannot be read any further raises
:class:`DataError`. An undecodable byte is escaped (:data:`unmask.data.reading.characters.ESCAPE`); documents and records that
hold one are skipped later.
"""

from __future__ import annotations

import bz2
import codecs
import errno
import gzip
import io
import lzma
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, BinaryIO, Literal, cast

from unmask.data.reading.characters import CONTROLS, ESCAPE
from unmask.data.reading.errors import ReadErrors, TextError
from unmask.errors import DataError, did_you_mean
from unmask.remote.files import RemoteFile
from unmask.storage import LFS_POINTER, is_lfs_pointer

Kind = Literal["text", "jsonl", "json", "csv", "tsv", "parquet", "arrow"]
Compression = Literal["gzip", "bzip2", "xz", "zstd"]
Line = tuple[int, str]  # line from 1, and the line with its "\n"; without one it continues in the next item
LineRead = tuple[int, str | TextError]
File = Path | RemoteFile

CHUNK = 1 << 18
"""Bytes read at once; a longer line is yielded in parts."""
RECORD_LIMIT = 32_000_000
"""Most characters of a JSON object or CSV row, which are held in memory."""
BOMB_RATIO, BOMB_BYTES = 200, 1 << 26
"""Data that decompression grows to more bytes by more than this ratio is refused; text reaches a ratio of 2 to 10."""

_TEXT = "give a file, a folder, a glob, '-', hf://org/name or a URL (s3://, gs://, az://)"
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
    ".arrow": "arrow",
}
_COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
PARQUET_MAGIC = b"PAR1"
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_BZIP2, _XZ = b"BZh", b"\xfd7zXZ"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # after a first byte of 0x50 to 0x5f
_FOREIGN = (
    (_GZIP, "holds gzip data: give the file the suffix .gz, or decompress it first"),
    (_ZSTD, "holds zstd data: give the file the suffix .zst, or decompress it first"),
    (_XZ, "holds xz data: give the file the suffix .xz, or decompress it first"),
    (_BZIP2 + b"91AY&SY", "holds bzip2 data: give the file the suffix .bz2, or decompress it first"),
    (PARQUET_MAGIC, "holds Parquet data: give the file the suffix .parquet"),
    (b"PK\x03\x04", "holds a zip archive (.zip, .docx, .xlsx …): expected UTF-8 text; export the text first"),
    (b"%PDF-", "holds a PDF: expected UTF-8 text; extract the text first, for example with pdftotext"),
)
_WIDE = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HEAD = 8192
_LINE_END = re.compile("\r\n|\r|\n")
_LINE_ENDS = {"\n": "LF", "\r": "CR", "\r\n": "CRLF"}


@dataclass(frozen=True, slots=True)
class FileFormat:
    """The format by the suffixes of a name. ``known`` is false for an unknown suffix, which is read as text."""

    kind: Kind
    compression: Compression | None
    known: bool


def format_of(file: File) -> FileFormat:
    """Return the format by the name: ``notes.csv.gz`` is CSV in gzip, an unknown suffix is text."""
    path = PurePosixPath(str(file))
    compression, suffix = _COMPRESSIONS.get(path.suffix.lower()), name_suffix(path)
    return FileFormat(_KINDS.get(suffix, "text"), compression, suffix in _KINDS)


def name_suffix(path: PurePath) -> str:
    """Return the suffix of a name in lower case, without that of a compression."""
    compressed = path.suffix.lower() in _COMPRESSIONS
    return (path.with_suffix("") if compressed else path).suffix.lower()


# ---------------------------------------------------------------------------------------------- files


def readable_stat(path: Path, expected: str = _TEXT) -> os.stat_result:
    """Return the ``stat`` of a file or folder; :class:`DataError` if it does not exist, or is a FIFO or device.

    Args:
        path: of the file or folder.
        expected: what should be there, said where there is nothing; by default text in any of its forms.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise cannot_open(path, error, expected) from None
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        what = "a pipe, socket or device, expected a regular file; to read a pipe give '-' and redirect it"
        raise TextError("not a file", what, path=path)
    return found


def size_of(file: File) -> int:
    """Return the bytes of a file; :class:`DataError` as for :func:`readable_stat`."""
    return file.size if isinstance(file, RemoteFile) else readable_stat(file).st_size


def cannot_open(path: Path, error: OSError, expected: str = _TEXT) -> DataError:
    """Return the :class:`DataError` for an ``OSError`` on opening ``path``."""
    if isinstance(error, FileNotFoundError | NotADirectoryError) or error.errno == errno.ENAMETOOLONG:
        return missing(path, expected)
    if isinstance(error, PermissionError):
        return TextError("no permission", "permission denied; make it readable for this user", path=path)
    if error.errno == errno.ELOOP:
        what = "a loop of symbolic links; remove one"
        return TextError("loop of links", what, path=path)
    return TextError("not readable", f"cannot be read ({error.strerror or error})", path=path)


def missing(path: Path, expected: str = _TEXT) -> DataError:
    """Return the error for a path that does not exist, with the most similar name that does."""
    if os.path.islink(path):
        return TextError("no such file", "a broken symbolic link; repair or remove it", path=path)
    parent, name = path.parent, path.name
    while not os.path.isdir(parent) and parent != parent.parent:
        parent, name = parent.parent, parent.name
    # Names that share nothing but a long suffix are not similar.
    near = did_you_mean(name, [each for each in _names_in(parent) if _alike(name, each)])
    if parent == path.parent:
        what = f"no such file{near}"
    elif os.path.lexists(parent / name):
        what = f"no such file: {parent / name} is not a folder"
    else:
        what = f"no such file: the folder {parent / name} does not exist{near}"
    hint = text_hint(str(path))
    message = f"{what}{hint}; {expected}"
    shown = f"{str(path)[:119]}…" if hint and len(str(path)) > 120 else path
    return TextError("no such file", message, path=shown)


def _alike(name: str, other: str) -> bool:
    return bool(did_you_mean(Path(name).stem, [Path(other).stem]))


def text_hint(given: str) -> str:
    """Return how to give text itself, if a name that does not exist has words and no suffix of a file: it may be text."""
    is_text = len(given.split()) > 1 and not re.search(r"\.[A-Za-z]\w*$", given)
    return " (for the text itself, pipe it in and give -)" if is_text else ""


def _names_in(folder: Path) -> list[str]:
    """Return the names in a folder, at most 2,000: they are for a hint, and comparing is slow."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in islice(entries, 2000)]
    except OSError:
        return []


@contextmanager
def open_bytes(path: File) -> Iterator[BinaryIO]:
    """Open a file for reading bytes, decompressed by its suffix; :class:`DataError` if the content does not fit it."""
    compression = format_of(path).compression
    with _open(path) as file:
        if compression:
            _check_compressed(file, compression, path)
            yield cast(BinaryIO, _Unpacked(file, _decompressed(file, compression), path))
        else:
            yield file


def _open(path: File) -> BinaryIO:
    if isinstance(path, RemoteFile):
        return path.open()
    readable_stat(path)
    if is_lfs_pointer(path):
        raise TextError("Git LFS pointer", LFS_POINTER, path=path)
    try:
        return path.open("rb")
    except OSError as error:
        raise cannot_open(path, error) from None


def _check_compressed(file: BinaryIO, compression: Compression, path: File) -> None:
    head = file.read(5)
    file.seek(0)
    begins = {"gzip": _GZIP, "bzip2": _BZIP2, "xz": _XZ, "zstd": _ZSTD}
    skippable = compression == "zstd" and head[1:4] == _ZSTD_SKIPPABLE
    if not head.startswith(begins[compression]) and not skippable:
        content = "other data" if head else "an empty file"
        what = f"not {compression} although its suffix is {Path(str(path)).suffix}: {content}; rename it"
        raise TextError("wrong suffix", what, path=path)


def _decompressed(file: BinaryIO, compression: Compression) -> BinaryIO:
    if compression != "zstd":
        opened: dict[str, Any] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
        return cast(BinaryIO, opened[compression](file))
    import pyarrow

    # pyarrow's stream reads all frames and, unlike others, raises if the last one is truncated.
    return cast(BinaryIO, pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd"))


class _Unpacked:
    """Decompressed data, with a limit on its compression ratio."""

    def __init__(self, file: BinaryIO, stream: BinaryIO, path: File) -> None:
        self._file, self._path, self._size = file, path, 0
        # read1 returns the data before a damaged part, which read would lose.
        self._read = getattr(stream, "read1", stream.read)

    def read(self, size: int) -> bytes:
        data = self._read(size)
        self._size += len(data)
        if self._size > BOMB_BYTES and self._size > BOMB_RATIO * self._file.tell():
            what = f"a few bytes became {self._size:,}, more than {BOMB_RATIO} times as many: a decompression bomb"
            raise TextError("compression bomb", what, path=self._path)
        return data


def read_bytes(stream: BinaryIO, source: str, line: int | None = None, size: int = CHUNK) -> bytes:
    """Read up to ``size`` bytes; errors become a :class:`DataError` at ``line``."""
    reason = "damaged compression"
    try:
        return stream.read(size)
    except (EOFError, OSError, ValueError, lzma.LZMAError, zlib.error) as error:
        if kind := _COMPRESSIONS.get(Path(source).suffix.lower()):
            what = f"damaged or truncated {kind} data ({error}); download or compress the file again"
        else:
            reason, what = "not readable", f"cannot be read ({error})"
    raise TextError(reason, what, path=source, line=line)


def holds_text(path: File) -> bool:
    """Return whether the first 8 KiB of a file, decompressed, look like text, of whatever encoding."""
    if isinstance(path, Path) and is_lfs_pointer(path):
        return False
    with open_bytes(path) as stream:
        head = read_bytes(stream, str(path), size=_HEAD)
    if _wide(head):
        return True
    controls = len(head) - len(head.translate(None, CONTROLS))
    return b"\0" not in head and _foreign(head) is None and (_is_utf8(head) or 50 * controls < len(head))


def is_utf8(path: File) -> bool:
    """Return whether a whole file is UTF-8 with other characters than those of ASCII, and without NUL."""
    decoder, ascii_only = codecs.getincrementaldecoder("utf-8")(), True
    with open_bytes(path) as stream:
        try:
            while data := read_bytes(stream, str(path)):
                ascii_only = ascii_only and data.isascii()
                if "\0" in decoder.decode(data):
                    return False
        except (UnicodeDecodeError, TextError):  # damaged data is reported when it is read
            return False
    return not ascii_only


def _foreign(head: bytes) -> str | None:
    return next((what for magic, what in _FOREIGN if head.startswith(magic)), None)


def _wide(head: bytes) -> str | None:
    return next((encoding for mark, encoding in _WIDE if head.startswith(mark)), None)


def _is_utf8(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


# ----------------------------------------------------------------------------------------------- text


def decode(
    stream: BinaryIO,
    source: str,
    errors: ReadErrors,
    *,
    encoding: str | None = None,
    one_line_end: bool = True,
    binary: bool = False,
) -> Iterator[str]:
    """Yield the text of a stream in chunks, with LF line ends and without a byte order mark.

    Args:
        stream: bytes.
        source: the name of the file.
        errors: gets UTF-16 by its mark, and mixed line ends if the file should have ``one_line_end``.
        encoding: the encoding of a file without a byte order mark, by default UTF-8.
        binary: continue even if the first bytes look like binary data.

    Raises:
        TextError: the file does not hold text, or cannot be read.
    """
    data = _head(stream, source)
    decoder = _decoder(data, source, errors, encoding, binary=binary)
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    line, single, raw = 1, one_line_end, ""
    while True:
        held_back, known = "\r" if raw.endswith("\r") else "", newlines.newlines
        raw = decoder.decode(data, final=not data)
        text = newlines.decode(raw, final=not data)
        if single and isinstance(newlines.newlines, tuple):
            single = False
            errors.note(_mixed(held_back + raw, known, source, line))
        line += text.count("\n")
        if text:
            yield text
        if not data:
            return
        data = read_bytes(stream, source, line)


def _head(stream: BinaryIO, source: str) -> bytes:
    """Return the first bytes, at least 4 if there are so many, to detect the format."""
    head = b""
    while len(head) < 4 and (data := read_bytes(stream, source, 1)):
        head += data
    return head


def _decoder(
    head: bytes, source: str, errors: ReadErrors, encoding: str | None, *, binary: bool
) -> codecs.IncrementalDecoder:
    if what := _foreign(head):
        raise TextError("wrong suffix", what, path=source)
    if wide := _wide(head):
        what = f"{wide.upper()} by its byte order mark; it is decoded as that"
        errors.note(TextError(wide.upper(), what, path=source, line=1))
        return codecs.getincrementaldecoder(wide)(ESCAPE)
    if encoding and not head.startswith(codecs.BOM_UTF8):
        return codecs.getincrementaldecoder(encoding)(ESCAPE)
    begin = head[:_HEAD]
    if not binary and b"\0" in begin and (4 * begin.count(0) > len(begin) or not _is_utf8(begin)):
        what = (
            "binary data, or UTF-16 without a byte order mark (try --encoding utf-16-le); expected UTF-8 text"
        )
        raise TextError("binary data", what, path=source, line=begin.count(b"\n", 0, begin.index(0)) + 1)
    return codecs.getincrementaldecoder("utf-8-sig")(ESCAPE)


def _mixed(text: str, known: Any, source: str, line: int) -> TextError:
    """Return the error at the first line end that differs from those before it."""
    ends = [match[0] for match in _LINE_END.finditer(text)]
    at = next(number for number, end in enumerate(ends) if end != (known or ends[0]))
    first, other = (_LINE_ENDS[end] for end in (known or ends[0], ends[at]))
    what = f"mixed line ends: {other} here, {first} before; all are read as line ends"
    return TextError("mixed line ends", what, path=source, line=line + at)


def text_lines(chunks: Iterable[str]) -> Iterator[Line]:
    """Yield the lines of decoded chunks, each with its ``"\\n"``; a long line is yielded in parts with the same number."""
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


def whole_lines(chunks: Iterable[str], source: str) -> Iterator[LineRead]:
    """Yield whole lines; a last line without ``"\\n"`` gets one. A line beyond the limit is replaced by its error."""
    held: list[str] = []
    size = 0
    for number, part in text_lines(chunks):
        if part.endswith("\n") and not held:
            yield number, part
            continue
        held.append(part)
        size += len(part)
        if size > RECORD_LIMIT:
            del held[1:]
        if part.endswith("\n"):
            yield _whole_line(held, size, source, number)
            held, size = [], 0
    if held:
        yield _whole_line([*held, "\n"], size, source, number)


def _whole_line(held: list[str], size: int, source: str, line: int) -> LineRead:
    if size <= RECORD_LIMIT:
        return line, "".join(held)
    what = f"a line of {size:,} characters, expected at most {RECORD_LIMIT:,}; split it into several records"
    return line, TextError("record too long", what, path=source, line=line)
