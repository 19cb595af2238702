"""Minimal pairs: what is right, what is a tie, what is a row of the table, and how pairs are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Messages

from unmask.errors import ConfigError, DataError
from unmask.model.load import load_for_inference
from unmask.model.masked_lm import MaskedLM
from unmask.scoring.pair_files import PairReader
from unmask.scoring.pairs import Pair, PairMetrics, compare_pairs, score_pairs, wilson
from unmask.scoring.scorer import Scorer, score

GOOD = [
    "Nobody slept",
    "Her grandmother described the boats",
    "The village sold three telescopes",
    "It rained",
]
BAD = ["Nobody sleep", "Her grandmother describe the boats", "The village sold three telescope", "it rained"]
BLIMP = Path(__file__).parents[3] / "shared" / "data" / "pairs" / "blimp"


@pytest.fixture(scope="module")
def bert(checkpoint: Callable[[str], Path]) -> MaskedLM:
    return load_for_inference(str(checkpoint("bert")), device="cpu")


def pairs_of(path: Path, **arguments: Any) -> list[Any]:
    """Return the sides of the pairs of a file, and the messages of what is no pair."""
    found = PairReader(str(path), **arguments)
    return [(item.good, item.bad) if isinstance(item, Pair) else str(item) for item in found]


# --- figures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["original", "within_word_l2r", "estimate"])
def test_the_good_side_has_to_score_higher(bert: MaskedLM, method: str) -> None:
    left = [found.pll for found in score(GOOD, bert, method=method)]
    right = [found.pll for found in score(BAD, bert, method=method)]
    pairs = [Pair(good, bad) for good, bad in zip(GOOD, BAD, strict=True)]
    found = list(score_pairs(pairs, Scorer(bert, method=method)))
    assert [item.good.pll for item in found] == pytest.approx(left, abs=1e-4)
    assert [item.bad.pll for item in found] == pytest.approx(right, abs=1e-4)
    # The last pair differs in case alone, which this tokenizer does not see.
    outcomes = ["right" if a > b else "wrong" for a, b in zip(left[:3], right[:3], strict=True)] + ["tie"]
    assert [item.outcome for item in found] == outcomes
    assert [pair.outcome for pair in score_pairs([Pair(BAD[0], GOOD[0])], Scorer(bert, method=method))] == [
        "wrong" if outcomes[0] == "right" else "right"
    ]
    metrics = compare_pairs(pairs, bert, method=method)
    assert (metrics.overall.pairs, metrics.overall.ties, metrics.skipped) == (4, 1, 0)
    assert metrics.overall.accuracy == outcomes.count("right") / 4


def test_equal_sides_are_ties_however_many_pairs_there_are(bert: MaskedLM) -> None:
    pairs = [Pair(text := f"Nobody sold {number} boats", text.upper()) for number in range(50)]
    metrics = compare_pairs(pairs, bert, batch_tokens=64)
    assert (metrics.overall.pairs, metrics.overall.ties, metrics.overall.right) == (50, 50, 0)


def test_a_side_that_cannot_be_scored_skips_the_pair(bert: MaskedLM) -> None:
    metrics = compare_pairs(
        [Pair("a\0b", "Nobody"), Pair("Nobody slept", "\u200b"), Pair("It", "rained")], bert
    )
    assert (metrics.overall.pairs, metrics.skipped) == (1, 2)
    (found,) = score_pairs([Pair("Nobody", "\u200b")], Scorer(bert))
    assert "bad side" in (found.error or "")


def test_the_table_and_its_sums() -> None:
    metrics = PairMetrics("original")
    for paradigm, term, outcomes in (
        ("a", "x", ["right", "right", "tie", "wrong"]),
        ("b", "x", ["right"]),
        ("c", "y", ["wrong", "wrong", "tie"]),
    ):
        for outcome in outcomes:
            metrics.add(Pair("", "", paradigm, term, "f.jsonl"), outcome)  # type: ignore[arg-type]
    found = metrics.to_dict()
    assert (found["accuracy"], found["pairs"], found["ties"]) == (3 / 8, 8, 2)
    assert [(row["paradigm"], row["accuracy"], row["pairs"], row["ties"]) for row in found["table"]] == [
        ("a", 0.5, 4, 1),
        ("b", 1.0, 1, 0),
        ("c", 0.0, 3, 1),
    ]
    assert [(row["term"], row["accuracy"], row["pairs"]) for row in found["terms"]] == [
        ("x", 0.6, 5),
        ("y", 0.0, 3),
    ]
    assert found["mean_of_paradigms"] == 0.5
    assert found["interval_method"] == "Wilson, 95%"
    assert found["interval"] == pytest.approx(wilson(3, 8), abs=1e-6)
    json.dumps(found, allow_nan=False)


def test_a_field_makes_the_rows_of_all_files(tmp_path: Path) -> None:
    for name, fields in (("a", ["syntax", "semantics"]), ("b", ["syntax"])):
        rows = [{"good": "the river", "bad": "river the", "field": value} for value in fields]
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
    metrics = PairMetrics("original")
    for pair, outcome in zip(PairReader(str(tmp_path), by="field"), ("right", "wrong", "wrong"), strict=True):
        assert isinstance(pair, Pair)
        metrics.add(pair, outcome)  # type: ignore[arg-type]
    found = metrics.to_dict()
    assert [(row["paradigm"], row["pairs"], row["accuracy"]) for row in found["table"]] == [
        ("syntax", 2, 0.5),
        ("semantics", 1, 0.0),
    ]
    assert found["mean_of_paradigms"] == 0.25
    assert [row["file"] for row in found["table"]] == [None, str(tmp_path / "a.jsonl")]


def test_files_of_one_name_are_rows_of_their_own(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "test.tsv").write_text("good\tbad\nthe river\triver the\n", encoding="utf-8")
    pairs = list(PairReader(str(tmp_path / "*" / "*.tsv")))
    assert [pair.paradigm for pair in pairs if isinstance(pair, Pair)] == ["x/test", "y/test"]
    (alone,) = PairReader(str(tmp_path / "x"))
    assert isinstance(alone, Pair)
    assert alone.paradigm == "test"


@pytest.mark.parametrize(
    ("right", "count", "interval"),
    # Newcombe 1998, table I, method 3; the last is the third, mirrored.
    [
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (20, 20, (0.8389, 1.0)),
    ],
)
def test_wilson_intervals_are_the_published_ones(
    right: int, count: int, interval: tuple[float, float]
) -> None:
    assert wilson(right, count) == pytest.approx(interval, abs=5e-5)


def test_nothing_observed_leaves_everything_open() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


# --- files --------------------------------------------------------------------------------------------------------


def blimp_line(number: int, **changes: Any) -> str:
    row = {
        "sentence_good": f"good {number}",
        "sentence_bad": f"bad {number}",
        "UID": "p",
        "linguistics_term": "t",
    }
    return json.dumps({key: value for key, value in (row | changes).items() if value != "absent"}) + "\n"


def test_blimp(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(blimp_line(1) + blimp_line(2, UID="q"), encoding="utf-8")
    first, second = PairReader(str(path))
    assert first == Pair("good 1", "bad 1", "p", "t", str(path), 1)
    assert second == Pair("good 2", "bad 2", "q", "t", str(path), 2)
    (first, _) = PairReader(str(path), by="linguistics_term")
    assert isinstance(first, Pair)
    assert (first.paradigm, first.term) == ("t", None)


def test_what_is_no_pair_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [
        blimp_line(1, sentence_bad="absent"),
        blimp_line(2, sentence_good=None),
        blimp_line(3, sentence_good=" "),
        blimp_line(4, sentence_bad=7),
        "{\n",
        blimp_line(6, sentence_good="x" * 600_000),
        "\n",  # no error
        blimp_line(8),
    ]
    path.write_text("".join(lines), encoding="utf-8")
    *errors, last = pairs_of(path)
    assert last == ("good 8", "bad 8")
    wanted = [
        "no side 'sentence_bad'",
        "null",
        "empty",
        "a number",
        "broken JSON",
        "600,000 bytes",
    ]
    for number, (error, what) in enumerate(zip(errors, wanted, strict=True), 1):
        assert error.startswith(f"{path}:{number}: ")
        assert what in error


@pytest.mark.parametrize(
    ("name", "content", "arguments"),
    [
        ("a.tsv", "He sleeps.\tHe sleep.\n", {}),
        ("a.txt", "He sleeps.\tHe sleep.\n", {}),
        ("a.tsv", "good\tbad\nHe sleeps.\tHe sleep.\n", {}),
        ("a.tsv", "right\twrong\nHe sleeps.\tHe sleep.\n", {}),
        ("a.csv", "id,sentence_bad,sentence_good\n1,He sleep.,He sleeps.\n", {}),
        ("a.csv", "more,less,id\nHe sleep.,He sleeps.,1\n", {"good": "less", "bad": "more"}),
        ("a.csv", "1,He sleep.,He sleeps.\n", {"good": "3", "bad": "2"}),
        ("a.jsonl", '{"x": "He sleeps.", "y": "He sleep."}\n', {}),
        ("a.jsonl", '{"x": "He sleep.", "y": "He sleeps."}\n', {"good": "y", "bad": "x"}),
    ],
)
def test_two_columns_are_found(tmp_path: Path, name: str, content: str, arguments: dict[str, str]) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    assert pairs_of(path, **arguments) == [("He sleeps.", "He sleep.")]
    (pair,) = PairReader(str(path), **arguments)
    assert isinstance(pair, Pair)
    assert pair.paradigm == "a"


def test_one_word_sides_can_be_told_from_names(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("went\tgoed\nate\teated\n", encoding="utf-8")
    messages: list[str] = []
    assert pairs_of(path, progress=Messages(messages)) == [("ate", "eated")]
    assert "'went' and 'goed', is taken for names (--good 1 --bad 2: not)" in messages[0]
    assert pairs_of(path, good="1", bad="2") == [("went", "goed"), ("ate", "eated")]


def test_a_table_without_sides_is_one_fault_and_other_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text,other\n" + "1,a,b\n" * 50, encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(blimp_line(1), encoding="utf-8")
    (tmp_path / "notes.md").write_text("pairs", encoding="utf-8")
    messages: list[str] = []
    error, pair = pairs_of(tmp_path, progress=Messages(messages))
    assert "a.csv:1: the pair has no side 'sentence_good'; there are 'id', 'text', 'other'" in error
    assert pair == ("good 1", "bad 1")
    assert any("notes.md" in text for text in messages)


def test_impossible_requests(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        PairReader(str(tmp_path / "absent"))
    (tmp_path / "notes.txt").write_text("text", encoding="utf-8")
    with pytest.raises(DataError, match="no file of pairs"):
        PairReader(str(tmp_path))
    with pytest.raises(ConfigError, match="go together"):
        PairReader(str(tmp_path), good="a")
    with pytest.raises(ConfigError, match="same column"):
        PairReader(str(tmp_path), good="a", bad="a")


@pytest.mark.skipif(not BLIMP.is_dir(), reason="BLiMP is not at ../shared/data/pairs/blimp")
def test_all_of_blimp_can_be_read() -> None:
    found = list(PairReader(str(BLIMP)))
    assert len(found) == 67_000
    assert all(isinstance(pair, Pair) for pair in found)
    assert len({pair.paradigm for pair in found if isinstance(pair, Pair)}) == 67
