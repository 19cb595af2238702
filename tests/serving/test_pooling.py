"""Embeddings of a folder with modules of sentence-transformers, pooled as these say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from tests.conftest import Messages
from tests.serving.conftest import serving

from unmask.api.model import load
from unmask.model.pooling import MEAN, Pooling, read_pooling

TEXTS = ["the harbour is quiet", "a lighthouse keeper wrote a letter in the morning"]
POOL: dict[str, Callable[[Any], Any]] = {
    "mean": lambda tokens: tokens.mean(0),
    "cls": lambda tokens: tokens[0],
    "max": lambda tokens: tokens.max(0).values,
}
OLD = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens"}


def folder_with(model: Path, folder: Path, settings: dict[str, Any], *more: str) -> Path:
    """Return a copy of a model with a pooling module and others behind it."""
    shutil.copytree(model, folder)
    kinds = ("Transformer", "Pooling", *more)
    paths = ["", "1_Pooling", *(f"{number}_{kind}" for number, kind in enumerate(more, 2))]
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(zip(paths, kinds, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.mark.parametrize("mode", POOL)
@pytest.mark.parametrize("normalize", [False, True])
def test_a_folder_is_embedded_as_it_says(
    mode: str, normalize: bool, checkpoint: Callable[[str], Path], tmp_path: Path, serve: Callable[..., str]
) -> None:
    flags = {name: kind == mode for kind, name in OLD.items()}
    settings = {"pooling_mode": mode} if normalize else flags  # written by newer versions, and by older ones
    more = ["Normalize"] if normalize else []
    folder = folder_with(checkpoint("bert"), tmp_path / "model", settings, *more)
    pooling = read_pooling(str(folder), offline=True)
    url = serve(poolings={"bert": pooling})
    about = next(one for one in httpx2.get(f"{url}/models").json() if one["name"] == "bert")
    assert (about["pooling"], about["normalized"]) == (mode, normalize)
    lm = load(folder).lm
    with lm.plain() as model:
        for text in TEXTS:
            tokens = model.base_model(**lm.tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            wanted = POOL[mode](tokens).detach().numpy()
            wanted = wanted / np.linalg.norm(wanted) if normalize else wanted
            answer = httpx2.post(f"{url}/v1/embeddings", json={"input": text, "model": "bert"}, timeout=60)
            assert np.abs(np.array(answer.json()["data"][0]["embedding"]) - wanted).max() < 1e-5


@pytest.mark.parametrize(
    ("settings", "more"),
    [
        ({"pooling_mode": "lasttoken"}, []),
        ({"pooling_mode": ["mean", "max"]}, []),
        ({OLD["mean"]: True, OLD["max"]: True}, []),
        ({}, []),
        ({"pooling_mode": "cls"}, ["Dense"]),
    ],
)
def test_what_is_not_computed_is_said(
    settings: dict[str, Any],
    more: list[str],
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    folder = folder_with(checkpoint("bert"), tmp_path / "model", settings, *more)
    said: list[str] = []
    assert read_pooling(str(folder), offline=True, progress=Messages(said)) == MEAN
    assert len(said) == 1
    assert "Embeddings are the mean over the tokens instead" in said[0]


def test_a_folder_without_modules_is_embedded_by_the_mean(checkpoint: Callable[[str], Path]) -> None:
    assert read_pooling(str(checkpoint("bert")), offline=True) == Pooling("mean", normalize=False)


def test_an_encoder_without_a_head_gives_embeddings_and_nothing_else(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint("bert"), tmp_path / "encoder"))
    whole = load(folder).lm
    whole.model.base_model.save_pretrained(folder)
    with serving({"encoder": load(folder).lm}) as url:
        answer = httpx2.post(f"{url}/v1/embeddings", json={"input": TEXTS[0]})
        assert len(answer.json()["data"][0]["embedding"]) == whole.hidden_size
        for route in ("", "fill", "score", "explain"):
            refused = httpx2.post(f"{url}/{route}", json={"inputs": "the [MASK]"})
            assert refused.status_code == 422
            assert "has no LM head" in refused.json()["error"]
