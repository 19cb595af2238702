"""Blanks for whole words, and given words as targets: what counts as a word, and what it is ranked by."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest

from unmask.errors import ConfigError
from unmask.inference.fill import Candidate, FillMask
from unmask.inference.markers import Gap, MarkerEncoder
from unmask.inference.windows import window_around
from unmask.model.load import load_for_inference

Filler = Callable[[str], FillMask]
FAMILIES = ["bert", "roberta", "modernbert", "deberta-v2"]

# --- how blanks are written ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "gaps"),
    [
        ("the ___ of", [Gap(1, 4, True)]),
        ("______.", [Gap(1, 4, True)]),
        ("(___)___", [Gap(1, 4, True)] * 2),
        ("a {2} of {1-3}", [Gap(2, 2, True), Gap(1, 3, True)]),
        ("({1}) {8}.", [Gap(1, 1, True), Gap(8, 8, True)]),
        ("春天___了{2}", [Gap(1, 4, True), Gap(2, 2, True)]),
        ("[MASK]{2} <mask>{1-4}", [Gap(2, 2, True), Gap(1, 4, True)]),
        ("___{2-3} [MASK]", [Gap(2, 3, True), Gap()]),
        ("[MASK] x^{2} a{3} _{1} \\{2} [a-z]{2} (ab){2} {0} {} {a} {1,2} ${1} \\frac{1}{2}", [Gap()]),
        ("[MASK] __init__ __ ___x x___ a___b", [Gap()]),
    ],
)
def test_what_is_a_blank(text: str, gaps: list[Gap], wordpiece_tokenizer: Any) -> None:
    reading = MarkerEncoder(wordpiece_tokenizer)([text])[0]
    assert reading.error is None
    assert reading.gaps == gaps
    assert len(reading.parts) == len(gaps) + 1
    assert reading.body.tolist().count(wordpiece_tokenizer.mask_token_id) == len(gaps)


@pytest.mark.parametrize("blank", ["{9}", "{3-1}", "{1-9}", "[MASK]{12}", "___{2-0}"])
def test_lengths_that_make_no_sense_are_refused(blank: str, filler: Filler) -> None:
    bad, good = filler("bert").fill([f"the {blank} of", "the {1-2} of"], top_k=2)
    assert f"'{blank}' asks for" in (bad.error or "")
    assert "1 to 8 subwords" in (bad.error or "")
    assert len(good.candidates) == 2


def test_too_many_combinations_of_lengths_are_refused(filler: Filler) -> None:
    bad, good = filler("bert").fill(["___ ___ ___ ___", "{1-8} {2} {3}"], top_k=1, beam=2)
    assert "more than 64 combinations" in (bad.error or "")
    assert good.error is None


def test_blanks_can_be_text(filler: Filler) -> None:
    fill = FillMask(filler("bert").model, blanks=False)
    text, mask = fill.fill(["the ___ of {2}", "the ___ [MASK] {9}"], top_k=1)
    assert "no mask in this text" in (text.error or "")
    assert "taken as text" in (text.error or "")
    assert mask.candidates[0].sequence.startswith("the ___")
    assert mask.candidates[0].sequence.endswith(" {9}")


# --- words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "text", ["the {} of South Carolina.", "{} sold it", "nobody ({}) sold it", 'it was "{}"!']
)
def test_every_candidate_is_a_word_that_the_tokenizer_spells_so(
    family: str, text: str, filler: Filler
) -> None:
    fill = filler(family)
    tokenizer, words = fill.model.tokenizer, fill.model.vocabulary.words
    assert words is not None
    for blank, lengths in (("___", {1, 2, 3, 4}), ("{2}", {2}), ("[MASK]{2-3}", {2, 3})):
        result = fill(text.replace("{}", blank), top_k=6)
        assert result.candidates, blank
        for candidate in result.candidates:
            assert len(candidate.tokens) in lengths
            assert candidate.sequence == text.replace("{}", candidate.text)
            assert not any(character.isspace() for character in candidate.text)
            ids = tokenizer(candidate.sequence)["input_ids"]
            begin = result.masks[0]
            assert ids[begin : begin + len(candidate.tokens)] == candidate.token_ids
            starts = words.starts(np.array(ids)).tolist()
            end = begin + len(candidate.tokens)
            assert starts[begin : end + 1] == [True] + [False] * (len(candidate.tokens) - 1) + [True]


def test_a_word_of_two_pieces_is_found_as_by_trying_all(small: Path) -> None:
    """All pairs of a beginning and a continuing piece that the tokenizer makes of the word they spell."""
    fill = FillMask(load_for_inference(small, device="cpu"))
    tokenizer = fill.model.tokenizer
    pairs = [
        (first, rest) for first in ["the", "of", "telescope", *ascii_lowercase] for rest in ascii_lowercase
    ]
    words = [
        first + rest for first, rest in pairs if tokenizer.tokenize(first + rest) == [first, f"##{rest}"]
    ]
    assert 600 < len(words) < len(pairs), "'of' is no word of two pieces"
    for text in ("the {2} of a", "{2}", "a ({2})."):
        result = fill(text, top_k=5, beam=70)
        assert result.exact
        scored = fill(text, targets=words).candidates
        best = sorted(scored, key=lambda candidate: -candidate.probability)[:5]
        assert [candidate.text for candidate in result.candidates] == [candidate.text for candidate in best]
        assert _probabilities(result.candidates) == pytest.approx(_probabilities(best), rel=1e-4)


def _probabilities(candidates: list[Candidate]) -> list[float]:
    return [candidate.probability for candidate in candidates]


def test_a_blank_without_a_word_is_said(small: Path) -> None:
    fill = FillMask(load_for_inference(small, device="cpu"))
    vocabulary = fill.model.vocabulary
    assert vocabulary.words is not None
    vocabulary.words.flags[: len(vocabulary.words.flags)] |= 1  # every piece begins a word: none has two
    bad, good = fill.fill(["the {2}", "the {1}"])
    assert "no whole word" in (bad.error or "")
    assert good.error is None


def test_lengths_are_compared_by_the_mean_over_the_pieces(filler: Filler) -> None:
    fill = filler("bert")
    mixed = fill("the ___ sold it", top_k=8)
    by_length = {n: fill(f"the {{{n}}} sold it", top_k=8).candidates for n in (1, 2, 3, 4)}
    every = [candidate for found in by_length.values() for candidate in found]
    every.sort(key=lambda candidate: -candidate.score)
    assert [candidate.text for candidate in mixed.candidates] == [candidate.text for candidate in every[:8]]
    assert len({len(candidate.tokens) for candidate in mixed.candidates}) > 1
    for candidate in mixed.candidates:
        mean = math.log(candidate.probability) / len(candidate.tokens)
        assert candidate.score == pytest.approx(mean, abs=1e-6)
        assert math.prod(candidate.probabilities) == pytest.approx(candidate.probability, rel=1e-6)


def test_blanks_and_masks_stand_side_by_side(filler: Filler) -> None:
    result = filler("bert")("the {2} sold [MASK] in ___", top_k=4)
    assert len(result.masks) == 3
    assert result.per_mask == []
    for candidate in result.candidates:
        sizes = [len(filler("bert").model.tokenizer.tokenize(word)) for word in candidate.text.split()]
        assert sizes[0] == 2
        assert len(candidate.text.split()) == 3


def test_blanks_can_be_ranked_independently(filler: Filler) -> None:
    result = filler("bert")("the {2} sold it", top_k=3, ranking="independent")
    first, second = (
        {token.token: token.probability for token in mask}
        for mask in filler("bert")("the [MASK] [MASK] sold it", top_k=400).per_mask
    )
    for candidate in result.candidates:
        assert candidate.probabilities == pytest.approx(
            [first[candidate.tokens[0]], second[candidate.tokens[1]]], abs=1e-6
        )


def test_a_chinese_character_is_a_word(chinese_tokenizer: Any, tiny_model: Callable[..., Any]) -> None:
    from unmask.model.masked_lm import MaskedLM

    fill = FillMask(MaskedLM(tiny_model("bert", len(chinese_tokenizer)), chinese_tokenizer))
    result = fill("春天___了，花都开了。", top_k=30)
    assert any("一" <= candidate.text <= "鿿" for candidate in result.candidates)
    assert all(candidate.text[0].isalnum() for candidate in result.candidates)


def test_a_vocabulary_without_marks_of_words_cannot_fill_blanks(filler: Filler) -> None:
    import copy

    model = copy.copy(filler("bert").model)
    model.vocabulary = replace(model.vocabulary, words=None)
    fill = FillMask(model)
    assert fill("the [MASK]").candidates
    with pytest.raises(ConfigError, match="does not mark where words begin"):
        fill("the ___")


# --- targets ------------------------------------------------------------------------------------------------------

TARGETS = ["telescope", "the", "unbelievably", "two letters", "x", "the"]


@pytest.mark.parametrize("family", FAMILIES)
def test_targets_come_back_whole_and_in_order(family: str, filler: Filler) -> None:
    fill = filler(family)
    tokenizer = fill.model.tokenizer
    result = fill("Nobody sold [MASK] in the morning.", targets=TARGETS)
    assert [candidate.text for candidate in result.candidates] == TARGETS
    assert [candidate.sequence for candidate in result.candidates] == [
        f"Nobody sold {t} in the morning." for t in TARGETS
    ]
    sizes = set()
    for target, candidate in zip(TARGETS, result.candidates, strict=True):
        ids = tokenizer(f"Nobody sold {target} in the morning.")["input_ids"]
        begin = result.masks[0]
        assert ids[begin : begin + len(candidate.token_ids)] == candidate.token_ids
        assert tokenizer.convert_ids_to_tokens(candidate.token_ids) == candidate.tokens
        sizes.add(len(candidate.tokens))
    assert len(sizes) > 1
    assert result.candidates[1] == result.candidates[-1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ranking", ["joint", "independent"])
def test_a_target_has_the_probability_of_its_tokens(family: str, ranking: Any, filler: Filler) -> None:
    """What the search over masks says of a filling, the same words say as a target."""
    fill = filler(family)
    done = 0
    for pieces in (1, 2, 3):
        blank = f"nobody sold {{{pieces}}} in the morning."
        found = fill.fill([blank], 4, ranking=ranking)[0].candidates  # a random model may find none
        scored = fill.fill([blank], targets=[candidate.text for candidate in found] or ["a"], ranking=ranking)
        for one, other in zip(found, scored[0].candidates, strict=False):
            assert other.token_ids == one.token_ids
            assert other.probabilities == pytest.approx(one.probabilities, abs=1e-6)
            assert other.ranking == ranking
        done += bool(found)
    assert done > 1


def test_a_target_is_spelt_for_its_place(filler: Filler) -> None:
    fill = filler("roberta")
    for text, token in (
        ("is <mask> it", "Ġthe"),
        ("(<mask>)", "the"),
        ("<mask> it", "the"),
        ("so<mask>", "the"),
    ):
        assert fill(text, targets=["the"]).candidates[0].tokens == [token], text


def test_a_target_that_cannot_be_spelt_is_said_and_the_others_are_scored(filler: Filler) -> None:
    texts = ["the [MASK]", "[MASK] [MASK]", "no mask", "a [MASK]"]
    one, two, none, last = filler("bert").fill(texts, targets=["the", "☃", "a☃", "[MASK]", "and"])
    for result in (one, last):
        assert [candidate.text for candidate in result.candidates] == ["the", "and"]
        assert set(result.target_errors) == {"☃", "a☃", "[MASK]"}
        assert "cannot be written" in result.target_errors["a☃"]
        assert "[UNK]" in result.target_errors["☃"]
        assert "holds a special token" in result.target_errors["[MASK]"]
    assert "one mask, and this one has 2" in (two.error or "")
    assert "no mask" in (none.error or "")
    with pytest.raises(ConfigError, match="'☃' cannot be written"):
        filler("bert")("the [MASK]", targets=["the", "☃"])
    (nothing,) = filler("bert").fill(["the [MASK]"], targets=["☃"])
    assert nothing.candidates == []
    assert nothing.error is None


# --- windows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "places", "room", "begin"),
    [
        (10, [4], 10, 0),
        (100, [50], 11, 45),
        (100, [50], 10, 46),
        (100, [0], 10, 0),
        (100, [3], 11, 0),
        (100, [99], 10, 90),
        (100, [97], 11, 89),
        (100, [40, 44], 11, 37),
        (100, [40, 49], 10, 40),
    ],
)
def test_a_window_has_its_masks_in_the_middle(length: int, places: list[int], room: int, begin: int) -> None:
    window = window_around(np.arange(length), places, room)
    assert window is not None
    assert window.body.tolist() == list(range(begin, begin + min(room, length)))
    assert [window.begin + place for place in window.places] == places
    assert window.whole is (length <= room)


def test_masks_too_far_apart_have_no_window() -> None:
    assert window_around(np.arange(100), [40, 50], 10) is None


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("where", [0, 150, 300])
def test_a_long_text_is_filled_from_what_stands_around_its_mask(
    family: str, where: int, filler: Filler
) -> None:
    fill = filler(family)
    words = [("the", "dog", "sold", "it")[number % 4] for number in range(300)]
    text = " ".join([*words[:where], "[MASK]", *words[where:]])
    result = fill(text, top_k=3)
    limit, frame = fill.model.max_length, fill.model.vocabulary.overhead
    assert result.window is not None
    begin, end = result.window
    assert end - begin == limit - frame
    whole = fill.model.tokenizer(text.replace("[MASK]", fill.model.tokenizer.mask_token))["input_ids"]
    assert whole[result.masks[0]] == fill.model.tokenizer.mask_token_id
    place = result.masks[0] - 1
    left, right = place - begin, end - 1 - place
    assert abs(left - right) <= 1 or begin == 0 or end == len(whole) - frame
    seen = [whole[0], *whole[1 + begin : 1 + end], whole[-1]]
    assert _plainly(fill, seen, left + 1, result.candidates[0].token_ids[0]) == pytest.approx(
        result.candidates[0].probability, abs=1e-5
    )
    assert len(result.candidates[0].sequence.split()) >= 300


def _plainly(fill: FillMask, ids: list[int], place: int, token: int) -> float:
    import torch

    with fill.model.plain() as model, torch.no_grad():
        return float(model(input_ids=torch.tensor([ids])).logits[0, place].softmax(-1)[token])


def test_blanks_and_targets_leave_room_for_their_pieces(filler: Filler) -> None:
    fill, rest = filler("bert"), " the" * 200
    assert fill("___" + rest, top_k=1).window == (0, 126 - 3)
    assert fill("{2} [MASK]" + rest, top_k=1).window == (0, 126 - 1)
    pieces = len(fill.model.tokenizer.tokenize("telescope telescope"))
    assert pieces > 2
    result = fill("[MASK]" + rest, targets=["the", "telescope telescope"])
    assert result.window == (0, 126 - pieces + 1)
    fits = fill("[MASK]" + " the" * 125, targets=["the", "the"])
    assert fits.window is None
