"""Runs at a URL: published while they go on, and resumed on another host."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import unmask
from unmask.remote.files import listed
from unmask.remote.folders import INCOMPLETE
from unmask.run import published

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def line(store: Any, checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setattr(published, "_PAUSE", 0.05)
    monkeypatch.setattr(published, "_PAUSE_AFTER_ERROR", 0.1)
    text = tmp_path / "a.txt"
    words = "river slow wide old deep cold new long".split()
    text.write_text(
        "\n".join(f"The {a} river {number} is {b}." for number in range(1) for a in words for b in words)
    )
    options = ["--max-steps", "4", "--save-every", "2", "--max-length", "32", "--batch-tokens", "256"]
    options += ["--set", "train.eval_tokens=300"]
    return ["train", text, "--model", checkpoint("bert"), *options, "-o", f"{store.bucket}/runs/one"]


@pytest.fixture
def another_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """From here on the cache is that of another host."""

    def change() -> None:
        monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "another"))

    return change


def results(store: Any) -> set[str]:
    return {name.removeprefix("runs/one/") for name in store.names("runs/one/")}


def test_a_run_is_published(store: Any, line: list[Any], run: Run, another_host: Callable[[], None]) -> None:
    code, out, error = run(*line, "--json")
    assert code == 0, error
    url = line[-1]
    assert json.loads(out)["model"] == f"{url}/model"
    found = results(store)
    assert {
        "run.json",
        "config.yaml",
        "metrics.jsonl",
        "evaluation.json",
        "report.html",
        "model/model.safetensors",
    } <= found
    assert {"shards/manifest.json", "checkpoints/step-00000004/manifest.json"} <= found
    assert not [name for name in found if name.startswith(".") or ".partial" in name]
    assert "finished" in json.loads(store.get("runs/one/run.json"))
    assert not Path("s3:").exists()
    uploaded = [
        path.partition("?")[0].removeprefix(f"/{store.bucket[5:]}/runs/one/")
        for method, path, _ in store.requests
        if method == "PUT"
    ]
    for folder in ("shards/", "checkpoints/step-00000004/"):
        assert [name for name in uploaded if name.startswith(folder)][-1] == f"{folder}manifest.json"
    best = [name for name in uploaded if name.startswith("checkpoints/best/")]
    assert best[-1] == f"{best[-1].rpartition('/')[0]}/manifest.json"
    assert [name for name in uploaded if name.startswith("model/")][-1] == "model/config.json"
    another_host()
    code, _, error = run("fill", url, "The [MASK] river.")
    assert code == 0, error
    code, _, error = run(*line, "-q")
    assert (code, error.count("\n")) == (2, 1)
    assert f"{url} already holds files" in error


@pytest.mark.slow
def test_a_killed_run_goes_on_on_another_host(
    store: Any, line: list[Any], run: Run, another_host: Callable[[], None]
) -> None:
    code = (
        "import sys; import unmask.run.published as p; from unmask.cli.main import main\n"
        "send, p._PAUSE = p._Mirror._send_whole, 0.05\n"
        "p._Mirror._send_whole = lambda self, path: (send(self, path), print('sent', path.parent.name, flush=True))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    long = ["--max-steps", "60", "--set", "train.eval_every=1000"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, line), *long],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert any("sent step" in shown for shown in process.stdout)
    process.kill()
    process.communicate()
    assert INCOMPLETE in results(store)
    assert "model/config.json" not in results(store)
    another_host()
    code_, _, error = run("train", "-o", line[-1], "--resume")
    assert code_ == 0, error
    assert "resuming from step" in error
    assert INCOMPLETE not in results(store)


def test_resumed_weights_are_those_of_a_run_that_was_not_stopped(
    store: Any, line: list[Any], run: Run, another_host: Callable[[], None], tmp_path: Path
) -> None:
    assert run(*line[:-1], tmp_path / "whole", "-q")[0] == 0
    stopped = [*line[:-2], "--set", "train.keep_last=1", "-o", line[-1]]
    from unmask.run import training_run

    save = training_run.TrainingRun._save

    def stop(self: Any) -> None:
        save(self)
        if self.loop.position.step == 2:
            self.signals.stop = True  # as SIGTERM does

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run.TrainingRun, "_save", stop)
        code, _, error = run(*stopped, "-q")
    assert (code, error.count("\n")) == (75, 1)
    found = results(store)
    assert "checkpoints/step-00000003/manifest.json" in found
    assert "checkpoints/step-00000002/manifest.json" not in found  # removed, as here
    another_host()
    code, _, error = run("train", "-o", line[-1], "--resume")
    assert code == 0, error
    assert "resuming from step 3" in error
    assert INCOMPLETE not in results(store)
    whole = (tmp_path / "whole" / "model" / "model.safetensors").read_bytes()
    assert store.get("runs/one/model/model.safetensors") == whole


@pytest.mark.slow
def test_hosts_that_share_the_weights_and_no_folder(store: Any, line: list[Any], tmp_path: Path) -> None:
    """Two launchers of torchrun, each with a cache of its own; then both again, with new caches."""

    def hosts(names: str, *arguments: object) -> list[tuple[int, str]]:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "-m", "unmask"]
        found = [
            subprocess.Popen(
                [*launcher, *map(str, arguments)],
                env={**os.environ, "UNMASK_CACHE": str(tmp_path / name), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for name in names
        ]
        said = [process.communicate(timeout=300)[1] for process in found]
        return [(process.returncode, error) for process, error in zip(found, said, strict=True)]

    begun = hosts("ab", *line, "--parallel", "fsdp")
    assert [code for code, _ in begun] == [0, 0], begun
    assert any("does not see" in error for _, error in begun)
    whole = store.get("runs/one/model/model.safetensors")
    newest = "checkpoints/step-00000004"
    manifest = json.loads(store.get(f"runs/one/{newest}/manifest.json"))
    assert sum(name.startswith("shard-00002-") for name in manifest) == 2
    assert {f"{newest}/{name}" for name in manifest} <= results(store)
    # As if both hosts had been lost after the second step.
    for name in results(store):
        if name.startswith((newest, "model/")):
            store.client.delete_object(Bucket=store.bucket.removeprefix("s3://"), Key=f"runs/one/{name}")
    again = hosts("cd", "train", "-o", line[-1], "--resume")
    assert [code for code, _ in again] == [0, 0], again
    assert any("resuming from step 2" in error for _, error in again)
    assert store.get("runs/one/model/model.safetensors") == whole


def test_a_damaged_checkpoint_is_skipped(
    store: Any, line: list[Any], run: Run, another_host: Callable[[], None]
) -> None:
    assert run(*line, "-q")[0] == 0
    weights = "runs/one/checkpoints/step-00000004/model-00001-of-00002.safetensors"
    assert weights in store.names()
    store.put(weights, b"damaged")
    another_host()
    code, _, error = run("train", "-o", line[-1], "--resume")
    assert code == 0, error
    assert "skipped a damaged checkpoint" in error
    assert "resuming from step 2" in error
    assert "runs/one/checkpoints/step-00000004/manifest.json" in store.names()
    assert len(store.get(weights)) > 100


def test_what_cannot_be_published_ends_with_5_and_stays_here(
    store: Any, line: list[Any], run: Run, tmp_path: Path
) -> None:
    store.fault(method="PUT", path="checkpoints/step-00000004/model-00002", error="AccessDenied")
    code, out, error = run(*line)
    assert (code, out) == (5, "")
    assert error.count("not published yet, it is tried again: ") <= 1
    last = error.splitlines()[-1]
    assert (
        f"{line[-1]}/checkpoints/step-00000004/model-00002-of-00002.safetensors: cannot be written: access denied"
        in last
    )
    (local,) = (path for path in (tmp_path / "cache" / "runs").iterdir() if path.is_dir())
    assert f"the run is whole in {local}" in last
    assert (local / "exit_code").read_text() == "5\n"
    assert "runs/one/checkpoints/step-00000004/manifest.json" not in store.names()
    assert INCOMPLETE in results(store)
    store.faults.clear()
    code, _, error = run("train", "-o", line[-1], "--resume")
    assert code == 0, error
    assert "runs/one/checkpoints/step-00000004/manifest.json" in store.names()
    assert INCOMPLETE not in results(store)


def test_a_finished_run_is_published_without_its_text(
    store: Any, line: list[Any], run: Run, tmp_path: Path
) -> None:
    store.fault(method="PUT", path="model/", error="AccessDenied")
    code, _, error = run(*line, "-q")
    assert (code, "the same command with --resume publishes it" in error) == (5, True)
    assert "exit_code" not in results(store)
    store.faults.clear()
    (tmp_path / "a.txt").rename(tmp_path / "away.txt")
    code, _, error = run("train", "-o", line[-1], "--resume", "--max-steps", "6", "-q")
    assert (code, "no such file" in error) == (3, True)
    (local,) = (path for path in (tmp_path / "cache" / "runs").iterdir() if path.is_dir())
    code, out, error = run(*line, "--resume", "--json")
    assert code == 0, error
    assert "only publishing is left" in error
    wanted = json.loads((local / "run.json").read_text())
    found = json.loads(out)
    assert (found["steps"], found["model"]) == (wanted["steps"], f"{line[-1]}/model")
    assert found["evaluation"]["accuracy"] is not None
    assert {"model/config.json", "exit_code"} <= results(store)
    assert INCOMPLETE not in results(store)
    (tmp_path / "away.txt").rename(tmp_path / "a.txt")
    code, _, error = run("train", "-o", line[-1], "--resume", "--max-steps", "6")
    assert (code, "resuming from step 4" in error) == (0, True)


def test_a_server_that_fails_for_a_while(store: Any, line: list[Any], run: Run) -> None:
    # Fewer than the tries of a file, since all may meet the same one.
    store.fault(method="PUT", path="checkpoints", error="ServiceUnavailable", times=2)
    store.fault(method="PUT", path="shards", error="ExpiredToken", times=1)
    code, _, error = run(*line)
    assert code == 0, error
    assert INCOMPLETE not in results(store)


@pytest.mark.parametrize("error", ["AccessDenied", "ExpiredToken", "InvalidAccessKeyId"])
def test_where_nothing_can_be_written_nothing_is_trained(
    store: Any, line: list[Any], run: Run, error: str, tmp_path: Path
) -> None:
    store.fault(method="PUT", error=error)
    code, _, shown = run(*line, "-q")
    assert (code, shown.count("\n")) == (5, 1)
    assert f"{line[-1]}: cannot be written: " in shown
    code, _, shown = run(*line[:-1], "s3://no-such-bucket-here/run", "-q")
    assert (code, "there is no such bucket" in shown) == (5, True)


def test_a_run_that_never_began_leaves_nothing(store: Any, line: list[Any], run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\0\1\2" * 100)
    assert run(*line, "-q")[0] == 3
    assert store.names() == []
    assert not (tmp_path / "cache" / "runs").exists()
    code, _, error = run("train", "-o", line[-1], "--resume", "-q")
    assert (code, "no run to resume" in error) == (2, True)


def test_python(store: Any, line: list[Any], checkpoint: Any) -> None:
    texts = [f"The river {number} is wide and slow." for number in range(60)]
    done = unmask.train(
        texts,
        model=checkpoint("bert"),
        max_steps=2,
        max_length=32,
        out=f"{store.bucket}/runs/one",
        progress=False,
    )
    assert done.steps == 2
    assert {"in_memory_text/text.jsonl", "model/config.json"} <= results(store)


def test_what_is_published_is_not_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of much text are thousands of files."""
    monkeypatch.setattr(published, "_PAUSE", 0.02)
    seen: list[str] = []
    scan = os.scandir
    with published.output_folder("memory://box/run", resume=False) as local:
        (local / "shards" / "part-00000").mkdir(parents=True)
        (local / "shards" / "manifest.json").write_text("{}")
        while not listed("memory://box/run/shards"):
            time.sleep(0.02)
        monkeypatch.setattr(os, "scandir", lambda path: seen.append(str(path)) or scan(path))
        while str(local) not in seen[1:]:
            time.sleep(0.02)
        monkeypatch.setattr(os, "scandir", scan)
    assert str(local / "shards" / "part-00000") not in seen


def test_offline(store: Any, line: list[Any], run: Run) -> None:
    code, _, error = run(*line, "--offline", "-q")
    assert (code, store.requests) == (2, [])
    assert "offline" in error
