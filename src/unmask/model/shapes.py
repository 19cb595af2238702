"""Batches filled up to round sizes, so that few shapes occur.

oneDNN makes a kernel for every shape of a product it has not met of late, in a fifth of a millisecond to several, and
a packed batch hardly ever has as many tokens and targets as the one before: some dozens of kernels in every step, each
used a few times and thrown away. Between round sizes there are few steps, so that the kernels of one serve the next.
On a GPU memory that was freed is given to the next tensor of its size, and compiled layers are compiled for every shape.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from unmask.data.batches import Batch

# Round sizes from one power of two to the next; of targets fewer where layers are compiled for each of them.
_TOKEN_STEPS, _TARGET_STEPS, _COMPILED_TARGET_STEPS = 64, 16, 4


def round_up(count: int, steps: int) -> int:
    """Return the next of ``steps`` round sizes between two powers of two; small counts are their own."""
    grain = max(1, (1 << (count.bit_length() - 1)) // steps) if count else 1
    return -(-count // grain) * grain


def pad_to_round_size(batch: Batch, token: int, *, compiled: bool = False) -> Batch:
    """Fill a batch up to a round number of tokens and of targets.

    What is added are sequences of their own at the end, none longer than the longest there is, which no other attends
    to, and targets in the last place of the row, which have no ``target_ids``: no loss is computed there, so that nothing
    in the gradient changes.

    Args:
        batch: with at least one target.
        token: any entry of the vocabulary.
        compiled: whether layers are compiled for the number of targets.

    Returns:
        A batch of less than 1/64 more tokens and less than 1/16 more targets, or 1/4 where layers are compiled. What an
        objective adds to sequences and to targets stays as it is.
    """
    tokens, targets = batch.tokens, len(batch.target_index)
    more = round_up(tokens, _TOKEN_STEPS) - tokens
    spare = round_up(targets, _COMPILED_TARGET_STEPS if compiled else _TARGET_STEPS) - targets
    if not more and not spare:
        return batch
    longest = int(np.diff(batch.cu_seqlens).max())
    ends = tokens + np.minimum(np.arange(longest, more + longest, longest), more)
    of_tokens = {name: _with_zeros(array, more) for name, array in batch.of_tokens.items()}
    return replace(
        batch,
        input_ids=np.concatenate([batch.input_ids, np.full(more, token)]),
        # Anywhere, since nothing comes of them; all at the first, so that they fit any table of positions.
        position_ids=np.concatenate([batch.position_ids, np.zeros(more, dtype=batch.position_ids.dtype)]),
        cu_seqlens=np.concatenate([batch.cu_seqlens, ends.astype(batch.cu_seqlens.dtype)]),
        target_index=np.concatenate([batch.target_index, np.full(spare, tokens + more - 1)]),
        of_tokens=of_tokens,
    )


def pad_places(places: np.ndarray, least: int = 0) -> np.ndarray:
    """Fill ``int64 [M]`` places up to a round number, ``least`` at least, with place 0; no loss is computed there."""
    count = max(least, round_up(len(places), _TARGET_STEPS))
    return np.concatenate([places, np.zeros(count - len(places), dtype=np.int64)])


def _with_zeros(array: np.ndarray, more: int) -> np.ndarray:
    return np.concatenate([array, np.zeros(more, dtype=array.dtype)])
