"""A loaded model: filling masks, scores and explanations of one text or many, and how results show themselves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas
import pytest

import unmask

MASKED = "The river [MASK] the weather."


@pytest.fixture(scope="module")
def model(checkpoint: Callable[[str], Path]) -> unmask.Model:
    return unmask.load(checkpoint("bert"), device="cpu")


def test_a_model_is_loaded_by_name_folder_or_from_memory(
    model: unmask.Model, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    folder = checkpoint("bert")
    assert unmask.load(model) is model
    expected = model.fill(MASKED).to_dict()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}", encoding="utf-8")
    (tmp_path / "run" / "model").symlink_to(folder)
    loaded = AutoModelForMaskedLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for other in (
        unmask.load(str(folder), offline=True),
        unmask.load(tmp_path / "run"),
        unmask.load(loaded, tokenizer),
        unmask.load(loaded, str(folder)),
    ):
        assert [c["text"] for c in other.fill(MASKED).to_dict()["candidates"]] == [
            c["text"] for c in expected["candidates"]
        ]
    with pytest.raises(unmask.ConfigError, match="tokenizer="):
        unmask.load(loaded)
    assert repr(model).startswith(f"Model('{folder}': BertForMaskedLM, ")
    assert model.tokenizer.mask_token == "[MASK]"


def test_filling_one_text_gives_one_result(model: unmask.Model) -> None:
    result = model.fill(MASKED, top_k=3)
    assert isinstance(result, unmask.FillResult)
    assert len(result.candidates) == 3
    table = result.to_pandas()
    assert list(table["rank"]) == [1, 2, 3]
    assert list(table["probability"]) == [candidate.probability for candidate in result.candidates]
    assert repr(result).splitlines()[0] == f"fill of '{MASKED}'"
    assert "<table>" in result._repr_html_()
    with pytest.raises(unmask.DataError, match="mask"):
        model.fill("No gap here.")
    (same,) = unmask.fill(model, [MASKED], top_k=3)
    assert same == result
    (word,) = model.fill([MASKED], targets=["sold"])
    assert [candidate.text for candidate in word.candidates] == ["sold"]


MANY = ["The river [MASK].", None, "No gap.", "Two [MASK] [MASK].", math.nan, pandas.NA]


@pytest.mark.parametrize(
    "texts",
    [
        MANY,
        pandas.Series(MANY),
        pandas.DataFrame({"text": MANY}),
        datasets.Dataset.from_dict({"text": [text if isinstance(text, str) else None for text in MANY]}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_missing_value_has_an_error_and_the_others_are_filled(model: unmask.Model, texts: Any) -> None:
    results = model.fill(texts, progress=False)
    assert [bool(result.candidates) for result in results] == [True, False, False, True, False, False]
    assert [result.error for result in results][1] == "the text is missing (None or NaN)"
    assert results[1].error == results[4].error == results[5].error
    assert len(results.to_dict()) == 6
    assert set(results.to_pandas()["text"].dropna()) >= {"No gap.", "The river [MASK]."}


def test_scores_are_one_table(model: unmask.Model) -> None:
    texts = ["The river sold the weather.", None, "Nobody painted it."]
    results = model.score(texts)
    assert [result.error is None for result in results] == [True, False, True]
    table = results.to_pandas()
    assert table["pll"][0] == results[0].pll
    assert {"text", "pll", "per_token", "bits_per_byte", "tokens", "error"} <= set(table)
    assert len(table) == 3
    one = model.score(texts[0])
    assert one.pll == pytest.approx(results[0].pll, abs=1e-4)
    assert repr(one).splitlines()[0].startswith(f"score of '{texts[0]}': PLL ")
    assert unmask.score(model, texts[2]).tokens == results[2].tokens
    json.dumps(results.to_dict())


def test_an_explanation_shows_itself_without_a_network(model: unmask.Model) -> None:
    found = model.explain("<b>Nobody</b> in the village painted the weather.", mask_positions=[3, 5], top_k=2)
    page = found._repr_html_()
    assert page.startswith("<iframe")
    assert "&lt;!doctype" in page.lower()
    assert "<b>Nobody" not in page
    table = found.to_pandas()
    assert sorted(set(table["position"])) == [3, 5]
    assert len(table) == 4
    assert repr(found).splitlines()[0].startswith("explanation of '<b>Nobody</b> in the village")
    assert unmask.explain(model, "Nobody painted it.", seed=1, mask_rate=0.5).masking.rate == 0.5
    with pytest.raises(TypeError, match="did you mean 'mask_rate'"):
        model.explain("Nobody painted it.", rate=0.5)


def test_a_text_of_another_type_is_an_error(model: unmask.Model) -> None:
    for call in (model.fill, model.score):
        with pytest.raises(unmask.ConfigError, match="text 2 is of type int"):
            call(["A [MASK].", 2])
        with pytest.raises(unmask.ConfigError, match="not an object of type"):
            call(Path("file.txt"))


def test_html_escapes_everything(model: unmask.Model) -> None:
    html = model.fill(["<script>alert(1)</script> [MASK]", "<i> none"])._repr_html_()
    assert "<script" not in html
    assert "<i>" not in html


def test_the_tokenizer_is_copied_once_for_all_scores_and_explanations(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from unmask.data import tokenizer

    copies: list[object] = []
    copy = tokenizer.plain_copy
    monkeypatch.setattr(tokenizer, "plain_copy", lambda given: copies.append(given) or copy(given))
    model = unmask.load(checkpoint("bert"))
    for text in ("the river", "the weather"):
        model.score(text)
        model.explain(text)
    assert len(copies) == 1
