"""The tutorial prints what its page says, and both of its languages have the same code.

The tokenizer is a WordPiece of BERT's layout and size, in which the tutorial's words have the ids of the published vocabulary.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parent.parent / "docs"
VOCABULARY = Path(__file__).parents[2] / "shared" / "data" / "vocab" / "bert-base-uncased-vocab.txt"
SPECIAL = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
WORDS = {
    "lincoln": 5367, "took": 2165, "office": 2436, "in": 1999, "march": 2233, "1861": 6863, ".": 1012,
    "five": 2274, "weeks": 3134, "later": 2101, "guns": 4409, "opened": 2441, "fire": 2543, "on": 2006,
    "fort": 3481, "sum": 7680, "##ter": 3334, ",": 1010, "and": 1998, "the": 1996, "civil": 2942,
    "war": 2162, "began": 2211, "was": 2001, "over": 2058, "april": 2258, "1865": 6725, "another": 2178,
    "text": 3793,
}  # fmt: skip
_BLOCK = re.compile(r"```(\w+)\n(.*?)```\n", re.DOTALL)


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the language and the text of each block of a page."""
    return _BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))


def same(printed: str, said: str) -> bool:
    """Compare what was printed; figures with decimals and percentages may differ in the last digits."""
    figure = re.compile(r"(\d+\.\d+|\d+%)")
    ours, theirs = (figure.split(text.strip()) for text in (printed, said))
    if len(ours) != len(theirs) or ours[::2] != theirs[::2]:
        return False
    pairs = zip(ours[1::2], theirs[1::2], strict=True)
    return all(
        math.isclose(float(a.rstrip("%")), float(b.rstrip("%")), rel_tol=0.05, abs_tol=0.03) for a, b in pairs
    )


@pytest.fixture
def tutorial_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder with the tokenizer, as the current one."""
    from transformers import BertTokenizer

    taken = {number: word for word, number in (SPECIAL | WORDS).items()}
    vocab = {taken.get(number, f"[unused{number}]"): number for number in range(30522)}
    BertTokenizer(vocab=vocab, model_max_length=512).save_pretrained(tmp_path / "bert-base-uncased")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("tutorial_folder")
def test_the_tutorial_prints_what_its_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed = None
    for language, code in blocks("tutorial.md"):
        if language == "python":
            exec(compile(code, "tutorial.md", "exec"), namespace)
            printed = capsys.readouterr().out
        elif language == "text":
            assert printed is not None, code
            assert same(printed, code), f"printed:\n{printed}\nthe page says:\n{code}"
            printed = None
    assert Path("runs/seasons/report.html").is_file()


def test_both_languages_have_the_same_code() -> None:
    assert blocks("tutorial.zh.md") == blocks("tutorial.md")


def test_the_ids_of_the_tutorial_are_those_of_the_published_vocabulary() -> None:
    if not VOCABULARY.is_file():
        pytest.skip("needs the vocabulary of bert-base-uncased in ../shared/data/vocab")
    entries = VOCABULARY.read_text(encoding="utf-8").splitlines()
    assert {word: entries.index(word) for word in SPECIAL | WORDS} == SPECIAL | WORDS


def test_figures_are_compared_by_value_and_the_rest_by_letter() -> None:
    assert same("loss 10.32\n", "loss 10.31")
    assert not same("loss 10.32", "loss 8.31")
    assert not same("[5, 9, 11]", "[5, 9, 12]")
