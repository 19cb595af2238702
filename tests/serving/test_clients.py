"""Clients that people use, unchanged: Hugging Face's, OpenAI's, and plain requests for what they do not know."""

from __future__ import annotations

import base64
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from transformers import pipeline

from unmask.api.model import Model


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client of Hugging Face makes no call at all where the Hub is offline, not even to this machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


TEXTS = ["the harbour is quiet", "a lighthouse keeper wrote a letter in the morning"]


@pytest.fixture(params=["bert", "roberta"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def masked(models: dict[str, Any], name: str, text: str = "the {} is quiet in the morning") -> str:
    return text.replace("{}", models[name].tokenizer.mask_token)


def test_hugging_faces_client_gets_what_the_pipeline_of_transformers_gives(
    url: str, models: dict[str, Any], name: str
) -> None:
    text = masked(models, name)
    found = InferenceClient(f"{url}/models/{name}").fill_mask(text, top_k=4)
    with models[name].plain() as model:
        own = pipeline("fill-mask", model=model, tokenizer=models[name].tokenizer)
        special = set(models[name].tokenizer.all_special_ids)
        wanted = [one for one in own(text, top_k=20) if one["token"] not in special][:4]
    assert [one.token for one in found] == [one["token"] for one in wanted]
    assert [one.token_str for one in found] == [one["token_str"] for one in wanted]
    assert [one.score for one in found] == pytest.approx([one["score"] for one in wanted], rel=1e-4)
    assert all(one.sequence.endswith(" is quiet in the morning") for one in found)


def test_the_first_model_answers_at_the_address_itself(url: str, models: dict[str, Any]) -> None:
    text = masked(models, "bert")
    first, named = (InferenceClient(address).fill_mask(text) for address in (url, f"{url}/models/bert"))
    assert [one.token for one in first] == [one.token for one in named]


def test_targets_are_scored_and_ranked(url: str, models: dict[str, Any], name: str) -> None:
    found = InferenceClient(f"{url}/models/{name}").fill_mask(
        masked(models, name), targets=["harbour", "letter"]
    )
    assert {one.token_str.strip() for one in found} == {"harbour", "letter"}
    assert found[0].score >= found[1].score > 0


def test_several_masks_and_texts_are_nested(client: httpx2.Client, models: dict[str, Any]) -> None:
    two = masked(models, "bert", "the {} is {} today")
    one = masked(models, "bert")
    found = client.post("/", json={"inputs": two, "parameters": {"top_k": 2}}).json()
    assert [len(candidates) for candidates in found] == [2, 2]
    assert found[0][0]["sequence"].count("[MASK]") == found[1][0]["sequence"].count("[MASK]") == 1
    both = client.post("/", json={"inputs": [two, one], "parameters": {"top_k": 2}}).json()
    alone = client.post("/", json={"inputs": one, "parameters": {"top_k": 2}}).json()
    for ours, theirs in zip([*both[0], both[1]], [*found, alone], strict=True):
        assert [candidate["token"] for candidate in ours] == [candidate["token"] for candidate in theirs]


def test_a_text_without_a_mask_is_named(url: str, client: httpx2.Client) -> None:
    with pytest.raises(HfHubHTTPError, match="422"):
        InferenceClient(url).fill_mask("no mask at all")
    answer = client.post("/", json={"inputs": ["a [MASK]", "none"]})
    assert answer.status_code == 422
    assert answer.json()["field"] == "inputs[1]"
    assert answer.json()["error"].startswith(
        "no mask in this text: write [MASK] or <mask> where a token is wanted"
    )


def test_openais_client_gets_the_mean_of_the_last_layer(url: str, models: dict[str, Any], name: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused")
    found = client.embeddings.create(model=name, input=TEXTS)
    lm = models[name]
    with lm.plain() as model:
        encoded = lm.tokenizer(TEXTS, padding=True, return_tensors="pt")
        hidden = getattr(model, model.base_model_prefix)(**encoded).last_hidden_state
        weights = encoded["attention_mask"].unsqueeze(-1)
        wanted = ((hidden * weights).sum(1) / weights.sum(1)).detach().numpy()
    vectors = np.array([one.embedding for one in found.data])
    assert np.abs(vectors - wanted).max() < 1e-5
    assert found.model == name
    assert found.usage.prompt_tokens == int(encoded["attention_mask"].sum())
    plain = client.embeddings.create(model=name, input=TEXTS[0], encoding_format="float").data[0].embedding
    assert np.allclose(plain, vectors[0], atol=1e-6)
    scaled = client.embeddings.create(model=name, input=TEXTS, extra_body={"normalize": True})
    assert np.linalg.norm([one.embedding for one in scaled.data], axis=1) == pytest.approx(1, abs=1e-5)
    assert [one.id for one in client.models.list()] == ["bert", "roberta"]


def test_base64_is_of_little_endian_floats(client: httpx2.Client) -> None:
    body = {"input": TEXTS[0], "encoding_format": "base64"}
    found = client.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    plain = client.post("/v1/embeddings", json={"input": TEXTS[0]}).json()["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(found), dtype="<f4").tolist() == pytest.approx(plain, abs=1e-7)


def test_errors_have_the_shape_of_openai(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
    with pytest.raises(openai.NotFoundError, match="no such model; there are bert, roberta"):
        client.embeddings.create(model="none", input="a")
    with pytest.raises(openai.UnprocessableEntityError, match="the model takes") as caught:
        client.embeddings.create(model="bert", input=["a", "harbour " * 600])
    assert caught.value.param == "input[1]"


def test_fill_score_and_explain_are_those_of_python(
    client: httpx2.Client, models: dict[str, Any], name: str
) -> None:
    own = Model(models[name], name)
    texts = [masked(models, name), "the ___ is quiet"]
    found = client.post("/fill", json={"inputs": texts, "model": name, "parameters": {"top_k": 3}}).json()
    wanted = [result.to_dict() for result in own.fill(texts, 3)]
    assert [[one["text"] for one in row["candidates"]] for row in found] == [
        [one["text"] for one in row["candidates"]] for row in wanted
    ]
    for ours, theirs in zip(found, wanted, strict=True):
        assert [one["probability"] for one in ours["candidates"]] == pytest.approx(
            [one["probability"] for one in theirs["candidates"]], abs=1e-5
        )
    for method in ("original", "within_word_l2r", "whole_word", "estimate"):
        body = {"inputs": TEXTS, "model": name, "parameters": {"method": method}}
        scores = client.post("/score", json=body).json()
        assert [one["pll"] for one in scores] == pytest.approx(
            [one.pll for one in own.score(TEXTS, method=method)], abs=1e-4
        )
        assert {one["method"] for one in scores} == {method}
    steps = client.post(
        "/explain", json={"inputs": TEXTS[1], "model": name, "parameters": {"seed": 3}}
    ).json()
    assert steps["labels"] == own.explain(TEXTS[1], seed=3).labels
    assert steps["model"] == name


def test_one_text_that_cannot_be_filled_does_not_fail_the_others(client: httpx2.Client) -> None:
    found = client.post("/fill", json={"inputs": ["no mask", "the [MASK]"]}).json()
    assert [bool(row.get("error")) for row in found] == [True, False]
    scores = client.post("/score", json={"inputs": ["", "the harbour"]}).json()
    assert [bool(row.get("error")) for row in scores] == [True, False]
    assert scores[0]["pll"] is None
