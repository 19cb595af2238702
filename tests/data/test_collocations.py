"""Collocations: what stands together far more often than its parts would by chance, and the file they are kept in."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unmask.config.settings import DocumentSettings
from unmask.data.corpus import Corpus
from unmask.data.masking.collocations import (
    Collocation,
    find_collocations,
    load_collocations,
    save_collocations,
)
from unmask.data.preparation import prepare
from unmask.data.tokenizer import vocabulary_of
from unmask.data.words import WordTables
from unmask.errors import ConfigError, DataError

LINES = DocumentSettings(documents="line")
FILLERS = "boats letters mountains violin telescope keeper river village winter morning wheat weather".split()


def corpus_of(lines: list[str], tokenizer: Any, folder: Path) -> Corpus:
    (folder / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return prepare([folder / "text.txt"], LINES, tokenizer, folder / "shards")


@pytest.fixture
def words(wordpiece_tokenizer: Any) -> WordTables:
    found = vocabulary_of(wordpiece_tokenizer).words
    assert found is not None
    return found


@pytest.fixture
def planted(wordpiece_tokenizer: Any, tmp_path: Path) -> Corpus:
    """Random words, with 'South Carolina' and 'state-of-the-art' as often as any single one of them."""
    draw = np.random.default_rng(0)
    lines = []
    for number in range(400):
        line = draw.choice(FILLERS, 12).tolist()
        phrase = "South Carolina" if number % 2 else "the state-of-the-art"
        line.insert(int(draw.integers(0, 12)), phrase)
        lines.append(" ".join(line))
    return corpus_of(lines, wordpiece_tokenizer, tmp_path)


def test_what_always_stands_together_is_found_and_chance_is_not(planted: Corpus, words: WordTables) -> None:
    found = {item.text: item for item in find_collocations(planted, words, min_score=2.0)}
    assert found["south carolina"].count == 200
    assert "the state" in found
    assert not [text for text in found if set(text.split()) <= set(FILLERS)]
    # What begins or ends with a sign is none.
    assert not [text for text in found if text.startswith("-") or text.endswith("-")]


def test_scores_are_pointwise_mutual_information(planted: Corpus, words: WordTables) -> None:
    found = {item.text: item for item in find_collocations(planted, words, min_score=0.01)}
    text = (planted.folder.parent / "text.txt").read_text(encoding="utf-8").lower().replace("-", " - ")
    rows = [line.split() for line in text.splitlines()]
    runs = Counter(tuple(row[n : n + k]) for row in rows for k in (1, 2, 3) for n in range(len(row) - k + 1))
    total = sum(map(len, rows))

    def log_p(*run: str) -> float:
        return math.log(runs[run] / total)

    pair = log_p("south", "carolina") - log_p("south") - log_p("carolina")
    assert found["south carolina"].score == pytest.approx(pair)
    # Three words are held against the likeliest of the ways to make them up.
    ways = [
        [("state",), ("-", "of")],
        [("state", "-"), ("of",)],
        [("state",), ("-",), ("of",)],
    ]
    parts = max(sum(log_p(*part) for part in way) for way in ways)
    assert found["state - of"].score == pytest.approx(log_p("state", "-", "of") - parts)


def test_longer_runs_score_by_what_they_add_to_their_parts(
    wordpiece_tokenizer: Any, words: WordTables, tmp_path: Path
) -> None:
    # "south carolina" goes with "river" no more often than chance has it, "two small boats" only ever together.
    draw = np.random.default_rng(1)
    lines = []
    for number in range(600):
        line = draw.choice([*FILLERS, "south carolina"], 10).tolist()
        if number % 3 == 0:
            line.insert(4, "two small flocks")
        lines.append(" ".join(line))
    found = find_collocations(corpus_of(lines, wordpiece_tokenizer, tmp_path), words, min_score=1.5)
    assert {item.text for item in found if "carolina" in item.text} == {"south carolina"}
    assert {item.text for item in found} >= {"two small", "small flocks"}


def test_bounds_are_kept(planted: Corpus, words: WordTables) -> None:
    everything = find_collocations(planted, words, min_score=0.01, min_count=5)
    assert max(len(item.text.split()) for item in everything) == 5
    assert [item.score for item in everything] == sorted((item.score for item in everything), reverse=True)
    pairs = find_collocations(planted, words, min_score=0.01, min_count=5, longest=2)
    assert pairs == [item for item in everything if len(item.text.split()) == 2]
    assert find_collocations(planted, words, min_score=0.01, min_count=5, most=3) == everything[:3]
    assert min(item.count for item in find_collocations(planted, words, min_score=0.01, min_count=50)) >= 50
    some = find_collocations(planted, words, tokens=planted.tokens // 4, min_score=2.0)
    assert {item.text: item.count for item in some}["south carolina"] == pytest.approx(50, abs=15)
    chosen = find_collocations(planted, words, documents=np.arange(0, 400, 2), min_score=2.0)
    assert "south carolina" not in {item.text for item in chosen}


def test_no_collocation_goes_from_one_document_to_the_next(
    wordpiece_tokenizer: Any, words: WordTables, tmp_path: Path
) -> None:
    lines = [f"{word} river" if n % 2 else f"village {word}" for n, word in enumerate(FILLERS * 40)]
    corpus = corpus_of(lines, wordpiece_tokenizer, tmp_path)
    texts = {item.text for item in find_collocations(corpus, words, min_score=0.01)}
    assert texts
    assert not [text for text in texts if "river village" in text]


def test_nothing_found_is_said(planted: Corpus, words: WordTables) -> None:
    with pytest.raises(
        DataError, match="no words occur together 10 times or more with a score of 50 or more"
    ):
        find_collocations(planted, words, min_score=50.0)


@pytest.mark.parametrize("bad", [{"longest": 1}, {"min_count": 0}, {"most": 0}, {"tokens": 0}])
def test_bounds_that_cannot_be_are_refused(bad: dict[str, int], planted: Corpus, words: WordTables) -> None:
    with pytest.raises(ConfigError, match="collocations need at least"):
        find_collocations(planted, words, **bad)  # type: ignore[arg-type]


def test_a_file_of_collocations_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = [Collocation("south carolina", 200, 7.25), Collocation("花 园", 12, 3.5)]
    save_collocations(tmp_path / "found.json", found, corpus="shards", min_count=10)
    assert load_collocations(tmp_path / "found.json") == found
    assert '"min_count": 10' in (tmp_path / "found.json").read_text(encoding="utf-8")
    assert found[1].atoms == ("花", "园")
