from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from unmask.errors import ConfigError
from unmask.progress import Progress
from unmask.run.lock import LOCK, is_empty, lock_run


class Log(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)


DYING = """
import os, sys
from pathlib import Path
from unmask.run.lock import lock_run
from unmask.progress import Progress
with lock_run(Path(sys.argv[1]), Progress()):
    os.kill(os.getpid(), 9)
"""


def test_a_lock_names_its_owner_and_goes(tmp_path: Path) -> None:
    told = Log()
    with lock_run(tmp_path, told):
        assert json.loads((tmp_path / LOCK).read_text(encoding="utf-8"))["pid"] == os.getpid()
        assert is_empty(tmp_path)
        with (
            pytest.raises(ConfigError, match=f"another run uses .* .process {os.getpid()} on "),
            lock_run(tmp_path, told),
        ):
            pytest.fail("two have the lock")
        assert (tmp_path / LOCK).exists()
    assert list(tmp_path.iterdir()) == []
    with lock_run(tmp_path, told):
        pass
    assert told.lines == []


def test_a_lock_goes_when_the_run_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), lock_run(tmp_path, Progress()):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_process_that_was_killed_is_taken_over_aloud(tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", DYING, str(tmp_path)], check=False)
    assert dead.returncode == -9
    owner = json.loads((tmp_path / LOCK).read_text(encoding="utf-8"))
    # As if this process had been given the number of the dead one.
    (tmp_path / LOCK).write_text(json.dumps(owner | {"pid": os.getpid()}), encoding="utf-8")
    told = Log()
    with lock_run(tmp_path, told):
        pass
    assert len(told.lines) == 1
    assert told.lines[0].startswith(f"an earlier run in this folder was killed (process {os.getpid()} on ")
    assert list(tmp_path.iterdir()) == []


def test_half_files_of_a_run_that_was_killed_go(tmp_path: Path) -> None:
    (tmp_path / ".run.json.123.partial").write_text("{", encoding="utf-8")
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    with lock_run(tmp_path, Progress()):
        assert {path.name for path in tmp_path.iterdir()} == {LOCK, "run.json"}


def test_a_lock_that_cannot_be_read_is_one_all_the_same(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("[", encoding="utf-8")
    told = Log()
    with lock_run(tmp_path, told):
        pass
    assert "unknown process" in told.lines[0]


def test_a_folder_with_something_in_it_is_not_empty(tmp_path: Path) -> None:
    assert is_empty(tmp_path)
    (tmp_path / "mine.txt").touch()
    assert not is_empty(tmp_path)
    assert not is_empty(tmp_path / "mine.txt")
