"""Models compared in use: what is measured, and that a model which gives no embeddings is left out there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unmask
from unmask.benchmark import uses
from unmask.cli.main import main
from unmask.errors import ConfigError, DataError
from unmask.model.load import load_for_inference

QUICK: dict[str, Any] = {"seconds": 0.01, "offline": True, "progress": False}


@pytest.fixture
def text(corpus_text: list[str], tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n".join([*corpus_text, "a text about [MASK] and <mask>"]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("architecture", ["bert", "roberta", "albert"])
def test_one_token_in_the_middle_of_a_short_text_is_masked(
    architecture: str, load: Callable[..., Any], corpus_text: list[str]
) -> None:
    model = load(architecture)
    pairs = list(
        uses._short_texts(model, ["  ".join(corpus_text[:40]), "one", "", "all of [MASK] this here"])
    )
    assert len(pairs) > 20
    core = uses.TextEncoder(model.tokenizer).core
    for masked, plain in pairs:
        before, after = masked.split("[MASK]")
        assert plain.startswith(before)
        assert plain.endswith(after)
        assert len(before) + len(after) < len(plain)
        assert len(core.encode(plain, add_special_tokens=False).ids) <= uses._TOKENS + 2


def test_models_are_compared_with_the_first(text: Path, checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint("bert")
    loaded = unmask.load(checkpoint("roberta"))
    found = unmask.bench(text, models=[folder, loaded], **QUICK)
    first, second = found.models
    assert first.model == str(folder)
    assert first.megabytes == pytest.approx((folder / "model.safetensors").stat().st_size / 1e6)
    assert list(first.texts_per_second) == ["fill, one after another", "fill, together", "embed", "score"]
    assert all(rate and rate > 0 for rate in (*first.texts_per_second.values(), *second.ratio.values()))
    assert set(first.ratio.values()) == {1.0}
    assert 8 < found.tokens <= uses._TOKENS + 2
    assert len(found.to_pandas()) == 8
    assert "speed of 2 models" in repr(found)


def test_the_ratio_is_that_of_each_round() -> None:
    rates = np.array([[10.0, 20.0], [1.0, 4.0], [10.0, 20.0]])
    model: Any = type("Model", (), {"name": "m", "precision_name": "fp32", "parameters": 1})
    found = uses._speed("m", model, {"fill": rates})
    assert (found.texts_per_second["fill"], found.ratio["fill"]) == (20.0, 2.0)


def test_a_model_without_hidden_states_is_left_out_where_they_are_needed(
    text: Path, checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = load_for_inference(checkpoint("bert"))

    def none(*_: Any) -> Any:
        raise ConfigError("no hidden states")

    monkeypatch.setattr(other, "hidden_states", none)
    found = unmask.bench(text, models=[checkpoint("bert"), unmask.Model(other, "other")], **QUICK).models[1]
    assert (found.texts_per_second["embed"], found.ratio["embed"]) == (None, None)
    assert found.ratio["score"]


def test_without_text_to_mask_it_says_so(checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(DataError, match="no text of 4 tokens or more"):
        unmask.bench(["a"], models=checkpoint("bert"), **QUICK)


def test_models_are_compared_or_one_is_trained(checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match="models= are compared, model= or preset= is trained"):
        unmask.bench(models=[checkpoint("bert")], preset="bert-mini")


def test_the_verb_prints_a_row_for_each_model(
    text: Path,
    checkpoint: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    fits_schema: Callable[[str, Any], None],
) -> None:
    folder = str(checkpoint("bert"))
    verb = ["bench", folder, folder, "--data", str(text), "--seconds", "0.1", "--offline"]
    assert main([*verb, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    fits_schema("bench", found)
    assert [model["precision"] for model in found["models"]] == ["fp32", "fp32"]
    assert main(verb) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("texts a second on ")
    assert "x)" in shown
    assert main(["bench", folder, "--preset", "bert-mini"]) == 2
    assert "--preset, --model" in capsys.readouterr().err
