"""Masking: which tokens are predicted, and what the model sees in their place.

Every decision is a pure function of (seed, epoch, document, position in the document), by a counter-based
generator: a 64-bit hash of those four, with no state between calls. Batch size, packing, workers, processes
and resuming do not enter. The mixing function is the finaliser of SplitMix64 (Steele, Lea & Flood 2014).

The default is BERT's (Devlin et al. 2019): 15% of the tokens, of which 80% become the mask token, 10% a random
one and 10% stay. Special tokens are never targets and never replacements.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from unmask.data.packing import Packed
from unmask.data.settings import MaskingSettings
from unmask.data.tokenizer import Vocabulary
from unmask.errors import ConfigError

EVALUATION_EPOCH = -1
"""The epoch that is reserved for evaluation, so that its masks never change and never meet those of training."""
EVALUATION_SEED = 0
"""The seed of every evaluation, so that two models are asked for the same positions."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


class Masked(NamedTuple):
    """What masking made of ``T`` tokens, of which ``M`` are to be predicted.

    Attributes:
        input_ids: ``int64 [T]``, with replacements in place.
        target_index: ``int64 [M]``, positions of the targets, ascending.
        target_ids: ``int64 [M]``, the tokens that stood there.
    """

    input_ids: np.ndarray
    target_index: np.ndarray
    target_ids: np.ndarray


@dataclass(frozen=True)
class MaskKey:
    """What the masks of one pass are a function of, beside document and position."""

    seed: int
    epoch: int

    def stream(self, purpose: str) -> np.uint64:
        """Return the 64-bit start of one independent stream of draws."""
        text = f"unmask masks 1/{self.seed}/{self.epoch}/{purpose}"
        return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


EVALUATION_KEY = MaskKey(EVALUATION_SEED, EVALUATION_EPOCH)


def mask(
    packed: Packed, vocabulary: Vocabulary, settings: MaskingSettings, key: MaskKey, rate: float
) -> Masked:
    """Mask packed sequences.

    Args:
        packed: the sequences, ``T`` tokens with their special tokens.
        vocabulary: ids of special tokens, replacements and word tables.
        settings: strategy and split; its ``rate`` is not read, since a schedule may have moved it.
        key: seed and epoch.
        rate: share of the text's tokens to predict, in (0, 1].

    Raises:
        ConfigError: the strategy needs words and the tokenizer does not say where they begin.
    """
    draw = draws(packed, key.stream("select"))
    if settings.strategy == "word":
        draw = _per_unit(draw, word_starts(packed, vocabulary))
    selected = draw < _threshold(rate)
    selected &= ~vocabulary.special[packed.input_ids]
    index = np.flatnonzero(selected)
    return _replace(packed, index, vocabulary, settings, key)


def mask_at(packed: Packed, vocabulary: Vocabulary, positions: np.ndarray) -> Masked:
    """Put the mask token at the given ``int [M]`` positions, which must be ascending."""
    input_ids = packed.input_ids.copy()
    targets = input_ids[positions]
    input_ids[positions] = vocabulary.mask_id
    return Masked(input_ids, positions, targets)


def draws(packed: Packed, stream: np.uint64) -> np.ndarray:
    """Return ``uint64 [T]``: one uniform draw per token, a function of stream, document and position alone."""
    lengths = np.diff(packed.cu_seqlens)
    starts = packed.cu_seqlens[:-1].astype(np.uint64)
    with np.errstate(over="ignore"):
        base = packed.keys + stream + (packed.offsets.astype(np.uint64) - starts) * _GOLDEN
        counters = np.repeat(base, lengths)
        counters += np.arange(len(counters), dtype=np.uint64) * _GOLDEN
    return mix(counters)


def mix(counters: np.ndarray) -> np.ndarray:
    """Scramble ``uint64`` counters in place and return them: neighbours become independent uniform numbers."""
    scratch = np.empty_like(counters)
    for shift, factor in ((30, _MIX_1), (27, _MIX_2)):
        np.right_shift(counters, np.uint64(shift), out=scratch)
        np.bitwise_xor(counters, scratch, out=counters)
        np.multiply(counters, factor, out=counters)
    np.right_shift(counters, np.uint64(31), out=scratch)
    np.bitwise_xor(counters, scratch, out=counters)
    return counters


def shuffled(count: int, key: MaskKey) -> np.ndarray:
    """Return ``int64 [count]``: the numbers below ``count`` in an order drawn from the key."""
    with np.errstate(over="ignore"):
        counters = np.arange(count, dtype=np.uint64) * _GOLDEN + key.stream("order")
    return np.argsort(mix(counters), kind="stable")


def uniform(draw: np.ndarray) -> np.ndarray:
    """Return draws as ``float64`` in [0, 1), for people to look at."""
    return (draw >> np.uint64(11)).astype(np.float64) * 2.0**-53


def word_starts(packed: Packed, vocabulary: Vocabulary) -> np.ndarray:
    """Return ``bool [T]``: where words begin; a sequence always begins one.

    Raises:
        ConfigError: the tokenizer's vocabulary carries no mark of words.
    """
    if vocabulary.words is None:
        raise ConfigError(
            "masking whole words needs a tokenizer that marks where words begin (WordPiece's ##, byte-level Ġ, "
            "Unigram ▁); this one does not. Use masking.strategy=token"
        )
    starts = vocabulary.words.starts(packed.input_ids)
    starts[packed.cu_seqlens[:-1]] = True
    return starts


def _per_unit(draw: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Give every token of a unit the draw of the unit's first token."""
    first = np.flatnonzero(starts)
    return np.repeat(draw[first], np.diff(first, append=len(draw)))


def _threshold(share: float) -> np.uint64:
    """The draw below which a share of all draws lies."""
    return np.uint64(min(int(share * 2.0**64), 2**64 - 1))


def _replace(
    packed: Packed, index: np.ndarray, vocabulary: Vocabulary, settings: MaskingSettings, key: MaskKey
) -> Masked:
    """Put mask tokens and random tokens where the split says, at the ``int64 [M]`` targets."""
    input_ids = packed.input_ids.copy()
    targets = input_ids[index]
    kind = draws_at(packed, index, key.stream("kind"))
    masked = kind < _threshold(settings.mask_share)
    random = ~masked & (kind < _threshold(settings.mask_share + settings.random_share))
    input_ids[index[masked]] = vocabulary.mask_id
    chosen = draws_at(packed, index[random], key.stream("token"))
    # The high half times the count, over 2**32: unbiased to 1 in 2**32 / R, and no division.
    pick = ((chosen >> np.uint64(32)) * np.uint64(len(vocabulary.replacements))) >> np.uint64(32)
    input_ids[index[random]] = vocabulary.replacements[pick.astype(np.int64)]
    return Masked(input_ids, index, targets)


def draws_at(packed: Packed, index: np.ndarray, stream: np.uint64) -> np.ndarray:
    """Return ``uint64 [M]``: the draws of :func:`draws` at ``int64 [M]`` ascending positions only."""
    segment = np.searchsorted(packed.cu_seqlens, index, side="right") - 1
    position = (index - packed.cu_seqlens[segment] + packed.offsets[segment]).astype(np.uint64)
    with np.errstate(over="ignore"):
        return mix(packed.keys[segment] + stream + position * _GOLDEN)
