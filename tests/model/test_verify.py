"""What the trial at load is too short to see is found before a model scores or trains, and remembered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unmask.config.load import load_config
from unmask.errors import ConfigError
from unmask.model import packed_layout
from unmask.model.load import load_for_inference
from unmask.model.verify import verify
from unmask.progress import Progress
from unmask.run.train import train
from unmask.scoring.scorer import score
from unmask.storage import read_json


class Listener(Progress):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def warning(self, text: str) -> None:
        self.heard.append(text)


@pytest.fixture
def leak(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let the documents of rows of more than 60 tokens see each other, which is more than the trial has."""
    real = packed_layout.PackedLayout.of

    def whole(cu_seqlens: np.ndarray, *args: Any) -> packed_layout.PackedLayout:
        return real(cu_seqlens[[0, -1]] if cu_seqlens[-1] > 60 else cu_seqlens, *args)

    monkeypatch.setattr(packed_layout.PackedLayout, "of", whole)
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "verified"


TEXTS = ["The river painted the weather while it rained.", "A young engineer measured two letters."] * 4


def test_scores_do_not_depend_on_neighbours(
    leak: Path, checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener()
    model = load_for_inference(str(checkpoint("bert")), device="cpu")
    assert model.batching == "packed"
    together = [found.pll for found in score(TEXTS, model, progress=listener)]
    alone = [next(score([text], model)).pll for text in TEXTS]
    assert together == pytest.approx(alone, rel=1e-5)
    assert model.batching == "padded"
    assert listener.heard == [
        "BertForMaskedLM: texts in a batch change each other's output when batches are packed; they are padded "
        "instead, which is slower"
    ]
    # The verdict is kept: it is not computed again, and holds for these weights alone.
    monkeypatch.setattr("unmask.model.verify._holds", lambda model: pytest.fail("computed again"))
    again = load_for_inference(str(checkpoint("bert")), device="cpu")
    verify(again, listener)
    assert (again.batching, len(listener.heard)) == ("padded", 1)
    other = load_for_inference(str(checkpoint("bert")), device="cpu")
    with torch.no_grad():
        next(other.model.parameters()).add_(1e-3)
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        verify(other)


def test_a_run_trains_without_packing(leak: Path, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(TEXTS * 5), encoding="utf-8")
    flags = {"data.inputs": [str(text)], "model.name": str(checkpoint("bert")), "train.max_steps": 1}
    flags |= {"train.device": "cpu", "train.precision": "fp32", "train.batch_tokens": 128}
    listener = Listener()
    result = train(load_config(None, flags=flags), tmp_path / "run", progress=listener)
    assert read_json(result.folder.root / "run.json")["packed"] is False
    assert any("change each other's output" in text for text in listener.heard)


def test_a_model_that_no_batching_helps_is_refused(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path))
    monkeypatch.setattr("unmask.model.verify._holds", lambda model: False)
    model = load_for_inference(str(checkpoint("mpnet")), device="cpu")
    with pytest.raises(ConfigError, match="no figure of it can be trusted"):
        verify(model, Listener())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "[]", '"mended"'])
def test_a_damaged_or_unwritable_cache_is_no_error(
    content: str, checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path))
    for _ in range(2):
        model = load_for_inference(str(checkpoint("roberta")), device="cpu")
        verify(model)
        assert model.verified
        (kept,) = (tmp_path / "verified").iterdir()
        kept.write_text(content, encoding="utf-8")
    monkeypatch.setenv("UNMASK_CACHE", str(kept))  # a file where a folder should be
    model = load_for_inference(str(checkpoint("roberta")), device="cpu")
    verify(model)
    assert model.verified
