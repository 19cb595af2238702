"""The how-tos run from their situation to their result, on little text and a tiny model.

All share one folder with the files that they name, and a finished run. Training stops after two steps.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PAGES = sorted((Path(__file__).parent.parent / "docs" / "how-to").glob("*.md"))
_BLOCK = re.compile(r"(<!-- not run: .*? -->\s*)?^ *```(\w+)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


def commands(code: str, run: bool = True) -> None:
    """Run the command lines of a block, or only parse them; a train command stops after two steps."""
    from unmask.cli.main import main

    for line in code.replace("\\\n", " ").strip().splitlines():
        variables, _, words = line.strip().partition("unmask ")
        assert re.fullmatch(r"(\w+=\S* )*", variables), line
        arguments = shlex.split(words)
        short = ["--max-steps", "2"] if arguments[0] == "train" else []
        assert main([*arguments, *(["--quiet", *short] if run else ["--help"])]) == 0, line


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, corpus_text: list[str], checkpoint: Callable[[str], Path]
) -> Iterator[Path]:
    """Return a folder with what the pages name, as the current one."""
    root = tmp_path_factory.mktemp("how-to")
    shutil.copytree(checkpoint("bert"), root / "bert-base-uncased")
    texts = iter(corpus_text)
    for name, number in {"notes": 60, "corpus": 40, "general": 40, "held-out": 40}.items():
        (root / name).mkdir()
        (root / name / "a.txt").write_text("\n".join(take(texts, number)) + "\n", encoding="utf-8")
    (root / "tickets.jsonl").write_text(
        "".join(json.dumps({"content": text}) + "\n" for text in take(texts, 20)), encoding="utf-8"
    )
    table(root / "mails.csv", ["body", "day"], [[text, "Monday"] for text in take(texts, 20)])
    table(root / "export.tsv", ["no", "Note Text"], [["1", text] for text in take(texts, 20)], "\t")
    table(root / "notes.csv", ["id", "date", "note"], [["1", "2020", text] for text in take(texts, 40)])
    pairs = [[text, f"{text.split()[-1]} {text}", str(len(text) % 2)] for text in take(texts, 6)]
    table(root / "pairs.csv", ["good", "bad", "phenomenon"], pairs)
    (root / "task").mkdir()
    for name in ("train", "test"):
        rows = [{"text": text, "label": str("the" in text)} for text in take(texts, 30)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (root / "task" / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        commands("unmask train notes/ --model bert-base-uncased -o runs/notes")
        yield root


def take(texts: Iterator[str], number: int) -> list[str]:
    return [next(texts) for _ in range(number)]


def table(path: Path, header: list[str], rows: list[list[str]], delimiter: str = ",") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])


@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in PAGES])
@pytest.mark.usefixtures("folder")
def test_a_how_to_runs(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for skipped, language, code in _BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "console":
            commands(code, run=not skipped)
        elif skipped:
            continue
        elif language == "python":
            capsys.readouterr()
            exec(compile(code, page.name, "exec"), namespace)
            printed = capsys.readouterr().out
        elif language == "text" and printed:
            assert printed.strip() == code.strip()
            printed = ""
