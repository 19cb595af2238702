"""The checks of masks: the same for any split, other ones in every epoch, no special token, the rate that was asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from unmask.data.batches import Batch
from unmask.data.masking.mask import mask
from unmask.data.masking.random_bits import MaskKey
from unmask.data.packing import Packed
from unmask.data.training_stream import Cursor, TrainingStream
from unmask.errors import plural
from unmask.promises.case import Case, Measurement
from unmask.training.position import Position

_SIGMAS = 5.0
_COPIES = 2000
_LENGTHS = range(2, 21)

_Masks = dict[int, tuple[bytes, bytes]]


def _masks(batches: Iterable[Batch]) -> _Masks:
    """Return, for every sequence, its input ids and the positions of its targets."""
    found = {}
    for batch in batches:
        cuts = batch.cu_seqlens
        for row, number in enumerate(batch.sequence_ids.tolist()):
            begin, end = np.searchsorted(batch.target_index, cuts[row : row + 2])
            targets = batch.target_index[begin:end] - cuts[row]
            found[number] = (batch.input_ids[cuts[row] : cuts[row + 1]].tobytes(), targets.tobytes())
    return found


def _differing(found: _Masks, wanted: _Masks) -> int:
    return sum(found.get(number) != wanted.get(number) for number in {*found, *wanted})


def masks_split(case: Case) -> Measurement:
    stream, numbers = case.stream(), case.all
    wanted = _masks([case.batch(numbers)])
    worst = 0
    for world in (1, 2, 4):
        for parts in (1, 7, 32):
            shares = [
                stream.micro_batches(Cursor(), numbers, case.rate, parts, rank, world)
                for rank in range(world)
            ]
            worst = max(worst, _differing(_masks(batch for share in shares for batch in share), wanted))
    with ThreadPoolExecutor(4) as pool:
        made = pool.map(lambda number: case.batch(np.array([number])), numbers[::-1])
        worst = max(worst, _differing(_masks(made), wanted))
    return Measurement(
        worst, 0, f"{len(numbers)} sequences; 1, 2, 4 processes; 1, 7, 32 micro-batches; 4 workers"
    )


def masks_resumed(case: Case) -> Measurement:
    steps = 12
    undisturbed = list(_walk(case.stream(), Cursor(), steps, case.rate))
    differing = 0
    for stop in (1, steps // 2, steps - 1):
        saved = json.loads(json.dumps(Position(stop, undisturbed[stop][0]).to_dict()))
        again = _walk(case.stream(), Position.from_dict(saved).cursor, steps - stop, case.rate)
        pairs = zip(again, undisturbed[stop:], strict=True)
        differing += sum(_differing(found, wanted) for (_, found), (_, wanted) in pairs)
    return Measurement(differing, 0, f"stopped after 1, {steps // 2} and {steps - 1} of {steps} steps")


def _walk(stream: TrainingStream, cursor: Cursor, steps: int, rate: float) -> Iterator[tuple[Cursor, _Masks]]:
    for _ in range(steps):
        numbers, following = stream.take(cursor)
        yield cursor, _masks(stream.micro_batches(cursor, numbers, rate, 1))
        cursor = following


def masks_fresh(case: Case) -> Measurement:
    """Two epochs, and two seeds, share targets only by chance: a share of ``rate`` of them."""
    first, rate = case.batch(case.all), case.rate
    worst = 0.0
    for key in (MaskKey(case.seed, 1), MaskKey(case.seed + 1, 0)):
        other = case.source.batch(case.all, key, rate)
        worst = max(worst, abs(float(np.isin(first.target_index, other.target_index).mean()) - rate))
    detail = f"{len(first.target_ids)} targets; chance repeats {rate:.0%} of them"
    settings = case.source.masking
    if settings.strategy == "terms" or settings.count == "fixed":
        # Tokens have unequal probabilities, so chance repeats more of them, but not all.
        return Measurement(worst, (1 - rate) / 2, detail)
    runs = 1 + int((np.diff(first.target_index) > 1).sum())
    return Measurement(worst, _SIGMAS * math.sqrt(rate * (1 - rate) / runs), detail)


def special_tokens(case: Case) -> Measurement:
    tokenizer = case.model.tokenizer
    # From the tokenizer itself, not from the vocabulary that masking uses.
    special = np.array([*map(int, tokenizer.all_special_ids)])
    wrong = targets = 0
    for epoch in range(10):
        batch = case.source.batch(case.all, MaskKey(case.seed, epoch), 0.5)
        seen = batch.input_ids[batch.target_index]
        replaced = seen[(seen != batch.target_ids) & (seen != tokenizer.mask_token_id)]
        wrong += int(np.isin(batch.target_ids, special).sum() + np.isin(replaced, special).sum())
        targets += len(batch.target_ids)
    return Measurement(wrong, 0, f"{targets:,} targets in ten epochs at 50%")


def rate_of_short_documents(case: Case) -> Measurement:
    """The share of targets in short documents is the rate; the largest difference of any length counts."""
    vocabulary, off = case.model.vocabulary, {}
    draw = np.random.default_rng(case.seed)
    keys = draw.integers(1, 2**63, _COPIES).astype(np.uint64)
    for length in _LENGTHS:
        text = draw.choice(vocabulary.replacements, (_COPIES, length))
        framed = [np.tile(ids, (_COPIES, 1)) for ids in (vocabulary.prefix, vocabulary.suffix)]
        rows = np.concatenate([framed[0], text, framed[1]], axis=1).astype(np.int64)
        cuts = np.arange(_COPIES + 1) * rows.shape[1]
        offsets = np.full(_COPIES, -len(vocabulary.prefix))
        packed = Packed(rows.ravel(), cuts, keys, offsets)
        targets = mask(packed, vocabulary, case.source.plan, case.key, case.rate).target_index
        off[length] = abs(len(targets) / text.size - case.rate)
    # A document may be a single unit, so that its tokens are one draw.
    tolerance = _SIGMAS * math.sqrt(case.rate * (1 - case.rate) / _COPIES)
    worst = max(off, key=off.__getitem__)
    detail = f"{_COPIES:,} documents of each length from {_LENGTHS[0]} to {_LENGTHS[-1]} tokens, at a rate of {case.rate:.0%}"
    return Measurement(off[worst], tolerance, f"{detail}; largest difference at {plural(worst, 'token')}")
