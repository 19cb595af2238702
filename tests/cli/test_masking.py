"""The verbs about masks, from the outside."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from unmask.cli.main import main


@pytest.fixture
def text(tmp_path: Path, corpus_text: list[str]) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(corpus_text), encoding="utf-8")
    return path


@pytest.mark.parametrize("strategy", ["token", "word", "span"])
def test_masks_shows_what_was_achieved(
    strategy: str, text: Path, checkpoint: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(
        ["masks", str(text), "--tokenizer", str(checkpoint("bert")), "--strategy", strategy, "--json"]
    )
    answer = json.loads(capsys.readouterr().out)
    assert code == 0
    assert answer["strategy"] == strategy
    assert answer["rate"] == pytest.approx(0.15, abs=0.03)
    assert any(token["target"] for token in answer["sample"])
    assert not any(token["target"] and token["special"] for token in answer["sample"])
    assert answer["whole_words"] == 1.0 or strategy == "token"


def test_masks_draws_for_people(
    text: Path, checkpoint: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["masks", str(text), "--tokenizer", str(checkpoint("bert"))]) == 0
    shown = capsys.readouterr().out
    assert "rate achieved" in shown
    assert "[MASK]" in shown


def test_masks_needs_a_tokenizer(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["masks", str(text)]) == 2
    assert "--tokenizer" in capsys.readouterr().err


def test_terms_are_found_and_used(
    tmp_path: Path, text: Path, checkpoint: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    domain, out, model = tmp_path / "domain.txt", tmp_path / "terms.tsv", str(checkpoint("bert"))
    lines = text.read_text(encoding="utf-8").splitlines()
    domain.write_text("\n".join(f"{line} zebra" for line in lines), encoding="utf-8")
    assert (
        main(["terms", str(domain), "--general", str(text), "--tokenizer", model, "-o", str(out), "--json"])
        == 0
    )
    assert out.read_text(encoding="utf-8").splitlines()[1].startswith("zebra\t")
    assert json.loads(capsys.readouterr().out) == {"file": str(out), "terms": ["zebra"]}
    found = [
        "masks",
        str(domain),
        "--tokenizer",
        model,
        "--strategy",
        "terms",
        "--set",
        f"masking.terms={out}",
        "--json",
    ]
    assert main(found) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["rate"] == pytest.approx(0.15, abs=0.03)


def test_a_strategy_without_its_list_says_so(
    text: Path, checkpoint: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["masks", str(text), "--tokenizer", str(checkpoint("bert")), "--strategy", "terms"]) == 2
    assert "masking.terms" in capsys.readouterr().err
