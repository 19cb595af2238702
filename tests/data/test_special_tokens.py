"""Special tokens that were added to a tokenizer: one token in every text, never targets and never replacements."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unmask
from unmask.checking.check import check_data
from unmask.data.masking.mask import mask
from unmask.data.masking.random_bits import MaskKey
from unmask.data.masking.units import plan_of
from unmask.data.packing import Packed
from unmask.data.tokenizer import TextEncoder, plain_copy, tokenizer_hash, vocabulary_of

ADDED = ["[ANON]", "<e1>", "@USER", "名前"]
TEXTS = [
    "The [ANON] described <e1> the telescope.",
    "@USER[ANON]<e1>",
    "他每天名前去学校 [ANON]。",
    "В [ANON] жил <e1>старик",
]


def with_added(tokenizer: Any) -> Any:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ADDED})
    return tokenizer


@pytest.fixture(params=["wordpiece", "byte_level", "modernbert", "unigram", "chinese"])
def family(request: pytest.FixtureRequest) -> Any:
    """A tokenizer of every family, with special tokens added to it."""
    return with_added(request.getfixturevalue(f"{request.param}_tokenizer"))


@pytest.fixture
def model(checkpoint: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Return `make(architecture) -> Path`: a checkpoint with special tokens added to its tokenizer."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    def make(architecture: str) -> Path:
        tokenizer = with_added(AutoTokenizer.from_pretrained(checkpoint(architecture)))
        lm = AutoModelForMaskedLM.from_pretrained(checkpoint(architecture))
        lm.resize_token_embeddings(len(tokenizer))
        lm.save_pretrained(tmp_path / architecture)
        tokenizer.save_pretrained(tmp_path / architecture)
        return tmp_path / architecture

    return make


def test_an_added_special_token_is_read_as_transformers_reads_it(family: Any) -> None:
    for text, ids in zip(TEXTS, TextEncoder(family)(TEXTS), strict=True):
        assert ids.tolist() == family(text, add_special_tokens=False)["input_ids"]
        assert {*family.convert_tokens_to_ids([a for a in ADDED if a in text])} <= {*ids.tolist()}


def test_control_tokens_beside_added_ones_are_text(family: Any) -> None:
    control = {family.mask_token_id, family.cls_token_id, family.sep_token_id, family.pad_token_id}
    text = f"[ANON] {family.sep_token} {family.mask_token}{family.pad_token} <e1>"
    assert not control & {*TextEncoder(family)([text])[0].tolist()}
    ids = plain_copy(family, read_mask=True).encode(text, add_special_tokens=False).ids
    assert control & {*ids} == {family.mask_token_id}
    assert family.convert_tokens_to_ids("[ANON]") in ids


def test_an_added_special_token_is_never_masked_nor_a_replacement(family: Any) -> None:
    from unmask.config.settings import MaskingSettings

    vocabulary, added = vocabulary_of(family), family.convert_tokens_to_ids(ADDED)
    assert not {*added} & {*vocabulary.replacements.tolist()}
    ids = np.concatenate(TextEncoder(family)(TEXTS))
    packed = Packed(ids, np.array([0, len(ids)]), np.ones(1, dtype=np.uint64), np.zeros(1, np.int64))
    for strategy in ("token", "word", "span"):
        masked = mask(
            packed,
            vocabulary,
            plan_of(vocabulary, MaskingSettings(strategy=strategy)),
            MaskKey(0, epoch=0),
            1.0,
        )
        assert not {*added} & {*ids[masked.target_index].tolist()}
        kept = np.isin(ids, added)
        assert (masked.input_ids[kept] == ids[kept]).all()


def test_shards_of_the_tokenizer_without_them_are_of_another(
    family: Any, wordpiece_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tokenizer_hash(family) != tokenizer_hash(wordpiece_tokenizer)
    before = tokenizer_hash(family)
    monkeypatch.setattr("unmask.data.tokenizer.text_specials", lambda tokenizer: [])
    assert tokenizer_hash(family) != before  # those that were written when they were cut


@pytest.mark.parametrize("architecture", ["bert", "roberta", "albert"])
def test_verbs_see_added_special_tokens_and_never_predict_them(
    model: Callable[[str], Path], architecture: str
) -> None:
    loaded = unmask.load(model(architecture), device="cpu")
    text = "The [ANON] described the telescope <e1>."
    explained = loaded.explain(text, mask_rate=0.9)
    assert {"[ANON]", "<e1>"} <= {*explained.tokens}
    assert not {"[ANON]", "<e1>"} & {one.original for one in explained.predictions}
    (score,) = loaded.score([text])
    # A byte-level tokenizer has a token for the space before an added one.
    assert [word.text for word in score.word_scores if word.text] == [
        "The",
        "described",
        "the",
        "telescope",
        ".",
    ]
    assert score.tokens == len(score.token_scores)
    assert score.pll == pytest.approx(sum(one.pll for one in score.token_scores))
    (alone,) = loaded.score(["[ANON]<e1>"])
    assert alone.error == "this text has only special tokens, which are not scored"
    (filled,) = loaded.fill([f"The [ANON] described the {loaded.tokenizer.mask_token}."], targets=["[ANON]"])
    assert "'[ANON]' holds a special token" in filled.target_errors["[ANON]"]


def test_check_counts_them_apart_from_control_tokens(model: Callable[[str], Path], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(
        "The [ANON] slept.\n@USER described [ANON] and [SEP] the telescope.\n" * 3, encoding="utf-8"
    )
    found = check_data(str(text), model=str(model("bert")))
    assert {name: tally.count for name, tally in found.text["added_special_tokens"].items()} == {
        "[ANON]": 6,
        "@USER": 3,
    }
    assert {name: tally.count for name, tally in found.text["special_tokens"].items()} == {"[SEP]": 3}
    findings = {item.level: item.text for item in found.findings if item.about == "special tokens"}
    assert "[ANON] (6×), @USER (3×)" in findings["note"]
    assert "read as one token each" in findings["note"]
    assert "[SEP] (3×)" in findings["warning"]


@pytest.mark.parametrize("architecture", ["bert", "albert"])
def test_a_text_with_one_and_an_unknown_character_is_scored(
    model: Callable[[str], Path], architecture: str
) -> None:
    loaded = unmask.load(model(architecture), device="cpu")
    (score,) = loaded.score(["The [ANON] saw \u16a0 and <e1>."])
    assert score.error is None
    assert score.unknown == 1


def test_check_takes_their_letters_for_no_word(model: Callable[[str], Path]) -> None:
    found = unmask.check(["[ANON] described @USER."] * 6, model=model("bert")).to_dict()["vocabulary"]
    assert found["words"] == 6
    assert not {"anon", "user"} & {row["word"] for row in found["most_split"]}


def test_the_promises_hold_with_added_special_tokens(model: Callable[[str], Path]) -> None:
    found = unmask.conformance(model("bert"), processes=False)
    assert not [row for row in found.to_rows() if not row["passed"]]
