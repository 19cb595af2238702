"""Files and folders are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from unmask.errors import DataError
from unmask.storage import (
    append_row,
    keep_rows,
    new_folder,
    read_json,
    read_rows,
    restore_folder,
    sha256,
    write_atomically,
    write_json,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(path: Path, content: str) -> None:
    with new_folder(path) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text(content, encoding="utf-8")


def content_of(path: Path) -> str:
    return (path / "inner" / "file").read_text(encoding="utf-8")


def test_json_comes_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ä": [1, None]})
    assert read_json(tmp_path / "a.json") == {"ä": [1, None]}
    assert read_json(tmp_path / "absent.json") is None
    (tmp_path / "bad.json").write_text('{"a":\n]', encoding="utf-8")
    with pytest.raises(DataError, match=r"bad\.json:2: not valid JSON"):
        read_json(tmp_path / "bad.json")


def test_rows_are_appended_and_an_incomplete_last_one_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in range(4):
        append_row(path, {"step": step})
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": ')
    assert [row["step"] for row in read_rows(path)] == [0, 1, 2, 3]
    keep_rows(path, 2)
    assert path.read_text(encoding="utf-8") == '{"step": 0}\n{"step": 1}\n{"step": 2}\n'
    path.write_text('{"step": 0}\n[1]\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"metrics\.jsonl:2: expected a JSON object, not list"):
        read_rows(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomically(tmp_path / "a", "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("before", ["nothing", "empty", "full"])
def test_a_folder_appears_whole_and_replaces_what_was_there(tmp_path: Path, before: str) -> None:
    path = tmp_path / "a" / "b"
    if before != "nothing":
        path.mkdir(parents=True)
    if before == "full":
        (path / "old").write_text("old", encoding="utf-8")
    fill(path, "new")
    assert content_of(path) == "new"
    assert names(path) == ["inner"]
    assert names(tmp_path / "a") == ["b"]


def test_others_may_read_what_a_library_wrote_for_its_user_alone(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a") as folder:
        (folder / "open").touch()
        (folder / "private").touch(0o600)
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "a").iterdir()}
    assert modes["private"] == modes["open"]


@pytest.mark.parametrize("call", range(1, 12))
@pytest.mark.parametrize("name", ["fsync", "rename", "block"])
def test_a_folder_that_fails_at_any_call_leaves_an_old_or_a_new_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: int
) -> None:
    path = tmp_path / "model"
    fill(path, "old")
    calls = iter(range(1, 100))
    owner = Path if name == "rename" else os
    whole = getattr(owner, name, None)

    def broken(*arguments: object) -> object:
        if next(calls) == call:
            raise OSError(28, "No space left on device")
        return whole(*arguments) if whole else None

    failed = False
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, broken, raising=False)
        try:
            with new_folder(path) as folder:
                (folder / "inner").mkdir()
                (folder / "inner" / "file").write_text("new", encoding="utf-8")
                if name == "block" and call == 1:
                    raise OSError(28, "No space left on device")
        except OSError:
            failed = True
    assert failed or call > 1
    assert content_of(path) in ({"old", "new"} if failed else {"new"})
    assert names(tmp_path) == ["model"]


def test_a_process_killed_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    path, replaced = tmp_path / "model", tmp_path / ".model.replaced"
    fill(path, "old")
    path.rename(replaced)
    restore_folder(path)
    assert content_of(path) == "old"
    path.rename(replaced)
    with pytest.raises(KeyError), new_folder(path):
        raise KeyError
    assert content_of(path) == "old"
    shutil.copytree(path, replaced)
    fill(path, "new")
    assert names(tmp_path) == ["model"]


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    fill(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to("real")
    fill(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert content_of(tmp_path / "real") == "new"


def test_sha256_of_bytes_and_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(b"abc") == sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
