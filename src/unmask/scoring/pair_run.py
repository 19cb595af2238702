"""Scoring the pairs of files: what cannot be compared is reported with its line, and the others are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from unmask.errors import DataError
from unmask.progress import Progress
from unmask.scoring.pair_files import PairReader
from unmask.scoring.pairs import Pair, PairFigures, score_pairs
from unmask.scoring.scorer import Scorer


class PairFileScorer:
    """Compares the pairs of files and hands on a row for each, in order.

    Args:
        reader: the files.
        scorer: model and method.
        complain: is told of each pair that is skipped.
        progress: is told how far it is.

    Attributes:
        figures: counts so far.
    """

    def __init__(
        self,
        reader: PairReader,
        scorer: Scorer,
        *,
        complain: Callable[[DataError], None] = lambda error: None,
        progress: Progress = Progress(),
    ) -> None:
        self.reader, self.scorer, self.progress, self._complain = reader, scorer, progress, complain
        self.figures = PairFigures(scorer.method)
        self._last: dict[str, Any] | None = None

    def go_on_after(self, rows: Iterable[dict[str, Any]]) -> None:
        """Count the pairs of an earlier run, which are not scored again.

        Raises:
            DataError: they were not made by this method.
        """
        for number, row in enumerate(rows, 1):
            if row.get("method") != self.scorer.method or row.get("outcome") not in ("right", "wrong", "tie"):
                what = f"row {number} of the file to go on with is not of method '{self.scorer.method}'"
                raise DataError(f"{what}; use the same options, or name another file with -o")
            pair = Pair(row["good"], row["bad"], row["paradigm"], row["term"], row["file"], row["line"])
            self.figures.add(pair, row["outcome"])
            self._last = row

    def run(self, write: Callable[[dict[str, Any]], None] = lambda row: None) -> PairFigures:
        """Compare what is left and hand each row to ``write``.

        Raises:
            DataError: there is no pair, or the rows of an earlier run are of another input.
        """
        for found in score_pairs(self._left(), self.scorer, progress=self.progress, share=self.reader.share):
            if found.error is not None:
                self._skip(DataError(found.error, path=found.pair.source, line=found.pair.line))
                continue
            self.figures.add(found.pair, found.outcome)
            write(found.to_dict())
        if not self.figures.overall.pairs:
            raise DataError("no pair that can be compared", path=self.reader.given)
        return self.figures

    def _skip(self, error: DataError) -> None:
        self.figures.skipped += 1
        self._complain(error)

    def _left(self) -> Iterator[Pair]:
        """Yield the pairs that no earlier run has compared."""
        passed, kept, met = 0, self.figures.overall.pairs, self._last is None
        for read in self.reader:
            if isinstance(read, DataError):
                self._skip(read)
            elif met:
                yield read
            else:
                passed += 1
                met = self._is_last(read)
        if not met:
            what = "the pair that the rows to go on with end with is not in this input; give the same input"
            raise DataError(f"{what}, or name another file with -o", path=self.reader.given)
        # What an earlier run read and has no row for was skipped by it.
        self.figures.skipped += passed - kept if self._last else 0

    def _is_last(self, pair: Pair) -> bool:
        last = self._last or {}
        return all(last.get(name) == getattr(pair, name) for name in ("line", "good", "bad")) and (
            last.get("file") == pair.source
        )
