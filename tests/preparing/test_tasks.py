"""Tasks of an executor write what one process writes, and go on where a killed one stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unmask.config.settings import DocumentSettings
from unmask.data.corpus import Corpus, open_corpus
from unmask.data.preparation import prepare
from unmask.errors import ConfigError, DataError, DiskError, Interrupted, MissingExtra

LINES = DocumentSettings(documents="line")


def test_any_number_of_tasks_writes_the_same(
    prepared: Callable[..., Corpus], tmp_path: Path, notices: Any
) -> None:
    wanted = prepared("one").manifest
    assert wanted["read"]["errors"] == {"not UTF-8": 1}
    for tasks in (2, 9):
        assert prepared(f"tasks-{tasks}", notices, tasks=tasks).manifest == wanted
        open_corpus(tmp_path / f"tasks-{tasks}")
    assert notices.texts.count("7 parts to prepare, so 7 tasks; no file is divided") == 1
    names = {"one", "tasks-2", "tasks-9", "text"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_progress_ends_with_all_that_was_done(prepared: Callable[..., Corpus], notices: Any) -> None:
    corpus = prepared("shards", notices, tasks=2)
    [(phase, steps)] = notices.phases
    assert phase == "prepare"
    counts = {"documents": len(corpus), "tokens": corpus.tokens}
    assert steps[-1] == (1.0, {"parts": 7, **counts})
    assert all(share is None or share > 0 for share, _ in steps)


def test_an_error_in_the_text_names_task_part_file_and_log(
    prepared: Callable[..., Corpus], tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        prepared("shards", tasks=2, strict=True)
    message = str(caught.value)
    assert re.match(r"task 1, part 5: \S+/5\.txt:\d+: byte 0xe9 is not UTF-8.*; log: ", message)
    log = Path(re.search(r"log: (\S+);", message)[1])
    assert "byte 0xe9 is not UTF-8" in log.read_text(encoding="utf-8")
    assert not (tmp_path / "shards").exists()
    assert prepared("shards", tasks=1).manifest == prepared("wanted").manifest
    assert not (tmp_path / ".shards.partial").exists()


def test_text_by_url_travels_with_the_plan(text: Path, wordpiece_tokenizer: Any, tmp_path: Path) -> None:
    inputs = [f"file://{text}/0.txt", str(text / "1.txt"), f"file://{text}/2.txt"]
    made = [
        prepare(inputs, LINES, wordpiece_tokenizer, tmp_path / str(tasks), tasks=tasks).manifest
        for tasks in (None, 2)
    ]
    assert made[0] == made[1]
    assert made[0]["read"]["files"] == 3


def test_the_log_of_a_task_is_there_where_nothing_is_whole(
    text: Path, wordpiece_tokenizer: Any, tmp_path: Path
) -> None:
    strict = LINES.model_copy(update={"strict": True})
    with pytest.raises(DataError, match=r"^task 0, part 0: .*5\.txt:42: byte 0xe9 is not UTF-8") as caught:
        prepare([text / "5.txt"], strict, wordpiece_tokenizer, tmp_path / "shards", tasks=1)
    assert Path(re.search(r"log: (\S+);", str(caught.value))[1]).is_file()


@pytest.fixture
def killer(tmp_path: Path) -> Iterator[Callable[[int], None]]:
    """Return `kill(rank)`, which sends SIGKILL to a task as soon as it is seen."""
    stop = threading.Event()
    work = str(tmp_path / ".shards.partial").encode()

    def watch(rank: int) -> None:
        while not stop.wait(0.01):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    command = (process / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if command[2:6] == [b"unmask.data.task", work, b"parts", str(rank).encode()]:
                    os.kill(int(process.name), signal.SIGKILL)
                    return

    threads: list[threading.Thread] = []

    def kill(rank: int) -> None:
        threads.append(threading.Thread(target=watch, args=[rank]))
        threads[-1].start()

    yield kill
    stop.set()
    for thread in threads:
        thread.join()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds the task in /proc")
def test_a_killed_task_is_named_and_its_parts_are_written_next(
    prepared: Callable[..., Corpus], killer: Callable[[int], None], tmp_path: Path, notices: Any
) -> None:
    killer(1)
    with pytest.raises(Interrupted) as caught:
        prepared("shards", tasks=2, progress=notices)
    assert notices.texts[-1].startswith("what is whole (4 of 7 parts) is kept in ")
    assert not notices.texts[-1].endswith("goes on from there")  # which the error says
    assert re.match(
        r"task 1: was killed by signal 9 \(SIGKILL\); 3 of 7 parts missing; log: .*task-00001\.log; the same command",
        str(caught.value),
    )
    whole = {
        path.name: path.stat().st_mtime_ns for path in (tmp_path / ".shards.partial").glob("part-*.json")
    }
    assert sorted(whole) == [f"part-{number:05d}.json" for number in (0, 2, 4, 6)]
    kept = (tmp_path / ".shards.partial/shards/part-00000/shard-00000.tokens.npy").stat().st_ino
    assert prepared("shards", tasks=5, progress=notices).manifest == prepared("wanted").manifest
    assert (tmp_path / "shards/part-00000/shard-00000.tokens.npy").stat().st_ino == kept
    assert "3 parts to prepare, so 3 tasks; no file is divided" in notices.texts


def test_a_full_disk_is_an_error_of_the_disk(
    prepared: Callable[..., Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "sitecustomize.py"
    script.write_text(
        "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(DiskError, match=r"task 0, part 0: .*File too large; 7 of 7 parts missing"):
        prepared("shards", tasks=1)
    script.unlink()
    assert prepared("shards", tasks=1).manifest["documents"] == 287


def test_a_task_ends_with_its_parent(tmp_path: Path) -> None:
    from unmask.data import task

    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(read, 0)
        os.close(write)
        task._end_with_parent()
    os.close(read)
    time.sleep(0.05)
    assert os.waitpid(child, os.WNOHANG) == (0, 0)
    os.close(write)
    assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 1


def test_what_cannot_be_shared_out_is_refused(
    text: Path, wordpiece_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(
        message: str, error: type[ConfigError] = ConfigError, inputs: Any = None, **options: Any
    ) -> None:
        with pytest.raises(error, match=message):
            prepare(inputs or [text], LINES, wordpiece_tokenizer, tmp_path / "shards", **options)

    refused("standard input is read once, by one process", inputs=["-"], tasks=2)
    refused("the executor 'slurm' needs a number of tasks", executor="slurm")
    monkeypatch.setenv("PATH", str(tmp_path))
    refused("there is no 'sbatch' on this machine", executor="slurm", tasks=2)
    monkeypatch.setitem(sys.modules, "datatrove", None)
    refused(r"needs the package 'datatrove': pip install 'unmask\[cluster\]'", MissingExtra, tasks=2)
    assert {path.name for path in tmp_path.iterdir()} == {"text"}


def test_json_of_the_command_is_the_same(
    text: Path, wordpiece_tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from unmask.cli.main import main

    wordpiece_tokenizer.save_pretrained(tmp_path / "tokenizer")
    common = [
        "prepare",
        str(text),
        "--tokenizer",
        str(tmp_path / "tokenizer"),
        "--documents",
        "line",
        "--json",
    ]
    found = []
    for name, more in (("one", []), ("two", ["--executor", "local", "--tasks", "2"])):
        assert main([*common, "-o", str(tmp_path / name), *more]) == 0
        found.append(json.loads(capsys.readouterr().out) | {"folder": ""})
    assert found[0] == found[1]
    assert main([*common, "-o", str(tmp_path / "x"), "--tasks", "0"]) == 2
