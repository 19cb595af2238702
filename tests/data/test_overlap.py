"""Held-out documents that occur in training text: by key, in runs of tokens, and on both sides of a split."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unmask.run.overlap
from unmask.cli.main import main
from unmask.config.settings import DocumentSettings, MaskingSettings
from unmask.data.batches import TextSource
from unmask.data.corpus import document_key
from unmask.data.heldout_size import MINIMUM
from unmask.data.overlap import Overlap, find_overlap
from unmask.data.preparation import prepare
from unmask.data.split import split_documents
from unmask.data.tokenizer import vocabulary_of

LETTERS = {"protein": "ACDEFGHIKLMNPQRSTVWY", "dna": "ACGT"}


@pytest.fixture
def source(tmp_path: Path) -> Any:
    """Return `make(texts, tokenizer)`: a source of batches of these documents."""

    def make(texts: list[str], tokenizer: Any) -> TextSource:
        name = f"{len(list(tmp_path.iterdir()))}"
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        corpus = prepare(
            tmp_path / f"{name}.jsonl", DocumentSettings(allow_unknown=True), tokenizer, tmp_path / name
        )
        return TextSource(
            corpus, np.arange(len(corpus)), vocabulary_of(tokenizer), MaskingSettings(rate=0.15), 64
        )

    return make


def letters(alphabet: str) -> Any:
    """A tokenizer of one letter a token, as of protein models."""
    from transformers import BertTokenizer

    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = {entry: number for number, entry in enumerate([*specials, *alphabet])}
    return BertTokenizer(vocab=vocab, do_lower_case=False)


@pytest.mark.parametrize("family", ["wordpiece", "byte_level", "unigram"])
def test_words_by_key_and_by_runs(
    family: str, source: Any, corpus_text: list[str], request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(f"{family}_tokenizer")
    draw = random.Random(1)
    words = sorted({word for text in corpus_text for word in text.split()})
    texts = [" ".join(draw.choices(words, k=40)) for _ in range(30)]
    half = [word if number else "River" for number, word in enumerate(texts[4].split())]
    heldout = [f"  {texts[3].upper()}\n", " ".join(half), *texts[20:], "Two words."]
    found = find_overlap(source(heldout, tokenizer), [source(texts[:20], tokenizer)])
    assert (found.documents, found.same, found.near) == (13, 1, 1)
    assert found.compared == 11
    assert found.examples == (0, 1)
    replay = find_overlap(
        source(heldout, tokenizer), [source(texts[:20], tokenizer), source(texts[25:], tokenizer)]
    )
    assert (replay.same, replay.near) == (6, 1)


@pytest.mark.parametrize("alphabet", LETTERS.values(), ids=LETTERS)
def test_one_letter_tokens_by_runs(source: Any, alphabet: str) -> None:
    draw = random.Random(1)
    texts = [" ".join(draw.choices(alphabet, k=300)) for _ in range(30)]
    changed = texts[4][:300] + alphabet[0] + texts[4][301:]
    tokenizer = letters(alphabet)
    found = find_overlap(source([changed, *texts[20:]], tokenizer), [source(texts[:20], tokenizer)])
    assert found == Overlap(documents=11, same=0, near=1, compared=11, run={20: 30, 4: 64}[len(alphabet)])


def test_different_texts_of_unknown_tokens_are_not_alike(source: Any, wordpiece_tokenizer: Any) -> None:
    draw = random.Random(1)
    texts = [" ".join(draw.choices(["ሰላም", "ኢትዮጵያ", "ውሃ", "ቤት"], k=20)) for _ in range(10)]
    heldout, training = (source(part, wordpiece_tokenizer) for part in (texts[:5], texts[5:]))
    found = find_overlap(heldout, [training])
    assert (found.same, found.near, found.compared) == (0, 0, 0)


def test_a_key_is_that_of_the_normalised_text() -> None:
    texts = ["The  naïve\triver", "the naïve river\n", "THE NAI\u0308VE RIVER", " the\u00a0naïve river "]
    assert len({document_key(text) for text in texts}) == 1
    assert document_key("the river") != document_key("theriver")


def test_variants_of_a_text_are_on_one_side_of_a_split(
    source: Any, corpus_text: list[str], wordpiece_tokenizer: Any
) -> None:
    twins = [text.upper().replace(" ", "  ") for text in corpus_text]
    corpus = source([*corpus_text, *twins], wordpiece_tokenizer).corpus
    train, heldout = map(np.asarray, split_documents(corpus, 0.2, MINIMUM))
    half = len(corpus_text)
    assert len(heldout) > 50
    assert set(heldout % half) & set(train % half) == set()


def run_on(folder: Path, *arguments: str) -> list[str]:
    limits = [
        "--max-steps",
        "1",
        "--batch-tokens",
        "256",
        "--max-length",
        "32",
        "--offline",
        "-o",
        str(folder),
    ]
    return ["train", *arguments, *limits]


@pytest.mark.parametrize("large", [False, True], ids=["before_training", "large_text_after_it"])
def test_a_run_says_that_it_was_trained_on_what_it_holds_out(
    checkpoint: Any,
    corpus_text: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    large: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if large:
        monkeypatch.setattr(unmask.run.overlap, "_SMALL", 0)
    text, general = tmp_path / "text.txt", tmp_path / "general.txt"
    text.write_text("\n".join(corpus_text[:60]), encoding="utf-8")
    general.write_text("\n".join([*corpus_text[100:107], corpus_text[9].upper()]), encoding="utf-8")
    model = ["--model", str(checkpoint("bert"))]
    run = tmp_path / "run"
    assert main(run_on(run, str(text), *model, "--heldout", str(text), "--general", str(general))) == 0
    said = capsys.readouterr().err
    held = "60 of 60 documents of the held-out text occur in the training text (60 as a whole)"
    assert held in said
    assert (said.index(held) > said.index("first batch")) == large
    assert "1 of 8 documents of the general text occurs in" in said
    shown = re.search(r"of the general text .* Such documents begin: '(.*) …'", " ".join(said.split()))
    assert shown
    assert corpus_text[9].lower().startswith(shown[1].lower()[:20])
    info = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert info["overlap"]["heldout"]["same"] == 60
    assert info["overlap"]["general"]["same"] == 1
    assert held in (run / "report.html").read_text(encoding="utf-8")
    assert "60 of 60 documents of the held-out text" in (run / "model/README.md").read_text(encoding="utf-8")


def test_copies_of_one_text_are_not_split(
    checkpoint: Any, corpus_text: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join([corpus_text[0], corpus_text[0].upper()] * 20), encoding="utf-8")
    assert main(run_on(tmp_path / "run", str(text), "--model", str(checkpoint("bert")))) == 0
    assert "copies of one, so nothing is held out" in capsys.readouterr().err
