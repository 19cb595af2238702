"""What is left out of a text is counted and said, and a file of which nothing can be read ends the work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import unmask
from unmask.checking.check import check_data
from unmask.cli.main import main
from unmask.config.settings import DocumentSettings
from unmask.data.reading.documents import DocumentReader
from unmask.data.reading.errors import KEPT
from unmask.errors import DataError
from unmask.reporting.reading import left_out

QUICK = [
    "--max-steps",
    "1",
    "--max-length",
    "32",
    "--batch-tokens",
    "128",
    "--device",
    "cpu",
    "--precision",
    "fp32",
]


@pytest.fixture
def folder(tmp_path: Path, corpus_text: list[str]) -> Path:
    """A folder of six files of records, of which one has the field, with a hidden and a binary file."""
    texts = tmp_path / "texts"
    texts.mkdir()
    for number, field in enumerate(["content", "body", "Note Text", "txt", "abstract", "text"]):
        lines = [json.dumps({field: text}) for text in corpus_text[number * 20 : number * 20 + 20]]
        if field == "text":
            lines += ["{broken", '{"text": ""}']
        (texts / f"{number}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (texts / ".hidden").write_text("x", encoding="utf-8")
    (texts / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    return texts


def test_a_file_of_which_nothing_can_be_read_ends_every_verb(
    folder: Path, checkpoint: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(checkpoint("bert"))
    for verb in (
        ["train", str(folder), "--model", model, "-o", str(tmp_path / "run")],
        ["prepare", str(folder), "--model", model, "-o", str(tmp_path / "shards")],
        ["tokenizer", "train", str(folder), "--vocab-size", "100", "-o", str(tmp_path / "tokenizer")],
    ):
        assert main(verb) == 3, verb
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith(
            f"error: {folder}/0.jsonl:1: no field 'text'; there are 'content'; choose with"
        )
        assert "--skip-unreadable" in error
    everything = 'content,body,"Note Text",txt,abstract,text'
    assert (
        main(
            ["prepare", str(folder), "--model", model, "-o", str(tmp_path / "s"), "--text-field", everything]
        )
        == 0
    )


def test_what_a_run_left_out_stands_in_all_its_results(
    folder: Path, checkpoint: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, model = tmp_path / "run", str(checkpoint("bert"))
    command = ["train", str(folder), "--model", model, "-o", str(run), *QUICK, "--skip-unreadable"]
    assert main(command) == 0
    summary = " ".join(capsys.readouterr().out.split())
    read = json.loads((run / "run.json").read_text(encoding="utf-8"))["read"]["text"]
    assert read["unreadable_files"] == 5
    assert [Path(item["source"]).name for item in read["unreadable"]] == [f"{n}.jsonl" for n in range(5)]
    assert read["skipped_files"] == {"hidden": 1, "not text, by its first bytes": 1}
    assert (read["errors"]["broken JSON"], read["empty"]) == (1, 1)
    card = (run / "model" / "README.md").read_text(encoding="utf-8").replace("\\", "")
    report = (run / "report.html").read_text(encoding="utf-8")
    for page in (summary, report, card):
        assert "Left out of the text: 5 files of which nothing could be read" in page
        assert "broken JSON 1" in page
        assert "1 hidden" in page
        assert "1 empty document or record" in page
    assert f"{folder}/0.jsonl:1" in summary
    assert str(folder) not in card  # which is published


def test_the_python_api_has_it_too(folder: Path, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="skip_unreadable=True leaves such files out"):
        unmask.prepare(str(folder), tmp_path / "a", model=checkpoint("bert"))
    corpus = unmask.prepare(str(folder), tmp_path / "b", model=checkpoint("bert"), skip_unreadable=True)
    assert corpus.manifest["read"]["unreadable_files"] == 5
    assert corpus.manifest["documents"] == 20


def test_a_broken_link_in_a_folder_is_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    (tmp_path / "b.txt").symlink_to(tmp_path / "gone.txt")
    with pytest.raises(DataError, match=r"b\.txt: a broken symbolic link.*--skip-unreadable"):
        DocumentReader([tmp_path])
    reader = DocumentReader([tmp_path], DocumentSettings(skip_unreadable=True))
    assert len(list(reader)) == len(list(reader)) == 1
    assert reader.stats.unreadable_files == 1


# ------------------------------------------------------------------------ check says what the reader does

DAMAGED = {
    "UTF-16": ("a.txt", "some words here".encode("utf-16")),
    "UTF-32": ("a.txt", "some words here".encode("utf-32")),
    "NUL bytes": ("a.txt", b"some words\0 here"),
    "mixed line ends": ("a.txt", b"some words\r\nhere\n"),
    "no text": ("a.txt", b"\n"),
    "short row": ("a.csv", b"text,id\nsome words\n"),
    "not UTF-8": ("a.txt", b"some words\nK\xf6ln\n"),
    "lone surrogate": ("a.jsonl", b'{"text": "some words"}\n{"text": "\\ud83d"}\n'),
    "broken JSON": ("a.jsonl", b'{"text": "some words"}\n{"text": \n'),
    "ragged row": ("a.csv", b"text,id\nsome words,1\nx,y,z\n"),
}


@pytest.mark.parametrize("reason", DAMAGED)
def test_check_says_what_the_reader_does(tmp_path: Path, reason: str) -> None:
    name, content = DAMAGED[reason]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "good.txt").write_text("a good text\n", encoding="utf-8")
    reader = DocumentReader([tmp_path])
    damaged = [document.text for document in reader if document.source.endswith(name)]
    assert reader.stats.errors == {reason: 1}
    (finding,) = [item for item in check_data([tmp_path]).findings if item.about == "reading"]
    if reason in KEPT:
        assert finding.level == "note"
        assert finding.text == f"noted in text that is read: {reason} (1; {KEPT[reason]})"
        assert " ".join(damaged).split() == (
            [] if reason == "no text" else "some words here".split()[: len(" ".join(damaged).split())]
        )
        assert not any("\0" in text for text in damaged)
    else:
        assert finding.level == "problem"
        share = "1 of 3 documents (33.3%)"
        assert finding.text.startswith(f"left out: {reason} (1), {share}; for example {tmp_path / name}:")
        assert damaged == ["some words"]


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"contents": {"JSONL": 1}}, "2 records with errors"),
        ({"contents": {"text": 1}, "splits": {"line": 1}}, "2 documents with errors"),
        ({"contents": {"CSV": 1, "text": 1}, "splits": {"file": 1}}, "2 records or documents with errors"),
    ],
)
def test_what_was_left_out_is_called_what_it_is(about: dict[str, Any], said: str) -> None:
    (found,) = left_out({"errors": {"broken JSON": 2}, "error_examples": {}, "documents": 8, **about})
    assert found.startswith(said)


def test_the_example_is_of_what_was_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("some words".encode("utf-16"))
    (tmp_path / "b.jsonl").write_text('{"text": "x y"}\n{broken\n', encoding="utf-8")
    problem, note = (item for item in check_data([tmp_path]).findings if item.about == "reading")
    assert "b.jsonl:2: broken JSON" in problem.text
    assert "UTF-16" not in problem.text
    assert "UTF-16" in note.text


def test_a_file_of_which_most_is_left_out_is_refused_with_a_guess_of_its_encoding(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    rows = [f"{number},Prüfung am Köln{number}" for number in range(11)] + [
        f"{number},plain" for number in range(10)
    ]
    path.write_bytes("\n".join(["id,note", *rows]).encode("windows-1252"))
    settings = DocumentSettings(text_field="note")
    with pytest.raises(
        DataError, match=r"give --encoding windows-1252 .*11 of 21 documents \(52\.4%\) of this file"
    ):
        list(DocumentReader([path], settings))
    kept = DocumentReader([path], settings.model_copy(update={"skip_unreadable": True}))
    assert len(list(kept)) == 10
    assert len(list(DocumentReader([path], settings.model_copy(update={"encoding": kept.encoding})))) == 21
    command = check_data(path, settings).plan["commands"][-1]
    assert "--encoding windows-1252" in command
    assert "--skip-unreadable" not in command
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join(lines[:1] + lines[2:]))  # half of the rows
    assert len(list(DocumentReader([path], settings))) == 10


def test_check_names_every_file_that_cannot_be_read(folder: Path) -> None:
    found = check_data([folder])
    assert [Path(item["source"]).name for item in found.unreadable] == [
        f"{number}.jsonl" for number in range(5)
    ]
    (problem,) = [item for item in found.findings if item.level == "problem"]
    assert all(f"{number}.jsonl:1: no field 'text'" in problem.text for number in range(5))
    assert found.read["documents"] == 20


def test_a_leak_in_memory_names_the_argument() -> None:
    text = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    found = unmask.check([text, "another text"], test=[text])
    assert "<test>: 1 of 1 text (100.0%) word for word in <text>" in [item.text for item in found.findings]


# ------------------------------------------------------------------------ many small files


def notes(folder: Path, number: int, lines: int = 12) -> Path:
    folder.mkdir()
    for place in range(number):
        text = "\n".join(f"note {place} line {line} has a few words" for line in range(lines))
        (folder / f"{place:03}.txt").write_text(text + "\n", encoding="utf-8")
    return folder


def test_many_small_files_are_a_document_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = notes(tmp_path / "notes", 51)
    assert len(list(DocumentReader([folder]))) == 51
    assert len(list(DocumentReader([folder], DocumentSettings(documents="line")))) == 51 * 12
    assert main(["check", str(folder)]) == 0
    shown = capsys.readouterr()
    assert "one document per file of plain text: these are many files" in shown.err
    assert "change with --documents" in shown.err
    assert "a document of plain text is: the whole file (51 files)" in shown.out
    assert "--documents file" in shown.out.splitlines()[-1]


def test_few_files_large_files_and_a_large_file_among_small_ones(tmp_path: Path) -> None:
    assert len(list(DocumentReader([notes(tmp_path / "few", 9)]))) == 9 * 12
    assert len(list(DocumentReader([notes(tmp_path / "large", 10, lines=1200)]))) == 10 * 1200
    folder = notes(tmp_path / "notes", 20)
    (folder / "shard.txt").write_text("a line of a large file\n" * 50_000, encoding="utf-8")
    reader = DocumentReader([folder])
    assert len(list(reader)) == 20 + 50_000
    assert reader.stats.splits == {"file": 20, "line": 1}


def test_held_out_files_are_split_as_the_text_is(tmp_path: Path, checkpoint: Callable[[str], Path]) -> None:
    folder, held = notes(tmp_path / "notes", 20), notes(tmp_path / "held", 3)
    command = ["train", str(folder), "--heldout", str(held), "--model", str(checkpoint("bert")), *QUICK]
    assert main([*command, "-o", str(tmp_path / "run")]) == 0
    info = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    corpus = info["corpus"]
    assert corpus["documents"] == 20
    assert corpus["heldout_documents"] + corpus.get("selection_documents", 0) == 3
    assert info["read"]["heldout"]["splits"] == {"file": 3}


def test_test_files_are_split_as_the_text_is(tmp_path: Path) -> None:
    folder = notes(tmp_path / "notes", 20)
    test = tmp_path / "test"
    test.mkdir()
    (test / "a.txt").write_text((folder / "003.txt").read_text(encoding="utf-8"), encoding="utf-8")
    found = check_data([folder], test=[test])
    assert found.leakage is not None
    assert [(row["documents"], row["exact"]) for row in found.leakage["files"]] == [(1, 1)]
