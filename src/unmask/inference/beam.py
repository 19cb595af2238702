"""Fill several masks jointly by beam search.

The joint probability of tokens ``w_1 ... w_m`` in the ``m`` masks of a text is the chain rule over one order of the
masks::

    p(w_1 ... w_m) = p(w_a | all masked) * p(w_b | w_a filled in) * p(w_c | w_a, w_b filled in) * ...

each factor being the softmax of the model, over its whole vocabulary, at that mask, when the masks before it in the
order are filled and those after it still masked. The order is that of confidence: first the mask at which some token
has the highest probability while all are masked, then the next; equals go from left to right. It is found once for a
text, so the probabilities of all combinations add up to one. A masked language model promises no more: another order
gives other probabilities, since its conditional distributions need not belong to one joint distribution (this one is
a *pseudo*-joint probability; compare Wang and Cho 2019, Goyal et al. 2022).

The search keeps the best few partial fillings at each step, and the best score that it ever dropped: where no dropped
one could have reached the list, the list is exact.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from unmask.inference.predict import PredictionRow, RowPredictions, ScoredToken

_MOST_TRIES = 2048  # combinations that are tried where not every one is possible


class Filling(NamedTuple):
    """Tokens for the masks of a form.

    Attributes:
        score: what it is ranked by: the weighted sum of its log-probabilities.
        ids: one token for each mask, from left to right.
        logs: the log-probability of each, as its place in the order has it.
    """

    score: float
    ids: tuple[int, ...]
    logs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class BeamProblem:
    """A form to be filled: a text with masks.

    Attributes:
        row: the form, to be predicted at all its masks.
        weights: what each mask's log-probability counts in the score; above 0.
        keep: fillings wanted.
        width: tokens that are tried after each partial filling, at least.
        possible: whether these tokens of all masks, ``None`` where there is none yet, are allowed; by default all
            are.
    """

    row: PredictionRow
    weights: tuple[float, ...]
    keep: int
    width: int
    possible: Callable[[list[int | None]], bool] | None = None

    def reach(self, beam: int) -> int:
        """Return how many tokens a search of this beam tries for each mask."""
        return self.width if len(self.weights) == 1 else max(beam, self.width)


class BeamResult(NamedTuple):
    """The result of a search.

    Attributes:
        fillings: best first.
        alone: the best tokens of each mask while all are masked.
        dropped: no filling that is missing has a score above this.
    """

    fillings: list[Filling]
    alone: Sequence[list[ScoredToken]] = ()
    dropped: float = -math.inf


class _Partial(NamedTuple):
    """A filling of the first masks of the order."""

    score: float
    ids: tuple[int, ...]
    logs: tuple[float, ...]


@dataclass(slots=True)
class _Search:
    """The state of one problem's search."""

    problem: BeamProblem
    alone: list[list[ScoredToken]]
    order: list[int]
    kept: list[_Partial]
    dropped: float = -math.inf

    def rows(self) -> list[PredictionRow]:
        """Return what to predict next: each partial filling, at the next mask of the order."""
        row, step = self.problem.row, len(self.kept[0].ids)
        done = row.places[self.order[:step]]
        place, kind = row.places[self.order[step]], row.kinds[self.order[step]]
        rows = []
        for partial in self.kept:
            input_ids = row.input_ids.copy()
            input_ids[done] = partial.ids
            rows.append(PredictionRow(input_ids, np.array([place]), (kind,)))
        return rows

    def take(self, best: Sequence[list[ScoredToken]], beam: int) -> None:
        """Extend the partial fillings by one token and keep the best.

        Args:
            best: the best tokens after each partial filling.
            beam: how many stay, unless these are complete.
        """
        step = len(self.kept[0].ids)
        weight, last = self.problem.weights[self.order[step]], step + 1 == len(self.order)
        # As many as this problem needs, whatever else is searched together with it.
        enough = self.problem.reach(beam)
        pairs = list(zip(self.kept, [tokens[:enough] for tokens in best], strict=True))
        longer = [
            _Partial(old.score + weight * log, (*old.ids, number), (*old.logs, log))
            for old, tokens in pairs
            for number, log in tokens
        ]
        longer.sort(key=lambda partial: (-partial.score, partial.ids))
        self.kept, missing = self._best(longer, self.problem.keep if last else beam)
        ends = [old.score + weight * tokens[-1][1] for old, tokens in pairs if len(tokens) == enough]
        self.dropped = max(self.dropped, missing, *ends)

    def _best(self, partials: list[_Partial], keep: int) -> tuple[list[_Partial], float]:
        """Return the first ``keep`` that are possible, and the score of the first behind them."""
        possible = self.problem.possible
        if possible is None:
            return partials[:keep], partials[keep].score if len(partials) > keep else -math.inf
        kept: list[_Partial] = []
        for partial in partials:
            if len(kept) == keep:
                return kept, partial.score
            tokens: list[int | None] = [None] * len(self.order)
            for place, number in zip(self.order, partial.ids, strict=False):
                tokens[place] = number
            if possible(tokens):
                kept.append(partial)
        return kept, -math.inf

    @property
    def unfinished(self) -> bool:
        return bool(self.kept) and len(self.kept[0].ids) < len(self.order)

    def found(self) -> BeamResult:
        """Return the fillings from left to right."""
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        fillings = [
            Filling(score, tuple(ids[turn] for turn in back), tuple(logs[turn] for turn in back))
            for score, ids, logs in self.kept
        ]
        return BeamResult(fillings, self.alone, self.dropped)


Predict = Callable[[Sequence[PredictionRow], int], list[RowPredictions]]


def search(problems: Sequence[BeamProblem], predict: Predict, beam: int) -> list[BeamResult]:
    """Fill the masks of many forms, all in step, so that the model gets large batches.

    Args:
        problems: in any order; results do not depend on what else is searched.
        predict: returns the best tokens at the places of rows (:meth:`unmask.inference.predict.MaskPredictor.best`).
        beam: partial fillings that stay at each step.

    Returns:
        A result for each problem, with fewer fillings than wanted where there are no more.
    """
    most = max((problem.reach(beam) for problem in problems), default=beam)
    searches = []
    for problem, prediction in zip(
        problems, predict([problem.row for problem in problems], most), strict=True
    ):
        searches.append(
            _Search(problem, prediction.best, confident_first(prediction.peaks), [_Partial(0.0, (), ())])
        )
        searches[-1].take([prediction.best[searches[-1].order[0]]], beam)
    active = [one for one in searches if one.unfinished]
    while active:
        rows = [one.rows() for one in active]
        predictions = iter(predict([row for part in rows for row in part], most))
        for one, part in zip(active, rows, strict=True):
            one.take([next(predictions).best[0] for _ in part], beam)
        active = [one for one in active if one.unfinished]
    return [one.found() for one in searches]


def confident_first(peaks: Sequence[float]) -> list[int]:
    """Return the order of the masks: falling log-probability of the best token, equals from left to right."""
    return sorted(range(len(peaks)), key=lambda mask: (-peaks[mask], mask))


def independent(problem: BeamProblem, prediction: RowPredictions) -> BeamResult:
    """Fill the masks of a form by the prediction at each, with all the others masked.

    Args:
        problem: the form.
        prediction: at each of its masks as many of the best tokens as its width is, or all there are.
    """
    scores = [
        [weight * log for _, log in tokens[: problem.width]]
        for weight, tokens in zip(problem.weights, prediction.best, strict=True)
    ]
    fillings: list[Filling] = []
    dropped = -math.inf
    for tries, ranks in enumerate(combinations(scores)):
        score = math.fsum(mask[rank] for mask, rank in zip(scores, ranks, strict=True))
        if len(fillings) == problem.keep or tries == _MOST_TRIES:
            dropped = score
            break
        chosen = [tokens[rank] for tokens, rank in zip(prediction.best, ranks, strict=True)]
        if problem.possible is None or problem.possible([number for number, _ in chosen]):
            fillings.append(
                Filling(score, tuple(number for number, _ in chosen), tuple(log for _, log in chosen))
            )
    best = math.fsum(tokens[0] for tokens in scores if tokens)
    ends = [best - tokens[0] + tokens[-1] for tokens in scores if len(tokens) == problem.width]
    return BeamResult(fillings, prediction.best, max(dropped, *ends, -math.inf))


def combinations(scores: Sequence[Sequence[float]]) -> Iterator[tuple[int, ...]]:
    """Yield combinations by falling sum, exactly, by best-first search.

    Args:
        scores: for each mask the scores of its tokens, best first.

    Yields:
        The rank taken at each mask, counted from 0.
    """
    if not all(scores):
        return
    # A combination is reached from one parent only: the one whose last raised rank is one lower. So no
    # combination is met twice, and every parent is at least as good as its children.
    start = (0,) * len(scores)
    waiting = [(-math.fsum(mask[0] for mask in scores), start, 0)]
    while waiting:
        _, ranks, last = heapq.heappop(waiting)
        yield ranks
        for place in range(last, len(ranks)):
            if ranks[place] + 1 < len(scores[place]):
                child = (*ranks[:place], ranks[place] + 1, *ranks[place + 1 :])
                total = math.fsum(mask[rank] for mask, rank in zip(scores, child, strict=True))
                heapq.heappush(waiting, (-total, child, place))
