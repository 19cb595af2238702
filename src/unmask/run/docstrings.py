"""The docstrings of a Python installation: collected, de-duplicated, and split into training and held-out text.

Source files are parsed, never imported. The steps::

    folders → files in a stable order → docstrings (worker processes) → train | held-out by module
            → repeated docstrings and repeated paragraphs removed → held-out that train gives away removed

The same installation gives the same documents in the same order, whatever the number of processes.
This module is imported by the worker processes, so it imports nothing heavy.
"""

from __future__ import annotations

import ast
import gc
import json
import os
import re
import signal
import site
import sysconfig
import warnings
from array import array
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from hashlib import blake2b
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from unmask.data.reading.characters import CONTROLS
from unmask.errors import ConfigError, DataError
from unmask.machine import cores
from unmask.progress import Progress
from unmask.run.docstring_sieve import MIN_CHARACTERS, Found, Sieve, Source, shared_shares
from unmask.storage import write_atomically

MIN_WORDS = 0.5
"""Share of the characters, white space aside, that must belong to words; the rest is tables and drawings."""
MIN_QUOTED = 0.1
"""Share of a file's bytes inside triple quotes below which it is not parsed: on an installation with torch
and transformers this leaves out 5% of the text and 25% of the bytes to parse."""
MAX_FILE_BYTES = 1_000_000
"""Larger files are generated tables."""
MAX_SHARED = 0.4
"""A held-out docstring with a larger share of its shingles in the training text is dropped: so many that no run finds half of
its runs of tokens there (:mod:`unmask.data.overlap`)."""
SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test", "__pycache__", "site-packages", "dist-packages"})

_FILES_PER_CHUNK = 64
_REMOVED = dict.fromkeys(CONTROLS)
_UNIT = re.compile(r"[^\W_]+|[^\w\s]|_")
_BLANK_LINES = re.compile(r"\n\s*\n")
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_Block = ast.If | ast.Try | ast.With | ast.For | ast.While


@dataclass(frozen=True, slots=True)
class Docstring:
    """One document: the cleaned docstring, its module, and the name there of what it describes.

    The name is qualified (``Class.method``), and empty for the module itself.
    """

    text: str
    module: str
    name: str


@dataclass
class DocstringCorpus:
    """The documents, and counts of what was left out."""

    train: list[Docstring]
    heldout: list[Docstring]
    files: int
    """Python files looked at."""
    modules: int
    """Modules with at least one document."""
    unreadable: int
    """Files that could not be read or parsed."""
    duplicates: int
    """Docstrings removed because one with the same words was kept."""
    boilerplate: int
    """Paragraphs removed because they were kept ``docstring_sieve.MAX_REPEATS`` times already."""
    near_duplicates: int
    """Held-out docstrings removed because many of their runs of 8 words and marks occur in the training text."""

    @property
    def train_characters(self) -> int:
        return sum(len(docstring.text) for docstring in self.train)

    @property
    def heldout_characters(self) -> int:
        return sum(len(docstring.text) for docstring in self.heldout)


class _Chunk(NamedTuple):
    """What was found in some files: a list for each file, and the files that could not be read."""

    files: list[list[Found]]
    unreadable: list[str]


def collect_docstrings(
    *,
    roots: Sequence[Path] | None = None,
    workers: int | None = None,
    heldout_share: float = 0.03,
    max_characters: int | None = None,
    progress: Progress = Progress(),
) -> DocstringCorpus:
    """Collect the docstrings below ``roots`` as documents for training and for evaluation.

    Modules, not docstrings, are held out, by a hash of their names; no text is on both sides, neither word for
    word nor for the most part (:data:`MAX_SHARED`).

    Args:
        roots: folders of Python source; by default the standard library and the installed packages.
        workers: processes that parse; by default one for each core that this process may use.
        heldout_share: share of the modules whose docstrings are held out, between 0 and 1.
        max_characters: stop, in the stable order of the modules, before more characters than this were read
            (counted before de-duplication); by default everything is read.
        progress: gets the phase ``"collect"`` and about files that could not be parsed.

    Raises:
        ConfigError: ``heldout_share`` or ``workers`` is out of range.
        DataError: a root is not a folder, or no docstrings were found.
    """
    if not 0 < heldout_share < 1:
        raise ConfigError(f"heldout_share must lie between 0 and 1, not {heldout_share}")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers must be at least 1, not {workers}")
    folders = installed_roots() if roots is None else list(roots)
    sources = _find_sources(folders)
    progress.begin("collect")
    try:
        found, unreadable = _read_sources(sources, workers or cores(), max_characters, progress)
        corpus = _build_corpus(found, heldout_share, files=len(sources), unreadable=len(unreadable))
    finally:
        progress.end()
    if unreadable:
        first = f"{len(unreadable)} of {len(sources)} Python files could not be parsed, first {unreadable[0]}"
        progress.log(first)
    if not corpus.train or not corpus.heldout:
        where = ", ".join(map(str, folders))
        raise DataError(
            f"expected docstrings for training and for evaluation, found {len(corpus.train)} and "
            f"{len(corpus.heldout)} in {len(sources)} Python files below {where}; name larger folders"
        )
    return corpus


def write_jsonl(docstrings: Iterable[Docstring], path: Path) -> None:
    """Write one object a line with the fields ``text``, ``module`` and ``name``, atomically."""
    rows = ({"text": d.text, "module": d.module, "name": d.name} for d in docstrings)
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def installed_roots() -> list[Path]:
    """Return the folders of the standard library and of the packages that this interpreter has installed."""
    names = [sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders = [Path(name).resolve() for name in [*names, *site.getsitepackages()]]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _find_sources(roots: Sequence[Path]) -> list[Source]:
    """Return the Python files below the roots, in an order that mixes the packages and never changes."""
    sources: dict[str, Source] = {}
    for root in roots:
        if not root.is_dir():
            raise DataError("expected a folder of Python source, found none", path=root)
        for path in _python_files(root):
            module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            sources.setdefault(str(path), Source(str(path), module))
    # A root may be named from two places: the module decides, the path only breaks ties.
    return sorted(sources.values(), key=lambda source: (_draw("order", source.module), source))


def _python_files(root: Path) -> Iterator[Path]:
    for folder, below, names in os.walk(root):
        below[:] = sorted(name for name in below if name not in SKIPPED_FOLDERS)
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(".py"))


def _draw(purpose: str, module: str) -> float:
    """Return a number in [0, 1) that depends on the purpose and the module's name alone."""
    digest = blake2b(module.encode("utf-8", "replace"), digest_size=8, person=purpose.encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


def _read_sources(
    sources: list[Source], workers: int, max_characters: int | None, progress: Progress
) -> tuple[list[Found], list[str]]:
    """Read files in their order until the characters are used up; return docstrings and unreadable files."""
    chunks = [sources[start : start + _FILES_PER_CHUNK] for start in range(0, len(sources), _FILES_PER_CHUNK)]
    found: list[Found] = []
    unreadable: list[str] = []
    characters = 0
    for number, chunk in enumerate(_read_chunks(chunks, workers, progress), 1):
        unreadable += chunk.unreadable
        for docstrings in chunk.files:
            size = sum(len(paragraph) for docstring in docstrings for paragraph in docstring.paragraphs)
            if max_characters is not None and characters + size > max_characters:
                progress.advance(1.0, {"docstrings": len(found), "characters": characters})
                return found, unreadable
            found += docstrings
            characters += size
        share = max(number / len(chunks), characters / max_characters if max_characters else 0.0)
        progress.advance(share, {"docstrings": len(found), "characters": characters})
    return found, unreadable


def _read_chunks(chunks: list[list[Source]], workers: int, progress: Progress) -> Iterator[_Chunk]:
    """Yield what is found in each chunk, in order.

    The processes are spawned: the caller may have threads, which a fork would leave in an unknown state.
    """
    done = 0
    if workers > 1 and len(chunks) > 1:
        count = min(workers, len(chunks))
        try:
            with ProcessPoolExecutor(count, get_context("spawn"), initializer=_leave_signals) as pool:
                try:
                    for chunk in pool.map(_read_files, chunks):
                        yield chunk
                        done += 1
                finally:  # the reader may have had enough before the last chunk
                    pool.shutdown(wait=False, cancel_futures=True)
        except BrokenProcessPool:  # a main script without a guard cannot be spawned again
            progress.log("worker processes could not be used; the source files are read in this process")
    yield from map(_read_files, chunks[done:])


def _leave_signals() -> None:
    """Leave Ctrl-C to the parent, which ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _read_files(sources: Sequence[Source]) -> _Chunk:
    """Return the docstrings of some files. Runs in a worker process."""
    chunk = _Chunk([], [])
    hashes = _WordHashes()
    collecting = gc.isenabled()
    gc.disable()  # syntax trees hold no cycles; looking for them costs a fifth of the time
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's source
            for source in sources:
                try:
                    chunk.files.append(list(_read_file(source, hashes)))
                except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
                    chunk.unreadable.append(source.path)
    finally:
        if collecting:
            gc.enable()
    return chunk


def _read_file(source: Source, hashes: _WordHashes) -> Iterator[Found]:
    content = Path(source.path).read_bytes()
    if len(content) > MAX_FILE_BYTES or _quoted_share(content) < MIN_QUOTED:
        return
    for name, text in _docstrings_below(ast.parse(content), ""):
        if len(text) >= MIN_CHARACTERS and (found := _digest(source, name, text, hashes)):
            yield found


def _quoted_share(content: bytes) -> float:
    """Return about what share of the bytes are between triple quotes (0 for an empty file)."""
    quoted = sum(len(part) for quote in (b'"""', b"'''") for part in content.split(quote)[1::2])
    return quoted / max(len(content), 1)


def _docstrings_below(node: ast.Module | _Definition, name: str) -> Iterator[tuple[str, str]]:
    """Yield qualified name and cleaned docstring of a module, class or function and of those inside it."""
    text = (ast.get_docstring(node) or "").translate(_REMOVED)
    if text:
        yield name, text if text.isascii() else text.encode("utf-8", "replace").decode()  # lone surrogates
    for child in _definitions(node.body):
        yield from _docstrings_below(child, f"{name}.{child.name}" if name else child.name)


def _definitions(body: Iterable[ast.stmt]) -> Iterator[_Definition]:
    """Yield the classes and functions among the statements, also those under ``if``, ``try`` and the like."""
    for statement in body:
        if isinstance(statement, _Definition):
            yield statement
        elif isinstance(statement, _Block):
            for part in ("body", "orelse", "finalbody"):
                yield from _definitions(getattr(statement, part, ()))
            for handler in getattr(statement, "handlers", ()):
                yield from _definitions(handler.body)


class _WordHashes(dict[str, int]):
    """A 32-bit hash for each word or mark, computed once."""

    def __missing__(self, word: str) -> int:
        value = self[word] = crc32(word.encode("utf-8"))
        return value


def _digest(source: Source, name: str, text: str, hashes: _WordHashes) -> Found | None:
    """Cut a docstring into paragraphs and hashed words; ``None`` if it is mostly something else than text."""
    paragraphs = [part for part in _BLANK_LINES.split(text) if part.strip()]
    units = [_UNIT.findall(paragraph.lower()) for paragraph in paragraphs]
    words = [[unit for unit in part if unit[0].isalnum()] for part in units]
    characters = sum(len(word) for part in words for word in part if not word.isdigit())
    if characters < MIN_WORDS * sum(map(len, text.split())):
        return None

    def hashed(parts: list[list[str]]) -> tuple[list[int], bytes]:
        found = array("I", [hashes[unit] for part in parts for unit in part])
        return [len(part) for part in parts], found.tobytes()

    return Found(source, name, paragraphs, *hashed(words), *hashed(units))


def _build_corpus(
    found: list[Found], heldout_share: float, *, files: int, unreadable: int
) -> DocstringCorpus:
    """Split by module; the training side passes the sieve first, so held-out text never displaces it."""
    sides: tuple[list[Found], list[Found]] = ([], [])
    for docstring in found:
        sides[_draw("heldout", docstring.source.module) < heldout_share].append(docstring)
    sieve = Sieve()
    train = [kept for docstring in sides[0] if (kept := sieve.admit(docstring))]
    heldout = [kept for docstring in sides[1] if (kept := sieve.admit(docstring))]
    shared = shared_shares([kept.units for kept in heldout], [kept.units for kept in train])
    fresh = [kept for kept, share in zip(heldout, shared, strict=True) if share <= MAX_SHARED]
    return DocstringCorpus(
        train=[_as_docstring(kept) for kept in train],
        heldout=[_as_docstring(kept) for kept in fresh],
        files=files,
        modules=len({kept.source.module for kept in (*train, *fresh)}),
        unreadable=unreadable,
        duplicates=sieve.duplicates,
        boilerplate=sieve.boilerplate,
        near_duplicates=len(heldout) - len(fresh),
    )


def _as_docstring(found: Found) -> Docstring:
    return Docstring("\n\n".join(found.paragraphs), found.source.module, found.name)
