"""Hostile text: no traceback, each error named and counted, the rest read; and strict refuses each."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.conftest import Messages

from unmask.cli.main import main
from unmask.config.settings import DocumentSettings
from unmask.data.reading.documents import Document, DocumentReader
from unmask.errors import DataError

FOLDER = Path(__file__).parent


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"faults_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


hostile = _load("hostile")
CASES = {case.name: case for case in hostile.CASES}
LINES = DocumentSettings(skip_unreadable=True, documents="line")
STRICT = DocumentSettings(documents="line", strict=True)


def write(case: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a case; for root, who may read anything, permission is refused by hand."""
    try:
        path = hostile.write_case(case, folder)
    except OSError as error:
        pytest.skip(f"this file system cannot hold the file: {error}")
    if case.reason == "no permission" and os.geteuid() == 0:
        real = Path.open

        def refuse(self: Path, *args: Any, **options: Any) -> Any:
            if self == path:
                raise PermissionError(13, "Permission denied")
            return real(self, *args, **options)

        monkeypatch.setattr(Path, "open", refuse)
    return path


def read(folder: Path) -> tuple[list[Document], list[str], DocumentReader]:
    messages: list[str] = []
    reader = DocumentReader([folder], LINES, progress=Messages(messages))
    return list(reader), messages, reader


def test_there_are_at_least_forty() -> None:
    assert len(CASES) == len(hostile.CASES) >= 40


@pytest.mark.parametrize("name", CASES)
def test_the_rest_is_read_and_the_fault_named_and_counted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, folder = CASES[name], tmp_path / "texts"
    path = write(case, folder, monkeypatch)
    documents, messages, reader = read(folder)
    texts = [document.text for document in documents]
    assert texts[-1] == hostile.GOOD or texts[0] == hostile.GOOD
    texts.remove(hostile.GOOD)
    if case.texts is not None:
        assert tuple(texts) == case.texts
    assert all("\n" not in notice for notice in messages)
    if case.reason is None:
        assert reader.stats.errors == {}
        return
    assert reader.stats.errors.get(case.reason, 0) >= 1
    named = re.escape(str(path.parent) + "/") + ".*" + (f":{case.line}: " if case.line else ": |:[0-9]+: ")
    assert any(re.match(named, example) for example in reader.stats.error_examples[case.reason])
    assert any(re.match(f"(skipped|note): {named}", notice) for notice in messages)
    assert case.reason in messages[-1]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.reason])
def test_strict_refuses_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(CASES[name], tmp_path / "texts", monkeypatch)
    with pytest.raises(DataError) as caught:
        list(DocumentReader([path.parent], STRICT))
    assert str(caught.value).startswith(f"{path.parent}/")
    assert "\n" not in str(caught.value)
    if CASES[name].reason != "not UTF-8":  # UTF-16 that is cut off is refused for being UTF-16
        assert caught.value.line == CASES[name].line or CASES[name].texts is None


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.reason])
def test_strict_reads_what_only_looks_hostile(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(CASES[name], tmp_path / "texts", monkeypatch)
    assert list(DocumentReader([path.parent], STRICT))


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n", encoding="utf-8")
    for settings in (LINES, STRICT):
        reader = DocumentReader([path], settings)
        documents = iter(reader)
        next(documents)
        with path.open("a", encoding="utf-8") as file:
            file.write("three\n")
        if settings.strict:
            with pytest.raises(DataError, match=r"a\.txt: the file changed while it was read"):
                list(documents)
        else:
            list(documents)
            assert reader.stats.errors == {"changed while read": 1}


def test_a_file_that_vanishes_while_others_are_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(name, encoding="utf-8")
    reader = DocumentReader([tmp_path], LINES)
    documents = iter(reader)
    assert next(documents).text == "a"
    (tmp_path / "b.txt").unlink()
    assert list(documents) == []
    assert reader.stats.errors == {"no such file": 1}


def test_many_faults_are_counted_and_few_are_said(tmp_path: Path) -> None:
    lines = ['{"text": "one"}', *("broken" for _ in range(5000)), '{"text": "two"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    documents, messages, reader = read(tmp_path)
    assert [document.text for document in documents] == ["one", "two"]
    assert reader.stats.errors == {"broken JSON": 5000}
    assert len(reader.stats.error_examples["broken JSON"]) == 3
    assert len(messages) == 4
    assert messages[-1] == (
        "errors in the text: 5,000 (broken JSON 5,000); 5,000 of 5,002 documents (over 99.9%) are left out; --strict refuses such text"
    )


def test_a_file_of_nothing_but_faults_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("broken\n" * 5000, encoding="utf-8")
    (tmp_path / "b.txt").write_text("good", encoding="utf-8")
    documents, messages, reader = read(tmp_path)
    assert [document.text for document in documents] == ["good"]
    assert reader.stats.errors == {"broken JSON": 1000, "nothing but errors": 1}
    assert any("a.jsonl:1000: 1,000 errors and no text so far" in notice for notice in messages)


def test_where_nothing_can_be_read_the_first_fault_is_the_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("broken\nbroken\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl:1: broken JSON .*and 1 more error; nothing could be read"):
        read(tmp_path)


def test_a_record_beyond_the_limit_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.data.reading.files.RECORD_LIMIT", 1_000_000)
    for name in ("a.jsonl", "b.csv"):
        begin, end = ('{"text": "', '"}') if name == "a.jsonl" else ('"', '"')
        records = [begin + text + end for text in ("one", "x" * 1_500_000, "two")]
        head = [] if name == "a.jsonl" else ["text"]
        (tmp_path / name).write_text("\n".join([*head, *records]), encoding="utf-8")
    documents, messages, reader = read(tmp_path)
    assert [document.text for document in documents] == ["one", "two"] * 2
    assert reader.stats.errors == {"record too long": 2}
    assert f"{tmp_path / 'b.csv'}:3: a line of 1,500,003 characters" in messages[1]


def test_broken_quotes_do_not_make_reading_slow(tmp_path: Path) -> None:
    # Each row opens a quote that closes nowhere: read to the end again for each, it would take hours.
    rows = "".join(f'{number},"open\n' if number % 2 else f"{number},x\n" for number in range(40_001))
    (tmp_path / "a.csv").write_text("id,text\n" + rows, encoding="utf-8")
    (tmp_path / "b.txt").write_text("good", encoding="utf-8")
    documents, _, reader = read(tmp_path)
    assert documents[-1].text == "good"
    assert sum(reader.stats.errors.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv"])
def test_a_line_of_500_mb_needs_little_memory(kind: str, tmp_path: Path) -> None:
    begin, end = {"txt": ("", ""), "jsonl": ('{"text": "', '"}'), "csv": ('text\n"', '"')}[kind]
    hostile._long_line(tmp_path / f"a.{kind}", hostile.LARGE, begin, end)
    (tmp_path / "b.txt").write_text("good", encoding="utf-8")
    code = (
        "import sys; from unmask.config.settings import DocumentSettings;"
        "from unmask.data.reading.documents import DocumentReader;"
        "reader = DocumentReader([sys.argv[1]], DocumentSettings(skip_unreadable=True));"
        "print(sum(1 for _ in reader), sum(reader.stats.errors.values()));"
        # ru_maxrss would be that of the process that started this one, where that is larger.
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    documents, errors, kilobytes = map(int, done.stdout.split())
    assert (documents, errors) == ((502, 0) if kind == "txt" else (1, 1))
    assert kilobytes < 400_000


# --- the command line -------------------------------------------------------------------------------------------------


def test_prepare_counts_faults_and_strict_ends_with_3(
    tmp_path: Path, checkpoint: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": \n', encoding="utf-8")
    model, texts, shards = str(checkpoint("bert")), str(tmp_path / "a.jsonl"), str(tmp_path / "shards")
    command = ["prepare", texts, "--model", model, "-o", shards, "--json"]
    assert main(command) == 0
    answer = capsys.readouterr()
    assert json.loads(answer.out)["read"]["errors"] == {"broken JSON": 1}
    assert f"skipped: {texts}:2: broken JSON" in answer.err
    assert main([*command, "--strict"]) == 3  # shards that are there already
    assert f"{texts}:2: broken JSON" in capsys.readouterr().err
    for verb in (
        [*command[:-2], f"{shards}-2", "--strict"],
        ["train", shards, "--model", model, "-o", str(tmp_path / "run"), "--max-steps", "1", "--strict"],
        ["train", texts, "--model", model, "-o", str(tmp_path / "run"), "--max-steps", "1", "--strict"],
        ["tokenizer", "train", texts, "--vocab-size", "100", "-o", str(tmp_path / "t"), "--strict"],
    ):
        assert main(verb) == 3, verb
        assert f"{texts}:2: broken JSON" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl", "shards"}
