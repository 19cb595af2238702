"""Trials of a model: short documents in one batch must give what each gives alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from unmask.data.batches import Batch
from unmask.data.packing import frame_positions
from unmask.data.tokenizer import Vocabulary
from unmask.errors import ConfigError

UNABLE = (TypeError, ValueError, RuntimeError, IndexError, NotImplementedError, AttributeError)
"""The trial is the test: an architecture that cannot compute a batch fails with one of these."""

# Tokens beyond the fewest that the model takes, and which are masked. The shares of masks differ, and two have one length.
_DOCUMENTS = ((4, (1, 3)), (4, ()), (3, (0,)), (2, (2,)))
_LONGEST_PROBE = 16
_TOLERANCE = 1e-4
_TOLERANCES = {torch.bfloat16: 0.1, torch.float16: 0.02}


def find_shortest(run: Callable[[int], object], name: str) -> int:
    """Find the fewest tokens that a model takes: Funnel's pooling needs five.

    Args:
        run: computes so many tokens.
        name: of the class of the model.

    Raises:
        ConfigError: it cannot compute a text of 16 tokens either.
    """

    def fails(length: int) -> str:
        try:
            run(length)
        except UNABLE as error:
            return reason_of(error)
        return ""

    if not fails(1):
        return 1
    if reason := fails(_LONGEST_PROBE):
        raise ConfigError(f"{name} cannot compute a text of {_LONGEST_PROBE} tokens ({reason})")
    return next(length + 1 for length in range(_LONGEST_PROBE - 1, 0, -1) if fails(length))


def trial_batch(vocabulary: Vocabulary, shortest: int) -> Batch:
    """Return the documents of a trial, longest first, with every place a target."""
    cuts = np.concatenate([[0], np.cumsum([shortest + more for more, _ in _DOCUMENTS])])
    ids = np.resize(vocabulary.replacements, cuts[-1])
    for begin, (_, masked) in zip(cuts.tolist(), _DOCUMENTS, strict=False):
        ids[[begin + place for place in masked]] = vocabulary.mask_id
    everywhere, numbers = np.arange(len(ids)), np.arange(len(_DOCUMENTS))
    return Batch(ids, frame_positions(cuts), cuts.astype(np.int32), everywhere, ids, numbers)


def gives(run: Callable[[Batch], Tensor], batch: Batch, wanted: Tensor) -> bool:
    """Whether a batch can be computed, and has the logits that are wanted."""
    try:
        return close(run(batch), wanted)
    except UNABLE:
        return False


def close(found: Tensor, wanted: Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether logits are the same up to rounding, relative to the largest; NaN in both counts as the same.

    Args:
        found: ``[M, V]``; ``wanted``, too.
        dtype: in which ``found`` was computed, by default that of ``wanted``.
    """
    tolerance = _TOLERANCES.get(dtype or wanted.dtype, _TOLERANCE) * float(
        wanted.nan_to_num(0, 0, 0).abs().max()
    )
    return found.shape == wanted.shape and torch.allclose(
        found, wanted, rtol=0, atol=tolerance, equal_nan=True
    )


def reason_of(error: Exception) -> str:
    """Return the first line of an error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
