"""The code of README.md and docs/*.md works: Python blocks run, and command lines are understood.

The blocks of a page run in order, in an empty folder with a tiny model under each name that pages use and a little text.
A block below the line ``<!-- not run: REASON -->`` is left out.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import understood

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODELS = {
    "bert-base-uncased": "bert",
    "bert-base-cased": "bert",
    "distilbert-base-uncased": "bert",
    "roberta-base": "roberta",
    "answerdotai/ModernBERT-base": "modernbert",
}
_FENCE = re.compile(r"```(\w*)\s*$")
_SKIP = re.compile(r"<!-- not run: \S.* -->$")


@dataclass(frozen=True)
class Block:
    """A block of code in a page: its language, its text, and the line of its fence."""

    language: str
    code: str
    line: int


def blocks(page: str) -> Iterator[Block]:
    """Yield the blocks of a page that are to be run."""
    language, code, begin, before, skipped = None, [], 0, "", False
    for number, line in enumerate(page.splitlines(), 1):
        fence = _FENCE.match(line.strip())
        if fence and language is None:
            language, code, begin, skipped = fence[1], [], number, bool(_SKIP.match(before))
        elif fence and language is not None and not fence[1]:
            if not skipped:
                yield Block(language, "\n".join(code) + "\n", begin)
            language = None
        elif language is not None:
            code.append(line)
        before = line.strip() or before


def commands(code: str) -> Iterator[list[str]]:
    """Yield the arguments of each `unmask ...` in a block of shell commands."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
        words.commenters = "#"
        words.wordchars += "%"
        part: list[str] = []
        for word in [*words, ";"]:
            if set(word) <= set("|;&()<>"):
                if part[:1] == ["unmask"]:
                    yield part[1:]
                # What follows < or > is a file, not a command.
                part = ["file"] if set(word) <= set("<>") else []
            else:
                part.append(word)


@pytest.fixture
def working_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    corpus_text: list[str],
    checkpoint: Callable[[str], Path],
) -> Path:
    """Return an empty folder with what the pages name, as the current one."""
    for name, family in MODELS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copytree(checkpoint(family), tmp_path / name)
    for folder, part in (
        ("notes", slice(0, 120)),
        ("held-out", slice(200, 240)),
        ("general", slice(300, 340)),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("\n".join(corpus_text[part]) + "\n", encoding="utf-8")
    (tmp_path / "task").mkdir()
    for name, part in (("train", slice(0, 40)), ("test", slice(40, 60))):
        rows = [{"text": text, "label": str("the" in text)} for text in corpus_text[part]]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "task" / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    pairs = [{"good": f"{text}", "bad": f"{text.split()[-1]} {text}"} for text in corpus_text[:6]]
    (tmp_path / "pairs.jsonl").write_text(
        "".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pages_with(*languages: str) -> list[Any]:
    """Return the pages that have a block in one of these languages.

    Not the tutorial and the how-tos: test_tutorial.py and test_how_to.py run them, and compare what they print.
    """
    found = [
        page
        for page in PAGES
        if "how-to" not in page.parts and not page.stem.startswith("tutorial")
        if any(b.language in languages for b in blocks(page.read_text(encoding="utf-8")))
    ]
    return [pytest.param(page, id=page.name) for page in found]


@pytest.mark.parametrize("page", pages_with("python", "py"))
@pytest.mark.usefixtures("working_folder")
def test_python_blocks_run(page: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language in ("python", "py"):
            # The lines of a traceback are those of the page.
            exec(compile("\n" * block.line + block.code, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", pages_with("console", "sh", "bash", "shell"))
def test_commands_are_understood(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language in ("console", "sh", "bash", "shell"):
            for arguments in commands(block.code):
                try:
                    understood(arguments)
                except Exception as error:
                    pytest.fail(f"{page.name}:{block.line}: unmask {shlex.join(arguments)}: {error}")


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in [*PAGES, *ROOT.glob("C*.md")]])
def test_files_that_a_page_links_to_exist(page: Path) -> None:
    """`make docs` finds broken links among the pages; here are pictures too, and pages that are not on the site."""
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#\s]+)", text)
    files = [link for link in links if not re.match(r"\w+:", link) and not link.startswith("reference/")]
    assert [link for link in files if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_no_table_is_cut_by_an_empty_line(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert [table for table in tables if not re.match(r".*\n\|[-: |]+\|\n", table)] == []


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:")[2]
    listed = re.findall(r"[\w./-]+\.md", navigation)
    made = [name for name in listed if name.startswith("reference/")]
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:]]
    assert sorted(listed) == sorted([*pages, *made])


# --- the machinery itself -----------------------------------------------------------------------------------------


def test_blocks_are_found_and_skipped() -> None:
    page = "a\n```python\nx = 1\n```\n<!-- not run: needs a GPU -->\n\n```python\nx = 2\n```\n```console\nunmask -h\n```\n"
    assert list(blocks(page)) == [Block("python", "x = 1\n", 2), Block("console", "unmask -h\n", 10)]


def test_commands_are_found_between_others() -> None:
    code = 'unmask fill m "a # b; [MASK]" \\\n  --top-k 3   # why\n$ zcat x | unmask score m - > out\nmake test\n'
    assert list(commands(code)) == [["fill", "m", "a # b; [MASK]", "--top-k", "3"], ["score", "m", "-"]]


def test_a_wrong_command_is_found() -> None:
    understood(["fill", "model", "A [MASK]."])
    understood(["tokenizer", "train", "--help"])
    with pytest.raises(Exception, match=r"(?i)no such (option|command)"):
        understood(["fill", "model", "--no-such-option"])
    with pytest.raises(Exception, match=r"(?i)no such (option|command)"):
        understood(["no-such-verb"])
