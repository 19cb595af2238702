"""Learn a Unigram vocabulary (Kudo 2018) deterministically.

The trainer of the tokenizers library gives another vocabulary in every process. Here the candidates are merges of BPE,
their probabilities are those in the best segmentation of each word (Viterbi training), and the candidates that gain
least over the two that they were merged from are dropped until the vocabulary has its size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from unmask.data.words import is_ideograph

WORD_MARK = "▁"
"""Begins a word."""
_UNKNOWN = "<unknown>"
_KEPT = 0.75
_ROUNDS = 2
_LONGEST = 24
_UNSEEN = 0.5


def alphabet_of(merged: Iterable[str], size: int) -> list[str]:
    """Return the characters that get entries: the frequent ones, up to half of the vocabulary, then others up to an eighth.

    Args:
        merged: characters and merges of BPE, the first learned first.
        size: entries of the vocabulary; a character that is no ideograph may need two.
    """
    # Rare characters would fill the vocabulary; the frequent ones are in the earliest merges.
    entries = list(merged)
    common = dict.fromkeys(character for entry in entries if len(entry) > 1 for character in entry)
    everything = dict.fromkeys(sorted({character for entry in entries for character in entry}))
    kept, used = {WORD_MARK}, 0
    for characters, room in ((common, size // 2), (everything, size // 8)):
        for character in characters:
            entries_of = 1 if is_ideograph(character) else 2
            if character not in kept and used + entries_of <= room:
                kept.add(character)
                used += entries_of
    return sorted(kept - {WORD_MARK})


def unigram_pieces(
    merges: Mapping[str, tuple[str, ...]], words: Mapping[str, int], size: int
) -> list[tuple[str, float]]:
    """Return the pieces with their log-probabilities, the likeliest first.

    Args:
        merges: characters and merges of BPE, the first learned first, each with the two that it consists of.
        words: occurrences by word, which begins with the mark.
        size: most pieces.
    """
    if not words:
        return []
    alphabet = {WORD_MARK, *alphabet_of(merges, size)}
    pieces = [entry for entry in merges if set(entry) <= alphabet and len(entry) <= _LONGEST]
    scores = {piece: -math.log(rank) for rank, piece in enumerate(pieces, start=1)}
    while True:
        for _ in range(_ROUNDS):
            counts = _counts(words, scores)
            total = math.log(sum(counts.values()))
            scores = {piece: math.log(count) - total for piece, count in counts.items()}
        if len(scores) <= size:
            return sorted(scores.items(), key=lambda item: (-item[1], item[0]))
        kept = max(size, int(_KEPT * len(scores)))
        gains = {
            piece: math.inf if len(piece) == 1 else counts[piece] * (score - _split(piece, scores, merges))
            for piece, score in scores.items()
        }
        best = sorted(scores, key=lambda piece: (-gains[piece], piece))[:kept]
        scores = {piece: scores[piece] for piece in best}


def _counts(words: Mapping[str, int], scores: Mapping[str, float]) -> dict[str, float]:
    """Return how often each piece occurs in the best segmentations of the words."""
    from tokenizers import Tokenizer, models

    core = Tokenizer(models.Unigram([(_UNKNOWN, 0.0), *scores.items()], 0))
    totals = np.zeros(1 + len(scores))
    for encoded, count in zip(core.encode_batch_fast(list(words)), words.values(), strict=True):
        np.add.at(totals, encoded.ids, count)
    return dict(zip(scores, np.maximum(totals[1:], _UNSEEN).tolist(), strict=True))


def _split(piece: str, scores: Mapping[str, float], merges: Mapping[str, tuple[str, ...]]) -> float:
    """Return the log-probability of a piece as the two that it was merged from, which may have been dropped."""
    return sum(scores[part] if part in scores else _split(part, scores, merges) for part in merges[piece])
