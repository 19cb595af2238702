"""Pseudo-log-likelihood: how probable a masked language model finds each token of a text, given all the others.

Four methods give a token its score:

``original`` (Salazar et al. 2020)
    The token alone is masked.
``within_word_l2r`` (Kauf & Ivanova 2023)
    The token and the later subwords of its word are masked, so that a rare word is not given away by its own end.
``whole_word``
    All subwords of the word are masked together, and their log-probabilities added as if they were independent.
``estimate``
    Nothing is masked, and one pass scores a whole text (Kaneko & Bollegala 2022 call it AUL). The model sees what it
    predicts, so this is an estimate that is far too high; it may rank texts, and is no pseudo-log-likelihood.

Literal control tokens in a text (``[SEP]``) are text; other special tokens (``[ANON]``) are seen and not scored. A word is what :mod:`unmask.data.words` says: punctuation and
Chinese characters are words of their own.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from unmask.data.packing import split_by_tokens
from unmask.data.unknown import UnknownTokens, why_unmeasurable
from unmask.errors import ConfigError, plural
from unmask.progress import Progress
from unmask.scoring.masked_copies import Copies, copies_of, masked_batch, method_named
from unmask.scoring.results import Score, TokenScore, WordScore

if TYPE_CHECKING:
    from tokenizers import Encoding

    from unmask.model.base import LanguageModel
from unmask.model.verify import verify

Item = TypeVar("Item")
_TEXTS_AHEAD, _CHARACTERS_AHEAD = 64, 20_000
_BATCHES_OF_A_BLOCK = 8
_LOGITS_AT_ONCE = 1 << 26
_BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}


def score(
    texts: Iterable[str],
    model: str | Path | LanguageModel,
    *,
    method: str = "original",
    max_length: int | None = None,
    batch_tokens: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
    offline: bool = False,
    progress: Progress = Progress(),
    share: Callable[[], float | None] | None = None,
) -> Iterator[Score]:
    """Score texts, one result for each, in order, while they are read.

    Args:
        texts: any number of them, of any length; a few hundred short ones are held at once.
        model: whatever :func:`unmask.model.load.load_for_inference` takes.
        method: ``original``, ``within_word_l2r``, ``whole_word`` or ``estimate``.
        max_length: tokens of a window, special tokens included; by default what the model takes.
        batch_tokens: tokens computed at once.
        device, precision, offline: as for :func:`unmask.model.load.load_for_inference`.
        progress: reports how far it is, and logs what was chosen.
        share: returns the share of ``texts`` that was taken, 0 to 1, where they have no length.

    Returns:
        An iterator of results. A text that cannot be scored has its ``error`` set; the others are scored.

    Raises:
        ConfigError: the model cannot be used, there is no such method, or ``texts`` is a single string.
        DivergedError: the model's logits are NaN or infinite.
    """
    from unmask.model.load import load_for_inference

    loaded = load_for_inference(model, device=device, precision=precision, offline=offline, progress=progress)
    scorer = Scorer(loaded, method=method, max_length=max_length, batch_tokens=batch_tokens)
    return scorer(texts, progress=progress, share=share)


@dataclass(frozen=True, slots=True)
class _Tokens:
    """The ``n`` tokens of a text, and where words begin among them."""

    encoding: Encoding
    ids: np.ndarray
    starts: np.ndarray

    @property
    def key(self) -> bytes:
        """The same for texts that the model cannot tell apart."""
        return self.ids.tobytes() + self.starts.tobytes()


@dataclass(frozen=True, slots=True)
class _Read:
    """A text that was read: its tokens and the copies that score it, or what is wrong with it."""

    text: str
    tokens: _Tokens | None
    copies: Copies
    error: str | None = None


class Scorer:
    """Scores texts with one model and one method.

    Args:
        model: a loaded model.
        method, max_length, batch_tokens: as for :func:`score`.

    Raises:
        ConfigError: an argument cannot work with this model, or it has no trained LM head.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        method: str = "original",
        max_length: int | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        model.require_head()
        self.model, self.method = model, method_named(method)
        self.room = _usable_length(model, max_length) - model.vocabulary.overhead
        self.batch_tokens = (
            batch_tokens if batch_tokens is not None else _BATCH_TOKENS.get(model.device.type, 4096)
        )
        if self.batch_tokens < 1:
            raise ConfigError(f"batch_tokens must be at least 1; got {batch_tokens}")
        self._core = model.text_encoder.core
        self._unknown = model.text_encoder.unknown
        self._scored = ~model.vocabulary.special
        if self._unknown is not None:
            self._scored[self._unknown] = True

    def __call__(
        self,
        texts: Iterable[str],
        *,
        progress: Progress = Progress(),
        share: Callable[[], float | None] | None = None,
    ) -> Iterator[Score]:
        """Score texts; arguments and results are those of :func:`score`."""
        if isinstance(texts, str):
            raise ConfigError("expected a list of texts, but got one string; put it into a list")
        verify(self.model, progress)
        return self._scores(texts, _Meter(progress, share))

    def _scores(self, texts: Iterable[str], meter: _Meter) -> Iterator[Score]:
        unknown = UnknownTokens(self._unknown)
        meter.progress.begin("score")
        try:
            for block in self._blocks(meter.counted(texts)):
                meter.enter_block(len(block))
                scores = self._token_scores(block, meter)
                meter.leave_block()
                yield from (self._result(read, scores, unknown) for read in block)
            meter.finish()
        finally:
            meter.progress.end()
            if message := unknown.message():
                meter.progress.warning(f"{message}, and their scores mean little")

    # Reading

    def _blocks(self, texts: Iterable[str]) -> Iterator[list[_Read]]:
        """Gather texts that are worth a few batches, so that many of one length are found among them."""
        block: list[_Read] = []
        tokens = 0
        for group in _read_ahead(texts):
            for read in self._read(group):
                block.append(read)
                tokens += int((read.copies.sizes + self.model.vocabulary.overhead).sum())
                # The two sides of a pair stay together: if they are the same they must come out the same.
                if tokens >= _BATCHES_OF_A_BLOCK * self.batch_tokens and len(block) % 2 == 0:
                    yield block
                    block, tokens = [], 0
        if block:
            yield block

    def _read(self, texts: list[str]) -> Iterator[_Read]:
        errors = [_error(text) for text in texts]
        good = [text for text, error in zip(texts, errors, strict=True) if error is None]
        encodings = iter(self._core.encode_batch(good, add_special_tokens=False))
        for text, error in zip(texts, errors, strict=True):
            yield _Read(text, None, _NO_COPIES, error) if error else self._planned(text, next(encodings))

    def _planned(self, text: str, encoding: Encoding) -> _Read:
        ids = np.array(encoding.ids, dtype=np.int64)
        if not len(ids):
            return _Read(text, None, _NO_COPIES, "the tokenizer finds no token in this text")
        if not self._scored[ids].any():
            return _Read(text, None, _NO_COPIES, "this text has only special tokens, which are not scored")
        unknown = UnknownTokens(self._unknown)
        unknown.add(ids, lambda: self._unknown_parts(text, encoding))
        if why := why_unmeasurable(unknown):
            return _Read(text, None, _NO_COPIES, why)
        tables = self.model.vocabulary.words
        if tables is None:  # the vocabulary does not mark words: take what the tokenizer split the text into
            starts = np.array([True, *(a != b for a, b in pairwise(encoding.word_ids))])
        else:
            starts = tables.starts(ids)
        copies = copies_of(
            starts, self.method, self.room, max(1, _LOGITS_AT_ONCE // self.model.vocabulary.size)
        )
        return _Read(text, _Tokens(encoding, ids, starts), copies)

    # Computing

    def _token_scores(self, block: list[_Read], meter: _Meter) -> dict[bytes, np.ndarray]:
        """Return the ``float64 [n]`` scores of every sequence of tokens in the block."""
        different = {read.tokens.key: read for read in block if read.tokens is not None}
        if not different:
            return {}
        rows = [read.tokens.ids for read in different.values() if read.tokens is not None]
        begins = np.cumsum([0, *map(len, rows)])
        planned = [
            read.copies.shifted(begin) for read, begin in zip(different.values(), begins[:-1], strict=True)
        ]
        scores = self._computed(np.concatenate(rows), Copies.joined(planned), meter)
        return dict(zip(different, np.split(scores, begins[1:-1]), strict=True))

    def _computed(self, row: np.ndarray, copies: Copies, meter: _Meter) -> np.ndarray:
        import torch

        from unmask.model.softmax import target_losses

        copies = copies.take(np.argsort(-copies.sizes, kind="stable"))
        sizes = copies.sizes + self.model.vocabulary.overhead
        width = copies.targets * self.model.vocabulary.size * self.batch_tokens // _LOGITS_AT_ONCE
        scores = np.empty(len(row))
        # Weights are cast to bf16 once within the outermost autocast, not once a batch.
        with torch.inference_mode(), self.model.precision(), self.model.evaluating():
            for part in split_by_tokens(np.maximum(sizes, width), self.batch_tokens):
                batch, places = masked_batch(row, copies.take(part), self.model.vocabulary)
                if not meter.done and part.start == 0 and (error := self.model.bf16_error(batch)):
                    meter.progress.log(error)
                logits = self.model.target_logits(batch)
                targets = torch.from_numpy(batch.target_ids).to(logits.device)
                scores[places] = -target_losses(logits, targets)
                meter.advance(int(sizes[: part.stop].sum()) / int(sizes.sum()))
        return scores

    def _result(self, read: _Read, scores: dict[bytes, np.ndarray], unknown: UnknownTokens) -> Score:
        size = len(read.text.encode("utf-8", "surrogatepass"))
        if read.tokens is None:
            return Score(read.text, math.nan, 0, 0, size, self.method, error=read.error)
        tokens = read.tokens
        scored = np.flatnonzero(self._scored[tokens.ids])
        values, starts = scores[tokens.key][scored], tokens.starts[scored]
        starts[0] = True
        first = np.flatnonzero(starts)
        spans = [*zip(first.tolist(), [*first[1:].tolist(), len(values)], strict=True)]
        # Each of these attributes makes a list of the whole text.
        everywhere, all_names = tokens.encoding.offsets, tokens.encoding.tokens
        offsets, names = [everywhere[place] for place in scored], [all_names[place] for place in scored]
        words = tuple(
            WordScore(read.text[offsets[a][0] : offsets[b - 1][1]].strip(), b - a, float(values[a:b].sum()))
            for a, b in spans
        )
        columns = zip(names, offsets, np.cumsum(starts) - 1, values, strict=True)
        singles = tuple(
            TokenScore(token, read.text[a:b].strip(), int(word), float(value))
            for token, (a, b), word, value in columns
        )
        count = unknown.add(tokens.ids, lambda: self._unknown_parts(read.text, tokens.encoding))
        total = math.fsum(values)
        return Score(read.text, total, len(values), len(words), size, self.method, count, singles, words)

    def _unknown_parts(self, text: str, encoding: Encoding) -> list[str]:
        pairs = zip(encoding.offsets, encoding.ids, strict=True)
        return [text[begin:end] for (begin, end), token in pairs if token == self._unknown]


def score_items(
    items: Iterable[Item],
    texts: Callable[[Item], tuple[str, ...]],
    scorer: Scorer,
    *,
    progress: Progress = Progress(),
    share: Callable[[], float | None] | None = None,
) -> Iterator[tuple[Item, list[Score]]]:
    """Score items of one text or several while they are read; yield each, in order, with the scores of its texts."""
    waiting: deque[tuple[Item, int]] = deque()

    def all_texts() -> Iterator[str]:
        for item in items:
            parts = texts(item)
            waiting.append((item, len(parts)))
            yield from parts

    scores = scorer(all_texts(), progress=progress, share=share)
    for first in scores:
        item, count = waiting.popleft()
        yield item, [first, *islice(scores, count - 1)]


class _Meter:
    """Reports how far scoring is: the share of the texts that is done, within a block that of its copies."""

    def __init__(self, progress: Progress, share: Callable[[], float | None] | None) -> None:
        self.progress, self._share = progress, share
        self._taken, self._length, self._block = 0, 0, 0
        self._low = self._high = 0.0
        self._began = time.monotonic()
        self.done = 0

    def counted(self, texts: Iterable[str]) -> Iterator[str]:
        """Hand the texts on and count them."""
        self._length = len(texts) if isinstance(texts, Sized) else 0
        for text in texts:
            self._taken += 1
            yield text

    def enter_block(self, texts: int) -> None:
        """So many texts are about to be scored, the next of those that were taken."""
        self._block = texts
        known = self._share() if self._share else self._taken / self._length if self._length else None
        # Texts are read ahead of the block: of what is known to be read, only the block's part is about to be done.
        part = texts / max(1, self._taken - self.done)
        self._low, self._high = (
            self._high,
            math.nan if known is None else self._high + (known - self._high) * part,
        )

    def leave_block(self) -> None:
        """The texts of the block are scored."""
        self.advance(1.0)
        self.done, self._block = self.done + self._block, 0

    def finish(self) -> None:
        """All texts are scored, whatever the share of the file that was read seemed to be."""
        self._high = math.nan if math.isnan(self._high) else 1.0
        self.advance(1.0)

    def advance(self, part: float) -> None:
        """This part of the block is done."""
        share = self._low + (self._high - self._low) * part
        done = self.done + int(part * self._block)
        rate = done / max(time.monotonic() - self._began, 1e-9)
        metrics = {"texts": done, "texts/s": rate or None}
        self.progress.advance(None if math.isnan(share) else share, metrics)


def _usable_length(model: LanguageModel, wanted: int | None) -> int:
    least, most = model.vocabulary.overhead + 1, model.max_length
    if wanted is not None and not least <= wanted <= most:
        raise ConfigError(f"max_length must be {least} to {most:,} for this model; got {wanted:,}")
    return most if wanted is None else wanted


def _read_ahead(texts: Iterable[str]) -> Iterator[list[str]]:
    """Gather texts that are tokenised at once; a long one does not wait for others."""
    group: list[str] = []
    size = 0
    for text in texts:
        group.append(text)
        size += len(text)
        if len(group) == _TEXTS_AHEAD or size >= _CHARACTERS_AHEAD:
            yield group
            group, size = [], 0
    if group:
        yield group


def _error(text: str) -> str | None:
    """Say what keeps a text from being tokenised, if anything does."""
    if not text.strip():
        return "an empty text, nothing to score"
    if "\0" in text:
        return (
            f"a NUL character (after {plural(text.index(chr(0)), 'character')}): no text has one; remove it"
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return (
            f"half of a surrogate pair (after {plural(error.start, 'character')}): this is no text; remove it"
        )
    return None


_NO_COPIES = Copies(*[np.empty(0, dtype=np.int64)] * 6)
