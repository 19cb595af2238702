"""The section on what adapting changed: its verdict, its tables, the curve's marks, and old runs without it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from unmask.errors import DataError
from unmask.reporting.adaptation import course, headline
from unmask.reporting.card import model_card
from unmask.reporting.page import write_report
from unmask.reporting.record import read_record
from unmask.run_folder import RunFolder
from unmask.storage import write_json


def side(accuracy: float, loss: float, around: float | None = 0.01) -> dict[str, Any]:
    ends = None if around is None else [accuracy - around, accuracy + around]
    intervals = {"accuracy": ends, "loss": ends and [loss - 0.1, loss + 0.1], "perplexity": None}
    return {"accuracy": accuracy, "loss": loss, "perplexity": 2.718281828**loss, "intervals": intervals}


def part(
    before: tuple[float, float], after: tuple[float, float], around: float | None = 0.01, tokens: int = 7_000
) -> dict[str, Any]:
    """Figures of two models on one text; `around` is half the width of the interval of the change in accuracy."""
    gap, loss = after[0] - before[0], after[1] - before[1]

    def number(value: float, wide: float | None) -> dict[str, Any]:
        return {"value": value, "interval": None if wide is None else [value - wide, value + wide]}

    return {
        "masked_tokens": tokens,
        "documents": 54,
        "before": side(*before, around),
        "after": side(*after, around),
        "change": {
            "accuracy": number(gap, around),
            "loss": number(loss, around),
            "relative_accuracy": number(after[0] / before[0] - 1, around) if before[0] else None,
        },
    }


def comparison(**changes: Any) -> dict[str, Any]:
    """A file `adaptation.json` of a model that learned its domain and forgot a little."""
    general = part((0.42, 3.1), (0.416, 3.15), 0.002)
    example = {
        "text_before": "given <b>twice</b> a day, the ",
        "original": "dose",
        "text_after": " was halved",
        "change": 3.2,
        "base": {"guess": "time", "probability": 0.31, "original": 0.02},
        "adapted": {"guess": "dose", "probability": 0.52, "original": 0.52},
    }
    return {
        "base": "/home/somebody/checkpoints/base",
        "mask_rate": 0.15,
        "domain": part((0.312, 2.8), (0.35, 2.5)),
        "general": general,
        "forgetting": {
            "loss": general["change"]["loss"],
            "accuracy": {"value": 0.004, "interval": [0.002, 0.006]},
        },
        "by_frequency": {
            "counted_on": "the training text",
            "rows": [
                {"label": "never"} | part((0.0, 9.0), (0.0, 9.1), None, 12),
                {"label": "100–999"} | part((0.2, 4.0), (0.31, 3.1), 0.02, 2_345),
            ],
        },
        "added_words": {"words": 1_000} | part((0.01, 8.0), (0.27, 4.0), 0.02, 417),
        "examples": [example],
        "hashes": {
            "tokenizer": "aa11",
            "texts": {"text": "bb22", "heldout": "cc33"},
            "weights": {"model.safetensors": "dd44"},
        },
        "interval": "95%",
    } | changes


@pytest.fixture
def compared(adapted: RunFolder) -> RunFolder:
    """A finished run that adapted a checkpoint, and compared it with the result."""
    write_json(adapted.adaptation, comparison())
    return adapted


# --- the verdict


def test_the_verdict_says_how_much_was_gained_and_lost() -> None:
    assert headline(comparison(masks="every target replaced by the mask token")) == (
        "On held-out domain text (every target replaced by the mask token) the adapted model predicts 12% more masked "
        "tokens correctly than the base: accuracy 31.2% → 35.0%, +3.8 points (95% interval +2.8 to +4.8); its loss fell by "
        "0.300 nats; on general text accuracy changed: "
        "−0.4 points (95% interval −0.6 to −0.2)."
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"domain": part((0.35, 2.5), (0.3, 2.9))}, "14% fewer masked tokens correctly than the base: accuracy 35.0% → 30.0%"),
        ({"domain": part((0.35, 2.5), (0.3515, 2.5))}, "the accuracy of base and adapted model does not differ significantly"),
        ({"domain": part((0.35, 2.5), (0.352, 2.1))}, "its loss fell by 0.400 nats"),
        ({"domain": part((0.35, 2.5), (0.45, 2.9))}, "its loss rose by 0.400 nats;"),
        ({"domain": part((0.35, 2.5), (0.45, 2.5))}, "by 0.000 nats, which is not significant;"),
        ({"domain": part((0.3, 2.5), (0.36, 2.1), None)}, "+6.0 points; too few documents for an interval"),
        ({"domain": part((0.0, 9.0), (0.1, 5.0))}, "predicts more masked tokens correctly than the base: accuracy 0.0%"),
        ({"domain": part((0.3, 2.5), (0.3, float("nan")))}, "are NaN or infinite"),
        ({"general": None, "forgetting": None}, "forgetting was not measured (no general text)"),
    ],
)  # fmt: skip
def test_the_verdict_is_honest(changes: dict[str, Any], said: str) -> None:
    sentence = headline(comparison(**changes))
    assert said in sentence
    assert sentence.endswith(".")


def test_a_change_on_general_text_that_may_be_chance() -> None:
    general = part((0.4, 3.0), (0.402, 3.0), 0.005)
    forgetting = {
        "loss": general["change"]["loss"],
        "accuracy": {"value": -0.002, "interval": [-0.007, 0.003]},
    }
    said = headline(comparison(general=general, forgetting=forgetting))
    assert said.endswith(
        "on general text no significant difference: +0.2 points (95% interval −0.3 to +0.7)."
    )


def test_a_gain_on_general_text_is_no_loss() -> None:
    general = part((0.4, 3.0), (0.42, 2.9), 0.005)
    forgetting = {
        "loss": general["change"]["loss"],
        "accuracy": {"value": -0.02, "interval": [-0.025, -0.015]},
    }
    said = headline(comparison(general=general, forgetting=forgetting))
    assert "on general text accuracy changed: +2.0 points (95% interval +1.5 to +2.5)" in said


# --- the curve


def curve(folder: RunFolder, losses: list[float], exported: int, rewrite: Any) -> RunFolder:
    rows = [
        {"step": 10 * (place + 1), "tokens": 1000 * (place + 1), "seconds": 1.0}
        | {"eval_loss": loss, "eval_accuracy": 0.3, "general_loss": 3.0}
        for place, loss in enumerate(losses)
    ]
    rewrite(folder, rows)
    found = json.loads(folder.evaluation.read_text(encoding="utf-8"))
    found["before"]["loss"] = 3.0
    write_json(folder.evaluation, found | {"step": exported, "stopped_early": False})
    return folder


@pytest.mark.parametrize(
    ("losses", "exported", "reached", "said"),
    [
        ([2.5, 2.0, 2.1, 2.2], 20, 20, "did not improve after step 20 of 40"),
        ([2.5, 2.002, 2.001, 2.0], 40, 20, "99% of the decrease of the held-out loss was reached at step 20 of 40"),
        ([2.8, 2.6, 2.4, 2.2], 40, 40, "still falling when training ended (step 40)"),
        ([3.2, 3.4], 10, None, "never lower than that of the base"),
    ],
)  # fmt: skip
def test_the_point_of_no_further_gain(
    compared: RunFolder, rewrite: Any, losses: list[float], exported: int, reached: int | None, said: str
) -> None:
    record = read_record(curve(compared, losses, exported, rewrite))
    found = course(record)
    assert found is not None
    assert said in found.sentence
    assert f"The weights of step {exported} are exported." in found.sentence
    assert (found.reached and found.reached["step"]) == reached
    page = write_report(compared).read_text(encoding="utf-8")
    assert f"exported, step {exported}" in page
    assert ("99% of the gain, step" in page) == (reached is not None)


# --- the page and the card


def test_the_page_shows_every_figure_and_quotes_text_as_text(compared: RunFolder) -> None:
    page = write_report(compared).read_text(encoding="utf-8")
    for shown in (
        "predicts 12% more masked tokens correctly than the base",
        *("31.2%", "35.0%", "+3.8 points", "+2.8 to +4.8", "−0.30"),
        *("General text", "the loss on general text rose by 0.050 nats"),
        *("100–999", "2,345 masked", "added words", "extended by 1,000 words"),
        *("aa11", "bb22", "cc33", "dd44"),
        "given &lt;b&gt;twice&lt;/b&gt; a day, the",
    ):
        assert shown in page, shown
    assert "<b>twice" not in page
    assert ">Before and after<" not in page


def test_the_card_has_the_figures_but_neither_the_text_nor_a_path(compared: RunFolder) -> None:
    card = model_card(compared)
    for shown in (
        "| 31.2% (30.2–32.2%) | 35.0%",
        "+3.8 points (+2.8 to +4.8)",
        "| added words | 417 |",
        "dd44",
    ):
        assert shown in card, shown
    assert "12% more masked tokens" in card
    for private in ("/home/somebody", "twice", "a day"):
        assert private not in card, private


def test_without_general_text_the_page_says_so(compared: RunFolder) -> None:
    write_json(compared.adaptation, comparison(general=None, forgetting=None, added_words=None, examples=[]))
    page = write_report(compared).read_text(encoding="utf-8")
    assert "Forgetting was not measured" in page
    assert "Largest differences" not in page


def test_a_run_from_before_this_file_still_has_its_page(adapted: RunFolder) -> None:
    assert not adapted.adaptation.exists()
    page = write_report(adapted).read_text(encoding="utf-8")
    assert "Before and after adaptation" not in page
    assert ">Before and after<" in page


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found.pop("domain"),
        lambda found: found["domain"]["change"].pop("loss"),
        lambda found: found["by_frequency"].update(rows=[{"label": "never"}]),
        lambda found: found.update(examples=[{"original": "dose"}]),
        lambda found: found.update(general=3),
    ],
)
def test_a_file_in_another_format_is_refused(
    compared: RunFolder, spoil: Callable[[dict[str, Any]], Any]
) -> None:
    found = copy.deepcopy(comparison())
    spoil(found)
    write_json(compared.adaptation, found)
    with pytest.raises(DataError, match=r"adaptation\.json: not in the format"):
        write_report(compared)
