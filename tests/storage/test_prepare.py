"""Shards that are published at a URL."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import unmask
from unmask.remote.folders import INCOMPLETE

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_text("\n".join(f"The river {number} is wide and slow." for number in range(60)))
    return path


@pytest.fixture
def line(text: Path, checkpoint: Any, store: Any) -> list[Any]:
    return ["prepare", text, "--model", checkpoint("bert"), "-o", f"{store.bucket}/data/shards"]


def puts(store: Any) -> list[str]:
    return [
        path.partition("?")[0].rpartition("/")[2] for method, path, _ in store.requests if method == "PUT"
    ]


def test_the_manifest_is_the_last_of_the_files(store: Any, line: list[Any], run: Run, tmp_path: Path) -> None:
    code, out, error = run(*line, "--json")
    assert code == 0, error
    assert json.loads(out)["documents"] == 60
    assert json.loads(out)["folder"] == line[-1]
    uploaded = puts(store)
    assert (uploaded[0], uploaded[-1]) == (INCOMPLETE, "manifest.json")
    assert {name.removeprefix("data/shards/") for name in store.names()} == {
        "manifest.json", *json.loads(store.get("data/shards/manifest.json"))["files"]
    }  # fmt: skip
    assert not Path("s3:").exists()
    store.requests.clear()
    assert run("masks", line[-1])[0] == 0  # of the cache
    assert not [path for _, path, _ in store.requests if "tokens" in path]


def test_the_same_text_is_not_prepared_again(store: Any, line: list[Any], text: Path, run: Run) -> None:
    assert run(*line)[0] == 0
    store.requests.clear()
    code, _, error = run(*line)
    assert (code, puts(store)) == (0, [])
    assert "reusing" in error
    text.write_text("Other text, that is new.\n" * 10)
    code, _, error = run(*line, "-q")
    assert (code, error.count("\n")) == (3, 1)
    assert f"{line[-1]}: the folder holds shards made from other inputs" in error


def test_other_files_are_kept(store: Any, line: list[Any], run: Run) -> None:
    store.put("data/shards/mine.txt", "mine")
    code, _, error = run(*line, "-q")
    assert (code, error.count("\n")) == (3, 1)
    assert f"{line[-1]}: there are other files and no manifest.json" in error
    assert store.names() == ["data/shards/mine.txt"]


@pytest.mark.parametrize("error", ["AccessDenied", "ExpiredToken", "SlowDown", "SignatureDoesNotMatch"])
def test_where_nothing_can_be_written_no_text_is_read(
    store: Any, line: list[Any], run: Run, text: Path, error: str
) -> None:
    store.fault(method="PUT", error=error)
    text.write_bytes(b"\0\1\2" * 100)  # which would be exit 3
    code, _, shown = run(*line, "-q")
    assert (code, shown.count("\n")) == (5, 1)
    assert f"{line[-1]}: cannot be written: " in shown
    assert store.names() == []


def test_a_wrong_bucket(line: list[Any], run: Run) -> None:
    code, _, shown = run(*line[:-1], "s3://no-such-bucket-here/shards", "-q")
    assert (code, shown.count("\n")) == (5, 1)
    assert "s3://no-such-bucket-here/shards: cannot be written: there is no such bucket" in shown


@pytest.mark.parametrize("name", ["part-00000/shard-00000.tokens", "manifest.json"])
def test_an_upload_that_fails_is_taken_up_by_the_same_command(
    store: Any, line: list[Any], run: Run, name: str, tmp_path: Path
) -> None:
    store.fault(method="PUT", path=name, error="AccessDenied")
    code, _, error = run(*line, "-q")
    assert (code, error.count("\n")) == (5, 1)
    assert f"{line[-1]}/{name}" in error
    assert "the shards are kept in" in error
    assert "data/shards/manifest.json" not in store.names()
    unmask.remote.files.list_files.cache_clear()
    assert run("masks", line[-1])[0] != 0  # nobody takes it for shards
    store.faults.clear()
    code, _, error = run(*line)
    assert code == 0
    assert "reusing" in error
    assert run("masks", line[-1])[0] == 0
    assert not list((tmp_path / "cache" / "prepared").iterdir())


def test_text_that_cannot_be_read_leaves_nothing(store: Any, line: list[Any], run: Run, text: Path) -> None:
    text.write_bytes(b"\0\1\2" * 100)
    assert run(*line)[0] == 3
    assert store.names() == []


def test_large_files_go_in_parts(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda size, chunksize=None: 5 << 20)
    from unmask.remote.folders import publish

    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / "big").open("wb") as file:
        file.truncate(12 << 20)
    (tmp_path / "run" / "manifest.json").write_text("{}")
    store.fault(method="PUT", path="partNumber=2", error="SlowDown", times=1)
    publish(tmp_path / "run", f"{store.bucket}/run", last="manifest.json")
    assert sorted(store.names()) == ["run/big", "run/manifest.json"]
    assert sum("partNumber" in path for _, path, _ in store.requests) == 4  # one twice


def test_offline(store: Any, line: list[Any], run: Run) -> None:
    code, _, error = run(*line, "--offline")
    assert (code, store.requests) == (2, [])
    assert "offline" in error


def test_memory(text: Path, checkpoint: Any) -> None:
    corpus = unmask.prepare(text, "memory://box/prepared", model=checkpoint("bert"), progress=False)
    assert len(corpus) == 60
    assert len(unmask.prepare(text, "memory://box/prepared", model=checkpoint("bert"), progress=False)) == 60
