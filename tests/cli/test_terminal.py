"""What is drawn: progress as lines or a bar, figures in words, answers as tables."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.api.terminal import BarProgress, LineProgress, terminal_progress
from unmask.cli import runtime
from unmask.cli.inference import draw_explanation, draw_fill
from unmask.cli.terminal import Page
from unmask.cli.train import draw_dry_run, draw_evaluation, draw_examples
from unmask.reporting.format import cell


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture
def lines(clock: Clock) -> Iterator[tuple[LineProgress, io.StringIO]]:
    stream = io.StringIO()
    progress = terminal_progress(stream, clock)
    assert isinstance(progress, LineProgress)
    with progress:
        yield progress, stream


@pytest.fixture
def clock() -> Clock:
    return Clock()


Lines = tuple[LineProgress, io.StringIO]

# ---------------------------------------------------------------- lines off a terminal


def test_a_line_every_five_seconds_and_one_at_the_end(lines: Lines, clock: Clock) -> None:
    progress, stream = lines
    progress.begin("train")
    for second in range(21):
        clock.now = 100.0 + second
        progress.advance(second / 20, {"loss": 7 - second / 10, "tokens/s": 21_300.4})
    progress.end()
    assert stream.getvalue().splitlines() == [
        "train  25%  loss 6.500  21,300 tok/s  0:15 left",
        "train  50%  loss 6.000  21,300 tok/s  0:10 left",
        "train  75%  loss 5.500  21,300 tok/s  0:05 left",
        "train  100%  loss 5.000  21,300 tok/s  0:00 left",
        "train  done  loss 5.000  21,300 tok/s  in 0:20",
    ]


def test_time_left_of_a_resumed_run_counts_from_where_it_went_on(lines: Lines, clock: Clock) -> None:
    progress, stream = lines
    progress.begin("train")
    progress.advance(0.80, {})
    clock.now += 10
    progress.advance(0.90, {})  # 10 seconds for a tenth: 10 seconds for the other
    assert stream.getvalue() == "train  90%  0:10 left\n"


def test_time_left_is_taken_from_the_figures_if_they_tell(lines: Lines, clock: Clock) -> None:
    progress, stream = lines
    progress.begin("train")
    clock.now += 10
    progress.advance(0.5, {"loss": 1.0, "seconds_left": 3700})
    assert stream.getvalue() == "train  50%  loss 1.000  1:01:40 left\n"


def test_without_a_share_the_time_that_passed_is_shown(lines: Lines, clock: Clock) -> None:
    progress, stream = lines
    progress.begin("prepare")
    clock.now += 65
    progress.advance(None, {"documents": 58_012})
    progress.end()
    assert (
        stream.getvalue()
        == "prepare  58,012 documents  after 1:05\nprepare  done  58,012 documents  in 1:05\n"
    )


def test_a_phase_that_stops_early_is_not_called_done(lines: Lines) -> None:
    progress, stream = lines
    progress.begin("train")
    progress.advance(0.424, {})
    progress.end()
    assert stream.getvalue() == "train  42%  in 0:00\n"


def test_a_phase_inside_another(lines: Lines, clock: Clock) -> None:
    progress, stream = lines
    progress.begin("train")
    progress.begin("evaluate")
    progress.end()
    clock.now += 6
    progress.advance(0.5, {})
    assert stream.getvalue().splitlines() == ["evaluate  done  in 0:00", "train  50%  after 0:06"]


def test_notices_are_lines_as_they_are(lines: Lines) -> None:
    progress, stream = lines
    long = "[MASK] [bold]" + "word " * 100 + ":smile:"
    progress.log(long)
    assert stream.getvalue() == long + "\n"


def test_calls_out_of_order_do_no_harm(lines: Lines) -> None:
    progress, stream = lines
    progress.end()
    progress.advance(0.5, {})
    progress.close()
    assert stream.getvalue() == ""


# ---------------------------------------------------------------- a bar on a terminal


def test_a_terminal_gets_a_bar_that_goes_away() -> None:
    stream = FakeTerminal()
    with terminal_progress(stream) as progress:
        assert isinstance(progress, BarProgress)
        progress.begin("train")
        progress.advance(0.5, {"loss": 3.21})
        progress.log("a note")
        progress.end()
    text = stream.getvalue()
    assert "a note" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0  # the cursor is hidden and comes back
    assert text.rstrip().endswith("train  50%  loss 3.210  in 0:00")


def test_an_error_takes_the_bar_down() -> None:
    stream = FakeTerminal()

    def fail() -> None:
        with terminal_progress(stream) as progress:
            progress.begin("train")
            progress.begin("evaluate")
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert stream.getvalue().count("\x1b[?25l") == stream.getvalue().count("\x1b[?25h") > 0


def test_the_bar_shows_figures_and_time(clock: Clock) -> None:
    stream = FakeTerminal()
    with terminal_progress(stream, clock) as progress:
        progress.begin("train")
        progress.advance(0.0, {})
        clock.now += 10
        progress.advance(0.25, {"loss": 3.21, "tokens/s": 9000.0})
        progress.log("so that it is drawn now")
    assert "25%  loss 3.210  9,000 tok/s  0:30 left" in stream.getvalue()


def test_lines_for_a_terminal_are_wrapped_between_words(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")  # a dumb one always has 80 columns
    monkeypatch.setattr("sys.stderr", stream := FakeTerminal())
    monkeypatch.setenv("NO_COLOR", "1")
    path = "runs/" + "a-long-name/" * 5 + "model"
    metrics = {"documents": 34_043, "tokens": 4_915_725, "loss": 3.21}
    with terminal_progress(stream, clock) as progress:
        progress.begin("prepare")
        progress.advance(1.0, metrics)
        progress.end()
        progress.log(f"some words before {path}")
    runtime.print_error(f"nothing can be read from {path} or from any other place")
    assert stream.getvalue().rpartition("\x1b[?25h")[2].strip().splitlines() == [
        "prepare  done  34,043 documents",
        "4,915,725 tokens  loss 3.210  in 0:00",
        "some words before",
        path,
        "error: nothing can be read from",
        path,
        "or from any other place",
    ]


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(terminal_progress(FakeTerminal()), LineProgress)


def test_no_color_leaves_no_style(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, styled = FakeTerminal(), FakeTerminal()
    terminal_progress(styled).log("a note")
    monkeypatch.setenv("NO_COLOR", "1")
    terminal_progress(plain).log("a note")
    assert plain.getvalue() == "a note\n"
    assert styled.getvalue() != "a note\n"


# ---------------------------------------------------------------- answers


@pytest.fixture
def page() -> tuple[Page, io.StringIO]:
    stream = io.StringIO()
    return Page(stream), stream


Drawn = tuple[Page, io.StringIO]


def rows_of(stream: io.StringIO) -> list[list[str]]:
    """Return what was drawn, as the words of each line."""
    return [line.split() for line in stream.getvalue().splitlines() if line.strip()]


def test_evaluation_stands_beside_baselines_and_before(page: Drawn) -> None:
    baselines = {
        "most_frequent_token": {"accuracy": 0.05, "loss": 7.0},
        "ngram": {"accuracy": 0.35, "loss": None},
    }
    before = {"accuracy": 0.2, "loss": 4.0, "perplexity": 54.6}
    draw_evaluation(
        page[0],
        {
            "accuracy": 0.41,
            "loss": 3.5,
            "masked_tokens": 30123,
            "documents": 400,
            "baselines": baselines,
            "before": before,
            "general": {"accuracy": 0.3, "loss": 3.9, "before": {"accuracy": 0.33, "loss": 3.7}},
        },
    )
    text = page[1].getvalue()
    rows = rows_of(page[1])
    assert ["this", "model", "41.0%", "3.500"] in rows
    assert ["the", "same", "before", "training", "20.0%", "4.000"] in rows
    assert ["most", "frequent", "token", "5.0%", "7.000"] in rows
    assert ["bidirectional", "n-gram", "35.0%", "–"] in rows
    general = rows[next(place for place, row in enumerate(rows) if row[0] == "general") :]
    assert [row[-2:] for row in general if row[-1][0].isdigit()] == [["30.0%", "3.900"], ["33.0%", "3.700"]]
    assert "over 30,123 masked tokens of 400 documents" in text
    assert "\x1b" not in text


def test_a_metric_without_an_interval_is_not_named_with_the_intervals(page: Drawn) -> None:
    spans = {"accuracy": None, "loss": [10.32, 10.36]}
    draw_evaluation(page[0], {"accuracy": 0.0, "loss": 10.34, "intervals": spans})
    assert "95% intervals over documents: loss 10.320–10.360" in page[1].getvalue()


def example(tokens: int = 6) -> dict[str, Any]:
    words = ["the", "value", "of", "the", "key", "s", *["more"] * tokens]
    right = {"index": 1, "original": "value", "shown": "[MASK]", "rank": 1}
    wrong = {"index": 4, "original": "key", "shown": "[MASK]", "rank": 3}
    right["predictions"] = [{"token": "value", "probability": 0.834}]
    wrong["predictions"] = [{"token": "name", "probability": 0.41}, {"token": "key", "probability": 0.2}]
    return {
        "tokens": words,
        "words_before": [index != 5 for index in range(len(words))],
        "targets": [right, wrong],
    }


def test_examples_show_gaps_and_answers(page: Drawn) -> None:
    draw_examples(page[0], [example(0), {"tokens": ["a"], "words_before": [True], "targets": []}])
    assert page[1].getvalue() == "\nthe [1] of the [2]s\n    [1] value 83%   [2] name 41% (was key)\n"


def test_long_examples_are_cut(page: Drawn) -> None:
    draw_examples(page[0], [example(100)] * 9, most=2)
    lines = [line for line in page[1].getvalue().splitlines() if line.startswith("the")]
    assert len(lines) == 2
    assert lines[0].endswith("more …")
    assert len(lines[0].split()) < 40


def candidate(text: str, probability: float, sequence: str, **changes: Any) -> SimpleNamespace:
    about = {"tokens": text.split(), "score": math.log(probability)} | changes
    return SimpleNamespace(text=text, probability=probability, sequence=sequence, **about)


def result(text: str, masks: list[int], candidates: list[SimpleNamespace], **changes: Any) -> SimpleNamespace:
    about = {"per_mask": [], "error": None, "ranking": "joint", "exact": True} | changes
    return SimpleNamespace(text=text, masks=masks, candidates=candidates, **about)


def test_fills_of_one_and_of_two_masks(page: Drawn) -> None:
    one = result("a [MASK].", [2], [candidate("b", 0.91234, "a b.")])
    alone = [
        [SimpleNamespace(token="##x", text="x", probability=0.5)],
        [SimpleNamespace(token="Ġy", text=" y", probability=0.25)],
    ]
    two = result(
        "[MASK] [MASK]",
        [1, 2],
        [candidate("x y", 0.125, "x y"), candidate("x z", 3e-7, "x z")],
        per_mask=alone,
    )
    failed = result("not here", [], [], error="no mask")
    draw_fill(page[0], [one, failed, two])
    rows = rows_of(page[1])
    assert ["a", "[MASK]."] in rows
    assert ["filled", "with", "probability", "text"] in rows
    assert ["b", "0.9123", "a", "b."] in rows
    assert ["filled", "with", "joint", "probability", "text"] in rows
    assert ["x", "z", "3.0e-07", "x", "z"] in rows
    assert ["mask", "1", "alone:", "x", "0.5000"] in rows
    assert ["mask", "2", "alone:", "y", "0.2500"] in rows
    assert "not here" not in page[1].getvalue()
    assert "--beam" not in page[1].getvalue()


def test_fills_say_how_they_are_ranked(page: Drawn) -> None:
    word = candidate("unlit", 0.01, "an unlit room", tokens=["un", "##lit"], score=math.log(0.1))
    draw_fill(page[0], [result("an ___ room", [2], [word], ranking="independent", exact=False)])
    rows = rows_of(page[1])
    assert ["filled", "with", "independent", "probability", "ranked", "by", "text"] in rows
    assert ["unlit", "0.0100", "0.1000", "an", "unlit", "room"] in rows
    assert "geometric mean" in page[1].getvalue()
    assert "--beam" in page[1].getvalue()


def explanation(**changes: Any) -> dict[str, Any]:
    return {
        "text": "won it",
        "tokens": ["[CLS]", "won", "it", "[SEP]"],
        "input_ids": [101, 2180, 2009, 102],
        "token_type_ids": [0, 0, 0, 0],
        "attention_mask": [1, 1, 1, 1],
        "labels": [-100, 2180, -100, -100],
        "random_draw": [0.9, 0.125, 0.5, 0.3],
        "special_tokens_mask": [1, 0, 0, 1],
        "mask": [False, True, False, False],
        "selected": [1],
        "mask_token_id": 103,
        "masked_input_ids": [101, 103, 2009, 102],
        "masked_tokens": ["[CLS]", "[MASK]", "it", "[SEP]"],
        "predictions": [
            {
                "position": 1,
                "original": "won",
                "shown": "[MASK]",
                "top": [{"token": "lost", "token_id": 5, "probability": 0.75}],
                "loss": 1.5,
            }
        ],
        "token_loss": [None, 1.5, None, None],
        "loss": 1.5,
        "labels_mode": "masked",
        "mask_positions_given": False,
        "forced": False,
        **changes,
    }


def test_explanation_shows_every_step(page: Drawn) -> None:
    draw_explanation(page[0], explanation())
    rows = rows_of(page[1])
    assert ["1", "won", "2180", "0", "1", "2180", "0.125", "mask", "[MASK]", "103", "1.500"] in rows
    assert ["0", "[CLS]", "101", "0", "1", "-100", "0.900", "special", "101", "–"] in rows
    assert "selected positions (drawn): 1" in page[1].getvalue()
    assert ["1", "won", "[MASK]", "lost", "0.7500", "1.500"] in rows
    assert page[1].getvalue().endswith("loss 1.5000, the mean over 1 masked token\n")


def test_explanation_of_given_positions_and_all_labels(page: Drawn) -> None:
    changed = explanation(
        random_draw=None, mask_positions_given=True, labels_mode="all", token_loss=[1.0] * 4, loss=1.0
    )
    draw_explanation(page[0], changed)
    assert "selected positions (given): 1" in page[1].getvalue()
    assert ["1", "won", "2180", "0", "1", "2180", "–", "mask", "[MASK]", "103", "1.000"] in rows_of(page[1])
    assert page[1].getvalue().endswith("loss 1.0000, the mean over all 4 tokens\n")


def test_explanation_where_nothing_is_masked(page: Drawn) -> None:
    draw_explanation(page[0], explanation(selected=[], predictions=[], token_loss=[None] * 4, loss=None))
    assert "selected positions (drawn): none" in page[1].getvalue()
    assert (
        page[1]
        .getvalue()
        .endswith(
            "loss: none, because the text has no token that can be masked (special and unknown ones cannot)\n"
        )
    )


def test_plan(page: Drawn) -> None:
    plan = SimpleNamespace(
        parameters=4_400_000,
        tokens_per_epoch=123_456,
        steps=900,
        processes=1,
        parallel="",
        peak_memory_bytes=812e6,
        disk_bytes=3.4e9,
        seconds_per_step=0.1234,
        total_seconds=7384.0,
    )
    draw_dry_run(page[0], plan)
    text = page[1].getvalue()
    assert "process" not in text
    for shown in ("4,400,000", "123,456", "812 MB", "3.4 GB", "0.123", "2:03:04"):
        assert shown in text


def test_wide_tables_are_not_cut_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")
    assert "COLUMNS" not in os.environ
    stream = io.StringIO()
    draw_explanation(Page(stream), explanation())
    assert rows_of(stream)[1][:6] == [
        "position",
        "token",
        "input_ids",
        "token_type_ids",
        "attention_mask",
        "labels",
    ]


# ---------------------------------------------------------------- narrow terminals


def at(columns: int, monkeypatch: pytest.MonkeyPatch) -> Drawn:
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = FakeTerminal()
    monkeypatch.setenv("NO_COLOR", "1")
    return Page(stream), stream


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_explanation_is_readable_on_a_narrow_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    page, stream = at(columns, monkeypatch)
    long = explanation(tokens=["[CLS]", "heartbreaking", "tokenizer", "[SEP]"])
    draw_explanation(page, long)
    lines = stream.getvalue().splitlines()
    assert all(len(line.rstrip()) <= columns for line in lines)
    words = stream.getvalue().split()
    for word in (
        "token_type_ids",
        "attention_mask",
        "heartbreaking",
        "tokenizer",
        "-100",
        "1.500",
        "special",
    ):
        assert word in words
    blocks = [line for line in lines if line.startswith("position") and "token" in line.split()]
    assert len(blocks) == {40: 7, 60: 3, 80: 2}[columns]


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(
            st.text("abc d", max_size=30),
            st.integers(-(10**9), 10**9),
            st.floats(0, 1e6),
            st.text("xyz ", max_size=40),
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(45, 120),
)
def test_a_table_breaks_no_number_and_no_short_word(rows: list[tuple[Any, ...]], columns: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        page, stream = at(columns, patch)
        short = [
            [
                " ".join(word[:9] for word in str(cell).split()) if isinstance(cell, str) else cell
                for cell in row
            ]
            for row in rows
        ]
        page.table(["name of the row", "count", "mean reciprocal rank", "note"], short, left=(0, 3))
    assert all(len(line) <= columns for line in stream.getvalue().splitlines())
    words = stream.getvalue().split()
    for row in short:
        for value in row:
            assert all(word in words for word in cell(value).split())


def test_an_interval_stays_with_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    page, stream = at(40, monkeypatch)
    page.table(
        ["model", "loss", "95%", "accuracy", "95%"], [["a-model", 3.5, "3.310–3.622", "41.2%", "40.1–42.3%"]]
    )
    assert rows_of(stream)[0] == ["model", "loss", "95%"]
    assert ["a-model", "41.2%", "40.1–42.3%"] in rows_of(stream)


def test_a_terminal_gets_sentences_wrapped_and_commands_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    page, stream = at(40, monkeypatch)
    page.say("some words " * 10)
    command = "unmask train some/long/path/to/text --model bert-base-uncased"
    page.command(command)
    *sentence, last = stream.getvalue().splitlines()
    assert last == command
    assert all(len(line) <= 40 for line in sentence)
    assert set(" ".join(sentence).split()) == {"some", "words"}
