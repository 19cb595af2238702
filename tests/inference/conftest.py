"""Models that fill masks, made once for all tests here."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unmask.inference.fill import FillMask
from unmask.model.load import load_for_inference


@pytest.fixture(scope="session")
def filler(checkpoint: Callable[[str], Path]) -> Callable[[str], FillMask]:
    made: dict[str, FillMask] = {}

    def make(architecture: str) -> FillMask:
        if architecture not in made:
            made[architecture] = FillMask(load_for_inference(checkpoint(architecture), device="cpu"))
        return made[architecture]

    return make


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Any]) -> Path:
    """A checkpoint with so few tokens that all pairs of them can be tried."""
    from transformers import BertTokenizer

    entries = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "the",
        "of",
        "telescope",
        *string.ascii_lowercase,
    ]
    entries += [f"##{letter}" for letter in string.ascii_lowercase] + [".", ","]
    tokenizer = BertTokenizer(vocab={entry: id for id, entry in enumerate(entries)}, model_max_length=64)
    folder = tmp_path_factory.mktemp("small")
    tiny_model("bert", len(entries), initializer_range=0.3).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
