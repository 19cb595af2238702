"""Batches of random text for the tests of models and training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from unmask.data.batches import Batch
from unmask.data.tokenizer import Vocabulary
from unmask.model.load import load_masked_lm
from unmask.model.masked_lm import MaskedLM

BatchMaker = Callable[..., Batch]


@pytest.fixture(scope="session")
def make_batch() -> BatchMaker:
    """Return `make(vocabulary, lengths, rate=0.3, seed=0) -> Batch` of random tokens, longest sequence first."""

    def make(vocabulary: Vocabulary, lengths: list[int], rate: float = 0.3, seed: int = 0) -> Batch:
        draw = np.random.default_rng(seed)
        lengths = sorted(lengths, reverse=True)
        cuts = np.concatenate([[0], np.cumsum(lengths)])
        ids = draw.choice(vocabulary.replacements, cuts[-1]).astype(np.int64)
        index = np.flatnonzero(draw.random(len(ids)) < rate)
        targets = ids[index]
        ids[index] = vocabulary.mask_id
        positions = np.concatenate([np.arange(length) for length in lengths])
        return Batch(ids, positions, cuts.astype(np.int32), index, targets, np.arange(len(lengths)))

    return make


@pytest.fixture
def load(checkpoint: Callable[[str], Path]) -> Callable[..., MaskedLM]:
    """Return `load(architecture, **arguments)`: a tiny model from its checkpoint, on the CPU."""
    return lambda architecture, **arguments: load_masked_lm(
        str(checkpoint(architecture)), device="cpu", **arguments
    )
