"""Shards by URL: fetched once for a host, checked, and never half there."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import unmask
from unmask.data.corpus import given_shards
from unmask.errors import DataError, DiskError
from unmask.progress import Progress
from unmask.remote import folders

Run = Callable[..., tuple[int, str, str]]


class Log(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def prepared(checkpoint: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "shards"
    text = folder.with_name("a.txt")
    words = "river slow wide old deep cold new long".split()
    lines = [f"The {a} river {number} is {b}." for number in range(12) for a in words for b in words]
    text.write_text("\n".join(lines))
    unmask.prepare(text, folder, model=checkpoint("bert"), documents="line", progress=False)
    return folder


@pytest.fixture
def shards(store: Any, prepared: Path) -> str:
    return str(store.put_folder(prepared, "data/shards"))


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_every_verb_takes_them(shards: str, run: Run, checkpoint: Any, tmp_path: Path) -> None:
    for line in (
        ["masks", shards],
        [
            "train",
            shards,
            "--preset",
            "bert-tiny",
            "--max-steps",
            "1",
            "--max-length",
            "32",
            "-o",
            tmp_path / "run",
        ],
    ):
        code, _, error = run(*line)
        assert code == 0, error
    assert not Path("s3:").exists()
    code, _, error = run("report", tmp_path / "run")
    assert code == 0, error
    code, _, error = run("check", shards)
    assert (code, "tokenised shards, which hold no text" in error) == (3, True)


def test_they_are_fetched_once(store: Any, shards: str, prepared: Path) -> None:
    log = Log()
    folder = given_shards([shards], log)
    assert folder is not None
    assert content(folder) == content(prepared)
    assert [line for line in log.lines if line.startswith("fetched")] == [
        f"fetched {len(content(prepared))} files of {shards} into {folder}"
    ]
    store.requests.clear()
    assert given_shards([shards + "/"], log) == folder
    names = [path.partition("?")[0] for _, path, _ in store.requests]
    assert {name.rpartition("/")[2] for name in names} <= {"manifest.json", store.bucket[5:]}


def test_other_shards_at_the_same_url_are_fetched_anew(
    store: Any, shards: str, prepared: Path, tmp_path: Path
) -> None:
    before = given_shards([shards])
    manifest = json.loads((prepared / "manifest.json").read_text())
    store.put("data/shards/manifest.json", json.dumps(manifest | {"note": 1}))
    unmask.remote.files.list_files.cache_clear()
    assert given_shards([shards]) != before


def test_damage_is_found(store: Any, shards: str, prepared: Path, run: Run, tmp_path: Path) -> None:
    tokens = (prepared / "part-00000/shard-00000.tokens.npy").read_bytes()
    store.put("data/shards/part-00000/shard-00000.tokens.npy", tokens[:-1] + b"\x7f")
    code, _, error = run("masks", shards)
    assert (code, error.count("\n")) == (3, 1)
    assert f"{shards}/part-00000/shard-00000.tokens.npy: what came is not what its manifest says" in error
    cache = tmp_path / "cache" / "shards"
    assert [path.name for path in cache.iterdir() if not path.name.endswith(".lock")] == []


def test_a_missing_object_and_a_broken_manifest(store: Any, shards: str, run: Run) -> None:
    store.client.delete_object(Bucket=store.bucket[5:], Key="data/shards/part-00000/shard-00000.keys.npy")
    code, _, error = run("masks", shards)
    assert (code, f"{shards}/part-00000/shard-00000.keys.npy: the object is missing" in error) == (3, True)
    store.put("data/shards/manifest.json", "[1")
    code, _, error = run("masks", shards)
    assert (code, f"{shards}/manifest.json: this is no manifest of shards" in error) == (3, True)


@pytest.mark.parametrize("fault", [{"error": "ExpiredToken"}, {"cut": 200}, {"error": "AccessDenied"}])
def test_a_failing_server_leaves_nothing(
    store: Any, shards: str, run: Run, tmp_path: Path, fault: Any
) -> None:
    store.fault(method="GET", path="part-00000/shard-00000.tokens", **fault)
    code, _, error = run("masks", shards, "-q")
    assert (code, error.count("\n")) == (3, 1)
    assert f"{shards}/part-00000/shard-00000.tokens.npy: cannot be read: " in error
    cache = tmp_path / "cache" / "shards"
    assert [path.name for path in cache.iterdir() if not path.name.endswith(".lock")] == []
    store.faults.clear()
    assert run("masks", shards)[0] == 0


def test_a_full_cache_disk(shards: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(1000, 900, 100))
        code, _, error = run("masks", shards, "-q")
        assert (code, error.count("\n")) == (5, 1)
        assert f"the cache has no room for {shards}" in error
        assert "UNMASK_CACHE" in error
    write = os.open

    def full(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if "tokens.npy" in str(path):
            raise OSError(28, "No space left on device", str(path))
        return write(path, flags, *rest, **options)

    import builtins

    opened = builtins.open
    with monkeypatch.context() as patch:
        patch.setattr(
            builtins,
            "open",
            lambda path, *rest, **options: (
                full(path, 0) if "tokens.npy" in str(path) else opened(path, *rest, **options)
            ),
        )
        code, _, error = run("masks", shards, "-q")
    assert (code, error.count("\n")) == (5, 1)
    assert "the cache cannot be written (No space left on device)" in error
    cache = tmp_path / "cache" / "shards"
    assert [path.name for path in cache.iterdir() if not path.name.endswith(".lock")] == []


def test_a_cache_that_cannot_be_made(shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "file"))
    with pytest.raises(DiskError, match="the cache cannot be written"):
        given_shards([shards])


@pytest.mark.parametrize("patience", [0.0, 60.0])
def test_processes_of_a_host_fetch_once(
    store: Any, shards: str, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    """A lock of a file holds for another opening of it, in whichever process."""
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setattr(folders, "PATIENCE", patience)
    store.fault(method="GET", path="shard-00000.tokens", delay=0.5)
    log = Log()
    with ThreadPoolExecutor(3) as pool:
        found = set(pool.map(lambda _: given_shards([shards], log), range(3)))
    assert len(found) == 1
    assert sum("shard-00000.tokens" in path for _, path, _ in store.requests) == 1
    waited = any(line.startswith("waiting for another process") for line in log.lines)
    assert waited == (patience == 0)


def test_memory_and_among_other_inputs(prepared: Path) -> None:
    import fsspec

    system = fsspec.filesystem("memory")
    for name, data in content(prepared).items():
        system.pipe(f"/box/shards/{name}", data)
    folder = given_shards(["memory://box/shards"])
    assert folder is not None
    assert content(folder) == content(prepared)
    with pytest.raises(DataError, match="it must be the only input"):
        given_shards(["memory://box/shards", "a.txt"])
