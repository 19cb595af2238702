"""Models by URL."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import unmask
from unmask.cli.serve import _named
from unmask.errors import ConfigError, DataError

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def model(store: Any, checkpoint: Any) -> str:
    return str(store.put_folder(checkpoint("bert"), "models/bert"))


def weights(store: Any) -> int:
    return sum(method == "GET" and "model.safetensors" in path for method, path, _ in store.requests)


def test_verbs_take_them_and_fetch_them_once(store: Any, model: str, run: Run, tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("\n".join(f"The river {number} is wide." for number in range(40)))
    for line in (
        ["fill", model, "The [MASK] is here."],
        ["eval", model, "--data", text, "--max-length", "32"],
        ["train", text, "--model", model, "--max-steps", "1", "--max-length", "32", "-o", tmp_path / "run"],
        [
            "tokenizer",
            "extend",
            text,
            "--model",
            model,
            "--min-count",
            "1",
            "--add",
            "2",
            "-o",
            tmp_path / "new",
        ],
    ):
        code, out, error = run(*line)
        assert code == 0, error
        assert str(tmp_path / "cache") not in out
    assert weights(store) == 1
    assert f"name: {model}" in (tmp_path / "run" / "config.yaml").read_text()


def test_python(model: str) -> None:
    loaded = unmask.load(model, progress=False)
    assert loaded.name == model
    assert loaded.lm.name == model
    with pytest.raises(ConfigError, match="as a string"):
        unmask.load(Path(model), progress=False)


def test_the_model_of_a_run(store: Any, checkpoint: Any, run: Run) -> None:
    store.put_folder(checkpoint("bert"), "run/model")
    store.put("run/run.json", "{}")
    store.put("run/checkpoints/step-00000001/model.safetensors", b"large")
    code, _, error = run("fill", f"{store.bucket}/run", "The [MASK] is here.")
    assert code == 0, error
    assert not [path for _, path, _ in store.requests if "step-" in path.partition("?")[0]]
    assert weights(store) == 1


def test_what_is_no_model(store: Any, model: str, run: Run) -> None:
    store.put("young/run.json", "{}")
    for url, code, said in (
        (f"{store.bucket}/young", 2, "is a run that has no model yet; finish it with 'unmask train -o"),
        (f"{store.bucket}/models", 2, f"there are models in folders below it, for example {model}"),
        (f"{store.bucket}/absent", 3, f"{store.bucket}/absent: no such object or folder"),
        ("s3://no-such-bucket-here/run", 3, "there is no such bucket"),
        ("hf://org/name", 2, "give org/name"),
    ):
        found, _, error = run("fill", url, "The [MASK] is here.", "-q")
        assert (found, error.count("\n")) == (code, 1)
        assert said in error


@pytest.mark.parametrize("error", ["AccessDenied", "ExpiredToken", "SlowDown"])
def test_a_failing_server(store: Any, model: str, run: Run, error: str, tmp_path: Path) -> None:
    store.fault(method="GET", path="model.safetensors", error=error)
    code, _, shown = run("fill", model, "The [MASK] is here.", "-q")
    assert (code, shown.count("\n")) == (3, 1)
    assert f"{model}/model.safetensors: cannot be read: " in shown
    cache = tmp_path / "cache" / "models"
    assert [path.name for path in cache.iterdir() if not path.name.endswith(".lock")] == []


def test_a_model_that_is_replaced_is_fetched_again(store: Any, model: str, run: Run) -> None:
    assert run("fill", model, "The [MASK] is here.")[0] == 0
    config = json.loads(store.get("models/bert/config.json"))
    store.put("models/bert/config.json", json.dumps(config | {"note": "new"}))
    assert run("fill", model, "The [MASK] is here.")[0] == 0
    assert weights(store) == 2


def test_a_model_that_changes_while_it_is_fetched(
    store: Any, model: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s3fs import S3FileSystem

    fetch = S3FileSystem.get_file

    def replaced(self: Any, remote: str, local: str, *rest: Any, **options: Any) -> Any:
        if remote.endswith("model.safetensors"):
            store.put("models/bert/config.json", store.get("models/bert/config.json") + b" ")
        return fetch(self, remote, local, *rest, **options)

    monkeypatch.setattr(S3FileSystem, "get_file", replaced)
    code, _, error = run("fill", model, "The [MASK] is here.", "-q")
    assert (code, error.count("\n")) == (3, 1)
    assert f"{model}: the object changed since it was listed" in error


def test_offline(store: Any, model: str, run: Run) -> None:
    assert run("fill", model, "The [MASK] is here.", "--offline")[0] == 3
    with pytest.raises(DataError, match="offline"):
        unmask.load(model, offline=True, progress=False)
    assert store.requests == []


def test_names_of_a_server() -> None:
    found = _named(["s3://b/runs/notes", "old=s3://b/date=1/notes", "gs://b/x=1/run/model"])
    assert found == {
        "notes": "s3://b/runs/notes",
        "old": "s3://b/date=1/notes",
        "run": "gs://b/x=1/run/model",
    }


@pytest.mark.slow
def test_an_exported_model(store: Any, model: str, run: Run, tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("\n".join(f"The river {number} is wide." for number in range(40)))
    code, _, error = run("export", model, "-o", tmp_path / "onnx", "--format", "onnx", "--data", text)
    assert code == 0, error
    url = store.put_folder(tmp_path / "onnx", "forms/onnx")
    code, _, error = run("fill", url, "The [MASK] is here.")
    assert code == 0, error
