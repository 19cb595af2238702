"""Score the records of files, texts or minimal pairs: a row for each, in order, resumable after the rows so far.

A record that cannot be read or scored is reported with its line and counted; the others are scored.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from unmask.data.reading.formats import text_of
from unmask.data.reading.records import Record, RecordReader
from unmask.errors import DataError, plural
from unmask.progress import Progress
from unmask.scoring.pair_files import PairReader
from unmask.scoring.pairs import Pair, PairMetrics, score_pairs
from unmask.scoring.scorer import Scorer, score_items

MAX_BYTES = 500_000
"""Longest text that is scored by default: every token costs a pass over a whole window."""
_MOST_WAITING = 1_000
Row = dict[str, Any]


class _Totals(Protocol):
    skipped: int

    def add_row(self, row: Row) -> None: ...
    def to_dict(self) -> Row: ...


Item = TypeVar("Item")
Totals = TypeVar("Totals", bound=_Totals)


class _FileScorer(ABC, Generic[Item, Totals]):
    """Scores what a reader yields.

    Args:
        scorer: model and method.
        totals: counts the rows.
        source: name of the input in messages.
        on_skip: called with the error of each record that is skipped.
        progress: reports how far it is.

    Attributes:
        totals: the counts so far.
    """

    noun: str
    same: tuple[str, ...]  # the fields of a row that tell which record it is of

    def __init__(
        self,
        scorer: Scorer,
        totals: Totals,
        source: str,
        on_skip: Callable[[DataError], None] = lambda error: None,
        progress: Progress = Progress(),
    ) -> None:
        self.scorer, self.totals, self.source, self.progress = scorer, totals, source, progress
        self._on_skip = on_skip
        self._last: Row | None = None
        self._rows = 0
        self._waits = False
        self._waiting: list[DataError] = []

    @abstractmethod
    def _items(self) -> Iterator[Item | DataError]:
        """Yield what there is to score, or the error of a record."""

    @abstractmethod
    def _scored(self, items: Iterator[Item]) -> Iterator[Row | DataError]:
        """Yield the row of each item, in order, or why it could not be scored."""

    @abstractmethod
    def _identity(self, item: Item) -> Row:
        """Return the fields :attr:`same` of the row that an item gets."""

    def resume_after(self, rows: Iterable[Row]) -> None:
        """Count the rows of an earlier run, which are not scored again.

        Raises:
            DataError: they were not made by this command and method.
        """
        for number, row in enumerate(rows, 1):
            if row.get("method") != self.scorer.method or not all(name in row for name in self.same):
                what = f"row {number} of the file to resume is not of method '{self.scorer.method}'"
                raise DataError(f"{what}; use the same options, or name another file with -o")
            self.totals.add_row(row)
            self._rows, self._last = number, row

    def run(self, write: Callable[[Row], None] = lambda row: None) -> Totals:
        """Score what is left and hand each row to ``write``.

        Raises:
            DataError: nothing can be scored, or the rows of an earlier run are of another input.
        """
        self._waits = not self._rows
        for row in self._scored(self._left()):
            if isinstance(row, DataError):
                self._skip(row)
                continue
            self._report_waiting()
            self.totals.add_row(row)
            self._rows += 1
            write(row)
        if not self._rows:
            raise self._nothing()
        return self.totals

    def _skip(self, error: DataError) -> None:
        self.totals.skipped += 1
        if self._waits and len(self._waiting) < _MOST_WAITING:
            self._waiting.append(error)
        else:
            self._report_waiting()
            self._on_skip(error)

    def _report_waiting(self) -> None:
        """Report the errors before the first row: where there is none, one error says it all."""
        waiting, self._waiting, self._waits = self._waiting, [], False
        for error in waiting:
            self._on_skip(error)

    def _nothing(self) -> DataError:
        if not self._waiting:
            return DataError(f"no {self.noun} that can be scored", path=self.source)
        first, others = self._waiting[0], len(self._waiting) - 1
        more = f" (and {plural(others, 'more error')}; no {self.noun} can be scored)"
        return DataError(f"{first}{more if others else ''}")

    def _left(self) -> Iterator[Item]:
        """Yield the items that no earlier run has scored."""
        passed, kept, met = 0, self._rows, self._last is None
        for item in self._items():
            if isinstance(item, DataError):
                self._skip(item)
            elif met:
                yield item
            else:
                passed += 1
                met = all(
                    (self._last or {}).get(name) == value for name, value in self._identity(item).items()
                )
                # What an earlier run read and has no row for was skipped by it.
                self.totals.skipped += passed - kept if met else 0
        if not met:
            what = f"the rows to resume end at line {(self._last or {})['line']}, which is not in this input"
            raise DataError(f"{what}; give the same input, or name another file with -o", path=self.source)


class FileText(NamedTuple):
    """A text of a file and its line."""

    text: str
    line: int


@dataclass
class TextTotals:
    """Sums over the texts of a file; ``pll`` in nats, ``skipped`` texts are in none of the others."""

    texts: int = 0
    skipped: int = 0
    pll: float = 0.0
    tokens: int = 0
    words: int = 0
    bytes: int = 0
    unknown: int = 0

    def add_row(self, row: Row) -> None:
        """Count a row."""
        self.texts += 1
        for name in ("pll", "tokens", "words", "bytes", "unknown"):
            setattr(self, name, getattr(self, name) + row[name])

    def to_dict(self) -> Row:
        """Return the sums and their means, ready for JSON; ``pseudo_perplexity`` is the exponential per token."""
        sums = {"texts": self.texts, "skipped": self.skipped, "pll": round(self.pll, 6)}
        sums |= {"tokens": self.tokens, "words": self.words, "bytes": self.bytes, "unknown": self.unknown}
        if not self.texts:
            return sums
        means = {f"per_{name}": self.pll / sums[f"{name}s"] for name in ("text", "token", "word", "byte")}
        means["bits_per_byte"] = -means["per_byte"] / math.log(2)
        means["pseudo_perplexity"] = math.exp(min(700.0, -means["per_token"]))
        return sums | {name: round(value, 6) for name, value in means.items()}


class TextFileScorer(_FileScorer[FileText, TextTotals]):
    """Scores the texts of one file.

    Args:
        reader: the file.
        text_field: field or column of the text.
        max_bytes: longer texts are skipped.
        details: rows have the scores of tokens and words.
        scorer, on_skip, progress: see above.
    """

    noun, same = "text", ("line", "text", "pll")

    def __init__(
        self,
        reader: RecordReader,
        scorer: Scorer,
        *,
        text_field: str = "text",
        max_bytes: int = MAX_BYTES,
        details: bool = False,
        on_skip: Callable[[DataError], None] = lambda error: None,
        progress: Progress = Progress(),
    ) -> None:
        super().__init__(scorer, TextTotals(), reader.source, on_skip, progress)
        self.reader, self.text_field, self.max_bytes, self.details = reader, text_field, max_bytes, details

    def _items(self) -> Iterator[FileText | DataError]:
        for read in self.reader:
            try:
                yield read if isinstance(read, DataError) else self._text(read)
            except DataError as error:
                yield error

    def _scored(self, items: Iterator[FileText]) -> Iterator[Row | DataError]:
        found = score_items(
            items, lambda item: item[:1], self.scorer, progress=self.progress, share=self.reader.share
        )
        for item, (score,) in found:
            if score.error is not None:
                yield DataError(score.error, path=self.source, line=item.line)
            else:
                yield {"line": item.line, **score.to_dict(self.details)}

    def _identity(self, item: FileText) -> Row:
        return item._asdict()

    def _text(self, record: Record) -> FileText:
        where: Row = {"path": record.source, "line": record.line}
        text = text_of(dict(record.values), self.text_field, record.source, record.line)
        if text is None:
            raise DataError(f"field '{self.text_field}' holds null", **where)
        if not text.strip():
            raise DataError("an empty text, nothing to score", **where)
        size = len(text.encode("utf-8"))
        if size > self.max_bytes:
            what = f"a text of {size:,} bytes, more than the {self.max_bytes:,} that are scored"
            raise DataError(f"{what}; split it, or raise --max-bytes", **where)
        return FileText(text, record.line)


class PairFileScorer(_FileScorer[Pair, PairMetrics]):
    """Compares the pairs of files.

    Args:
        reader: the files.
        scorer, on_skip, progress: see above.
    """

    noun, same = "pair", ("file", "line", "good", "bad", "outcome")

    def __init__(
        self,
        reader: PairReader,
        scorer: Scorer,
        *,
        on_skip: Callable[[DataError], None] = lambda error: None,
        progress: Progress = Progress(),
    ) -> None:
        super().__init__(scorer, PairMetrics(scorer.method), reader.given, on_skip, progress)
        self.reader = reader

    def _items(self) -> Iterator[Pair | DataError]:
        return iter(self.reader)

    def _scored(self, items: Iterator[Pair]) -> Iterator[Row | DataError]:
        for found in score_pairs(items, self.scorer, progress=self.progress, share=self.reader.share):
            if found.error is not None:
                yield DataError(found.error, path=found.pair.source, line=found.pair.line)
            else:
                yield found.to_dict()

    def _identity(self, item: Pair) -> Row:
        return {"file": item.source, "line": item.line, "good": item.good, "bad": item.bad}
