"""Survey of text: encoding errors, scripts, boilerplate lines, special tokens, personal data, document sizes.

Documents are read once, in chunks; counts, a few numbers a document and a bounded number of examples are kept.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unmask.checking import characters
from unmask.checking.characters import FIRST_SCRIPT, SCRIPTS, Chunk
from unmask.data.reading.documents import Document
from unmask.data.reading.files import format_of

EXAMPLES = 3
HUGE = 100_000
"""Characters from which a document counts as huge."""
SHORT = 5
"""Words below which a document counts as short."""
BOILERPLATE_SHARE = 0.01
"""Share of the documents (and at least :data:`BOILERPLATE_DOCUMENTS`) in which a line recurs that is boilerplate."""
BOILERPLATE_DOCUMENTS = 5
_CHUNK_CHARACTERS, _CHUNK_DOCUMENTS = 1 << 20, 4096
_LINES = 300_000
_LINE_CHARACTERS = (15, 400)
_EXCERPT = 100
DEFAULT_SPECIALS = "[CLS] [SEP] [MASK] [PAD] [UNK] <s> </s> <mask> <pad> <unk> <|endoftext|>".split()

# UTF-8 that was read as Latin-1 or Windows-1252. Two letters, or one and a sign that does not follow it in any language.
_MOJIBAKE = re.compile(
    "[\xc2\xc3][\x80-\xbf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u2039\u0152\u2018-\u201d\u2022\u2013\u2014\u02dc\u2122]"
    "|[\xe2-\xef][\x80-\x9f][\x80-\xbf]|\xe2\u20ac[\x80-\xbf\u0153\u2122\u02dc\u201c\u201d\xa2\xa6]|\xef\xbb\xbf|\xf0\u0178"
    "|(?:[\xd0\xd1][\x80-\xbf\u2018-\u201d\u20ac\u201a\u201e\u2020\u2021\u2026]){2}"
)
# Each begins with a rare literal or a digit, so that scanning is quick.
_EMAIL = re.compile(r"@(?<=[\w.+\-]@)[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}")
_PHONES = (
    re.compile(r"\+(?<![\w+]\+)[1-9]\d{0,2}(?:[ ./()-]{0,2}\d){7,12}(?!\d)"),
    re.compile(r"\((?<!\w\()\d{3}\) ?\d{3}[-. ]\d{4}(?!\d)"),
    re.compile(r"(?<![\d.,()/-])\d{3}([-.])\d{3}\1\d{4}(?![\d-])"),
)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u200b\u200e\u200f\u2060\ufeff]")


@dataclass(frozen=True)
class Place:
    """A place in the text: a file, a line of it or ``None``, and an excerpt, if it may be shown."""

    source: str
    line: int | None
    text: str = ""

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass
class Tally:
    """How often something occurs, in how many documents, and the first places."""

    documents: int = 0
    count: int = 0
    examples: list[Place] = field(default_factory=list)

    def add(self, count: int, document: Document | None = None, offset: int = 0) -> None:
        """Count ``count`` cases in one document, the first of them at ``offset``; without a document there is no example."""
        self.documents += 1
        self.count += count
        if document is not None and len(self.examples) < EXAMPLES:
            self.examples.append(place_in(document, offset))


def shown(text: str) -> str:
    """Return text for one line of a report: control and invisible characters as escapes, truncated to an excerpt."""
    flat = " ".join(text.replace("\x85", " ").split(" "))
    flat = _CONTROL.sub(lambda found: ascii(found[0])[1:-1], flat.replace("\n", " ").replace("\t", " "))
    return flat if len(flat) <= _EXCERPT else flat[:_EXCERPT].rstrip() + " …"


def place_in(document: Document, offset: int = 0) -> Place:
    """Return the place of a character of a document; lines are those of the file where documents are its lines."""
    line = document.line
    if line is not None and format_of(Path(document.source)).kind == "text":
        line += document.text.count("\n", 0, offset)
    begin = max(0, offset - _EXCERPT // 3)
    text = shown(document.text[begin : offset + _EXCERPT])
    return Place(document.source, line, ("… " if begin else "") + text)


def chunked(documents: Iterable[Document]) -> Iterator[Chunk]:
    """Yield documents in chunks of bounded size."""
    held: list[Document] = []
    size = first = 0
    for document in documents:
        held.append(document)
        size += len(document.text) + 1
        if size >= _CHUNK_CHARACTERS or len(held) >= _CHUNK_DOCUMENTS:
            yield Chunk(held, first)
            first += len(held)
            held, size = [], 0
    if held:
        yield Chunk(held, first)


class DocumentIndex:
    """File, line, and length in words and characters of each document, in a few bytes each."""

    def __init__(self) -> None:
        self.sources: list[str] = []
        self._numbers: dict[str, int] = {}
        self._source, self._line = array("i"), array("q")
        self._words, self._characters = array("q"), array("q")
        self._pieces = self._unmarked = 0

    def __len__(self) -> int:
        return len(self._source)

    def add(self, chunk: Chunk) -> None:
        """Add the documents of a chunk."""
        for document in chunk.documents:
            number = self._numbers.setdefault(document.source, len(self._numbers))
            if number == len(self.sources):
                self.sources.append(document.source)
            self._source.append(number)
            self._line.append(document.line or 0)
        self._words.extend(chunk.word_counts.tolist())
        self._characters.extend(len(document.text) for document in chunk.documents)
        self._pieces += chunk.pieces
        self._unmarked += chunk.unmarked

    def place(self, row: int, text: str = "") -> Place:
        """Return the place of a document by its number."""
        return Place(self.sources[self._source[row]], self._line[row] or None, text)

    @property
    def source_numbers(self) -> np.ndarray:
        """``int64 [D]``: the source of each document, by its place in :attr:`sources`."""
        return np.array(self._source, dtype=np.int64)

    @property
    def words(self) -> np.ndarray:
        """``int64 [D]``: words of each document."""
        return np.array(self._words, dtype=np.int64)

    @property
    def characters(self) -> np.ndarray:
        """``int64 [D]``: characters of each document."""
        return np.array(self._characters, dtype=np.int64)

    @property
    def has_words(self) -> bool:
        """Whether the text marks words; that of proteins, say, is one letter after another, and Thai has no spaces."""
        return 2 * (self._pieces + self._unmarked) <= int(self.words.sum())

    @property
    def is_letters(self) -> bool:
        """Whether the text is one letter after another."""
        return 2 * self._pieces > int(self.words.sum())


class TextSurvey:
    """Counts of the text itself; :meth:`add` takes chunks, the attributes are the results.

    Args:
        control: control tokens, which a text should not contain literally.
        read: other special tokens, which are read as themselves.

    Attributes:
        encoding: by kind of error (``replacement``, ``mojibake``, ``control``, ``invisible``).
        sizes: ``huge`` and ``short`` documents.
        specials: special tokens in the text, by token.
        personal: ``email`` and ``phone``; without examples.
        scripts: letters of each script; ``script_documents``: documents by the script of most of their letters.
    """

    _KINDS = (
        ("control", characters.CONTROL),
        ("replacement", characters.REPLACEMENT),
        ("invisible", characters.INVISIBLE),
    )

    def __init__(self, control: Sequence[str] = (), read: Sequence[str] = ()) -> None:
        self.documents = self.characters = 0
        self.encoding = {kind: Tally() for kind in ("replacement", "mojibake", "control", "invisible")}
        self.sizes = {"huge": Tally(), "short": Tally()}
        self.specials: dict[str, Tally] = {}
        self.personal = {"email": Tally(), "phone": Tally()}
        self.scripts = np.zeros(len(SCRIPTS), dtype=np.int64)
        self.script_documents = np.zeros(len(SCRIPTS), dtype=np.int64)
        self.lines = _Lines()
        tokens = sorted({*(control or DEFAULT_SPECIALS), *read}, key=lambda token: (-len(token), token))
        self._special, self._begins = re.compile("|".join(map(re.escape, tokens))), {t[0] for t in tokens}
        self._read = {*read}

    def add(self, chunk: Chunk) -> None:
        """Count the documents of a chunk."""
        self.documents += len(chunk.documents)
        self.characters += len(chunk.codes) - len(chunk.documents)
        self._add_classes(chunk)
        self._add_sizes(chunk)
        for document in chunk.documents:
            self._add_patterns(document)
            self.lines.add(document.text)

    def _add_classes(self, chunk: Chunk) -> None:
        counts = chunk.class_counts
        letters = counts[:, FIRST_SCRIPT:]
        self.scripts += letters.sum(axis=0)
        main = letters.argmax(axis=1)[letters.any(axis=1)]
        self.script_documents += np.bincount(main, minlength=len(SCRIPTS))
        for name, code in self._KINDS:
            for number in np.flatnonzero(counts[:, code]).tolist():
                begin, end = chunk.bounds[number : number + 2].tolist()
                offset = int(np.argmax(chunk.classes[begin:end] == code))
                self.encoding[name].add(int(counts[number, code]), chunk.documents[number], offset)

    def _add_sizes(self, chunk: Chunk) -> None:
        for number in np.flatnonzero(chunk.word_counts < SHORT).tolist():
            self.sizes["short"].add(1, chunk.documents[number])
        for number in np.flatnonzero(np.diff(chunk.bounds) > HUGE).tolist():
            self.sizes["huge"].add(1, chunk.documents[number])

    def _add_patterns(self, document: Document) -> None:
        text = document.text
        if not text.isascii() and (found := list(_MOJIBAKE.finditer(text))):
            self.encoding["mojibake"].add(len(found), document, found[0].start())
        if any(first in text for first in self._begins) and (found := list(self._special.finditer(text))):
            for token, count in Counter(match[0] for match in found).items():
                first = next(match.start() for match in found if match[0] == token)
                self.specials.setdefault(token, Tally()).add(count, document, first)
        if "@" in text and (count := len(_EMAIL.findall(text))):
            self.personal["email"].add(count)
        if count := sum(len(pattern.findall(text)) for pattern in _PHONES):
            self.personal["phone"].add(count)

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, ready for JSON apart from tallies and places."""
        letters = int(self.scripts.sum())
        specials = sorted(self.specials.items(), key=lambda item: -item[1].count)
        order = sorted(range(len(SCRIPTS)), key=lambda number: -int(self.scripts[number]))
        return {
            "encoding": self.encoding,
            "sizes": self.sizes,
            "special_tokens": {token: tally for token, tally in specials if token not in self._read},
            "added_special_tokens": {token: tally for token, tally in specials if token in self._read},
            "personal": self.personal,
            "scripts": [
                {
                    "script": SCRIPTS[number],
                    "share_of_letters": int(self.scripts[number]) / letters,
                    "documents": int(self.script_documents[number]),
                }
                for number in order
                if self.scripts[number]
            ],
            "boilerplate": self.lines.found(self.documents, self.characters),
        }


class _Lines:
    """Lines and how many documents contain each; rare ones are dropped when there are too many (lossy counting)."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._forgotten = 1

    def add(self, text: str) -> None:
        if "\n" not in text:
            return
        low, high = _LINE_CHARACTERS
        self._counts.update({line for line in map(str.strip, text.split("\n")) if low <= len(line) <= high})
        while len(self._counts) > _LINES:
            self._forgotten += 1
            self._counts = Counter({line: n for line, n in self._counts.items() if n >= self._forgotten})

    def found(self, documents: int, characters: int) -> dict[str, Any]:
        least = max(BOILERPLATE_DOCUMENTS, round(BOILERPLATE_SHARE * documents))
        lines = [(line, count) for line, count in self._counts.items() if count >= least]
        lines.sort(key=lambda item: (-item[1], item[0]))
        return {
            "lines": len(lines),
            "at_least_documents": least,
            "share": sum(len(line) * count for line, count in lines) / max(1, characters),
            "examples": [
                {"line": shown(line), "documents": count, "share": count / documents}
                for line, count in lines[:10]
            ],
        }
