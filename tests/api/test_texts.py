"""Text of any kind becomes inputs of the readers, and no mistyped path is taken for a text."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pytest

from unmask.api.progress import CallbackProgress, ProgressEvent
from unmask.api.texts import TextFiles
from unmask.errors import ConfigError, DataError, UnmaskError

TEXTS = ["The cats sleep.", "Naïve café\u2028 — 日本語"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with a file and a folder of text."""
    monkeypatch.chdir(tmp_path)
    Path("gen.txt").write_text("A line.\n", encoding="utf-8")
    Path("My notes").mkdir()
    Path("My notes/a.txt").write_text("A note.\n", encoding="utf-8")


def inputs(text: Any, field: str = "text", **options: Any) -> list[str]:
    events: list[ProgressEvent] = []
    with TextFiles(field=field, progress=CallbackProgress(events.append), **options) as files:
        return files.inputs(text)


def texts(text: Any, field: str = "text") -> tuple[list[Any], list[str]]:
    """Return the texts that were written, and the warnings."""
    events: list[ProgressEvent] = []
    with TextFiles(field=field, progress=CallbackProgress(events.append)) as files:
        (path,) = files.inputs(text)
        rows = [
            json.loads(line)[field] for line in Path(path).read_text(encoding="utf-8").split("\n") if line
        ]
    assert not Path(path).exists()
    return rows, [event.text for event in events if event.kind == "warning"]


@pytest.mark.parametrize(
    "text",
    [
        "gen.txt",
        "My notes",
        "*.txt",
        "-",
        "hf://org/name",
        Path("gen.txt"),
        Path("absent.txt"),  # the reader says what is wrong with it
        ["gen.txt", "My notes"],
        ["gen.txt", Path("My notes")],
        ("My notes/*.txt", "gen.txt"),
    ],
)
def test_paths_stay_paths(text: Any) -> None:
    given = text if isinstance(text, list | tuple) else [text]
    assert inputs(text) == [str(item) for item in given]


@pytest.mark.parametrize(
    "text",
    [
        TEXTS,
        tuple(TEXTS),
        np.array(TEXTS),
        pandas.Series(TEXTS, index=[7, 9]),
        pandas.DataFrame({"text": TEXTS, "other": [1, 2]}),
        datasets.Dataset.from_dict({"text": TEXTS, "other": [1, 2]}),
        datasets.Dataset.from_dict({"text": TEXTS})["text"],
        datasets.Dataset.from_dict({"text": TEXTS}).to_iterable_dataset(),
        [{"text": text, "other": 1} for text in TEXTS],
        iter(TEXTS),
    ],
    ids=lambda value: type(value).__name__,
)
def test_texts_in_memory_are_written_as_they_are(text: Any) -> None:
    assert texts(text) == (TEXTS, [])


@pytest.mark.parametrize(
    "table",
    [pandas.DataFrame({"body": TEXTS}), datasets.Dataset.from_dict({"body": TEXTS}), [{"body": TEXTS[0]}]],
    ids=lambda value: type(value).__name__,
)
def test_the_column_is_named_by_text_field(table: Any) -> None:
    assert texts(table, "body")[0][0] == TEXTS[0]
    with pytest.raises(ConfigError, match=r"no \w+ 'text'.*there are 'body'; choose with text_field="):
        texts(table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gne.txt", r"no such file \(did you mean 'gen.txt'\?\)"),
        ("The cats sleep.", r"no such file or folder: 'The cats sleep.'; pass a text in a list"),
        ("What is this?", r"pass a text in a list"),
        (["gen.txt", "gne.txt"], r"no such file \(did you mean 'gen.txt'\?\)"),
        (["gne.txt"], r"no such file.*if it is a text, pass a pandas Series"),
        (["notes/2024"], r"no such file"),
        (["gen.txt", "The cats sleep."], r"mixed: 'gen.txt' and 'The cats sleep.'"),
        (["The cats sleep.", "gne.txt"], r"mixed: 'gne.txt' and 'The cats sleep.'"),
        (["gen.txt", None], r"mixed: 'gen.txt' and None"),
        (["The cats sleep.", Path("gen.txt")], r"no such file or folder: 'The cats sleep.'"),
        ([], r"no text"),
        ([None, math.nan], r"no text, 2 missing values"),
        ([1, 2], r"texts must be strings; text 1 is of type int"),
        (b"bytes", r"not an object of type bytes"),
        ({"text": TEXTS}, r"not an object of type dict"),
        (datasets.DatasetDict(test=datasets.Dataset.from_dict({"text": TEXTS})), r"dataset\['test'\]"),
        (7, r"not an object of type int"),
    ],
)  # fmt: skip
def test_what_is_no_text_is_an_error(text: Any, message: str) -> None:
    with pytest.raises(UnmaskError, match=message):
        inputs(text)


def test_a_series_of_names_is_text() -> None:
    assert texts(pandas.Series(["gen.txt", "gne.txt"]))[0] == ["gen.txt", "gne.txt"]


def test_a_long_list_may_hold_words_that_look_like_paths() -> None:
    many = [f"Sentence number {number}." for number in range(150)] + ["and/or", "gen.txt"]
    assert texts(many)[0] == many
    with pytest.raises(DataError, match="mixed"):
        inputs(["gen.txt"] * 150 + ["A sentence."])


@pytest.mark.parametrize("missing", [None, math.nan, pandas.NA, pandas.NaT, np.float64("nan")])
def test_missing_values_are_counted_and_skipped(missing: object) -> None:
    rows, warnings = texts([*TEXTS, missing])
    assert rows == [*TEXTS, None]
    assert warnings == ["text: 1 of 3 texts missing and skipped"]


def test_a_kept_file_is_not_written_again_and_not_overwritten(tmp_path: Path) -> None:
    (path,) = inputs(TEXTS, folder=tmp_path / "kept")
    before = Path(path).stat()
    assert inputs(TEXTS, folder=tmp_path / "kept") == [path]
    assert Path(path).stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(ConfigError, match="not the texts that the run"):
        inputs(TEXTS[:1], folder=tmp_path / "kept")
    assert Path(path).read_bytes().count(b"\n") == 2
    assert [item.name for item in (tmp_path / "kept").iterdir()] == ["text.jsonl"]


def test_a_lone_surrogate_is_left_to_the_reader() -> None:
    assert texts(["bad \ud800 text"])[0] == ["bad \ud800 text"]
