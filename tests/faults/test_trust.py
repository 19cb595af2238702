"""Trust: offline means no call, nothing is unpickled, and nobody else's code is run."""

from __future__ import annotations

import ast
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from unmask.cli.main import main
from unmask.errors import ConfigError
from unmask.model.load import load_for_inference

SOURCE = Path(__file__).parents[2] / "src" / "unmask"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Forbid sockets and the names of hosts; return the calls that were made all the same."""
    calls: list[str] = []

    def forbid(name: str) -> Any:
        def refuse(*args: Any, **options: Any) -> NoReturn:
            calls.append(f"{name}{args}")
            raise AssertionError(f"a network call: {name}{args}")

        return refuse

    class Forbidden(socket.socket):
        def __init__(self, *args: Any, **options: Any) -> None:
            forbid("socket")(*args)

    monkeypatch.setattr(socket, "socket", Forbidden)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, forbid(name))
    yield calls
    assert calls == []


def test_the_guard_guards(no_network: list[str]) -> None:
    import urllib.request

    with pytest.raises(AssertionError, match="a network call"):
        urllib.request.urlopen("http://localhost:1/", timeout=1)
    assert no_network
    no_network.clear()


def test_offline_makes_no_network_call(
    no_network: list[str],
    tmp_path: Path,
    checkpoint: Any,
    corpus_text: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # the flag alone has to do it
    text, model, run = tmp_path / "text.txt", str(checkpoint("bert")), tmp_path / "run"
    text.write_text("\n".join(corpus_text), encoding="utf-8")
    train = [
        "train",
        str(text),
        "--model",
        model,
        "-o",
        str(run),
        "--max-steps",
        "2",
        "--batch-tokens",
        "256",
    ]
    assert main([*train, "--offline", "--json"]) == 0, capsys.readouterr().err
    for command in (
        ["eval", str(run / "model"), "--data", str(text), "--offline"],
        ["fill", str(run / "model"), "a [MASK] word", "--offline"],
        ["prepare", str(text), "--model", model, "-o", str(tmp_path / "shards"), "--offline"],
    ):
        assert main(command) == 0, (command, capsys.readouterr().err)


def test_offline_refuses_a_name_of_the_hub_without_a_call(
    no_network: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    assert main(["fill", "no-such-org/no-such-model", "a [MASK] word", "--offline"]) == 2
    assert "no-such-org/no-such-model" in capsys.readouterr().err


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_the_source_unpickles_nothing_and_runs_no_code_of_others() -> None:
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = {name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in _names(node)}
        modules |= {
            node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module
        }
        assert not modules & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}, path
        for name, call in calls(tree):
            assert name not in ("pickle.load", "pickle.loads", "eval", "exec", "yaml.load"), path
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            if name == "torch.load":  # tensors only, in a process of its own
                assert path.name == "convert.py", path
                assert given["weights_only"] == "True", path
            assert given.get("trust_remote_code", "False") == "False", path
            assert given.get("allow_pickle", "False") == "False", path
            if name.startswith("AutoModel") and name.endswith(".from_pretrained"):
                assert given["use_safetensors"] == "True", path


def _names(node: ast.Import) -> Iterator[str]:
    return (alias.name for alias in node.names)


@pytest.fixture
def pickled(checkpoint: Any, tmp_path: Path) -> Path:
    """A checkpoint whose weights lie in pytorch_model.bin only."""
    import torch
    from safetensors.torch import load_file

    folder = tmp_path / "pickled"
    shutil.copytree(checkpoint("bert"), folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_pickled_weights_are_refused(pickled: Path) -> None:
    with pytest.raises(ConfigError, match=r"weights in pytorch_model\.bin") as caught:
        load_for_inference(str(pickled), offline=True)
    assert "\n" not in str(caught.value)


def test_remote_code_is_refused(checkpoint: Any, tmp_path: Path) -> None:
    folder = tmp_path / "remote"
    shutil.copytree(checkpoint("bert"), folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {
        "model_type": "mine",
        "auto_map": {"AutoConfig": "mine.Config", "AutoModelForMaskedLM": "mine.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n", encoding="utf-8")
    with pytest.raises(ConfigError):
        load_for_inference(str(folder), offline=True)
    assert not (tmp_path / "ran").exists()
