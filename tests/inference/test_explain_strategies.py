"""Explaining every strategy: the random_bits that are shown are those that decided."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unmask.config.settings import MaskingSettings
from unmask.inference.explain import explain
from unmask.model.load import load_for_inference
from unmask.model.masked_lm import MaskedLM

TEXT = (
    "The unbelievably patient translator in South Carolina repaired the broken telescope, and then went home."
)


@pytest.fixture(scope="module")
def bert(checkpoint: Callable[[str], Path]) -> MaskedLM:
    return load_for_inference(str(checkpoint("bert")))


@pytest.fixture
def lists(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "terms.txt").write_text("broken telescope\nsouth carolina\t1\n", encoding="utf-8")
    return {"terms": str(tmp_path / "terms.txt")}


@pytest.mark.parametrize("count", ["bernoulli", "fixed"])
@pytest.mark.parametrize("strategy", ["token", "word", "span", "terms"])
def test_a_token_is_selected_when_its_draw_is_below_its_chance(
    strategy: str, count: str, bert: MaskedLM, lists: dict[str, str]
) -> None:
    masking: Any = {"strategy": strategy, "count": count, "rate": 0.3, **lists}
    chosen = 0
    for seed in range(4):
        told = explain(TEXT, bert, masking=MaskingSettings(**masking), seed=seed)
        assert told.random_draw is not None
        assert told.chances is not None
        assert told.units is not None
        below = [draw < chance for draw, chance in zip(told.random_draw, told.chances, strict=True)]
        special = [bool(flag) for flag in told.special_tokens_mask]
        drawn = [low and not own for low, own in zip(below, special, strict=True)]
        assert told.mask == drawn or (told.forced and not any(drawn))
        chosen += len(told.selected)
        for place in range(1, len(told.tokens)):
            if told.units[place] == told.units[place - 1]:
                assert told.random_draw[place] == told.random_draw[place - 1]
    assert chosen


def test_words_of_a_phrase_are_one_unit_and_terms_are_likelier(bert: MaskedLM, lists: dict[str, str]) -> None:
    def unit(masking: MaskingSettings, word: str) -> tuple[str, set[float]]:
        """Return the text of the unit that holds a word, and the chance of its tokens."""
        told = explain(TEXT, bert, masking=masking)
        assert told.units is not None
        assert told.chances is not None
        at = [
            place
            for place, (begin, end) in enumerate(told.spans)
            if TEXT[begin:end] and begin == TEXT.index(word)
        ]
        inside = [place for place, number in enumerate(told.units) if number == told.units[at[0]]]
        text = TEXT[told.spans[inside[0]][0] : told.spans[inside[-1]][1]]
        return text, {told.chances[place] for place in inside}

    terms = MaskingSettings(strategy="terms", terms=lists["terms"])
    text, (chance,) = unit(terms, "broken")
    assert text == "broken telescope"
    _, (other,) = unit(terms, "patient")
    assert chance == pytest.approx(5 * other)
    assert unit(terms, "South") == ("South Carolina", {other})  # its file gives it the weight of other words


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ("token", "Each token draws a number between 0 and 1. Where it is below the rate of 0.15,"),
        ("word", "and all subwords of a word share one. Where"),
        ("span", "and all tokens of a span of words share one. Where"),
        ("terms", "higher for terms than for other words so that the rate is 0.15, the tick on the bar"),
    ],
)
def test_the_page_says_what_shares_a_draw(
    strategy: Any, said: str, bert: MaskedLM, lists: dict[str, str]
) -> None:
    masking = MaskingSettings(strategy=strategy, **lists)
    assert said in explain(TEXT, bert, masking=masking).to_html()
