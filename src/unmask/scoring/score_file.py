"""Scoring the texts of a file: what cannot be scored is reported with its line, and the others are scored."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from unmask.data.reading.formats import text_of
from unmask.data.reading.records import Record, RecordReader
from unmask.errors import DataError
from unmask.progress import Progress
from unmask.scoring.scorer import Scorer

MAX_BYTES = 500_000
"""Longest text that is scored unless asked otherwise: every token costs a pass over a whole window."""
Complain = Callable[[DataError], None]
Write = Callable[[dict[str, Any]], None]


@dataclass
class Totals:
    """Sums over the texts of a file; ``pll`` in nats, ``skipped`` texts are in none of the others."""

    texts: int = 0
    skipped: int = 0
    pll: float = 0.0
    tokens: int = 0
    words: int = 0
    bytes: int = 0

    def add(self, row: dict[str, Any]) -> None:
        """Count a row as it is written."""
        self.texts += 1
        self.pll += row["pll"]
        self.tokens += row["tokens"]
        self.words += row["words"]
        self.bytes += row["bytes"]

    def to_dict(self) -> dict[str, Any]:
        """Return the sums and their means, ready for JSON; ``pseudo_perplexity`` is the exponential per token."""
        sums = {"texts": self.texts, "skipped": self.skipped, "pll": round(self.pll, 6)}
        sums |= {"tokens": self.tokens, "words": self.words, "bytes": self.bytes}
        if not self.texts:
            return sums
        means = {f"per_{name}": self.pll / sums[f"{name}s"] for name in ("text", "token", "word", "byte")}
        means["bits_per_byte"] = -means["per_byte"] / math.log(2)
        means["pseudo_perplexity"] = math.exp(min(700.0, -means["per_token"]))
        return sums | {name: round(value, 6) for name, value in means.items()}


class FileScorer:
    """Scores the texts of one file and hands on a row for each, in order.

    Args:
        reader: the file.
        scorer: model and method.
        text_field: field or column of the text.
        max_bytes: longer texts are skipped.
        details: rows have the scores of tokens and words.
        complain: is told of each text that is skipped.
        progress: is told how far it is.

    Attributes:
        totals: sums so far.
    """

    def __init__(
        self,
        reader: RecordReader,
        scorer: Scorer,
        *,
        text_field: str = "text",
        max_bytes: int = MAX_BYTES,
        details: bool = False,
        complain: Complain = lambda error: None,
        progress: Progress = Progress(),
    ) -> None:
        self.reader, self.scorer, self.progress = reader, scorer, progress
        self.text_field, self.max_bytes, self.details = text_field, max_bytes, details
        self._complain = complain
        self.totals = Totals()
        self._waiting: deque[int] = deque()
        self._last: dict[str, Any] | None = None
        self._kept = self._passed = 0
        self._met = False

    def go_on_after(self, rows: Iterable[dict[str, Any]]) -> None:
        """Count the rows of an earlier run, which are not scored again.

        Raises:
            DataError: they were not made by this method.
        """
        for number, row in enumerate(rows, 1):
            if row.get("method") != self.scorer.method or not isinstance(row.get("line"), int):
                what = f"row {number} of the file to go on with is not of method '{self.scorer.method}'"
                raise DataError(f"{what}; use the same options, or name another file with -o")
            self.totals.add(row)
            self._kept, self._last = number, row

    def run(self, write: Write) -> Totals:
        """Score what is left and hand each row to ``write``.

        Raises:
            DataError: there is no text, or the rows of an earlier run are of another input.
        """
        for found in self.scorer(self._texts(), progress=self.progress, share=self.reader.share):
            line = self._waiting.popleft()
            if found.error is not None:
                self._skip(DataError(found.error, path=self.reader.source, line=line))
                continue
            row = {"line": line, **found.to_dict(self.details)}
            self.totals.add(row)
            write(row)
        # What an earlier run read and has no row for was skipped by it.
        self.totals.skipped += self._passed - self._kept
        if not self.totals.texts:
            raise DataError("no text that can be scored", path=self.reader.source)
        return self.totals

    def _skip(self, error: DataError) -> None:
        self.totals.skipped += 1
        self._complain(error)

    def _texts(self) -> Iterator[str]:
        """Yield the texts to score; their lines wait until the scores come."""
        for read in self.reader:
            try:
                if isinstance(read, DataError):
                    raise read
                text = self._text(read)
            except DataError as error:
                self._skip(error)
                continue
            if not self._is_done(read.line, text):
                self._waiting.append(read.line)
                yield text

        if self._last is not None and not self._met:
            raise self._other_input(self._last["line"])

    def _is_done(self, line: int, text: str) -> bool:
        """Say whether an earlier run scored this text, and make sure that it was the same."""
        if self._last is None:
            return False
        last = self._last["line"]
        if line == last:
            self._met = text == self._last["text"]
        if line >= last and not self._met:
            raise self._other_input(last)
        self._passed += line <= last
        return bool(line <= last)

    def _other_input(self, line: int) -> DataError:
        what = (
            f"the rows to go on with end at line {line:,}, and that is not its text here; give the same input"
        )
        return DataError(f"{what}, or name another file with -o", path=self.reader.source)

    def _text(self, record: Record) -> str:
        text = text_of(dict(record.values), self.text_field, record.source, record.line)
        if text is None:
            raise DataError(f"field '{self.text_field}' holds null", path=record.source, line=record.line)
        if not text.strip():
            raise DataError("an empty text, nothing to score", path=record.source, line=record.line)
        size = len(text.encode("utf-8"))
        if size > self.max_bytes:
            what = f"a text of {size:,} bytes, more than the {self.max_bytes:,} that are scored"
            raise DataError(f"{what}; cut it, or raise --max-bytes", path=record.source, line=record.line)
        return text
