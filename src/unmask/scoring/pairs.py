"""Minimal pairs: how often a model finds the good side of a pair more probable than the bad one.

The sides are compared by their pseudo-log-likelihoods, sums over all tokens, as BLiMP is scored with masked models
(Salazar et al. 2020). A pair whose sides score the same is a tie: it is counted as one, and not as right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from unmask.errors import plural
from unmask.progress import Progress
from unmask.reporting.format import percent
from unmask.reporting.results import Result, Rows
from unmask.scoring.results import Score
from unmask.scoring.scorer import Scorer, score_items

if TYPE_CHECKING:
    from unmask.model.base import LanguageModel

Outcome = Literal["right", "wrong", "tie"]
INTERVAL = "Wilson, 95%"
_Z = 1.959963984540054
_EACH = ("paradigm", "term", "file")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts of which a model should find the first more probable.

    Attributes:
        good, bad: the two sides.
        paradigm: what the pair tests, the rows of the table; in BLiMP the ``UID``.
        term: the group of paradigms that this one belongs to, in BLiMP the ``linguistics_term``.
        source, line: where it was read.
    """

    good: str
    bad: str
    paradigm: str = ""
    term: str | None = None
    source: str = ""
    line: int | None = None


@dataclass(frozen=True, slots=True)
class PairScore:
    """A pair and the scores of its sides.

    Attributes:
        pair: the pair.
        good, bad: the scores of its sides.
    """

    pair: Pair
    good: Score
    bad: Score

    @property
    def error(self) -> str | None:
        """Why one of the sides could not be scored, or ``None``."""
        for side in (self.good, self.bad):
            if side.error is not None:
                return f"{side.error} ({'good' if side is self.good else 'bad'} side)"
        return None

    @property
    def outcome(self) -> Outcome:
        """Whether the good side has the higher score; it means nothing where there is an error."""
        if self.good.pll == self.bad.pll:
            return "tie"
        return "right" if self.good.pll > self.bad.pll else "wrong"

    def to_dict(self) -> dict[str, Any]:
        """Return what is written for a pair, ready for JSON."""
        pair = self.pair
        return {
            "file": pair.source,
            "line": pair.line,
            "paradigm": pair.paradigm,
            "term": pair.term,
            "good": pair.good,
            "bad": pair.bad,
            "pll_good": round(self.good.pll, 6),
            "pll_bad": round(self.bad.pll, 6),
            "outcome": self.outcome,
            "method": self.good.method,
        }


@dataclass(slots=True)
class Tally:
    """Counts of some pairs.

    Attributes:
        pairs: all of them.
        right: those whose good side scored higher.
        ties: those whose sides scored the same.
    """

    pairs: int = 0
    right: int = 0
    ties: int = 0

    def add(self, outcome: Outcome) -> None:
        """Count one more pair."""
        self.pairs += 1
        self.right += outcome == "right"
        self.ties += outcome == "tie"

    @property
    def accuracy(self) -> float:
        """Share of the pairs that are right; a tie is not."""
        return self.right / self.pairs if self.pairs else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the accuracy (Wilson 1927), which takes pairs for independent of each other."""
        return wilson(self.right, self.pairs)

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics, ready for JSON."""
        interval = [round(bound, 6) for bound in self.interval]
        return {
            "accuracy": round(self.accuracy, 6),
            "interval": interval,
            "pairs": self.pairs,
            "ties": self.ties,
        }


def wilson(right: int, count: int) -> tuple[float, float]:
    """Return the 95% score interval of a proportion (Wilson 1927); 0 to 1 where there is no observation."""
    if not count:
        return 0.0, 1.0
    share, weight = right / count, _Z**2 / count
    middle = (share + weight / 2) / (1 + weight)
    reach = _Z * math.sqrt(share * (1 - share) / count + weight / (4 * count)) / (1 + weight)
    return max(0.0, middle - reach), min(1.0, middle + reach)


@dataclass(repr=False)
class PairMetrics(Result):
    """What a model makes of some pairs.

    Attributes:
        method: how the sides were scored.
        overall: counts of all pairs.
        table: counts by paradigm and term, in the order in which they came.
        files: the files that the pairs of each row were read from.
        skipped: pairs that are in no count, because a side could not be read or scored.
    """

    method: str
    overall: Tally = field(default_factory=Tally)
    table: dict[tuple[str, str | None], Tally] = field(default_factory=dict)
    files: dict[tuple[str, str | None], set[str]] = field(default_factory=dict)
    skipped: int = 0

    def add(self, pair: Pair, outcome: Outcome) -> None:
        """Count one more pair."""
        self.overall.add(outcome)
        row = pair.paradigm, pair.term
        self.table.setdefault(row, Tally()).add(outcome)
        self.files.setdefault(row, set()).add(pair.source)

    def add_row(self, row: dict[str, Any]) -> None:
        """Count a pair by its :meth:`PairScore.to_dict`."""
        pair = Pair(row["good"], row["bad"], row["paradigm"], row["term"], row["file"], row["line"])
        self.add(pair, row["outcome"])

    @property
    def terms(self) -> dict[str, Tally]:
        """Counts by term, in the order in which they came; empty where pairs have none."""
        found: dict[str, Tally] = {}
        for (_, term), tally in self.table.items():
            if term is not None:
                whole = found.setdefault(term, Tally())
                whole.pairs, whole.right = whole.pairs + tally.pairs, whole.right + tally.right
                whole.ties += tally.ties
        return found

    @property
    def mean_of_paradigms(self) -> float:
        """Mean accuracy of the rows of the table, each counting the same however many pairs it has."""
        return (
            math.fsum(tally.accuracy for tally in self.table.values()) / len(self.table)
            if self.table
            else math.nan
        )

    def _named_rows(self) -> Iterator[tuple[tuple[str, str | None, str | None], Tally]]:
        """Yield paradigm, term and file of each row, and its counts; no file where its pairs are from several."""
        for row, tally in self.table.items():
            files = self.files[row]
            yield (*row, next(iter(files)) if len(files) == 1 else None), tally

    def _title(self) -> str:
        rest = f", {plural(self.overall.ties, 'tie')}" + (
            f", {self.skipped:,} skipped" if self.skipped else ""
        )
        low, high = self.overall.interval
        return (
            f"{plural(self.overall.pairs, 'pair')}: accuracy {percent(self.overall.accuracy)} "
            f"({percent(low)} to {percent(high)}){rest}"
        )

    def to_rows(self) -> Rows:
        """Return a row for each paradigm: its accuracy, the interval, and counts."""
        rows = []
        for names, tally in self._named_rows():
            low, high = tally.interval
            row: dict[str, object] = dict(zip(_EACH, names, strict=True)) | {"accuracy": tally.accuracy}
            rows.append(row | {"low": low, "high": high, "pairs": tally.pairs, "ties": tally.ties})
        return rows

    def _shown_rows(self) -> Rows:
        return self._listed_rows() if len(self.table) > 1 else ()

    def _listed_rows(self) -> Rows:
        shares = ("accuracy", "low", "high")
        return [
            {
                name: percent(row[name]) if name in shares else row[name] if row[name] != "" else None
                for name in row
            }
            for row in self.to_rows()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return all metrics, ready for JSON: ``accuracy``, ``pairs``, ``ties``, ``table`` and the rest."""
        return {
            "method": self.method,
            **self.overall.to_dict(),
            "interval_method": INTERVAL,
            "mean_of_paradigms": round(self.mean_of_paradigms, 6),
            "skipped": self.skipped,
            "table": [
                dict(zip(_EACH, names, strict=True)) | tally.to_dict() for names, tally in self._named_rows()
            ],
            "terms": [{"term": term} | tally.to_dict() for term, tally in self.terms.items()],
        }


def score_pairs(
    pairs: Iterable[Pair],
    scorer: Scorer,
    *,
    progress: Progress = Progress(),
    share: Callable[[], float | None] | None = None,
) -> Iterator[PairScore]:
    """Score pairs while they are read, one result for each, in order.

    The sides are scored together, and what the model is shown twice is computed once: equal texts always, and
    the copies of both sides that hide the only words in which they differ.

    Args:
        pairs: any number of them.
        scorer: model and method.
        progress: reports how far it is.
        share: returns the share of ``pairs`` that was taken, 0 to 1.
    """
    found = score_items(pairs, lambda pair: (pair.good, pair.bad), scorer, progress=progress, share=share)
    for pair, (good, bad) in found:
        yield PairScore(pair, good, bad)


def compare_pairs(
    pairs: Iterable[Pair],
    model: LanguageModel,
    *,
    method: str = "original",
    max_length: int | None = None,
    batch_tokens: int | None = None,
    progress: Progress = Progress(),
) -> PairMetrics:
    """Count how often a model finds the good side of a pair more probable.

    Args:
        pairs: the pairs; read them from files with :class:`~unmask.scoring.pair_files.PairReader`.
        model: the model.
        method, max_length, batch_tokens, progress: as for :func:`~unmask.scoring.scorer.score`.

    Returns:
        The counts. Pairs with a side that cannot be scored are counted as skipped.

    Raises:
        ConfigError, DivergedError: as :func:`~unmask.scoring.scorer.score` does.
    """
    scorer = Scorer(model, method=method, max_length=max_length, batch_tokens=batch_tokens)
    metrics = PairMetrics(scorer.method)
    for found in score_pairs(pairs, scorer, progress=progress):
        if found.error is None:
            metrics.add(found.pair, found.outcome)
        else:
            metrics.skipped += 1
    return metrics
