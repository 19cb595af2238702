"""Spaces in a filled text: those of its tokens, in scripts with and without spaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from unmask.inference.fill import FillMask
from unmask.model.masked_lm import MaskedLM

JAPANESE = ["東京", "##は", "は", "日", "本", "##本", "の", "首", "都", "す", "##し", "##す", "京"]
THAI = ["เป็น", "##ม", "เ", "##อง", "ของ", "##เ", "เมือง"]
ENGLISH = ["un", "##care", "care", "ed", "##ed", "the", ",", "and", "(", ")", "of"]


@pytest.fixture
def wordpiece(tiny_model: Callable[..., Any]) -> FillMask:
    """A cased BERT of a few words in three scripts."""
    from transformers import BertTokenizer

    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *JAPANESE, *THAI, *ENGLISH]
    vocab = {entry: number for number, entry in enumerate(entries)}
    return FillMask(MaskedLM(tiny_model("bert", len(vocab)), BertTokenizer(vocab, do_lower_case=False)))


@pytest.mark.parametrize(
    ("text", "target", "tokens", "shown"),
    [
        ("un[MASK]", "care", ["##care"], "uncare"),
        ("un [MASK]", "care", ["care"], "un care"),
        ("the ([MASK]), and", "care", ["care"], "the (care), and"),
        (
            "of[MASK]ed",
            "care",
            ["care"],
            "of care ed",
        ),  # behind a mask a word of its own begins: "ed", not "##ed"
        ("は[MASK]の首都", "日本", ["日", "本"], "は日本の首都"),
        ("の[MASK]の", "すし", ["す", "##し"], "のすしの"),
        ("เป็น[MASK]ของ", "เมือง", ["เมือง"], "เป็นเมืองของ"),
    ],
)
def test_a_wordpiece_target_is_shown_with_the_spaces_of_its_tokens(
    wordpiece: FillMask, text: str, target: str, tokens: list[str], shown: str
) -> None:
    candidate = wordpiece(text, targets=[target]).candidates[0]
    assert candidate.tokens == tokens
    assert candidate.sequence == shown


@pytest.mark.parametrize(("architecture", "mark"), [("roberta", "Ġ"), ("albert", "▁")])
@pytest.mark.parametrize("text", ["東京は{}の首都", "un{}", "un {}", "the ({})", "กรุง{}ไทย", "a {} b"])
def test_a_target_is_shown_with_a_space_only_where_its_tokens_have_one(
    filler: Callable[[str], FillMask], architecture: str, mark: str, text: str
) -> None:
    fill = filler(architecture)
    for target in ("日本", "care", "river", "เมือง"):
        result = fill.fill([text.format(fill.model.tokenizer.mask_token)], targets=[target])[0]
        if target in result.target_errors:  # the vocabulary has no such letters
            continue
        (candidate,) = result.candidates
        before, after = text.split("{}")
        space = " " if candidate.tokens[0].startswith(mark) else ""
        assert candidate.sequence == f"{before.rstrip()}{space}{target}{after}"


def test_a_search_shows_the_same_text_for_the_same_tokens(wordpiece: FillMask) -> None:
    for text in ("un[MASK]", "un [MASK]", "of[MASK]ed", "は[MASK]の首都"):
        for found in wordpiece(text, top_k=20).candidates:
            target = wordpiece.fill([text], targets=[found.text])[0]
            if target.candidates and target.candidates[0].tokens == found.tokens:
                assert target.candidates[0].sequence == found.sequence


@pytest.mark.parametrize("text", ["EVQL___LRSC", "un___ed the", "a___", "EVQL{2}LRSC"])
def test_a_blank_that_touches_letters_is_not_called_absent(wordpiece: FillMask, text: str) -> None:
    error = wordpiece.fill([text])[0].error
    assert error is not None
    assert "___ and {2} between letters are taken as text: for a whole word, put spaces around them" in error
    assert "[MASK]" in error


def test_a_blank_may_touch_scripts_without_spaces(wordpiece: FillMask) -> None:
    for text in ("の___の", "เป็น___ของ"):
        assert wordpiece.fill([text])[0].error is None
