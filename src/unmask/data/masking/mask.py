"""Masking: select target tokens and replace them.

All masks are a pure function of (seed, epoch, document, position in the document), see
:mod:`unmask.data.masking.random_bits`. Strategies are in :mod:`unmask.data.masking.units`, sampling at the mask rate in
:mod:`unmask.data.masking.selection`.

The default is BERT's (Devlin et al. 2019): of 15% of the tokens, 80% become the mask token, 10% a random token and 10%
stay. This is drawn for every token (so too in BERT's whole word masking), but once for a whole span (SpanBERT, Joshi et
al. 2020). Special tokens are never targets and never replacements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from unmask.data.masking.random_bits import MaskKey, random_bits, random_bits_at, threshold, uniform
from unmask.data.masking.selection import Selection, select
from unmask.data.masking.units import MaskingPlan, plan_of, units_of
from unmask.data.packing import Packed
from unmask.data.tokenizer import Vocabulary
from unmask.errors import ConfigError, plural

if TYPE_CHECKING:
    from unmask.config.settings import MaskingSettings

MASK, RANDOM, KEEP = 0, 1, 2
"""Replacement kinds: a target becomes the mask token, a random token, or stays."""


class Masked(NamedTuple):
    """``T`` masked tokens with ``M`` targets.

    Attributes:
        input_ids: ``int64 [T]``, with mask tokens and random tokens.
        target_index: ``int64 [M]``, positions of the targets, ascending.
        target_ids: ``int64 [M]``, their original ids.
    """

    input_ids: np.ndarray
    target_index: np.ndarray
    target_ids: np.ndarray


class Decisions(NamedTuple):
    """How the targets among ``T`` tokens were selected.

    Attributes:
        unit: ``int64 [T]``, the number of each token's unit.
        draw: ``float64 [T]`` in [0, 1), the random number of the unit.
        chance: ``float64 [T]``: a unit whose draw is below its chance is masked, except its special tokens.
    """

    unit: np.ndarray
    draw: np.ndarray
    chance: np.ndarray


def mask(
    packed: Packed,
    vocabulary: Vocabulary,
    settings: MaskingSettings | MaskingPlan,
    key: MaskKey,
    rate: float,
    *,
    protected: np.ndarray | None = None,
) -> Masked:
    """Mask packed sequences.

    Args:
        packed: the sequences, ``T`` tokens with their special tokens.
        vocabulary: special tokens, replacements and word tables.
        settings: masking settings, or their :func:`plan_of`, which has read the files they name. Their ``rate`` is
            not used.
        key: seed and epoch.
        rate: share of the maskable tokens to predict, in (0, 1].
        protected: ``bool [T]``, tokens that are not masked, like special tokens.

    Raises:
        ConfigError: the rate is out of range, or the strategy does not fit the tokenizer, or its file is missing.
    """
    _check_rate(rate)
    plan = settings if isinstance(settings, MaskingPlan) else plan_of(vocabulary, settings)
    maskable = _maskable(packed, vocabulary, protected)
    units = None
    if plan.settings.strategy == "token" and plan.settings.count == "bernoulli":
        selected = random_bits(packed, key.stream("select")) < threshold(rate)
    else:
        selection = select(packed, plan, key, rate, maskable)
        selected, units = _per_token(packed, selection, selection.selected), selection.first
    selected &= maskable
    return _replace(packed, np.flatnonzero(selected), plan, key, units)


def mask_at(packed: Packed, vocabulary: Vocabulary, positions: np.ndarray) -> Masked:
    """Put the mask token at the given ``int [M]`` positions, which must be ascending.

    Raises:
        ConfigError: a position is out of range, out of order or that of a special token.
    """
    positions = np.asarray(positions, dtype=np.int64)
    _check_positions(packed, vocabulary, positions)
    input_ids = packed.input_ids.copy()
    targets = input_ids[positions]
    input_ids[positions] = vocabulary.mask_id
    return Masked(input_ids, positions, targets)


def mask_decisions(
    packed: Packed, vocabulary: Vocabulary, settings: MaskingSettings | MaskingPlan, key: MaskKey, rate: float
) -> Decisions:
    """Return how :func:`mask` selects the targets with the same arguments."""
    _check_rate(rate)
    plan = settings if isinstance(settings, MaskingPlan) else plan_of(vocabulary, settings)
    selection = select(packed, plan, key, rate, _maskable(packed, vocabulary, None))
    limit = np.broadcast_to(np.asarray(selection.limit), selection.draw.shape)
    return Decisions(
        _per_token(packed, selection, np.arange(len(selection.first))),
        _per_token(packed, selection, uniform(selection.draw)),
        _per_token(packed, selection, limit.astype(np.float64) * 2.0**-64),
    )


def replacement_kinds(
    packed: Packed, index: np.ndarray, plan: MaskingPlan, key: MaskKey, units: np.ndarray | None = None
) -> np.ndarray:
    """Return ``int8 [M]``: whether targets at ``int64 [M]`` become the mask token (0), a random token (1), or stay (2).

    ``units`` has the first token of each unit, where they are known.
    """
    settings = plan.settings
    if settings.strategy == "span":
        first = units_of(packed, plan, key).first if units is None else units
        index = first[np.searchsorted(first, index, side="right") - 1]
    draw = random_bits_at(packed, index, key.stream("kind"))
    not_mask = draw >= threshold(settings.mask_share)
    return not_mask.astype(np.int8) + (draw >= threshold(settings.mask_share + settings.random_share))


def _maskable(packed: Packed, vocabulary: Vocabulary, protected: np.ndarray | None) -> np.ndarray:
    special = vocabulary.special[packed.input_ids]
    return ~special if protected is None else ~(special | protected)


def _per_token(packed: Packed, selection: Selection, values: np.ndarray) -> np.ndarray:
    """Repeat the values of units for their tokens."""
    return np.repeat(values, np.diff(selection.first, append=len(packed.input_ids)))


def _replace(
    packed: Packed, index: np.ndarray, plan: MaskingPlan, key: MaskKey, units: np.ndarray | None
) -> Masked:
    """Replace the ``int64 [M]`` targets by mask tokens and random tokens."""
    vocabulary = plan.vocabulary
    input_ids = packed.input_ids.copy()
    targets = input_ids[index]
    kind = replacement_kinds(packed, index, plan, key, units)
    input_ids[index[kind == MASK]] = vocabulary.mask_id
    random = index[kind == RANDOM]
    chosen = random_bits_at(packed, random, key.stream("token"))
    # The high half times the count, over 2**32: unbiased to 1 in 2**32 / R, and no division.
    pick = ((chosen >> np.uint64(32)) * np.uint64(len(vocabulary.replacements))) >> np.uint64(32)
    input_ids[random] = vocabulary.replacements[pick.astype(np.int64)]
    return Masked(input_ids, index, targets)


def _check_rate(rate: float) -> None:
    if not 0.0 < rate <= 1.0:
        raise ConfigError(f"the mask rate must be more than 0 and at most 1, not {rate}")


def _check_positions(packed: Packed, vocabulary: Vocabulary, positions: np.ndarray) -> None:
    count = len(packed.input_ids)
    outside = positions[(positions < 0) | (positions >= count)]
    if len(outside):
        raise ConfigError(
            f"mask position {outside[0]} is outside {plural(count, 'token')}; positions begin at 0"
        )
    if (np.diff(positions) <= 0).any():
        raise ConfigError(f"mask positions must be ascending and each given once, not {positions.tolist()}")
    special = positions[vocabulary.special[packed.input_ids[positions]]]
    if len(special):
        raise ConfigError(f"mask position {special[0]} holds a special token, which is never masked")
