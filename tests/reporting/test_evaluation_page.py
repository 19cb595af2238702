"""The pages of evaluations and comparisons: what they say, and that each is one safe file."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from tests.reporting.conftest import Outline

from unmask.reporting.evaluation_page import evaluation_verdict, render_comparison, render_evaluation
from unmask.reporting.evaluation_plots import Series, legend, ranges, short, tick_text

NASTY = "<script>alert('x & y')</script>"
FIGURES = ("loss", "perplexity", "accuracy", "accuracy_at_5", "accuracy_at_10", "mean_reciprocal_rank")
TABLES = {
    "by_frequency": ("By frequency of the token", ["never", "1–9", "1,000–9,999"]),
    "by_piece": ("By place in the word", ["word-initial", "continuation"]),
}


def figures(accuracy: float, *names: str) -> dict[str, Any]:
    values = {
        "loss": 3.25,
        "perplexity": 25.79,
        "accuracy": accuracy,
        "accuracy_at_5": 0.61,
        "accuracy_at_10": 0.7,
    }
    values["mean_reciprocal_rank"] = 0.512
    chosen = {name: values[name] for name in names or FIGURES}
    return chosen | {"intervals": {name: [0.9 * value, 1.1 * value] for name, value in chosen.items()}}


def evaluation(label: str = "bert", accuracy: float = 0.45, **changes: Any) -> dict[str, Any]:
    """What `unmask eval --json` gives, without a model."""
    names = [name for name in FIGURES if name != "perplexity"]
    tables = {
        key: {
            "title": title,
            "note": "a note about it",
            "labels": labels,
            "rows": [
                {"label": name, "masked_tokens": 100} | figures(accuracy, *names) for name in labels[1:]
            ],
        }
        for key, (title, labels) in TABLES.items()
    }
    bins = [
        {"low": low, "high": low + 0.2, "masked_tokens": 50, "confidence": low + 0.1, "accuracy": low + 0.05}
        for low in (0.0, 0.2, 0.8)
    ]
    found = {
        "model": f"org/{label}",
        "label": label,
        **figures(accuracy),
        "masked_tokens": 12_345,
        "tokens": 82_000,
        "documents": 210,
        "data": ["texts/held-out.jsonl"],
        "masks": "every target replaced by the mask token",
        "mask_rate": 0.15,
        "strategy": "token",
        "mask_share": 0.8,
        "random_share": 0.1,
        "max_length": 512,
        "precision": "fp32",
        "tokenizer": "aa",
        "positions": "0123456789abcdef",
        "tables": tables,
        "calibration": {"expected_calibration_error": 0.0312, "bins": bins},
        "baselines": {
            "most_frequent_token": figures(0.051, "loss", "accuracy") | {"what": "most frequent"},
            "ngram": figures(0.32, "loss", "accuracy") | {"what": "n-gram"},
        },
        "baselines_fitted_on": "the other documents of the evaluated text",
        "interval": "95%, bootstrap",
        "notes": ["frequency of tokens: times seen in the evaluated text itself"],
    }
    return found | changes


def change(value: float) -> dict[str, Any]:
    return {"value": value, "interval": [value - 0.01, value + 0.01]}


def comparison(**changes: Any) -> dict[str, Any]:
    """What `unmask compare --json` gives for one tokenizer."""
    first, second = evaluation("old"), evaluation("new", 0.5)
    tables = {
        key: {
            **table,
            "rows": [
                {"label": row["label"], "masked_tokens": 100, "loss": change(-0.2), "accuracy": change(0.05)}
                for row in table["rows"]
            ],
        }
        for key, table in first["tables"].items()
    }
    found = {
        "models": ["org/old", "org/new"],
        "labels": ["old", "new"],
        "one_tokenizer": True,
        "verdict": "new predicts this text better than old.",
        "difference": {name: change(0.05) for name in FIGURES if name != "perplexity"}
        | {"loss": change(-0.2)},
        "tables": tables,
        "a": first,
        "b": second,
        "level": 0.95,
        "notes": ["a note"],
    }
    return found | changes


def words(**changes: Any) -> dict[str, Any]:
    """What `unmask compare --json` gives for two tokenizers."""
    side = {"loss_per_word": 6.1, "accuracy": 0.31, "subwords_per_word": 1.2}
    side = side | {"intervals": {name: [value, value + 0.1] for name, value in side.items()}}
    bits = {"value": 1.5, "interval": [1.4, 1.6]}
    found = {
        "models": ["org/old", "org/new"],
        "labels": ["old", "new"],
        "one_tokenizer": False,
        "verdict": "new predicts this text better than old: it needs 0.300 bits per byte fewer.",
        "data": ["texts"],
        "max_length": 512,
        "words": {
            "masked_words": 825,
            "documents": 59,
            "models": [side, side],
            "difference": {"loss_per_word": change(-0.4), "accuracy": change(0.02)},
            "left_out": {},
        },
        "bits_per_byte": {
            "bytes": 9_978,
            "passages": 93,
            "method": "within_word_l2r",
            "models": [bits, bits],
            "difference": change(-0.3),
            "left_out": 0,
        },
        "level": 0.975,
        "interval": "95%, bootstrap",
        "notes": ["the tokenizers differ"],
    }
    return found | changes


PAGES: dict[str, Callable[[], str]] = {
    "one": lambda: render_evaluation([evaluation()]),
    "three": lambda: render_evaluation([evaluation("a"), evaluation("b", 0.5), evaluation("c", 0.2)]),
    "tokens": lambda: render_comparison(comparison()),
    "words": lambda: render_comparison(words()),
}


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_one_safe_file_and_the_same_every_time(name: str) -> None:
    page = PAGES[name]()
    assert page == PAGES[name]()
    found = Outline(page)
    assert not re.search(r"(src|href)=\"(?!data:,|#)", page)
    assert "url(http" not in page
    assert not [tag for tag, _ in found.elements if tag in ("script", "iframe", "object", "form")]
    assert not [key for _, attrs in found.elements for key in attrs if key.startswith("on")]
    ids = [attrs["id"] for _, attrs in found.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    charts = [attrs for tag, attrs in found.elements if tag == "svg"]
    assert charts
    assert all(attrs["aria-label"] for attrs in charts)
    assert "#a000" not in page  # every colour of a chart is one of the page


def test_figures_stand_with_their_intervals_beside_the_baselines() -> None:
    text = Outline(render_evaluation([evaluation()])).text
    assert (
        "bert predicts 45.0% of 12,345 masked tokens in 210 documents (every target replaced by the mask token) "
        "correctly (95% interval 40.5–49.5%), with a loss of 3.250. "
        "Compared with: most frequent token 5.1% (loss 3.250), bidirectional n-gram 32.0% (loss 3.250)."
        in text
    )
    for part in (
        "45.0%40.5–49.5%",
        "3.2502.925–3.575",
        "25.79",
        "0.512",
        "Expected calibration error: bert 0.0312.",
        "texts/held-out.jsonl",
        "0123456789abcdef",
        "times seen in the evaluated text itself",
        "15.0% of the tokens, strategy token, every target replaced by the mask token",
        "continuation100",
    ):
        assert part in text, part


def test_rows_of_several_models_stand_in_the_order_of_the_table() -> None:
    fuller = evaluation("b")
    row = fuller["tables"]["by_frequency"]["rows"][0]
    fuller["tables"]["by_frequency"]["rows"].insert(0, row | {"label": "never"})
    page = Outline(render_evaluation([evaluation("a"), fuller])).text
    figures_of = page.split("As a table")[1]
    assert figures_of.index("never") < figures_of.index("1–9") < figures_of.index("1,000–9,999")


def test_a_table_that_only_one_model_has_is_shown() -> None:
    without = evaluation("a", tokenizer="bb", positions="ff")
    del without["tables"]["by_piece"]
    assert "By place in the word" in Outline(render_evaluation([without, evaluation("b")])).text


def test_models_that_cannot_be_compared_by_token_are_said_not_to_be() -> None:
    found = [evaluation("a"), evaluation("b", tokenizer="bb", positions="ff")]
    assert "Their tokenizers differ, so metrics of tokens do not compare them" in evaluation_verdict(found)
    text = Outline(render_evaluation(found)).text
    assert "most frequent token, tokens of a" in text
    assert "most frequent token, tokens of b" in text


def test_models_with_one_tokenizer_have_a_best_one() -> None:
    found = [evaluation("a"), evaluation("b", 0.5)]
    assert "b has the highest accuracy: 50.0%" in evaluation_verdict(found)
    assert evaluation_verdict(found).endswith("; a has the lowest loss: 3.250.")


def test_marks_of_many_models_differ_by_colour_or_shape() -> None:
    marks = legend([f"model {number}" for number in range(12)])
    assert len({(mark.glyph, mark.colour) for mark in marks}) == 12


def test_a_comparison_shows_both_their_difference_and_where_it_lies() -> None:
    text = Outline(render_comparison(comparison())).text
    assert "new predicts this text better than old." in text
    assert "accuracy45.0%50.0%+5.0 points+4.0 to +6.0" in text
    assert "loss3.2503.250−0.200−0.210 to −0.190" in text
    assert "right of zero, new has the higher accuracy" in text


def test_a_comparison_of_tokenizers_shows_words_and_bytes() -> None:
    text = Outline(render_comparison(words())).text
    assert "bits per byte1.5001.500−0.300−0.310 to −0.290" in text
    assert "825 masked of 59 documents" in text
    assert "9,978 in 93 passages, method within_word_l2r" in text
    assert "subwords per word1.2001.200–" in text


def test_names_and_notes_are_text_and_never_markup() -> None:
    bad = evaluation(NASTY, data=[NASTY], notes=[NASTY])
    pages = [
        render_evaluation([bad, evaluation("b")]),
        render_comparison(comparison(labels=[NASTY, "b"], verdict=NASTY, a=bad)),
        render_comparison(words(labels=[NASTY, "b"], verdict=NASTY, notes=[NASTY])),
    ]
    for page in pages:
        assert "<script" not in page
        assert NASTY in Outline(page).text


def test_what_is_absent_is_shown_as_absent() -> None:
    bare = evaluation(baselines=None, baselines_fitted_on=None)
    nothing = dict.fromkeys(FIGURES)
    bare |= {"intervals": nothing, "perplexity": float("inf")}
    for table in bare["tables"].values():
        for row in table["rows"]:
            row["intervals"] = dict.fromkeys(row["intervals"])
    text = Outline(render_evaluation([bare])).text
    assert "bert predicts 45.0% of 12,345 masked tokens in 210 documents (" in text
    assert " correctly, with a loss of " in text
    assert "Compared with" not in text
    assert "Baselinesnone" in text


def test_a_chart_draws_a_mark_for_every_value_it_has() -> None:
    series = [
        Series("a", [0.5, float("nan")], [[0.4, 0.6], None]),
        Series("b", [0.2, 0.3], [None, [0.1, 0.4]]),
    ]
    chart = ranges("key", "Title", ["first", "second"], series, "share")
    assert chart.svg.count("<use") >= 3
    assert "first" in chart.svg
    assert 'aria-label="Title. a: first 50%. b: first 20%, second 30%."' in chart.svg


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("1,000–9,999", "1k–10k"),
        ("10,000–99,999", "10k–100k"),
        ("100,000 or more", "≥ 100k"),
        ("10–99", "10–99"),
        ("a-very-long-name/of-a-model", "…me/of-a-model"[-18:]),
    ],
)
def test_labels_are_short_beside_a_chart(label: str, expected: str) -> None:
    assert short(label).endswith(expected.lstrip("…"))
    assert len(short(label)) <= 18


def test_tick_labels_are_in_the_unit_of_the_scale() -> None:
    assert [tick_text(0.05, scale) for scale in ("share", "number", "points", "change")] == [
        "5%",
        "0.05",
        "+5",
        "+0.05",
    ]
    assert tick_text(-0.05, "points") == "−5"
    assert tick_text(0.0, "change") == "0"
