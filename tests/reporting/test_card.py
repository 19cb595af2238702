"""The model card: front matter that the Hub reads, the figures of the run, and nothing private."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from unmask.errors import DataError
from unmask.reporting.card import hub_name, model_card, write_missing_card
from unmask.run_folder import RunFolder
from unmask.storage import write_json


def front_and_body(card: str) -> tuple[dict[str, Any], str]:
    start, front, body = card.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(front), body


def with_model(folder: RunFolder, **model: Any) -> str:
    config = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
    config["model"] |= model
    folder.config.write_text(yaml.safe_dump(config), encoding="utf-8")
    return model_card(folder)


def test_front_matter_from_scratch_claims_only_what_is_known(run: RunFolder) -> None:
    front, _ = front_and_body(model_card(run))
    assert front.pop("model-index")
    assert front == {
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "tags": ["masked-lm", "unmask", "from-scratch"],
    }


def test_metrics_for_the_hub_say_what_they_rest_on(adapted: RunFolder) -> None:
    front, _ = front_and_body(model_card(adapted))
    ((result,),) = [each["results"] for each in front["model-index"]]
    assert {one["name"]: one["value"] for one in result["metrics"]} == {
        f"{name} at masked tokens": json.loads(adapted.evaluation.read_text(encoding="utf-8"))[name]
        for name in ("accuracy", "loss", "perplexity")
    }
    assert (
        result["dataset"]["name"]
        == "held-out text: 23,412 masked tokens in 1,196 documents, every target replaced by the mask token"
    )
    assert result["dataset"]["args"]["masked_tokens"] == 23_412


@pytest.mark.parametrize(
    ("inputs", "heldout", "expected"),
    [
        (["hf://some/corpus"], [], "some/corpus"),
        (["hf://some/corpus", "notes/"], [], "text"),
        (["hf://some/corpus"], ["held-out/"], "text"),
        (["notes/"], ["hf://some/corpus"], "some/corpus"),
    ],
)
def test_a_data_set_is_named_only_if_all_held_out_text_is_of_it(
    adapted: RunFolder, inputs: list[str], heldout: list[str], expected: str
) -> None:
    config = yaml.safe_load(adapted.config.read_text(encoding="utf-8"))
    config["data"] |= {"inputs": inputs, "heldout": heldout}
    adapted.config.write_text(yaml.safe_dump(config), encoding="utf-8")
    front, _ = front_and_body(model_card(adapted))
    assert front["model-index"][0]["results"][0]["dataset"]["type"] == expected


def test_front_matter_of_an_adapted_checkpoint(adapted: RunFolder) -> None:
    front, body = front_and_body(model_card(adapted))
    assert front["base_model"] == "google-bert/bert-base-uncased"
    assert front["datasets"] == ["some/corpus"]
    assert "domain-adaptation" in front["tags"]
    assert "huggingface.co/google-bert/bert-base-uncased)" in body


def test_figures_are_those_of_the_run(adapted: RunFolder) -> None:
    _, body = front_and_body(model_card(adapted))
    assert (
        "The model predicts 55.7% of 23,412 masked tokens in held-out text (every target replaced by the mask token) "
        "correctly, with a loss of 2.064." in body
    )
    assert "15.0% of the text masked, every target replaced by the mask token. Every row" in body
    assert "| unchanged | 587 | 89.2% | 0.612 |" in body
    assert "run_mlm.py prints" in body
    assert "| bidirectional n-gram | 32.0% | 4.702 | 110.2 |" in body
    assert "| **this model** | 55.7% | 2.064 | 7.88 |" in body
    assert "| accuracy | 46.4% | 55.7% | +9.3 points |" in body
    assert "| Parameters | 4,460,544 |" in body


def test_loading_code_compiles_and_names_plain_transformers(run: RunFolder) -> None:
    blocks = model_card(run).split("```python\n")[1:]
    assert len(blocks) == 2
    for block in blocks:
        code = block.split("```")[0]
        compile(code, "card", "exec")
        assert "from transformers import" in code
        assert "unmask" not in code


def test_no_path_and_no_command_is_published(run: RunFolder) -> None:
    card = with_model(run, name="/home/someone/secret/base-model", tokenizer="../private/words")
    front, body = front_and_body(card)
    assert "base_model" not in front
    assert "`base-model`" in body
    for private in ("/home", "secret", "private", "runs/", "my demo", "2026"):
        assert private not in card


def test_local_folder_is_not_a_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    assert hub_name("models/mine") is None
    assert hub_name("org/name@v1") == "org/name"
    assert hub_name("bert-base-uncased") == "bert-base-uncased"
    assert [hub_name(name) for name in ("./x", "/x", "a/b/c", "~/x", None)] == [None] * 5


def test_text_cannot_break_out_of_its_place(run: RunFolder) -> None:
    evaluation = json.loads(run.evaluation.read_text(encoding="utf-8"))
    evaluation["baselines"] = {"a|b<script>\n# x": {"accuracy": 0.1, "loss": 1.0}}
    write_json(run.evaluation, evaluation)
    card = with_model(run, preset="```\n<script>\n---\n")
    _, body = front_and_body(card)
    assert "| a\\|b\\<script\\> \\# x | 10.0%" in body
    settings = body.split("````yaml\n")[1].split("\n````")[0]
    assert yaml.safe_load(settings)["model"]["preset"] == "```\n<script>\n---\n"


def test_before_the_evaluation_the_card_says_so(run: RunFolder) -> None:
    run.evaluation.unlink()
    run.info.unlink()
    _, body = front_and_body(model_card(run))
    assert "The model has not been evaluated." in body


def test_values_that_are_not_finite_stand_in_the_card(run: RunFolder) -> None:
    evaluation = json.loads(run.evaluation.read_text(encoding="utf-8"))
    write_json(run.evaluation, evaluation | {"loss": math.nan})
    card = model_card(run)
    assert "**NaN or infinite in the final evaluation: loss.**" in card
    assert "| **this model** | 36.4% | not finite | 51.47 |" in card
    (result,) = front_and_body(card)[0]["model-index"][0]["results"]
    assert [one["type"] for one in result["metrics"]] == ["accuracy", "perplexity"]


def test_held_out_text_of_ones_own_is_not_called_the_same_source(run: RunFolder) -> None:
    assert "comes from the same source" in model_card(run)
    config = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    config["data"]["heldout"] = ["other.txt"]
    run.config.write_text(yaml.safe_dump(config), encoding="utf-8")
    assert "comes from the same source" not in model_card(run)


def test_no_run_here(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        model_card(RunFolder(tmp_path))


def test_no_path_of_other_texts_and_lists_is_published(adapted: RunFolder) -> None:
    config = yaml.safe_load(adapted.config.read_text(encoding="utf-8"))
    config["data"] |= {"replay": ["/home/me/wiki"], "forgetting_eval": ["/home/me/valid.txt"]}
    config["masking"] |= {"terms": "/home/me/terms.tsv"}
    adapted.config.write_text(yaml.safe_dump(config), encoding="utf-8")
    assert "/home/me" not in model_card(adapted)


def test_a_missing_card_is_written_and_one_that_is_there_stays(run: RunFolder) -> None:
    write_missing_card(run)  # there is no model yet
    assert not run.model.exists()
    run.model.mkdir()
    write_missing_card(run)
    card = run.model / "README.md"
    assert card.read_text(encoding="utf-8") == model_card(run)
    card.write_text("mine", encoding="utf-8")
    write_missing_card(run)
    assert card.read_text(encoding="utf-8") == "mine"
