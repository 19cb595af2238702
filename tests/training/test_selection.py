"""The exported weights are chosen on one half of the held-out documents, and the metrics are of the other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import Messages

import unmask
from unmask.run.selection import halves
from unmask.storage import read_rows

Run = Callable[..., unmask.RunResult]


@pytest.fixture
def run(checkpoint: Callable[[str], Path], tmp_path: Path, corpus_text: list[str]) -> Run:
    """Return `run(**options)`: a short run on 300 documents with 100 others held out."""

    def make(**options: Any) -> unmask.RunResult:
        short: dict[str, Any] = {"max_steps": 6, "batch_tokens": 256, "precision": "fp32", "device": "cpu"}
        text = {"model": checkpoint("bert"), "heldout": corpus_text[300:], "out": tmp_path / "run"}
        return unmask.train(options.pop("text", corpus_text[:300]), **(short | text | options))

    return make


def test_the_half_of_a_document_depends_on_nothing_but_its_text() -> None:
    keys = np.random.default_rng(0).integers(0, 2**64, 4000, dtype=np.uint64)
    chosen = halves(keys)
    assert 0.47 < chosen.mean() < 0.53
    assert halves(keys[:7]).tolist() == chosen[:7].tolist()
    assert halves(keys[::-1]).tolist() == chosen[::-1].tolist()
    low = keys < np.uint64(2**64 // 20)  # which documents are held out depends on the same keys
    assert 0.35 < chosen[low].mean() < 0.65


def test_of_few_documents_ten_are_reported() -> None:
    for seed in range(20):
        keys = np.random.default_rng(seed).integers(0, 2**64, 13, dtype=np.uint64)
        assert 1 <= halves(keys).sum() <= 3
        assert halves(np.tile(keys, 2)).tolist() == [*halves(keys).tolist()] * 2
    assert 0 < halves(keys[:9]).sum() < 9  # none has an interval in any case


def test_ten_documents_with_a_target_are_reported() -> None:
    for seed in range(20):
        draw = np.random.default_rng(seed)
        keys = draw.integers(0, 2**64, 15, dtype=np.uint64)
        targeted = np.arange(15) < 12  # a short document may have none
        chosen = halves(keys, targeted)
        assert chosen.any()
        assert (~chosen & targeted).sum() >= 10


def test_weights_are_chosen_on_documents_that_are_not_reported(run: Run) -> None:
    result = run()
    found, corpus = result.metrics, json.loads(result.folder.info.read_text())["corpus"]
    selection = found["selection"]
    assert not selection["is_reported"]
    assert (corpus["selection_documents"], corpus["heldout_documents"]) == (
        selection["documents"],
        found["documents"],
    )
    assert selection["documents"] + found["documents"] == 100
    assert 30 <= found["documents"] <= 70
    assert selection["before"]["loss"] != found["before"]["loss"]
    best = min(
        (row for row in read_rows(result.folder.metrics) if "eval_loss" in row),
        key=lambda row: row["eval_loss"],
    )
    assert best["step"] == found["step"]
    if best["step"] == result.steps:
        assert best["eval_loss"] != pytest.approx(found["loss"], abs=1e-6)
    said = f"chosen on {selection['documents']} held-out documents that are not in the metrics"
    assert said in result.folder.report.read_text(encoding="utf-8")
    assert said in (result.folder.model / "README.md").read_text(encoding="utf-8")
    assert json.loads(result.folder.adaptation.read_text())["domain"]["documents"] <= found["documents"]


def test_too_few_documents_serve_for_both_and_this_is_said(run: Run, corpus_text: list[str]) -> None:
    heard: list[str] = []
    result = run(heldout=corpus_text[300:301], progress=Messages(heard))
    assert not [line for line in heard if "can only memorise" in line]
    assert [line for line in heard if "since 1 document cannot be divided" in line]
    assert result.metrics["selection"]["is_reported"]
    assert "the same as reported" in result.folder.report.read_text(encoding="utf-8")


def test_a_text_too_small_to_learn_from_is_warned_of(run: Run, corpus_text: list[str]) -> None:
    heard: list[str] = []
    run(text=corpus_text[:3], max_steps=1, progress=Messages(heard))
    assert [
        line
        for line in heard
        if line.startswith("warning: the training text has") and "can only memorise" in line
    ]


def test_where_nothing_is_chosen_all_documents_are_reported(run: Run) -> None:
    result = run(patience=0, settings={"train.export_best": False})
    assert result.metrics["selection"] is None
    assert result.metrics["documents"] == 100


def test_a_new_head_has_no_before(
    run: Run, tmp_path: Path, wordpiece_tokenizer: Any, tiny_model: Any, corpus_text: list[str]
) -> None:
    tiny_model("bert", len(wordpiece_tokenizer)).base_model.save_pretrained(tmp_path / "encoder")
    wordpiece_tokenizer.save_pretrained(tmp_path / "encoder")
    result = run(model=tmp_path / "encoder", general=corpus_text[:50])
    assert result.metrics["before"] is None
    assert result.metrics["general"]["before"] is None
    assert not result.folder.adaptation.exists()
    for path in (result.folder.report, result.folder.model / "README.md"):
        text = path.read_text(encoding="utf-8")
        assert "came without an LM head" in text
        assert "orgotten" not in text
        frequent = result.metrics["baselines"]["most_frequent_token"]["loss"]
        assert ("so this is no gain" in text) == (result.metrics["loss"] > frequent)
