"""The verb `check` from the outside: streams, exit codes, the page, several files after one --test."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from unmask.cli.main import main

LEAK = "The very same sentence stands in both files, word for word, as it should not."


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    lines = {
        "corpus": [
            "A first document of some words.",
            LEAK,
            "Another document, which nobody has seen before.",
        ],
        "one": ["This one is new.", LEAK],
        "two": ["Nothing here stands anywhere else at all."],
    }
    for name, content in lines.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(content) + "\n", encoding="utf-8")
    return {name: str(tmp_path / f"{name}.txt") for name in lines}


def test_the_most_important_comes_first(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", files["corpus"], "--test", files["one"], files["two"]]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"problem  {files['one']}: 1 of 2 texts (50.0%) word for word in corpus.txt"
    assert any(
        line.startswith("note ") and files["two"] in line for line in shown
    )  # of fewer words than a run
    assert any(
        f"line 2 equals {files['corpus']}:2" in line and "very same sentence" in line for line in shown
    )
    assert shown[-1].strip() == (
        f"unmask train {files['corpus']} --model bert-base-uncased --epochs 100 -o runs/adapted"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("corpus", "--test", "one", "two"),
        ("corpus", "--test", "one", "--test", "two"),
        ("--test", "one", "--test", "two", "corpus"),
        ("corpus", "--test=one", "--test=two"),
    ],
)
def test_test_files_are_given_in_any_way(
    files: dict[str, str], arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--test=" + files[a[7:]] if a.startswith("--test=") else files.get(a, a) for a in arguments]
    assert main(["check", *given, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["inputs"] == [files["corpus"]]
    assert answer["test"] == [files["one"], files["two"]]
    assert [row["exact"] for row in answer["leakage"]["files"]] == [1, 0]


def test_strict_makes_a_problem_an_exit_code(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", files["corpus"], "--test", files["one"], "--strict"]) == 3
    assert main(["check", files["corpus"], "--test", files["two"], "--strict"]) == 0
    capsys.readouterr()


def test_nothing_readable_is_one_line_and_exit_code_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(tmp_path / "absent.txt")]) == 3
    found = capsys.readouterr()
    assert found.out == ""
    (line,) = found.err.splitlines()
    assert line.startswith("error: ")
    assert "absent.txt" in line


def test_the_page_is_whole_and_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, page = tmp_path / "data.txt", tmp_path / "page.html"
    data.write_text("<script>alert(1)</script> [SEP] and more words\n" * 3, encoding="utf-8")
    assert main(["check", str(data), "--html", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "http://" not in text
    assert "https://" not in text
    assert "exact duplicates" in text
    assert "wrote" in capsys.readouterr().err


def test_a_page_without_a_folder_is_refused_at_once(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", files["corpus"], "--html", "/no/such/folder/page.html"]) == 5
    assert "no folder" in capsys.readouterr().err


def test_prepared_shards_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    assert main(["check", str(tmp_path)]) == 3
    assert "shards" in capsys.readouterr().err


def test_no_verb_takes_a_model_without_its_tokenizer(
    files: dict[str, str], checkpoint: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(checkpoint("bert") / name, model)
    for command in (
        ["check", files["corpus"], "--model", str(model)],
        ["train", files["corpus"], "--model", str(model), "-o", str(tmp_path / "run")],
        ["score", str(model), files["corpus"]],
        ["fill", str(model), "A [MASK]."],
    ):
        assert main([*command, "--offline"]) == 2
        found = capsys.readouterr()
        assert "holds no tokenizer files" in found.err
        assert "unmask train" not in found.out


def test_a_model_that_cannot_be_loaded_is_no_advice(
    files: dict[str, str], checkpoint: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(checkpoint("bert"), tmp_path / "model"))
    (model / "model.safetensors").unlink()
    assert main(["check", files["corpus"], "--model", str(model), "--offline"]) == 2
    assert "unmask train" not in capsys.readouterr().out
    (model / "config.json").unlink()
    assert main(["check", files["corpus"], "--model", str(model), "--offline"]) == 0
    assert f"--preset modernbert-mini --tokenizer {model}" in capsys.readouterr().out
