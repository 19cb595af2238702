"""Fill masks: the most probable tokens, or words, for one or several gaps in a text.

A gap is a mask token (``[MASK]``, ``<mask>`` or the tokenizer's own), or a blank for a whole word: ``___`` for 1 to 4
subwords, ``{2}`` or ``{1-4}`` for so many. For several masks see :mod:`unmask.inference.beam`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from unmask.errors import ConfigError, DataError
from unmask.inference.beam import BeamResult, Filling, independent, search
from unmask.inference.markers import MarkerEncoder, TokenWriter
from unmask.inference.plans import FillPlan, Planner
from unmask.inference.predict import MaskPredictor
from unmask.inference.results import Candidate, FillResult, Ranking, TokenCandidate
from unmask.inference.targets import score_words
from unmask.inference.windows import MOST_FORMS, all_sizes
from unmask.inference.word_tokenizer import WordTokenizer
from unmask.progress import Progress

if TYPE_CHECKING:
    from unmask.model.base import LanguageModel

__all__ = ["Candidate", "FillMask", "FillResult", "Ranking", "TokenCandidate"]

_BEAM = 16
_TEXTS_AT_ONCE = 1024
_NO_WORD = "no whole word was among the most probable fillings of its blanks; try a larger beam"


@dataclass(frozen=True, slots=True)
class _FillOptions:
    """The options of a call."""

    top_k: int
    ranking: Ranking
    beam: int
    targets: list[str] | None
    batch_size: int | None


class FillMask:
    """Fills masks with one model.

    Args:
        model: the model.
        blanks: whether ``___``, ``{2}`` and ``{1-4}`` stand for words; otherwise they are text.

    Attributes:
        candidates: ``bool [size]``, the tokens that may be candidates.
        possible: their number.

    Raises:
        ConfigError: the tokenizer cannot be used, or the model has no trained LM head.
    """

    def __init__(self, model: LanguageModel, *, blanks: bool = True) -> None:
        model.require_head()
        self.model = model
        self._encoder = MarkerEncoder(self.model.tokenizer, blanks=blanks)
        self._writer = TokenWriter(self.model.tokenizer, self._encoder)
        self.candidates = _candidate_ids(self.model)
        self._predictor = MaskPredictor(self.model, self.candidates)
        self.possible = int(self.candidates.sum())
        self._word_tokenizer = WordTokenizer(
            self._encoder, self._writer, self.model.vocabulary, self._predictor
        )
        self._planner = Planner(self.model, self._encoder, self._word_tokenizer)

    def __call__(
        self,
        text: str,
        top_k: int = 5,
        *,
        targets: Sequence[str] | None = None,
        ranking: Ranking = "joint",
        beam: int | None = None,
    ) -> FillResult:
        """Fill one text.

        Raises:
            DataError: the text has no mask, or its masks are too far apart for the model.
            ConfigError: as for :meth:`fill`, and for a target that cannot be scored.
        """
        result = self.fill([text], top_k, targets=targets, ranking=ranking, beam=beam)[0]
        if result.error:
            raise DataError(result.error)
        for error in result.target_errors.values():
            raise ConfigError(error)
        return result

    def fill(
        self,
        texts: Sequence[str],
        top_k: int = 5,
        batch_size: int | None = None,
        *,
        targets: Sequence[str] | None = None,
        ranking: Ranking = "joint",
        beam: int | None = None,
        progress: Progress = Progress(),
    ) -> list[FillResult]:
        """Fill many texts; the results come in the order of the texts and do not depend on the batches.

        Control tokens (``[CLS]``, ``[MASK]``, ...) and ids without a token are never candidates;
        probabilities are of the softmax over the whole vocabulary all the same, so they need not add up to 1
        even over all candidates. A text that is longer than the model takes is truncated to as much as fits
        around its masks.

        Args:
            texts: each with one or several masks or blanks.
            top_k: candidates wanted.
            batch_size: most sequences computed at once; by default as many as have 4,096 tokens in all.
            targets: score these words instead, of any number of subwords, in texts with one gap.
            ranking: of fillings of several masks: ``joint``, or ``independent``, where each mask is predicted
                with the others masked.
            beam: partial fillings that the joint search keeps; by default 16, or ``top_k`` if that is more.
            progress: reports how far it is with more than 1,024 texts.

        Returns:
            One result per text. A text that cannot be filled has its ``error`` set, a target that cannot be scored is
            in ``target_errors``; the others are done.

        Raises:
            ConfigError: ``top_k`` is not between 1 and the number of possible candidates, ``batch_size`` or ``beam``
                is below 1, ``ranking`` is unknown, ``texts`` or ``targets`` is a single string, or holds something
                else than strings, or a target is empty.
        """
        self._check(texts, top_k, batch_size, beam)
        options = _FillOptions(
            top_k, ranking, beam or max(_BEAM, top_k), _checked_targets(targets), batch_size
        )
        _check_ranking(ranking)
        if len(texts) <= _TEXTS_AT_ONCE:
            return self._fill(texts, options)
        results: list[FillResult] = []
        progress.begin("fill")
        for begin in range(0, len(texts), _TEXTS_AT_ONCE):
            results += self._fill(texts[begin : begin + _TEXTS_AT_ONCE], options)
            progress.advance(len(results) / len(texts), {"texts": len(results)})
        progress.end()
        return results

    def sequences(
        self, text: str, top_k: int = 5, *, ranking: Ranking = "joint", beam: int | None = None
    ) -> int:
        """Return about how many sequences go through the model to fill a text: one for each length of its blanks, and in a
        joint search one for each filling that it keeps, for each mask after the first."""
        sizes = all_sizes(self._encoder.gaps(text), MOST_FORMS) or [()]
        kept = (beam or max(_BEAM, top_k)) if ranking == "joint" else 0
        return sum(1 + kept * max(0, sum(size) - 1) for size in sizes)

    def sequence_with(self, text: str, mask: int, token_id: int) -> str:
        """Return a text with a token in the place of one of its masks, counted from 0; the others stay masks."""
        parts = self._encoder.split(text)
        before, after = (
            str(self.model.tokenizer.mask_token).join(part) for part in (parts[: mask + 1], parts[mask + 1 :])
        )
        return self._writer.sequence([before, after], [(token_id,)])

    def _check(self, texts: Sequence[str], top_k: int, batch_size: int | None, beam: int | None) -> None:
        if isinstance(texts, str):
            raise ConfigError(
                "fill() takes a list of texts, but got one string; call the object itself for that"
            )
        for number, text in enumerate(texts, 1):
            if not isinstance(text, str):
                raise ConfigError(f"texts must be strings; text {number} is of type {type(text).__name__}")
        if not 1 <= top_k <= self.possible:
            raise ConfigError(
                f"top_k must be 1 to {self.possible:,}, the size of the vocabulary; got {top_k:,}"
            )
        for name, value in (("batch_size", batch_size), ("beam", beam)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1; got {value}")

    def _fill(self, texts: Sequence[str], options: _FillOptions) -> list[FillResult]:
        results = [FillResult(text, ranking=options.ranking) for text in texts]
        plans = []
        for index, reading in enumerate(self._encoder(texts)):
            plan = self._planner.plan(index, reading, options.targets)
            if isinstance(plan, FillPlan):
                plans.append(plan)
            else:
                results[index] = FillResult(texts[index], error=plan, ranking=options.ranking)
        fillings = self._fillings if options.targets is None else self._target_fillings
        for plan, found in zip(plans, fillings(plans, options), strict=True):
            results[plan.index] = self._result(texts[plan.index], plan, found, options)
        return results

    def _fillings(self, plans: list[FillPlan], options: _FillOptions) -> Iterator[list[BeamResult]]:
        """Yield for every text the results of its forms."""
        problems = [problem for plan in plans for problem in self._planner.problems(plan, options.top_k)]
        predict = partial(self._predictor.best, batch_size=options.batch_size)
        if options.ranking == "joint":
            found = search(problems, predict, options.beam)
        else:
            most = max((problem.width for problem in problems), default=1)
            predictions = predict([problem.row for problem in problems], most)
            found = [independent(*pair) for pair in zip(problems, predictions, strict=True)]
        every = iter(found)
        for plan in plans:
            yield list(islice(every, len(plan.forms)))

    def _target_fillings(self, plans: list[FillPlan], options: _FillOptions) -> Iterator[list[BeamResult]]:
        """Yield for every text the scores of its targets, by form."""
        forms = [form for plan in plans for form in self._planner.target_forms(plan)]
        predict = partial(self._predictor.log_probabilities, batch_size=options.batch_size)
        scored = iter(score_words(forms, predict, joint=options.ranking == "joint"))
        for plan in plans:
            yield [
                BeamResult(
                    [
                        Filling(math.fsum(logs), ids, logs)
                        for ids, logs in zip(words, next(scored), strict=True)
                    ]
                )
                for words in plan.words
            ]

    def _result(
        self, text: str, plan: FillPlan, found: list[BeamResult], options: _FillOptions
    ) -> FillResult:
        window = plan.window
        offset = len(self.model.vocabulary.prefix) + window.begin
        candidates = (self._ranked if options.targets is None else self._in_given_order)(plan, found, options)
        dropped = max((form.dropped for form in found), default=-math.inf)
        full = len(candidates) == options.top_k and candidates[-1].score >= dropped
        plain = options.targets is None and not any(plan.contexts)
        if not candidates and options.targets is None:
            return FillResult(text, error=_NO_WORD, ranking=options.ranking)
        return FillResult(
            text=text,
            masks=[offset + place for place in window.places],
            candidates=candidates,
            per_mask=[self._tokens(mask[: options.top_k]) for mask in found[0].alone] if plain else [],
            ranking=options.ranking,
            exact=full or dropped == -math.inf,
            window=None if window.whole else (window.begin, window.begin + len(window.body)),
            target_errors=plan.errors,
            unknown=int((window.body == self._encoder.unknown_id).sum()),
        )

    def _ranked(self, plan: FillPlan, found: list[BeamResult], options: _FillOptions) -> list[Candidate]:
        """Return the best fillings of all forms of a text."""
        every = [
            (filling, form.sizes)
            for form, part in zip(plan.forms, found, strict=True)
            for filling in part.fillings
        ]
        if len(found) > 1:
            every.sort(key=lambda pair: (-pair[0].score, pair[0].ids))
        return [self._candidate(plan, *pair, options) for pair in every[: options.top_k]]

    def _in_given_order(
        self, plan: FillPlan, found: list[BeamResult], options: _FillOptions
    ) -> list[Candidate]:
        """Return the targets of a text, written as they were given."""
        assert options.targets is not None
        placed = [
            (number, self._candidate(plan, filling, form.sizes, options, options.targets[number]))
            for form, part, numbers in zip(plan.forms, found, plan.targets, strict=True)
            for number, filling in zip(numbers, part.fillings, strict=True)
        ]
        return [candidate for _, candidate in sorted(placed, key=lambda pair: pair[0])]

    def _candidate(
        self,
        plan: FillPlan,
        filling: Filling,
        sizes: tuple[int, ...],
        options: _FillOptions,
        word: str | None = None,
    ) -> Candidate:
        fills, parts = _divided(filling.ids, sizes), plan.parts
        writer = self._writer
        return Candidate(
            text=word or " ".join([writer.text(ids) for ids in fills]),
            tokens=[writer.token(number) for number in filling.ids],
            token_ids=list(filling.ids),
            probability=math.exp(math.fsum(filling.logs)),
            probabilities=[math.exp(log) for log in filling.logs],
            sequence=writer.sequence_of_word(parts, word, fills[0])
            if word
            else writer.sequence(parts, fills),
            score=filling.score,
            ranking=options.ranking,
        )

    def _tokens(self, tokens: Sequence[tuple[int, float]]) -> list[TokenCandidate]:
        writer = self._writer
        return [
            TokenCandidate(writer.token(number), writer.text((number,)), number, math.exp(log))
            for number, log in tokens
        ]


def _divided(ids: tuple[int, ...], sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Divide the tokens of all gaps into those of each."""
    every = iter(ids)
    return [tuple(islice(every, size)) for size in sizes]


def _checked_targets(targets: Sequence[str] | None) -> list[str] | None:
    if targets is None:
        return None
    if isinstance(targets, str):
        raise ConfigError("targets must be a list of words, but got one string")
    if not targets:
        raise ConfigError("targets is empty: give at least one word, or none at all to search the vocabulary")
    for target in targets:
        if not isinstance(target, str) or not target.strip():
            raise ConfigError(f"a target must be a word; got {target!r}")
    return [target.strip() for target in targets]


def _check_ranking(ranking: str) -> None:
    if ranking not in ("joint", "independent"):
        raise ConfigError(f"ranking must be 'joint' or 'independent'; got '{ranking}'")


def _candidate_ids(model: LanguageModel) -> np.ndarray:
    """Return ``bool [size]``: which ids may be candidates (real tokens, no control tokens)."""
    vocabulary = model.vocabulary
    allowed = np.zeros(vocabulary.size, dtype=bool)
    allowed[list(model.tokenizer.get_vocab().values())] = True
    allowed &= ~vocabulary.special
    return allowed
