"""``unmask masks``: statistics of masking on a corpus, and a masked passage to look at. No model is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unmask.data.batches import TextSource
from unmask.data.masking.mask import KEEP, MASK, RANDOM, Masked, mask, replacement_kinds
from unmask.data.masking.random_bits import MaskKey
from unmask.data.masking.units import in_terms, word_starts
from unmask.data.order import ORDER, Order, permutation
from unmask.data.packing import Packed, split_by_tokens
from unmask.data.tokenizer import load_tokenizer, token_names

_BUDGET = 1 << 16
_LONGEST_WORD = 6
_REPLACEMENT_KINDS = {MASK: "mask", RANDOM: "random", KEEP: "keep"}


def survey(source: TextSource, tokens: int = 1_000_000, seed: int = 0, epoch: int = 0) -> dict[str, Any]:
    """Mask text as training does, and return statistics.

    Args:
        source: the text, with its strategy and rate.
        tokens: tokens to mask at most; sequences are taken in the order of the epoch.
        seed: of the masks.
        epoch: of the masks, counted from 0.

    Returns:
        A dictionary for JSON: ``strategy``, ``count``, ``mask_rate``, ``seed``, ``epoch``; ``sequences`` and those
        ``without_targets``; ``tokens`` that can be masked, ``targets``, ``rate``; ``split`` into ``mask``,
        ``random`` and ``keep``; ``by_word_length``, a row for words of 1, 2, … tokens (``or_more`` in the last)
        with ``words`` and the ``rate`` of those that are masked; ``whole_words``, the share of the words with a
        target whose tokens are all targets; ``in_terms``, the share of the words that are part of a term, ``None`` for other strategies;
        ``mean_span``, the mean length of a run of targets (spans that touch are one), in ``tokens`` and
        ``words``. Statistics of words are ``None`` where the tokenizer does not mark words.
    """
    key = MaskKey(seed, epoch)
    tally = _Tally()
    for packed, masked in _masked(source, tokens, key):
        tally.add(packed, masked, source, key)
    settings = source.masking
    about = {"strategy": settings.strategy, "count": settings.count, "mask_rate": settings.rate}
    return about | {"seed": seed, "epoch": epoch} | tally.statistics()


def sample(source: TextSource, seed: int = 0, epoch: int = 0, length: int = 64) -> list[dict[str, Any]]:
    """Return one masked passage of the corpus, token by token.

    Returns:
        Dictionaries with ``token`` (as the vocabulary spells it), ``shown`` (what the model sees), ``target``
        (``mask``, ``random`` or ``keep``, or ``None``), ``word`` (whether a word begins here; ``None`` where the
        tokenizer does not mark words) and ``special``.

    Raises:
        ConfigError: the tokenizer of the shards cannot be loaded.
    """
    tokenizer = load_tokenizer(str(source.corpus.folder / "tokenizer"), offline=True)
    key = MaskKey(seed, epoch)
    count = len(source.sequences)
    first = permutation(count, key).at(np.arange(min(32, count)))
    number = first[np.argmax(np.minimum(source.sizes(first), length))]  # a long one of the first few
    packed = source.pack(np.array([number]))
    masked = mask(packed, source.vocabulary, source.plan, key, source.masking.rate)
    kind = dict(
        zip(
            masked.target_index.tolist(),
            replacement_kinds(packed, masked.target_index, source.plan, key),
            strict=True,
        )
    )
    names = token_names(tokenizer, source.vocabulary, packed.input_ids.tolist())
    shown = token_names(tokenizer, source.vocabulary, masked.input_ids.tolist())
    starts = (
        word_starts(packed, source.vocabulary).tolist() if source.vocabulary.words else [None] * len(names)
    )
    special = source.vocabulary.special[packed.input_ids].tolist()
    return [
        {
            "token": names[place],
            "shown": shown[place],
            "target": _REPLACEMENT_KINDS[int(kind[place])] if place in kind else None,
            "word": starts[place],
            "special": special[place],
        }
        for place in range(min(length, len(names)))
    ]


def _masked(source: TextSource, tokens: int, key: MaskKey) -> Iterator[tuple[Packed, Masked]]:
    """Yield parts of the text with their masks, about ``tokens`` tokens in all."""
    numbers, sizes, _ = Order(source, key.seed).take(ORDER, (key.epoch, 0), tokens)
    for part in split_by_tokens(sizes, _BUDGET):
        packed = source.pack(numbers[part])
        yield packed, mask(packed, source.vocabulary, source.plan, key, source.masking.rate)


@dataclass
class _Tally:
    """Sums over parts of the text."""

    count: Counter[str] = field(default_factory=Counter)
    words: np.ndarray = field(default_factory=lambda: np.zeros(_LONGEST_WORD + 1, dtype=np.int64))
    masked_words: np.ndarray = field(default_factory=lambda: np.zeros(_LONGEST_WORD + 1, dtype=np.int64))

    def add(self, packed: Packed, masked: Masked, source: TextSource, key: MaskKey) -> None:
        maskable = ~source.vocabulary.special[packed.input_ids]
        target = np.zeros(len(maskable), dtype=bool)
        target[masked.target_index] = True
        begins = packed.cu_seqlens[:-1]
        follows = np.append(False, target[:-1])
        follows[begins] = False
        self.count["sequences"] += len(begins)
        self.count["without_targets"] += int((np.add.reduceat(target, begins, dtype=np.int64) == 0).sum())
        self.count["tokens"] += int(maskable.sum())
        self.count["targets"] += len(masked.target_index)
        self.count["spans"] += int((target & ~follows).sum())
        kind = replacement_kinds(packed, masked.target_index, source.plan, key)
        for number, name in _REPLACEMENT_KINDS.items():
            self.count[name] += int((kind == number).sum())
        if source.plan.phrases is not None:
            found = in_terms(packed, source.plan)
            self.count["in_terms"] += int(found.sum())
            self.count["words"] += len(found)
        if source.vocabulary.words is not None:
            self._add_words(np.flatnonzero(word_starts(packed, source.vocabulary)), maskable, target)

    def _add_words(self, first: np.ndarray, maskable: np.ndarray, target: np.ndarray) -> None:
        sizes = np.add.reduceat(maskable, first, dtype=np.int64)
        hit = np.add.reduceat(target, first, dtype=np.int64)
        length = np.minimum(sizes, _LONGEST_WORD)
        self.words += np.bincount(length, minlength=_LONGEST_WORD + 1)
        self.masked_words += np.bincount(length, hit == sizes, _LONGEST_WORD + 1).astype(np.int64)
        self.count["words_with_targets"] += int((hit > 0).sum())
        self.count["whole"] += int(((hit > 0) & (hit == sizes)).sum())

    def statistics(self) -> dict[str, Any]:
        count = self.count
        known = bool(self.words.any())
        rows = [
            {
                "tokens": length,
                "or_more": length == _LONGEST_WORD,
                "words": int(self.words[length]),
                "rate": _share(self.masked_words[length], self.words[length]),
            }
            for length in range(1, _LONGEST_WORD + 1)
        ]
        return {
            **{name: count[name] for name in ("sequences", "without_targets", "tokens", "targets")},
            "rate": _share(count["targets"], count["tokens"]),
            "split": {name: _share(count[name], count["targets"]) for name in _REPLACEMENT_KINDS.values()},
            "by_word_length": rows if known else None,
            "whole_words": _share(count["whole"], count["words_with_targets"]) if known else None,
            "in_terms": _share(count["in_terms"], count["words"]),
            "mean_span": {
                "tokens": _share(count["targets"], count["spans"]),
                "words": _share(count["words_with_targets"], count["spans"]) if known else None,
            },
        }


def _share(part: float, whole: float) -> float | None:
    return float(part) / float(whole) if whole else None
