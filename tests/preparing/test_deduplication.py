"""Duplicates among all parts are left out and counted, the same ones by any number of tasks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unmask.config.settings import DocumentSettings
from unmask.data import parts
from unmask.data.corpus import Corpus, document_key
from unmask.data.preparation import prepare
from unmask.errors import ConfigError, DataError, MissingExtra

LINES = DocumentSettings(documents="line")


@pytest.fixture
def lines(corpus_text: list[str]) -> list[list[str]]:
    """Documents of four files: some occur again in their file or another, some with other white space and case."""
    fresh = list(dict.fromkeys(corpus_text))[:120]
    files = [fresh[:30], fresh[30:60], fresh[60:90], fresh[90:]]
    files[0].append(fresh[3])
    files[1] += [fresh[5].upper(), fresh[40], fresh[5]]
    files[3] += [f" {fresh[0]}  ", fresh[70], fresh[5], fresh[100]]
    return files


@pytest.fixture
def made(
    lines: list[list[str]], wordpiece_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Corpus]:
    """Return `made(name, ...)`, which prepares the four files, each a part."""
    monkeypatch.setattr(parts, "PART_BYTES", 1)
    (tmp_path / "text").mkdir()
    for number, content in enumerate(lines):
        (tmp_path / "text" / f"{number}.txt").write_text("\n".join(content) + "\n", encoding="utf-8")

    def make(name: str, **options: Any) -> Corpus:
        return prepare([tmp_path / "text"], LINES, wordpiece_tokenizer, tmp_path / name, **options)

    return make


def first_keys(lines: list[list[str]]) -> list[int]:
    return list(dict.fromkeys(document_key(line) for content in lines for line in content))


def test_the_first_of_equal_documents_is_kept(made: Callable[..., Corpus], lines: list[list[str]]) -> None:
    corpus = made("shards", deduplicate="exact")
    assert corpus.keys.tolist() == first_keys(lines)
    assert corpus.manifest["deduplicate"] == "exact"
    assert corpus.manifest["duplicates"] == {"documents": 8}
    assert corpus.manifest["documents"] == len(corpus) == 120
    assert corpus.manifest["read"]["documents"] == 128
    assert "duplicates" not in made("all").manifest
    assert len(made("all")) == 128


@pytest.mark.parametrize("kind", ["exact", pytest.param("near", marks=pytest.mark.slow)])
def test_any_number_of_tasks_leaves_out_the_same(kind: str, made: Callable[..., Corpus]) -> None:
    wanted = made("one", deduplicate=kind).manifest
    assert wanted["duplicates"]["documents"] >= 8
    assert made("three", deduplicate=kind, tasks=3).manifest == wanted


def test_progress_counts_no_duplicates_before_they_are_known(
    made: Callable[..., Corpus], notices: Any
) -> None:
    made("shards", deduplicate="exact", progress=notices)
    ends = [(phase, steps[-1]) for phase, steps in notices.phases]
    assert ends[:2] == [
        ("deduplicate", (1.0, {"parts": 4})),
        ("deduplicate", (1.0, {"hash ranges": 16})),
    ]
    assert ends[2][1][1]["documents"] == 120


def test_one_of_similar_documents_is_kept(
    made: Callable[..., Corpus], tmp_path: Path, corpus_text: list[str]
) -> None:
    words = " ".join(corpus_text[:30]).split()[:150]
    other = " ".join(corpus_text[60:90]).split()[:150]
    changed = [*words[:149], "changed"]
    far = [*words[:50], *other[:100]]
    short = "猫と犬"
    content = [
        [" ".join(words), short, "one two"],
        [" ".join(changed)],
        [" ".join(far)],
        [short, "one three", "one two"],
    ]
    for number, documents in enumerate(content):
        (tmp_path / "text" / f"{number}.txt").write_text("\n".join(documents) + "\n", encoding="utf-8")
    corpus = made("shards", deduplicate="near")
    assert corpus.manifest["duplicates"] == {"documents": 3}
    keys = set(corpus.keys.tolist())
    assert len(keys) == 5
    assert keys > {document_key(text) for text in (" ".join(far), short, "one two", "one three")}
    assert len(keys & {document_key(" ".join(words)), document_key(" ".join(changed))}) == 1


def test_stages_that_are_whole_are_not_done_again(
    made: Callable[..., Corpus], monkeypatch: pytest.MonkeyPatch
) -> None:
    from unmask.data import deduplication, preparation

    wanted = made("wanted", deduplicate="exact").manifest

    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    def write_two(plan: Any, part: int, *arguments: Any, **options: Any) -> dict[str, Any]:
        return parts.write_part(plan, part, *arguments, **options) if part < 2 else stop()

    with monkeypatch.context() as patch:
        patch.setattr(preparation, "write_part", write_two)
        with pytest.raises(KeyboardInterrupt):
            made("shards", deduplicate="exact")
    monkeypatch.setattr(deduplication, "_sign", stop)  # whoever signs now fails
    assert made("shards", deduplicate="exact").manifest == wanted


def test_shards_with_and_without_duplicates_are_not_taken_for_each_other(made: Callable[..., Corpus]) -> None:
    made("shards", deduplicate="exact")
    assert len(made("shards", deduplicate="exact")) == 120
    for other in (None, "near"):
        with pytest.raises(DataError, match="the folder holds shards made from other settings"):
            made("shards", deduplicate=other)


def test_what_cannot_be_done_is_refused(
    wordpiece_tokenizer: Any, tmp_path: Path, made: Callable[..., Corpus], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="standard input is read once, by one process: save it to a file"):
        prepare("-", LINES, wordpiece_tokenizer, tmp_path / "shards", deduplicate="exact")
    monkeypatch.setitem(sys.modules, "datatrove", None)
    with pytest.raises(
        MissingExtra, match=r"'--deduplicate' needs the package 'datatrove': pip install 'unmask\["
    ):
        made("shards", deduplicate="exact")


def test_the_command_says_what_was_left_out(
    made: Callable[..., Corpus], wordpiece_tokenizer: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from unmask.cli.main import main

    wordpiece_tokenizer.save_pretrained(tmp_path / "tokenizer")
    common = ["prepare", str(tmp_path / "text"), "--tokenizer", str(tmp_path / "tokenizer")]
    common += ["--documents", "line", "-o", str(tmp_path / "shards"), "--deduplicate", "exact"]
    assert main(common) == 0
    printed = capfd.readouterr()
    assert "left out: 8 exact duplicates" in printed.out
    assert "pq" not in printed.err
    assert main([*common, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["duplicates"] == {"documents": 8}
