"""Text outside the vocabulary: counted, warned of, refused as training text, and said by whatever uses a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import Messages

import unmask
from unmask.data.corpus import MANIFEST, open_corpus, open_shards
from unmask.data.unknown import UnknownTokens
from unmask.errors import DataError

AMHARIC = "ሰላም ለዓለም ኢትዮጵያ አዲስ አበባ ዋና ከተማ ናት".split()
KHMER = "ព្រះ រាជា ទន្លេ មេគង្គ ភាសា ខ្មែរ".split()


def _lines(words: list[str], count: int = 60) -> list[str]:
    return [
        " ".join(words[(start + step) % len(words)] for step in range(6)) + f" {start}"
        for start in range(count)
    ]


@pytest.mark.parametrize("architecture", ["bert", "albert"])
@pytest.mark.parametrize("words", [AMHARIC, KHMER], ids=["amharic", "khmer"])
def test_a_text_of_unknown_tokens_is_no_training_text(
    architecture: str, words: list[str], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model = checkpoint(architecture)
    for make in (
        lambda: unmask.prepare(_lines(words), tmp_path / "shards", model=model),
        lambda: unmask.train(_lines(words), model=model, out=tmp_path / "run", precision="fp32"),
    ):
        with pytest.raises(DataError, match=r"of the tokens of .*text.* are unknown .*allow_unknown=True"):
            make()
        assert not list(tmp_path.iterdir())


def test_a_byte_level_vocabulary_knows_every_text(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    heard: list[str] = []
    shards = unmask.prepare(
        _lines(AMHARIC), tmp_path / "shards", model=checkpoint("roberta"), progress=Messages(heard)
    )
    assert shards.manifest["unknown_tokens"] == 0
    assert not [line for line in heard if "unknown" in line]


def test_few_unknown_tokens_are_a_warning_with_examples(
    checkpoint: Callable[[str], Path], corpus_text: list[str], tmp_path: Path
) -> None:
    heard: list[str] = []
    text = [*corpus_text, *_lines(AMHARIC, 25)]
    shards = unmask.prepare(text, tmp_path / "shards", model=checkpoint("bert"), progress=Messages(heard))
    share = shards.manifest["unknown_tokens"] / shards.tokens
    assert shards.manifest["unknown_tokens"] == 6 * 25
    assert 0.01 < share < 0.2
    (warning,) = [line for line in heard if line.startswith("warning")]
    assert f"{share:.1%} of the tokens" in warning
    assert "'ሰላም', 'ለዓለም'" in warning

    clean = unmask.prepare(
        corpus_text, tmp_path / "clean", model=checkpoint("bert"), progress=Messages(heard)
    )
    assert clean.manifest["unknown_tokens"] == 0
    assert len([line for line in heard if line.startswith("warning")]) == 1


def test_what_is_asked_for_is_done_and_stands_in_the_report(
    checkpoint: Callable[[str], Path], corpus_text: list[str], tmp_path: Path
) -> None:
    heard: list[str] = []
    text = [
        f"{known[:30]} {unknown}" for known, unknown in zip(corpus_text, _lines(AMHARIC, 400), strict=True)
    ]
    run = unmask.train(
        text, model=checkpoint("bert"), out=tmp_path / "run", max_steps=2, batch_tokens=256,
        allow_unknown=True, precision="fp32", progress=Messages(heard),
    )  # fmt: skip
    assert [line for line in heard if line.startswith("warning") and "unknown to the tokenizer" in line]
    corpus = json.loads(run.folder.info.read_text())["corpus"]
    assert corpus["unknown_share"] == corpus["heldout_unknown_share"] > 0.2
    said = f"{corpus['unknown_share']:.1%} of the tokens of the training text are unknown to the tokenizer."
    assert said in run.folder.report.read_text(encoding="utf-8")
    assert said in (run.folder.model / "README.md").read_text(encoding="utf-8")


def test_shards_of_an_earlier_version_are_counted_when_they_are_opened(
    checkpoint: Callable[[str], Path], corpus_text: list[str], tmp_path: Path
) -> None:
    model = unmask.load(checkpoint("bert"))
    made = unmask.prepare(
        [*corpus_text[:20], *_lines(AMHARIC)], tmp_path / "shards", model=model, allow_unknown=True
    )
    with pytest.raises(DataError, match="allow"):
        open_shards(made.folder, model.tokenizer)
    corpus = open_corpus(made.folder)
    for key in ("unknown_tokens", "unknown_examples"):
        del corpus.manifest[key]
    assert corpus.unknown(model.tokenizer).unknown == made.manifest["unknown_tokens"] == 6 * 60
    assert (made.folder / MANIFEST).is_file()


@pytest.mark.parametrize("architecture", ["bert", "albert"])
def test_using_a_model_says_what_it_cannot_read(
    architecture: str, checkpoint: Callable[[str], Path], corpus_text: list[str]
) -> None:
    heard: list[str] = []
    model = unmask.load(checkpoint(architecture))
    filled = model.fill(f"{AMHARIC[0]} [MASK] {AMHARIC[1]}")
    assert filled.unknown >= 2
    assert f"({filled.unknown} unknown tokens around its masks)" in repr(filled)
    assert model.fill("the [MASK]").unknown == 0

    scores = model.score([f"the river {AMHARIC[0]}", "the river"], progress=Messages(heard))
    assert scores[0].unknown
    assert not scores[1].unknown
    assert [line for line in heard if "scores mean little" in line and AMHARIC[0] in line]

    heard.clear()
    found: Any = unmask.evaluate(
        model, [*corpus_text, *_lines(AMHARIC, 100)], tokens=2000, progress=Messages(heard)
    )
    content = found.to_dict()
    assert content["unknown_tokens"] >= 600
    assert [note for note in content["notes"] if note.startswith("unknown tokens are never targets")]
    assert [line for line in heard if line.startswith("warning") and "unknown to the tokenizer" in line]


@pytest.mark.parametrize("unknown", [1, None])
def test_texts_counted_together_are_as_counted_one_after_another(unknown: int | None) -> None:
    arrays = [
        np.array(ids, dtype=np.int64) for ids in ([], [1, 5], [5], [], [1, 1], [6, 1], [1], [1], [1], [])
    ]
    texts = [f"text {number}" for number in range(len(arrays))]
    together, alone = UnknownTokens(unknown, 3, 1, ["before"]), UnknownTokens(unknown, 3, 1, ["before"])
    count = together.add_all(arrays, texts, lambda text: [text, "again"])
    assert count == sum(
        alone.add(ids, lambda text=text: [text, "again"]) for ids, text in zip(arrays, texts, strict=True)
    )
    assert together == alone
    assert together.add_all([], [], lambda text: [text]) == 0
