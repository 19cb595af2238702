"""Errors of the processes that `torchrun` starts: each is printed once on a host."""

from __future__ import annotations

from pathlib import Path

import pytest

from unmask.cli import processes
from unmask.cli.main import main

BAD = ["train", "--no-such-option"]
OTHER = ["train", "notes", "--model", "m", "--epochs", "no"]


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Run a command as one of four processes, two a host; return its exit code and what it printed as errors."""
    monkeypatch.setattr(processes, "PATIENCE", 0.1)
    monkeypatch.setenv("WORLD_SIZE", "4")

    def run(rank: int, arguments: list[str]) -> tuple[int, str]:
        place = tmp_path / str(rank // 2) / str(rank % 2)
        place.mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank % 2))
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(place / "error.json"))
        code = main(arguments)
        return code, capsys.readouterr().err

    return run


def test_what_all_meet_is_printed_once_a_host(started) -> None:  # type: ignore[no-untyped-def]
    found = [started(rank, BAD) for rank in range(4)]
    assert [code for code, _ in found] == [2, 2, 2, 2]
    assert [text.startswith("error: ") for _, text in found] == [True, False, True, False]
    assert found[1][1] == found[3][1] == ""


def test_an_error_of_one_process_is_printed_with_its_number(started) -> None:  # type: ignore[no-untyped-def]
    """Whether the others have none, or another one."""
    assert started(1, BAD)[1].startswith("error: process 1 of 4: ")
    assert started(2, OTHER)[1].startswith("error: ")
    assert "process 3 of 4: " in started(3, BAD)[1]


@pytest.mark.parametrize("name", ["process 0 on host-1", "process 1 of 2 on host-1"])
def test_an_error_that_names_a_process_gets_no_second_one(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for key, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    assert processes.to_print(f"{name} ended") == f"{name} ended"
    assert processes.to_print("the disk is full") == "process 1 of 2: the disk is full"


def test_without_a_folder_of_torchrun_all_are_printed(  # type: ignore[no-untyped-def]
    started, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started(0, BAD)
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(BAD) == 2
    assert capsys.readouterr().err.startswith("error: process 0 of 4: ")
