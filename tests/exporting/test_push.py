"""Pushing to a server that speaks what huggingface_hub asks of the Hub: what goes up, and what never does."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

import unmask
from unmask.errors import ConfigError


@dataclass
class Hub:
    """What the server was sent."""

    url: str = ""
    status: int = 200
    requests: list[str] = field(default_factory=list)
    repositories: dict[str, Any] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    commits: int = 0


class Handler(BaseHTTPRequestHandler):
    """The few routes of the Hub that an upload uses."""

    hub: Hub

    def log_message(self, *_: Any) -> None:
        return

    def _answer(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_PUT(self) -> None:
        self.hub.blobs[self.path.rpartition("/")[2]] = self._read()
        self._answer({})

    def do_POST(self) -> None:
        hub, content = self.hub, self._read()
        hub.requests.append(self.path)
        if hub.status != 200:
            return self._answer({"error": "refused for the test"}, hub.status)
        if self.path == "/api/repos/create":
            given = json.loads(content)
            hub.repositories[f"{given['organization']}/{given['name']}"] = given
            return self._answer({"url": f"{hub.url}/{given['organization']}/{given['name']}"})
        if self.path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if "/branch/" in self.path:
            hub.branches.setdefault(self.path.rpartition("/")[2], {})
            return self._answer({})
        if "/preupload/" in self.path:
            files = json.loads(content)["files"]
            large = (".safetensors", ".onnx")
            modes = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(large) else "regular",
                    "shouldIgnore": False,
                }
                for f in files
            ]
            return self._answer({"files": modes})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {
                    "oid": o["oid"],
                    "size": o["size"],
                    "actions": {"upload": {"href": f"{hub.url}/blob/{o['oid']}"}},
                }
                for o in json.loads(content)["objects"]
            ]
            return self._answer({"transfer": "basic", "objects": objects})
        if "/commit/" in self.path:
            branch = hub.branches[self.path.rpartition("/")[2]]
            for line in content.splitlines():
                row = json.loads(line)
                value = row["value"]
                if row["key"] == "file":
                    branch[value["path"]] = base64.b64decode(value["content"])
                elif row["key"] == "lfsFile":
                    branch[value["path"]] = hub.blobs[value["oid"]]
            hub.commits += 1
            return self._answer(
                {"commitUrl": f"{hub.url}/o/n/commit/1", "commitOid": "1" * 40, "pullRequestUrl": None}
            )
        return self._answer({"error": f"no route {self.path}"}, 404)

    def do_GET(self) -> None:
        self.hub.requests.append(self.path)
        if re.search(r"/api/models/[^/]+/[^/]+(/revision/|/tree/|$)", self.path):
            names = sorted({name for branch in self.hub.branches.values() for name in branch})
            if "/tree/" in self.path:
                return self._answer([{"type": "file", "path": name, "size": 1, "oid": "0"} for name in names])
            siblings = [{"rfilename": name} for name in names]
            return self._answer({"id": "o/n", "sha": "1" * 40, "siblings": siblings})
        return self._answer({"error": f"no route {self.path}"}, 404)


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield hub
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def run(checkpoint: Callable[[str], Path], heldout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step."""
    out = tmp_path_factory.mktemp("runs") / "notes"
    unmask.train(
        heldout,
        model=str(checkpoint("bert")),
        out=out,
        max_steps=1,
        settings={"data.heldout_share": 0.3},
        progress=False,
    )
    return out


def push(hub: Hub, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``unmask push`` against the server."""
    command = [sys.executable, "-m", "unmask", "push", *map(str, arguments)]
    own = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_test", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | own | environment, timeout=300
    )


def test_a_run_goes_up_in_one_commit_without_texts_or_checkpoints(hub: Hub, run: Path, exported: Any) -> None:
    form = exported("bert", "onnx-int8").folder
    done = push(hub, run, "org/notes", "--private", "--export", form, "--json")
    assert done.returncode == 0, done.stderr
    there = hub.branches["main"]
    assert hub.commits == 1
    assert hub.repositories["org/notes"]["visibility"] == "private"
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "README.md",
        "onnx/model_quantized.onnx",
    } <= there.keys()
    assert "onnx/parity-onnx-int8.json" in there
    assert there["model.safetensors"] == (run / "model" / "model.safetensors").read_bytes()
    words = [
        name
        for name in there
        if re.search(r"checkpoint|shard|metrics|heldout|run\.json|examples|config\.yaml", name)
    ]
    assert not words
    assert {row["file"] for row in json.loads(done.stdout)["files"]} == there.keys()
    card = there["README.md"].decode()
    front = yaml.safe_load(card.split("---")[1])
    metrics = {one["type"]: one["value"] for one in front["model-index"][0]["results"][0]["metrics"]}
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    assert metrics == {name: evaluation[name] for name in ("accuracy", "loss", "perplexity")}
    assert "the patient was given" not in card


def test_a_stray_file_in_the_model_folder_stays_here(hub: Hub, run: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(run / "model", folder)
    for name in ("notes.txt", "optimizer.pt", "train.jsonl", ".env", "training_args.bin"):
        (folder / name).write_text("private", encoding="utf-8")
    done = push(hub, folder, "org/notes", "--revision", "trial")
    assert done.returncode == 0, done.stderr
    assert b"private" not in b"".join(hub.branches["trial"].values())
    assert hub.branches["main"] == {}


def test_a_dry_run_asks_nothing_of_the_hub(hub: Hub, run: Path) -> None:
    done = push(hub, run, "org/notes", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "model.safetensors" in done.stdout
    assert "nothing was uploaded" in done.stdout
    assert hub.requests == []


@pytest.mark.parametrize(
    ("status", "said"), [(401, "log in with"), (403, "may not write there"), (404, "no such organisation")]
)
def test_a_refusal_is_one_line(hub: Hub, run: Path, status: int, said: str) -> None:
    hub.status = status
    done = push(hub, run, "org/notes")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert hub.commits == 0


def test_no_network_is_one_line(run: Path) -> None:
    done = push(Hub(url="http://127.0.0.1:9"), run, "org/notes")
    assert done.returncode == 2
    assert "cannot be reached" in done.stderr
    assert push(Hub(url="http://127.0.0.1:9"), run, "org/notes", HF_HUB_OFFLINE="1").returncode == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [("notes", "ORGANISATION/NAME"), ("a--b/c", "no name of a repository"), ("a/b/c", "no name")],
)
def test_a_name_is_checked_before_anything(run: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        unmask.push(run, name, dry_run=True)


def test_what_is_no_model_is_refused(run: Path, exported: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="is no model"):
        unmask.push(tmp_path / "empty", "o/n", dry_run=True)
    with pytest.raises(ConfigError, match=r"has no parity\.json"):
        unmask.push(run, "o/n", [tmp_path / "empty"], dry_run=True)
    with pytest.raises(ConfigError, match="another model"):
        unmask.push(run, "o/n", [exported("roberta", "onnx").folder], dry_run=True)
    with pytest.raises(ConfigError, match="a model by itself"):
        unmask.push(run, "o/n", [exported("bert", "fp16").folder], dry_run=True)
