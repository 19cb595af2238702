"""Parts: shards are a function of text and settings, whatever was written before and by whom."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unmask.config.settings import DocumentSettings
from unmask.data import parts, preparation
from unmask.data.corpus import Corpus, manifest_text, open_corpus
from unmask.data.preparation import prepare
from unmask.data.reading.documents import DocumentReader
from unmask.errors import DataError
from unmask.progress import Progress

LINES = DocumentSettings(documents="line")


@pytest.fixture
def folder(tmp_path: Path, corpus_text: list[str]) -> Path:
    """Seven files with several kinds of errors, a file without text and a hidden one."""
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(7):
        lines = corpus_text[number * 40 : number * 40 + 40]
        (folder / f"{number}.txt").write_text("\n".join([*lines, f"猫{number} 犬"]) + "\n", encoding="utf-8")
    for number in (1, 2, 4, 5):
        with (folder / f"{number}.txt").open("ab") as file:
            file.write(b"caf\xe9\nbell\x07rings\n" * 2)
    (folder / "3.txt").write_text("\n\n", encoding="utf-8")
    (folder / ".hidden").write_text("no", encoding="utf-8")
    return folder


@pytest.fixture
def made(folder: Path, wordpiece_tokenizer: Any, tmp_path: Path) -> Callable[..., Corpus]:
    def make(name: str = "shards", progress: Progress = Progress(), **settings: Any) -> Corpus:
        chosen = LINES.model_copy(update=settings)
        return prepare([folder], chosen, wordpiece_tokenizer, tmp_path / name, progress=progress)

    return make


def small_parts(monkeypatch: pytest.MonkeyPatch, size: int = 1) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", size)


def stop_after(monkeypatch: pytest.MonkeyPatch, count: int) -> list[int]:
    """Fail at the part after so many; return the list of the parts that are written."""
    written: list[int] = []

    def write(plan: Any, part: int, *args: Any, **options: Any) -> dict[str, Any]:
        if len(written) == count:
            raise KeyboardInterrupt
        written.append(part)
        return parts.write_part(plan, part, *args, **options)

    monkeypatch.setattr(preparation, "write_part", write)
    return written


def make_until(monkeypatch: pytest.MonkeyPatch, count: int, make: Callable[[], object]) -> None:
    """Interrupt a preparation at the part after so many."""
    with monkeypatch.context() as patch:
        stop_after(patch, count)
        with pytest.raises(KeyboardInterrupt):
            make()


def test_parts_are_runs_of_files_up_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch, 100)
    files = []
    for number, size in enumerate((40, 60, 1, 300, 10, 100, 0)):
        files.append(tmp_path / f"{number}.txt")
        files[-1].write_bytes(b"x" * size)
    assert parts.cut([*files]) == [(0, 2), (2, 3), (3, 4), (4, 5), (5, 7)]


@pytest.mark.parametrize("size", [1, 4000])
def test_several_parts_hold_what_one_holds(
    size: int, made: Callable[..., Corpus], folder: Path, monkeypatch: pytest.MonkeyPatch, notices: Any
) -> None:
    one = made("one", notices)
    said = notices.texts[:]
    notices.texts.clear()
    small_parts(monkeypatch, size)
    several = made("several", notices)
    assert len({shard["name"].split("/")[0] for shard in several.manifest["shards"]}) > 2
    assert several.keys.tolist() == one.keys.tolist()
    numbers = np.arange(len(one))
    assert several.lengths[numbers].tolist() == one.lengths[numbers].tolist()
    assert [several.document(n).tolist() for n in (0, 99, len(one) - 1)] == [
        one.document(n).tolist() for n in (0, 99, len(one) - 1)
    ]
    apart = {"shards", "files", "sha256"}
    assert json.dumps({k: v for k, v in several.manifest.items() if k not in apart}) == json.dumps(
        {k: v for k, v in one.manifest.items() if k not in apart}
    )
    reader = DocumentReader([folder], LINES)
    list(reader)
    assert json.dumps(several.manifest["read"]) == json.dumps(vars(reader.stats))
    assert several.manifest["read"]["errors"] == {"not UTF-8": 8, "control characters": 8, "no text": 1}
    assert several.manifest["unknown_tokens"] == one.manifest["unknown_tokens"] > 5
    assert notices.texts == said


def test_what_is_whole_is_not_written_again(
    made: Callable[..., Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notices: Any
) -> None:
    small_parts(monkeypatch)
    wanted = made("wanted").manifest
    make_until(monkeypatch, 3, made)
    assert not (tmp_path / "shards").exists()
    written = stop_after(monkeypatch, 99)
    assert made(progress=notices).manifest == wanted
    assert written == [3, 4, 5, 6]
    assert {path.name for path in tmp_path.iterdir()} == {"text", "wanted", "shards"}


def test_a_part_whose_file_is_gone_is_written_again(
    made: Callable[..., Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notices: Any
) -> None:
    small_parts(monkeypatch)
    wanted = made("wanted").manifest
    make_until(monkeypatch, 3, lambda: made(progress=notices))
    assert notices.texts[-1].startswith("what is whole (3 of 7 parts) is kept in ")
    (tmp_path / ".shards.partial" / "shards" / "part-00001" / "shard-00000.keys.npy").unlink()
    written = stop_after(monkeypatch, 99)
    assert made().manifest == wanted
    assert written == [1, 3, 4, 5, 6]


def test_parts_of_another_text_are_not_used(
    made: Callable[..., Corpus], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch)
    make_until(monkeypatch, 3, made)
    (folder / "6.txt").write_text("another last file\n", encoding="utf-8")
    written = stop_after(monkeypatch, 99)
    assert made().manifest == made("wanted").manifest
    assert written[:7] == list(range(7))


def test_errors_of_parts_that_were_kept_are_errors_to_strict_reading(
    made: Callable[..., Corpus], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch)
    for number in (2, 3, 4, 5):
        (folder / f"{number}.txt").unlink()
    make_until(monkeypatch, 2, made)
    with pytest.raises(DataError, match=r"1\.txt:.* is not UTF-8"):
        made(strict=True)


def test_a_failure_in_the_only_part_leaves_nothing(
    made: Callable[..., Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        made()
    assert {path.name for path in tmp_path.iterdir()} == {"text"}


def test_without_any_text_the_first_error_is_named(
    made: Callable[..., Corpus], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch)
    for path in folder.iterdir():
        path.write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match=r"0\.txt:1: byte 0xe9 is not UTF-8.*and 6 more errors") as caught:
        made(skip_unreadable=True)
    assert (caught.value.path, caught.value.line) == (str(folder / "0.txt"), 1)


def test_shards_without_parts_are_used_again(made: Callable[..., Corpus], notices: Any) -> None:
    """An earlier version wrote the shards of all inputs beside the manifest."""
    corpus = made()
    manifest = json.loads(json.dumps(corpus.manifest).replace("part-00000/", ""))
    for path in (corpus.folder / "part-00000").iterdir():
        os.rename(path, corpus.folder / path.name)
    (corpus.folder / "part-00000").rmdir()
    (corpus.folder / "manifest.json").write_text(manifest_text(manifest), encoding="utf-8")
    assert made(progress=notices).keys.tolist() == corpus.keys.tolist()
    assert notices.texts[-1].startswith("reusing ")
    assert open_corpus(corpus.folder).document(3).tolist() == corpus.document(3).tolist()
    shutil.rmtree(corpus.folder)
