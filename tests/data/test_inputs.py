"""What inputs stand for: files in a fixed order, and one line for each way in which a path can be wrong."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from tests.conftest import Messages

from unmask.config.settings import DocumentSettings
from unmask.data.reading.documents import Document, DocumentReader
from unmask.data.reading.inputs import HubInput, StdinInput, describe_inputs, expand_inputs
from unmask.errors import DataError


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def read(*inputs: str | Path, messages: list[str] | None = None) -> list[Document]:
    return list(DocumentReader(inputs, progress=Messages(messages)))


def test_order_is_that_of_inputs_and_names(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/c/x.txt", "a.txt", "B.txt", "10.txt", "9.txt"):
        write(tmp_path / name, name)
    expected = ["10.txt", "9.txt", "B.txt", "a/c/x.txt", "a/z.txt", "a.txt", "b.txt"]
    assert [document.text for document in read(tmp_path)] == expected
    assert [document.text for document in read(str(tmp_path / "**" / "*.txt"))] == expected
    assert [document.text for document in read(str(tmp_path / "**" / "**" / "*.txt"))] == expected
    assert [d.text for d in read(str(tmp_path / "[ab].txt"), tmp_path / "9.txt")] == [
        "a.txt",
        "b.txt",
        "9.txt",
    ]
    assert [document.text for document in read(str(tmp_path / "a*"))] == ["a/c/x.txt", "a/z.txt", "a.txt"]


def test_a_name_with_glob_characters_is_a_name_first(tmp_path: Path) -> None:
    write(tmp_path / "a[1].txt", "brackets")
    write(tmp_path / "a1.txt", "digit")
    assert [document.text for document in read(str(tmp_path / "a[1].txt"))] == ["brackets"]


def test_a_folder_says_what_it_leaves_out(tmp_path: Path) -> None:
    write(tmp_path / "notes", "some text")
    write(tmp_path / ".hidden.txt", "hidden")
    write(tmp_path / ".git/config", "hidden")
    write(tmp_path / "image.png", b"\x89PNG\r\n\x1a\n\0\0")
    messages: list[str] = []
    reader = DocumentReader([tmp_path], progress=Messages(messages))
    assert [document.text for document in reader] == ["some text"]
    assert messages[:2] == [
        f"{tmp_path}: skipped 2 (hidden): .git, .hidden.txt",
        f"{tmp_path}: skipped 1 (not text, by its first bytes): image.png",
    ]
    assert reader.stats.skipped_files == {"hidden": 2, "not text, by its first bytes": 1}


def test_a_file_of_another_encoding_is_text_whatever_its_suffix(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "some text")
    write(tmp_path / "old.log", "Köln".encode("latin-1"))
    with pytest.raises(
        DataError, match=r"old\.log:1: byte 0xf6 .*give --encoding windows-1252; nothing could be"
    ):
        read(tmp_path)


def test_an_input_named_twice_is_read_twice_and_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "x")
    messages: list[str] = []
    assert len(read(path, str(tmp_path / "*.txt"), messages=messages)) == 2
    assert messages[0] == f"{path} is given more than once and is read each time"


def test_hub_addresses() -> None:
    address = "hf://org/name:20231101.en?split=train%5B:1%25%5D+test&column=body"
    assert expand_inputs(["-", address]) == [
        StdinInput(),
        HubInput(address, "org/name", "20231101.en", "train[:1%]+test", "body"),
    ]
    assert HubInput.parse("hf://datasets/org/name?config=en") == HubInput(
        "hf://datasets/org/name?config=en", "org/name", "en"
    )
    with pytest.raises(DataError, match=r"'splitt=x' \(did you mean 'split'\?\)"):
        expand_inputs(["hf://org/name?splitt=x"])
    for wrong in ("hf://", "hf://a/b/c"):
        with pytest.raises(DataError, match="expected hf://org/name"):
            expand_inputs([wrong])


@pytest.mark.skipif(os.name == "nt", reason="no FIFO, no /dev/null")
def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path / "data" / "notes.txt", "x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "nowhere.txt").symlink_to(tmp_path / "gone.txt")
    (tmp_path / "self.txt").symlink_to(tmp_path / "self.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    write(tmp_path / "binary" / "a.bin", b"\0")
    errors = {
        "data/note.txt": r"no such file \(did you mean 'notes\.txt'\?\); give a file, .* a URL \(s3://",
        "dta/notes.txt": r"no such file: the folder .*dta does not exist \(did you mean 'data'\?\)",
        "Hello world!": r"no such file \(for the text itself, pipe it in and give -\); give a file",
        "Wet and/or cold.": r"no such file: the folder .*Wet and does not exist \(for the text itself",
        "Is it cold?": r"the glob matches no file \(for the text itself",
        "The river froze. " * 30: r"no such file \(for the text itself",
        "My diary of 2024.md": r"no such file; give",
        "data/notes.txt/x": r"no such file: .*notes\.txt is not a folder",
        "*.md": "the glob matches no file",
        "nodir/**/*.md": r"no such file",
        "empty": "an empty folder; expected text, JSONL, CSV",
        "binary": "no text among 0 hidden and 1 binary entries",
        "nowhere.txt": "a broken symbolic link",
        "self.txt": "a loop of symbolic links",
        "pipe.txt": "a pipe, socket or device",
    }
    for name, pattern in errors.items():
        with pytest.raises(DataError, match=f"^{re.escape(str(tmp_path))}.*: {pattern}"):
            expand_inputs([str(tmp_path / name)])
    with pytest.raises(DataError, match=r"^/dev/null: a pipe, socket or device"):
        expand_inputs(["/dev/null"])
    with pytest.raises(DataError, match="no inputs; give files"):
        expand_inputs([])
    with pytest.raises(DataError, match="an empty input"):
        expand_inputs([""])
    with pytest.raises(DataError, match=r"^https://x\.org/a\.txt: URLs of https:// cannot be used"):
        expand_inputs(["https://x.org/a.txt"])


def test_a_folder_that_lies_inside_itself_is_read_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a" / "x.txt", "x")
    for name in ("again", "back"):  # two links: a reader that follows them would never come to an end
        (tmp_path / "a" / name).symlink_to(tmp_path)
    messages: list[str] = []
    assert expand_inputs([tmp_path], progress=Messages(messages)) == [path]
    assert f"skipped: {tmp_path / 'a' / 'back'}: a loop of symbolic links" in messages[1]


@pytest.mark.parametrize("form", ["**/*.txt", "**"])
def test_a_glob_into_a_folder_that_lies_inside_itself_is_refused(tmp_path: Path, form: str) -> None:
    write(tmp_path / "a" / "x.txt", "x")
    for name in ("again", "back"):  # two links: a reader that follows them would never come to an end
        (tmp_path / "a" / name).symlink_to(tmp_path)
    with pytest.raises(DataError, match="a loop of symbolic links: the folder contains itself"):
        expand_inputs([str(tmp_path / form)])


def test_a_link_to_another_folder_is_followed(tmp_path: Path) -> None:
    write(tmp_path / "real" / "x.txt", "x")
    (tmp_path / "data").mkdir()
    for name in ("one", "two"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "real")
    assert [d.source for d in read(tmp_path / "data")] == [
        f"{tmp_path}/data/{n}/x.txt" for n in ("one", "two")
    ]


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = write(tmp_path / "a.txt", "x"), Path.open

    def refuse(self: Path, *args: Any, **options: Any) -> Any:
        # Root may read everything, so chmod would show nothing.
        if self == path:
            raise PermissionError(13, "Permission denied")
        return real(self, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}: permission denied; make it readable"):
        read(path)


def test_descriptions_change_with_the_files_only(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "x")
    os.utime(path, ns=(1, 1))
    inputs = [str(tmp_path), "hf://org/name"]
    before = describe_inputs(inputs)
    assert json.loads(json.dumps(before)) == before == describe_inputs(inputs)
    assert before[0]["files"] == before[0]["bytes"] == 1
    write(path, "y")
    assert describe_inputs(inputs) != before
    first = describe_inputs(["-"])
    time.sleep(0.001)
    assert describe_inputs(["-"]) != first


# --- data sets saved by the datasets library ----------------------------------------------------------------------


def test_a_saved_data_set_is_read(tmp_path: Path) -> None:
    rows = {"text": ["A first text.", "春天来了。", "A third."], "label": [0, 1, 0]}
    Dataset.from_dict(rows).save_to_disk(tmp_path / "saved", num_shards=2)
    (tmp_path / "saved" / "cache-0123.arrow").write_bytes(b"a part of another computation")
    reader = DocumentReader([str(tmp_path / "saved")])
    assert [document.text for document in reader] == rows["text"]
    assert reader.stats.errors == {}


def test_a_saved_data_set_needs_the_field(tmp_path: Path) -> None:
    Dataset.from_dict({"body": ["A text."]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match="no column 'text'; there are 'body'; choose with --text-field"):
        list(DocumentReader([str(tmp_path / "saved")], DocumentSettings(strict=True)))


def test_a_saved_data_set_of_several_splits_names_them(tmp_path: Path) -> None:
    one = Dataset.from_dict({"text": ["A text."]})
    DatasetDict({"train": one, "test": one}).save_to_disk(tmp_path)
    with pytest.raises(DataError, match=r"2 splits; give one of them: .*test, .*train$"):
        DocumentReader([str(tmp_path)])
    assert [document.text for document in DocumentReader([str(tmp_path / "train")])] == ["A text."]


def test_a_damaged_arrow_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    path.write_bytes(b"no arrow")
    with pytest.raises(DataError, match="damaged Arrow data after row 0"):
        list(DocumentReader([str(path)], DocumentSettings(strict=True)))
