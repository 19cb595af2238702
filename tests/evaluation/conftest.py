"""Text and corpora for evaluations."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from unmask.config.settings import MaskingSettings
from unmask.data.batches import TextSource
from unmask.evaluation.text_cache import EvaluationText
from unmask.model.load import load_for_inference
from unmask.model.masked_lm import MaskedLM

Source = Callable[..., TextSource]


@pytest.fixture(scope="session")
def documents() -> list[str]:
    """24 documents of 1 to 8 sentences each, the first with a word that no other has."""
    import random

    draw = random.Random(7)
    words = "river boat war telescope the a keeper village patient counterbalanced in of Carolina election".split()
    found = ["Zeppelins rose over the unbelievably patient village."]
    while len(found) < 24:
        sentences = (
            " ".join(draw.choice(words) for _ in range(draw.randint(4, 14))).capitalize() + "."
            for _ in range(draw.randint(1, 8))
        )
        found.append(" ".join(sentences))
    return found


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Return `write(texts, name="text.jsonl") -> Path`."""

    def write(texts: Sequence[str], name: str = "text.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def loaded(checkpoint: Callable[[str], Path]) -> Callable[[str], MaskedLM]:
    """Return `load(architecture) -> MaskedLM`, each once a session."""
    known: dict[str, MaskedLM] = {}

    def load(architecture: str) -> MaskedLM:
        if architecture not in known:
            known[architecture] = load_for_inference(
                str(checkpoint(architecture)), device="cpu", offline=True
            )
        return known[architecture]

    return load


@pytest.fixture
def source(jsonl: Callable[..., Path]) -> Iterator[Source]:
    """Yield `make(model, texts, max_length=64, **masking) -> TextSource`."""
    texts_in_use = ExitStack()

    def make(model: MaskedLM, texts: Sequence[str], max_length: int = 64, **masking: object) -> TextSource:
        corpus = texts_in_use.enter_context(EvaluationText([str(jsonl(texts))])).corpus(model.tokenizer)
        return TextSource(
            corpus,
            np.arange(len(corpus)),
            model.vocabulary,
            MaskingSettings(**masking),
            max_length,  # type: ignore[arg-type]
        )

    with texts_in_use:
        yield make
