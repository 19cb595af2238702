"""Vocabularies of single letters and tokenizers that run in Python: read with the ids of transformers, or refused."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unmask
from unmask.data.conversion import converted
from unmask.data.tokenizer import TextEncoder, load_tokenizer, vocabulary_of
from unmask.errors import ConfigError

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ESM = [*"<cls> <pad> <eos> <unk>".split(), *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]


def proteins(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(AMINO_ACIDS, k=draw.randint(20, 60))) for _ in range(count)]


def esm_tokenizer(folder: Path, entries: list[str], **arguments: Any) -> Any:
    from transformers import EsmTokenizer

    path = folder / "vocab.txt"
    path.write_text("\n".join(entries), encoding="utf-8")
    return EsmTokenizer(str(path), **arguments)


@pytest.fixture
def letters(tmp_path: Path, tiny_model: Callable[..., Any]) -> Path:
    """A `BertForMaskedLM` over 25 letters with only a vocab.txt, as it is published."""
    folder = tmp_path / "letters"
    tiny_model("bert", 25).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join([*SPECIALS, *AMINO_ACIDS]), encoding="utf-8")
    return folder


def test_letters_are_read_with_and_without_spaces(letters: Path) -> None:
    from transformers import BertTokenizer

    plain = BertTokenizer(str(letters / "vocab.txt"), do_lower_case=False)
    for given in (letters, letters / "vocab.txt"):
        encode = TextEncoder(load_tokenizer(str(given), offline=True))
        for text in proteins(5):
            spaced = " ".join(text)
            wanted = plain(spaced, add_special_tokens=False)["input_ids"]
            assert encode([text])[0].tolist() == encode([spaced])[0].tolist() == wanted
    assert encode(["EVJ"])[0].tolist() == [8, 22, 1]


def test_the_converted_tokenizer_loads_in_plain_transformers(letters: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    load_tokenizer(str(letters), offline=True).save_pretrained(tmp_path / "saved")
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert saved("EVQL")["input_ids"] == [2, 8, 22, 18, 14, 3]
    assert converted(saved) is saved


@pytest.mark.parametrize(
    ("entries", "arguments", "texts"),
    [
        (ESM, {}, ["MKTLL", "M K T", "MKJJT.-", "mkt", "MK JJT"]),
        (
            [*"<unk> <pad> <mask> <cls>".split(), *map("".join, itertools.product("ACGT", repeat=3)), *"ATCGN"],
            {"eos_token": None},
            ["ACGTACGTA", "ACGTACGTNACG", "ACGT ACG", "NNACGTT"],
        ),
    ],
)  # fmt: skip
def test_esm_is_read_as_transformers_reads_it(
    entries: list[str], arguments: dict[str, Any], texts: list[str], tmp_path: Path
) -> None:
    own = esm_tokenizer(tmp_path, entries, **arguments)
    fast = converted(own)
    for text in texts:
        assert fast(text)["input_ids"] == own(text)["input_ids"], text
    vocabulary = vocabulary_of(fast)
    assert [*vocabulary.prefix, *vocabulary.suffix] == own("")["input_ids"]
    assert "<null_1>" not in [entries[number] for number in vocabulary.replacements]


def test_japanese_characters_are_read_as_transformers_reads_them(tmp_path: Path) -> None:
    from transformers import BertJapaneseTokenizer

    characters = [*SPECIALS, *"東京は日本の首都すしA1"]
    (tmp_path / "vocab.txt").write_text("\n".join(characters), encoding="utf-8")
    own = BertJapaneseTokenizer(str(tmp_path / "vocab.txt"), subword_tokenizer_type="character")
    for text in ("東京は日本の首都", "すし A1 東京", "猫は東京"):
        assert converted(own)(text)["input_ids"] == own(text)["input_ids"]


@pytest.mark.parametrize("subwords", ["character", "wordpiece"])
def test_a_japanese_model_needs_no_word_splitter(
    subwords: str, tmp_path: Path, tiny_model: Callable[..., Any]
) -> None:
    entries = [*SPECIALS, *"東京は日本a"] + ([] if subwords == "character" else ["東京", "##京"])
    tiny_model("bert", len(entries)).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(entries), encoding="utf-8")
    settings = {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab"}
    settings |= {"subword_tokenizer_type": subwords}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    if subwords == "wordpiece":
        with pytest.raises(
            ConfigError, match=r"is a BertJapaneseTokenizer.* split the text into words first"
        ):
            load_tokenizer(str(tmp_path), offline=True)
    else:
        tokenizer = load_tokenizer(str(tmp_path), offline=True)
        assert tokenizer("東京は ａ日本")["input_ids"] == [2, 5, 6, 7, 10, 8, 9, 3]


def test_what_cannot_be_converted_is_named_with_the_way_to_do_it(tmp_path: Path) -> None:
    from transformers import BertJapaneseTokenizer, CanineTokenizer

    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIALS, "東京", "##都"]), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"is a BertJapaneseTokenizer.* split the text into words first"):
        converted(BertJapaneseTokenizer(str(tmp_path / "vocab.txt")))
    with pytest.raises(ConfigError, match=r"is a CanineTokenizer, which is not backed by the tokenizers"):
        vocabulary_of(CanineTokenizer())


def test_other_vocabularies_stay_as_they_are(wordpiece_tokenizer: Any, unigram_tokenizer: Any) -> None:
    for tokenizer in (wordpiece_tokenizer, unigram_tokenizer):
        assert converted(tokenizer) is tokenizer


def test_verbs_take_unspaced_letters(letters: Path, tmp_path: Path) -> None:
    loaded = unmask.load(letters, device="cpu")
    text = proteins(1)[0]
    unspaced, spaced = loaded.score([text, " ".join(text)])
    assert unspaced.pll == spaced.pll
    assert (unspaced.tokens, unspaced.unknown) == (len(text), 0)
    explained = loaded.explain(text, strategy="span")
    assert explained.tokens[1:-1] == list(text)
    (filled,) = loaded.fill([f"{text[:9]}[MASK][MASK]{text[11:]}"])
    best = filled.candidates[0]
    assert best.sequence == text[:9] + "".join(best.tokens) + text[11:]
    (filled,) = loaded.fill([f"{text[:9]}[MASK]{text[10:]}"], targets=["W", "WY"])
    assert [one.sequence for one in filled.candidates] == [
        f"{text[:9]}{word}{text[10:]}" for word in ("W", "WY")
    ]


def test_a_model_of_letters_is_trained_and_evaluated(letters: Path, tmp_path: Path) -> None:
    data = tmp_path / "proteins.txt"
    data.write_text("\n".join(proteins(60)), encoding="utf-8")
    run = unmask.train(data, model=letters, out=tmp_path / "run", max_steps=2, device="cpu")
    assert np.isfinite(run.loss)
    assert run.model.score(proteins(1)[0]).unknown == 0
