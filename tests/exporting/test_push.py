"""Pushing to a server that speaks what huggingface_hub asks of the Hub: what goes up, and what never does."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

import unmask
from unmask.cli.main import main
from unmask.errors import ConfigError, UnmaskError
from unmask.exporting.export import export_model
from unmask.storage import read_json, write_json

TOKEN = "hf_test"
Files = dict[str, bytes]


@dataclass
class Repository:
    """A repository: the files of each commit, and the last commit of each branch."""

    private: bool
    commits: list[Files] = field(default_factory=lambda: [{".gitattributes": b"*.safetensors"}])
    branches: dict[str, int] = field(default_factory=lambda: {"main": 0})

    def files(self, revision: str) -> Files:
        number = self.branches.get(revision)
        return self.commits[int(revision) if number is None else number]


@dataclass
class Hub:
    """The state of the server. `refuse` gives part of a path a status, with a message; `lose` drops files of commits."""

    url: str = ""
    requests: list[str] = field(default_factory=list)
    repositories: dict[str, Repository] = field(default_factory=dict)
    blobs: Files = field(default_factory=dict)
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)
    lose: set[str] = field(default_factory=set)

    def pushed(self, name: str = "org/notes", branch: str = "main") -> Files:
        return {k: v for k, v in self.repositories[name].files(branch).items() if k != ".gitattributes"}


class Handler(BaseHTTPRequestHandler):
    """The routes of the Hub that an upload uses."""

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

    def _content(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _serve(self) -> None:
        path, content = urlsplit(self.path).path, self._content()
        self.hub.requests.append(f"{self.command} {path}")
        for part, (status, message) in self.hub.refuse.items():
            if part in path:
                errors = [{"message": message}]
                return self._answer({"error": message, "errors": errors}, status)
        if self.command == "PUT":  # to the store of large files, which takes no token
            assert hashlib.sha256(content).hexdigest() == path.rpartition("/")[2]
            self.hub.blobs[path.rpartition("/")[2]] = content
            return self._answer({})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer({"error": "Invalid username or password."}, 401)
        for pattern, route in ROUTES.items():
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                return route(self, content, *map(unquote, found.groups()))
        return self._answer({"error": f"no route {self.path}"}, 404)

    do_GET = do_POST = do_PUT = _serve

    def _create(self, content: bytes) -> None:
        given = json.loads(content)
        name = f"{given['organization']}/{given['name']}"
        if given["organization"] != "org":
            message = (
                f'You don\'t have the rights to create a model under the namespace "{given["organization"]}"'
            )
            return self._answer({"error": message}, 403)
        status = 409 if name in self.hub.repositories else 200
        self.hub.repositories.setdefault(name, Repository(given.get("visibility") == "private"))
        return self._answer({"url": f"{self.hub.url}/{name}"}, status)

    def _validate(self, content: bytes) -> None:
        assert json.loads(content)["repoType"] == "model"
        self._answer({"errors": [], "warnings": []})

    def _branch(self, _: bytes, name: str, branch: str) -> None:
        branches = self.hub.repositories[name].branches
        status = 409 if branch in branches else 200
        branches.setdefault(branch, branches["main"])
        self._answer({}, status)

    def _preupload(self, content: bytes, name: str, branch: str) -> None:
        known = self.hub.repositories[name].files(branch)
        large = (".safetensors", ".onnx")
        modes = []
        for each in json.loads(content)["files"]:
            lfs = each["path"].endswith(large)
            found = {
                "path": each["path"],
                "uploadMode": "lfs" if lfs else "regular",
                "shouldIgnore": False,
            }
            if old := known.get(each["path"]):
                blob = f"blob {len(old)}\0".encode() + old
                found["oid"] = hashlib.sha256(old).hexdigest() if lfs else hashlib.sha1(blob).hexdigest()
            modes.append(found)
        self._answer({"files": modes})

    def _batch(self, content: bytes, name: str) -> None:
        assert name in self.hub.repositories
        objects = [
            {"oid": each["oid"], "size": each["size"]}
            | (
                {}
                if each["oid"] in self.hub.blobs
                else {"actions": {"upload": {"href": f"{self.hub.url}/blob/{each['oid']}"}}}
            )
            for each in json.loads(content)["objects"]
        ]
        self._answer({"transfer": "basic", "objects": objects})

    def _commit(self, content: bytes, name: str, branch: str) -> None:
        repository = self.hub.repositories[name]
        files = dict(repository.files(branch))
        for row in map(json.loads, content.splitlines()):
            value = row["value"]
            if row["key"] == "header":
                if int(value["parentCommit"]) != repository.branches[branch]:
                    return self._answer({"error": "not the last commit"}, 412)
            elif row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
                assert len(files[value["path"]]) == value["size"]
            else:
                assert row["key"] == "deletedFile"
                del files[value["path"]]
        repository.commits.append({k: v for k, v in files.items() if k not in self.hub.lose})
        repository.branches[branch] = len(repository.commits) - 1
        oid = f"{repository.branches[branch]:040}"
        return self._answer({"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid})

    def _info(self, _: bytes, name: str, revision: str = "main") -> None:
        if name not in self.hub.repositories:
            return self._answer({"error": "Repository not found"}, 404)
        repository = self.hub.repositories[name]
        number = repository.branches.get(revision)
        sha = f"{int(revision) if number is None else number:040}"
        siblings = [{"rfilename": path} for path in repository.files(revision)]
        return self._answer({"id": name, "sha": sha, "private": repository.private, "siblings": siblings})

    def _tree(self, _: bytes, name: str, revision: str) -> None:
        files = self.hub.repositories[name].files(revision)
        self._answer([{"type": "file", "path": k, "size": len(v), "oid": "0"} for k, v in files.items()])


_NAME = r"([^/]+/[^/]+)"
ROUTES: dict[str, Callable[..., None]] = {
    r"POST /api/repos/create": Handler._create,
    r"POST /api/validate-yaml": Handler._validate,
    rf"POST /api/models/{_NAME}/branch/([^/]+)": Handler._branch,
    rf"POST /api/models/{_NAME}/preupload/([^/]+)": Handler._preupload,
    rf"POST /{_NAME}\.git/info/lfs/objects/batch": Handler._batch,
    rf"POST /api/models/{_NAME}/commit/([^/]+)": Handler._commit,
    rf"GET /api/models/{_NAME}": Handler._info,
    rf"GET /api/models/{_NAME}/revision/([^/]+)": Handler._info,
    rf"GET /api/models/{_NAME}/tree/([^/]+)": Handler._tree,
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running server, as the Hub of this process."""
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    disable_progress_bars()  # as the command line does off a terminal, before the library is imported
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield hub
    server.shutdown()
    thread.join()
    server.server_close()
    enable_progress_bars()


@pytest.fixture(scope="module")
def run(checkpoint: Callable[[str], Path], heldout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step, with everything that a run folder can hold. Never write into it."""
    out = tmp_path_factory.mktemp("runs") / "notes"
    texts = heldout.read_text(encoding="utf-8").split("\n\n")
    settings = {"data.heldout_share": 0.3}
    unmask.train(texts, model=checkpoint("bert"), out=out, max_steps=1, settings=settings, progress=False)
    return out


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    """A copy of the model folder, to be changed."""
    return Path(shutil.copytree(run / "model", tmp_path / "model"))


@pytest.fixture(scope="module")
def form(run: Path, heldout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of the run in ONNX."""
    return export_model(
        run, tmp_path_factory.mktemp("forms") / "onnx", "onnx-int8", heldout, force=True
    ).folder


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """Return the exit code of ``unmask push`` and its one line of error."""
    code = main(["push", *map(str, arguments), "-q"])
    (line,) = capsys.readouterr().err.splitlines()
    return code, line


def test_a_run_goes_up_in_one_commit_without_texts_or_checkpoints(
    hub: Hub, run: Path, form: Path, heldout: Path, tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-m",
        "unmask",
        "push",
        str(run),
        "org/notes",
        "--private",
        "--export",
        str(form),
    ]
    own = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [*command, "--json"], capture_output=True, text=True, env=os.environ | own, timeout=300
    )
    assert done.returncode == 0, done.stderr
    repository, there = hub.repositories["org/notes"], hub.pushed()
    assert repository.private
    assert len(repository.commits) == 2  # the first is that of a new repository
    parts = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}
    forms = {"onnx/model_quantized.onnx", "onnx/parity-onnx-int8.json"}
    assert there.keys() == parts | forms
    said = json.loads(done.stdout)
    assert {row["file"]: row["bytes"] for row in said["files"]} == {k: len(v) for k, v in there.items()}
    assert {"checkpoints", "in_memory_text", "shards", "metrics.jsonl", "examples.json"} <= {
        *said["left_out"]
    }
    assert said["url"].endswith(f"/org/notes/commit/{1:040}")
    quote = " ".join(heldout.read_text(encoding="utf-8").split()[:4]).encode()
    assert not [name for name, content in there.items() if quote in content or str(run).encode() in content]
    for name, content in there.items():
        (tmp_path / "again" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "again" / name).write_bytes(content)
    text = "the patient was given [MASK] for pain"
    again, here = (unmask.load(place, offline=True).fill(text) for place in (tmp_path / "again", run))
    assert again.to_dict() == here.to_dict()


def test_the_card_has_the_metrics_of_the_run_and_its_place(hub: Hub, run: Path, form: Path) -> None:
    unmask.push(run, "org/notes", export=form, progress=False)
    card = hub.pushed()["README.md"].decode()
    (result,) = yaml.safe_load(card.split("---\n")[1])["model-index"][0]["results"]
    evaluation = read_json(run / "evaluation.json")
    metrics = {one["type"]: one["value"] for one in result["metrics"]}
    assert metrics == {name: evaluation[name] for name in ("accuracy", "loss", "perplexity")}
    assert f"{evaluation['masked_tokens']} masked tokens in" in result["dataset"]["name"]
    assert result["dataset"]["args"]["masked_tokens"] == evaluation["masked_tokens"]
    assert 'pipeline("fill-mask", model="org/notes")' in card
    assert "| `onnx/model_quantized.onnx`" in card
    assert "path/to" not in card


def test_what_is_not_part_of_the_model_stays_here(hub: Hub, folder: Path) -> None:
    strange = [
        "notes.txt",
        "optimizer.pt",
        "train.jsonl",
        ".env",
        "training_args.bin",
        "old.model",
        "raw/config.json",
    ]
    for name in strange:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("private", encoding="utf-8")
    done = unmask.push(folder, "org/notes", revision="trial", progress=False)
    assert {*done.left_out} == {name.partition("/")[0] for name in strange}
    assert b"private" not in b"".join(hub.pushed(branch="trial").values())
    assert hub.pushed().keys() == set()


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "modernbert", "deberta-v2", "mpnet"])
def test_nothing_of_a_model_is_left_out(
    checkpoint: Callable[[str], Path], family: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint(family), tmp_path / family)
    (folder / "README.md").write_text("---\ntags: [unmask]\n---\n", encoding="utf-8")
    assert unmask.push(folder, "org/notes", dry_run=True).left_out == []


def test_the_modules_of_a_sentence_encoder_belong_to_it(folder: Path) -> None:
    (folder / "1_Pooling").mkdir()
    write_json(folder / "1_Pooling" / "config.json", {})
    module = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
    write_json(folder / "modules.json", [module])
    assert {"modules.json", "1_Pooling/config.json"} <= unmask.push(folder, "o/n", dry_run=True).files.keys()
    write_json(folder / "modules.json", [module | {"path": "../elsewhere"}])
    with pytest.raises(ConfigError, match="is outside the model"):
        unmask.push(folder, "o/n", dry_run=True)


def test_a_dry_run_asks_nothing_of_the_hub(
    hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert main(["push", str(run), "org/notes", "--dry-run", "--offline"]) == 0
    said = capsys.readouterr().out
    assert "model.safetensors" in said
    assert "not uploaded: adaptation.json, base.npz, checkpoints, config.yaml" in said
    assert "nothing was uploaded" in said
    assert hub.requests == []


def test_a_second_push_replaces_the_first(hub: Hub, run: Path, form: Path, folder: Path) -> None:
    unmask.push(run, "org/notes", [form], progress=False)
    hub.repositories["org/notes"].commits[-1] |= {"added_tokens.json": b"{}", "mine.txt": b"kept"}
    logged: list[str] = []
    unmask.push(folder, "org/notes", progress=lambda event: logged.append(event.text))
    assert "added_tokens.json" not in hub.pushed()
    assert hub.pushed()["mine.txt"] == b"kept"
    assert "deleting added_tokens.json, which the model does not have any more" in logged
    assert any(
        "onnx/model_quantized.onnx, onnx/parity-onnx-int8.json: from an earlier push" in t for t in logged
    )
    assert len([line for line in hub.requests if line.startswith("PUT")]) == 2  # nothing twice


@pytest.mark.parametrize(
    ("part", "status", "said"),
    [
        ("/repos/create", 401, "log in with 'hf auth login', or set HF_TOKEN"),
        ("/repos/create", 403, "check the name of the organisation"),
        ("/repos/create", 404, "no such organisation or repository"),
        ("/validate-yaml", 400, "the Hub refused: Invalid metadata in README.md"),
        ("/preupload/", 403, "the token may not write there"),
        ("/blob/", 403, "the token may not write there"),
        ("/commit/", 412, "push again"),
        ("/commit/", 500, "the Hub failed; push again later"),
    ],
)
def test_a_refusal_is_one_line_and_nothing_is_committed(
    hub: Hub, run: Path, part: str, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.refuse[part] = (status, "not in this test")
    code, line = error_of(capsys, run, "org/notes")
    assert code == ConfigError.exit_code
    assert line.startswith("error: 'org/notes': ")
    assert said in line
    assert "not in this test" in line
    assert all(len(each.commits) == 1 for each in hub.repositories.values())


def test_an_organisation_of_others_is_refused(
    hub: Hub, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = error_of(capsys, run, "others/notes")
    assert code == ConfigError.exit_code
    assert 'rights to create a model under the namespace "others"' in line
    assert hub.repositories == {}


def test_private_is_not_pushed_to_a_public_repository(
    hub: Hub, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repositories["org/notes"] = Repository(private=False)
    code, line = error_of(capsys, run, "org/notes", "--private")
    assert code == ConfigError.exit_code
    assert "is public" in line
    assert hub.pushed() == {}


def test_what_did_not_arrive_is_an_error(hub: Hub, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.lose = {"tokenizer.json"}
    code, line = error_of(capsys, run, "org/notes")
    assert code == UnmaskError.exit_code
    assert "tokenizer.json is not there, or not whole, after the commit" in line


def test_without_token_or_network_it_says_what_to_do(
    hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from huggingface_hub import constants

    code, line = error_of(capsys, run, "org/notes", "--offline")
    assert (code, "--offline or HF_HUB_OFFLINE is set" in line) == (ConfigError.exit_code, True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("HF_TOKEN")
    code, line = error_of(capsys, run, "org/notes")
    assert (code, "not logged in to the Hub" in line) == (ConfigError.exit_code, True)
    assert hub.requests == []
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    code, line = error_of(capsys, run, "org/notes")
    assert (code, "the Hub cannot be reached" in line) == (ConfigError.exit_code, True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("notes", "ORG/NAME"),
        ("a/b/c", "ORG/NAME"),
        ("a--b/c", "can have this name"),
        ("a/b c", "can have this name"),
    ],
)
def test_the_name_of_a_repository_is_checked_before_anything(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        unmask.push("no such run", name)


@pytest.mark.parametrize(
    "branch", ["", "-x", "a..b", "a b", "a/", "a/.b", "x.lock", "refs/pr/1", "@{1}", "0123456789" * 4]
)
def test_the_name_of_a_branch_is_checked_before_anything(branch: str) -> None:
    with pytest.raises(ConfigError, match="is no name of a branch"):
        unmask.push("no such run", "o/n", revision=branch)


def test_what_is_no_model_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        unmask.push(tmp_path / "none", "o/n", dry_run=True)
    with pytest.raises(ConfigError, match="is no model"):
        unmask.push(tmp_path, "o/n", dry_run=True)
    for name in ("run.json", "config.yaml"):
        shutil.copy(run / name, tmp_path)
    with pytest.raises(ConfigError, match="has no model yet"):
        unmask.push(tmp_path, "o/n", dry_run=True)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (None, "has no card"),
        ("# Notes\n", "it has no metadata"),
        ("---\ntags: [a\n---\n", "its metadata, .* cannot be read"),
        ("---\nmodel-index: [{name: a, results: [{}]}]\n---\n", "Invalid `model_index`"),
    ],
)
def test_a_card_that_the_hub_cannot_read_is_refused(folder: Path, card: str | None, message: str) -> None:
    (folder / "README.md").unlink()
    if card is not None:
        (folder / "README.md").write_text(card, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as error:
        unmask.push(folder, "o/n", dry_run=True)
    assert "\n" not in str(error.value)


def test_only_forms_of_this_model_go_with_it(run: Path, form: Path, exported: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no parity\.json"):
        unmask.push(run, "o/n", [tmp_path], dry_run=True)
    with pytest.raises(ConfigError, match="push the model that it was made from, with export="):
        unmask.push(form, "o/n", dry_run=True)
    with pytest.raises(ConfigError, match="a model by itself"):
        unmask.push(run, "o/n", [exported("bert", "fp16").folder], dry_run=True)
    with pytest.raises(ConfigError, match="has the place of another form, onnx/model_quantized"):
        unmask.push(run, "o/n", [form, form], dry_run=True)
    other = shutil.copytree(form, tmp_path / "other")
    write_json(other / "parity.json", read_json(form / "parity.json") | {"model_sha256": "0" * 64})
    with pytest.raises(ConfigError, match="was not exported from the weights in"):
        unmask.push(run, "o/n", [other], dry_run=True)
    swapped = shutil.copytree(form, tmp_path / "swapped")
    shutil.copy(
        exported("distilbert", "onnx").folder / "onnx/model.onnx", swapped / "onnx/model_quantized.onnx"
    )
    with pytest.raises(ConfigError, match="are not those that were exported and compared"):
        unmask.push(run, "o/n", [swapped], dry_run=True)
