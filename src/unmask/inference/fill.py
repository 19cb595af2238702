"""Fill masks: the most probable tokens for one or several masks in a text.

Several masks are ranked by the product of their probabilities, each taken from one pass in which all of them
were masked: ``ranking="independent"``. The list of the best combinations is exact for that ranking. How
combinations are ranked is recorded in every result and is the matter of :func:`best_combinations` alone.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from unmask.errors import ConfigError, DataError, DivergedError
from unmask.inference.markers import MarkerEncoder, TokenWriter

if TYPE_CHECKING:
    from torch import Tensor

    from unmask.data.batches import Batch
    from unmask.model.masked_lm import MaskedLM

Ranking = Literal["independent"]
_TOKENS_AT_ONCE = 4096
_LOGITS_AT_ONCE = 1 << 26


@dataclass(frozen=True, slots=True)
class TokenCandidate:
    """One token for one mask.

    Attributes:
        token: the vocabulary's own spelling, for example ``##ing`` or ``Ġthe``.
        text: the token as text, without the mark of a beginning or continued word.
        token_id: its id.
        probability: softmax over the whole vocabulary, 0 to 1.
    """

    token: str
    text: str
    token_id: int
    probability: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """One token for each mask of a text.

    Attributes:
        text: the texts of the tokens, in order, with a space between them.
        tokens: the vocabulary's own spellings, one per mask.
        token_ids: their ids.
        probability: what the combination is ranked by; for ``independent`` the product of ``probabilities``.
        probabilities: the probability of each token at its own mask.
        sequence: the whole text with the masks filled; around them it is the original text, except that the
            space before a token that continues a word goes, and that a word gets one where it would stick to
            the word before it.
    """

    text: str
    tokens: list[str]
    token_ids: list[int]
    probability: float
    probabilities: list[float]
    sequence: str


@dataclass(frozen=True, slots=True)
class FillResult:
    """What the model puts into the masks of one text.

    Attributes:
        text: the text as it was given.
        masks: positions of the masks among the text's tokens, control tokens such as ``[CLS]`` counted.
        candidates: the best combinations, best first.
        per_mask: the best tokens of each mask alone, best first.
        error: why the text could not be filled (no mask, too long), or ``None``.
        ranking: how combinations are ranked.
    """

    text: str
    masks: list[int] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    per_mask: list[list[TokenCandidate]] = field(default_factory=list)
    error: str | None = None
    ranking: Ranking = "independent"

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Question:
    """A text that is ready to be filled: ``int64 [n]`` ids and ``int64 [m]`` positions of its masks."""

    index: int
    input_ids: np.ndarray
    masks: np.ndarray


class FillMask:
    """Fills masks with one model.

    Args:
        model: a Hub name, a folder, or a model that is loaded already.
        device, precision, offline, notice: as for :func:`unmask.model.load.load_masked_lm`; unused with a
            loaded model.

    Raises:
        ConfigError: the model or its tokenizer cannot be used.
    """

    def __init__(
        self,
        model: str | Path | MaskedLM,
        *,
        device: str = "auto",
        precision: str = "fp32",
        offline: bool = False,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        self.model = _loaded(
            model, device=device, precision=precision, offline=offline, notice=notice or _nobody
        )
        self._encoder = MarkerEncoder(self.model.tokenizer)
        self._writer = TokenWriter(self.model.tokenizer, self._encoder)
        self._allowed = _candidate_ids(self.model)

    def __call__(self, text: str, top_k: int = 5) -> FillResult:
        """Fill one text.

        Raises:
            DataError: the text has no mask or is longer than the model takes.
            ConfigError: as for :meth:`fill`.
        """
        result = self.fill([text], top_k)[0]
        if result.error:
            raise DataError(result.error)
        return result

    def fill(self, texts: Sequence[str], top_k: int = 5, batch_size: int | None = None) -> list[FillResult]:
        """Fill many texts; the results come in the order of the texts and do not depend on the batches.

        Control tokens (``[CLS]``, ``[MASK]``, ...) and ids without a token are never candidates;
        probabilities are of the softmax over the whole vocabulary all the same, so they need not add up to 1
        even over all candidates.

        Args:
            texts: each with one or several masks, written ``[MASK]``, ``<mask>`` or as the tokenizer does.
            top_k: candidates wanted.
            batch_size: most texts computed at once; by default as many as have 4,096 tokens in all.

        Returns:
            One result per text. A text that cannot be filled has its ``error`` set; the others are filled.

        Raises:
            ConfigError: ``top_k`` is not between 1 and the number of possible candidates, ``batch_size`` is
                below 1, or ``texts`` is a single string.
        """
        self._check(texts, top_k, batch_size)
        results: list[FillResult] = [FillResult(text) for text in texts]
        questions = []
        for index, read in enumerate(self._encoder(texts)):
            question = self._question(index, read)
            if isinstance(question, _Question):
                questions.append(question)
            else:
                results[index] = FillResult(texts[index], error=question)
        for group in _groups(questions, batch_size, len(self._allowed)):
            for question, tokens in zip(group, self._best_tokens(group, top_k), strict=True):
                results[question.index] = self._result(texts[question.index], question, tokens, top_k)
        return results

    def _check(self, texts: Sequence[str], top_k: int, batch_size: int | None) -> None:
        if isinstance(texts, str):
            raise ConfigError(
                "fill() takes a list of texts, but got one string; call the object itself for that"
            )
        possible = int(self._allowed.sum())
        if not 1 <= top_k <= possible:
            raise ConfigError(f"top_k must be 1 to {possible:,}, the size of the vocabulary; got {top_k:,}")
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1; got {batch_size}")

    def _question(self, index: int, read: tuple[np.ndarray, int]) -> _Question | str:
        """Return what can be asked of the model, or why nothing can."""
        input_ids, markers = read
        masks = np.flatnonzero(input_ids == self._encoder.mask_id)
        limit = self.model.max_length
        if not markers:
            return f"no mask in this text: write {' or '.join(self._encoder.markers)} where a word is wanted"
        if len(masks) != markers:
            return f"the text has {markers} mask(s), but its tokens have {len(masks)}; put spaces around them"
        if len(input_ids) > limit:
            return (
                f"the text has {len(input_ids):,} tokens, more than the {limit:,} that the model takes; "
                f"shorten it to the sentences around the mask"
            )
        return _Question(index, input_ids, masks)

    def _best_tokens(self, group: list[_Question], top_k: int) -> Iterator[list[list[tuple[int, float]]]]:
        """Yield, for every text, for every mask, its ``top_k`` best ids with their log-probabilities."""
        import torch

        with torch.inference_mode():
            logits = self.model.target_logits(_batch(group))
            ids, scores = _top(logits, self._allowed, top_k)
        rows = iter(zip(ids, scores, strict=True))
        for question in group:
            yield [list(zip(*next(rows), strict=True)) for _ in question.masks]

    def _result(
        self, text: str, question: _Question, tokens: list[list[tuple[int, float]]], top_k: int
    ) -> FillResult:
        combinations = best_combinations([[score for _, score in mask] for mask in tokens], top_k)
        parts = self._encoder.split(text)
        return FillResult(
            text=text,
            masks=question.masks.tolist(),
            candidates=[
                self._candidate(parts, [mask[rank] for mask, rank in zip(tokens, ranks, strict=True)])
                for ranks in combinations
            ],
            per_mask=[
                [
                    TokenCandidate(
                        self._writer.token(number), self._writer.text(number), number, math.exp(score)
                    )
                    for number, score in mask
                ]
                for mask in tokens
            ],
        )

    def _candidate(self, parts: list[str], chosen: list[tuple[int, float]]) -> Candidate:
        ids = [number for number, _ in chosen]
        return Candidate(
            text=" ".join(self._writer.text(number) for number in ids),
            tokens=[self._writer.token(number) for number in ids],
            token_ids=ids,
            probability=math.exp(math.fsum(score for _, score in chosen)),
            probabilities=[math.exp(score) for _, score in chosen],
            sequence=self._writer.sequence(parts, ids),
        )


def best_combinations(scores: Sequence[Sequence[float]], top_k: int) -> list[tuple[int, ...]]:
    """Return the combinations with the greatest sums, best first: exact, by best-first search.

    Args:
        scores: for each mask the log-probabilities of its candidates, best first.
        top_k: how many combinations are wanted; fewer come back where there are fewer.

    Returns:
        For each combination the rank taken at each mask, counted from 0.
    """
    # A combination is reached from one parent only: the one whose last raised rank is one lower. So no
    # combination is met twice, and every parent is at least as good as its children.
    start = (0,) * len(scores)
    waiting = [(-math.fsum(mask[0] for mask in scores), start, 0)]
    best: list[tuple[int, ...]] = []
    while waiting and len(best) < top_k:
        _, ranks, last = heapq.heappop(waiting)
        best.append(ranks)
        for place in range(last, len(ranks)):
            if ranks[place] + 1 < len(scores[place]):
                child = (*ranks[:place], ranks[place] + 1, *ranks[place + 1 :])
                total = math.fsum(mask[rank] for mask, rank in zip(scores, child, strict=True))
                heapq.heappush(waiting, (-total, child, place))
    return best


def _nobody(text: str) -> None:
    """Hears notices that nobody asked for."""


def _loaded(model: str | Path | MaskedLM, **how: Any) -> MaskedLM:
    from unmask.model.load import load_masked_lm

    return load_masked_lm(str(model), **how) if isinstance(model, (str, Path)) else model


def _candidate_ids(model: MaskedLM) -> np.ndarray:
    """Return ``bool [size]``: which ids may be candidates (real tokens, no control tokens)."""
    vocabulary = model.vocabulary
    allowed = np.zeros(vocabulary.size, dtype=bool)
    allowed[list(model.tokenizer.get_vocab().values())] = True
    return allowed & ~vocabulary.special


def _groups(questions: list[_Question], batch_size: int | None, vocabulary: int) -> Iterator[list[_Question]]:
    """Yield the texts from long to short, as a batch wants them, as many at once as memory allows."""
    group: list[_Question] = []
    tokens = masks = 0
    for question in sorted(questions, key=lambda question: -len(question.input_ids)):
        tokens, masks = tokens + len(question.input_ids), masks + len(question.masks)
        full = tokens > _TOKENS_AT_ONCE if batch_size is None else len(group) == batch_size
        if group and (full or masks * vocabulary > _LOGITS_AT_ONCE):
            yield group
            group, tokens, masks = [], len(question.input_ids), len(question.masks)
        group.append(question)
    if group:
        yield group


def _batch(group: list[_Question]) -> Batch:
    """Lay the texts end to end."""
    from unmask.data.batches import Batch
    from unmask.data.packing import frame_positions

    cu_seqlens = np.cumsum([0, *(len(question.input_ids) for question in group)])
    input_ids = np.concatenate([question.input_ids for question in group])
    targets = [start + question.masks for start, question in zip(cu_seqlens[:-1], group, strict=True)]
    index = np.concatenate(targets)
    numbers = np.array([question.index for question in group])
    return Batch(
        input_ids, frame_positions(cu_seqlens), cu_seqlens.astype(np.int32), index, input_ids[index], numbers
    )


def _top(logits: Tensor, allowed: np.ndarray, top_k: int) -> tuple[list[list[int]], list[list[float]]]:
    """Return the best ids and log-probabilities of each row of ``[M, V]`` logits; equals go by id."""
    import torch

    scores = torch.log_softmax(logits.float(), dim=-1)
    barred = torch.ones(scores.shape[1], dtype=torch.bool)
    barred[: len(allowed)] = torch.from_numpy(~allowed)
    best = scores.masked_fill(barred.to(scores.device), -math.inf).topk(top_k, dim=-1)
    if not bool(torch.isfinite(best.values).all()):
        raise DivergedError(
            "the model's output is not finite; its weights are broken, use another checkpoint"
        )
    ids, order = best.indices.sort(dim=-1)
    values, rank = best.values.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    return ids.gather(-1, rank).tolist(), values.tolist()
