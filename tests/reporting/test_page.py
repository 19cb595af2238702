"""The run report: what it says, that it is one safe file, and what it does with files that are absent or broken."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.reporting.conftest import Outline

from unmask.errors import DataError, DiskError
from unmask.reporting.page import write_report
from unmask.reporting.plots import main_charts, smooth, thin
from unmask.run_folder import RunFolder
from unmask.storage import read_rows, write_json

Rewrite = Callable[[RunFolder, list[dict[str, Any]]], None]
NASTY = "<script>alert('x & y')</script>"


def page_of(folder: RunFolder) -> tuple[str, Outline]:
    page = write_report(folder).read_text(encoding="utf-8")
    return page, Outline(page)


def change_json(path: Path, **changes: Any) -> None:
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | changes)


# ---- what it says


def test_headline_holds_the_figures_and_how_they_stand(run: RunFolder) -> None:
    text = page_of(run)[1].text
    assert (
        "The model predicts 36.4% of 23,412 masked tokens in held-out text (every target replaced by the mask token) "
        "correctly, with a loss of 3.941. "
        "Compared with: most frequent token 5.1% (loss 6.910), bidirectional n-gram 32.0% (loss 4.702)."
        in text
    )
    assert (
        "4.4 points above the best of these (bidirectional n-gram), "
        "and the loss is 0.761 nats below the lowest (bidirectional n-gram)." in text
    )


@pytest.mark.parametrize(
    ("accuracy", "loss", "said"),
    [
        (0.40, 7.5, "The model's loss (7.500) is higher than that of predicting every token by its frequency alone ("),
        (0.40, 6.0, "Accuracy and loss disagree: the accuracy is 8.0 points above the best of these (bidirectional n-gram), but the loss is 1.298 nats above the lowest"),
        (0.30, 4.0, "2.0 points below the best of these (bidirectional n-gram), but the loss is 0.702 nats below the lowest"),
        (0.30, 5.0, "2.0 points below the best of these (bidirectional n-gram), and the loss is 0.298 nats above the lowest"),
        (0.3215, 4.0, "within the sampling error, and the loss is 0.702 nats below the lowest (bidirectional n-gram)."),
    ],
)  # fmt: skip
def test_the_headline_weighs_the_loss_too(run: RunFolder, accuracy: float, loss: float, said: str) -> None:
    change_json(run.evaluation, accuracy=accuracy, loss=loss)
    assert said in page_of(run)[1].text


@pytest.mark.parametrize(
    ("span", "said"),
    [
        ([0.35, 0.38], "correctly (95% interval 35.0–38.0%), with a loss of 3.941."),
        ([0.35, 0.38], "That is 4.4 points above the best of these (bidirectional n-gram)"),
        ([0.3, 0.43], "the difference is within the sampling error"),
        (None, "correctly (too few documents for an interval), with a loss"),
        (None, "It cannot be told from the best of these (bidirectional n-gram): too few documents"),
    ],
)
def test_the_headline_is_as_sure_as_the_interval_over_documents(
    run: RunFolder, span: list[float] | None, said: str
) -> None:
    change_json(run.evaluation, intervals={"accuracy": span, "loss": None})
    assert said in page_of(run)[1].text


def test_a_baseline_that_sees_more_than_the_model_is_a_row_and_no_bar(run: RunFolder) -> None:
    baselines = json.loads(run.evaluation.read_text(encoding="utf-8"))["baselines"]
    more = {"ngram_true_neighbours": {"accuracy": 0.5, "loss": 3.0}}
    change_json(run.evaluation, baselines=baselines | more)
    text = page_of(run)[1].text
    assert "4.4 points above the best of these (bidirectional n-gram)" in text
    assert "n-gram with true neighbours 50.0% 3.000" in " ".join(text.split())


def test_targets_replaced_as_in_training_have_rows_of_their_own(run: RunFolder) -> None:
    text = page_of(run)[1].text
    assert "15.0% of the text masked, every target replaced by the mask token. Every row" in text
    assert "80% of the targets replaced by the mask token, 10% by a random token, 10% unchanged" in text
    assert "random token58626.1%4.871" in text
    assert "unchanged58789.2%0.612" in text


def test_an_earlier_evaluation_is_said_to_have_other_masks(run: RunFolder) -> None:
    evaluation = json.loads(run.evaluation.read_text(encoding="utf-8"))
    write_json(
        run.evaluation,
        {key: value for key, value in evaluation.items() if "mask" not in key or key == "masked_tokens"}
        | {"by_replacement": None},
    )
    text = page_of(run)[1].text
    assert "in held-out text (80% of the targets replaced by the mask token, 10% by a random token" in text


def test_no_two_lines_of_the_accuracy_chart_share_colour_and_dash(run: RunFolder) -> None:
    names = ("most frequent token", "bidirectional n-gram", "n-gram with true neighbours", "before training")
    levels = {name: {"accuracy": 0.1 * place, "loss": 5.0} for place, name in enumerate(names, 1)}
    rows = [row for row in read_rows(run.metrics) if "eval_loss" in row]
    chart = main_charts([], rows, levels)[1]
    styles = re.findall(r"style=\"[^\"]*stroke-dasharray: ([\d., ]+)[^\"]*stroke: (var\(--\w+\))", chart.svg)
    assert len(styles) >= 4
    assert len(set(styles)) == len(styles)
    assert len({entry.role for entry in chart.legend}) == len(chart.legend) == 5
    css = write_report(run).read_text(encoding="utf-8")
    assert all(f".key-{entry.role}::before" in css for entry in chart.legend)


@pytest.mark.parametrize(
    ("accuracy", "said"),
    [
        (0.30, "2.0 points below the best of these (bidirectional n-gram)"),
        (0.3215, "level with the best"),
    ],
)
def test_a_model_that_does_not_win_is_said_not_to(run: RunFolder, accuracy: float, said: str) -> None:
    change_json(run.evaluation, accuracy=accuracy)
    assert said in page_of(run)[1].text


def test_a_run_from_scratch_has_no_before_and_an_adapted_one_has(run: RunFolder, adapted: RunFolder) -> None:
    assert "Before and after" not in page_of(run)[1].text
    text = page_of(adapted)[1].text
    assert "Before and after" in text
    assert "accuracy46.4%55.7%+9.3 points" in text
    assert "before training 46.4%" in text


def test_what_was_trained_and_how(run: RunFolder) -> None:
    text = page_of(run)[1].text
    for figure in (
        "4,460,544",
        "8,192 entries",
        "3,276,800 (0.31 epochs)",
        "3 min 18 s",
        "16,583 tokens/s",
        "bf16",
        "AMD EPYC 9554",
        "torch 2.13.0",
        "unmask demo -o 'runs/my demo'",
        "from scratch, preset modernbert-tiny",
        "warmup_share: 0.06",
    ):
        assert figure in text


def test_examples_show_every_mask_with_its_predictions(run: RunFolder) -> None:
    page, outline = page_of(run)
    assert "11 of 21 masked tokens in 4 held-out passages" in outline.text
    places = [value for value in outline.values("aria-describedby") if value.startswith("p")]
    assert len(places) == 21
    assert set(places) <= set(outline.values("id"))
    examples = json.loads(run.examples.read_text(encoding="utf-8"))
    listed = page[page.index('<ol class="spots">') :]
    for target in examples[0]["targets"]:
        for prediction in target["predictions"]:
            assert f">{prediction['token']}</span>" in listed


def test_right_and_wrong_differ_by_more_than_colour(run: RunFolder) -> None:
    text = page_of(run)[1].text
    assert "list✓ (masked, predicted correctly)" in text
    assert "sort✗ (predicted: value)" in text


def test_pieces_of_words_join_as_they_stand_in_the_text(run: RunFolder) -> None:
    text = page_of(run)[1].text
    assert "This function accumulates gradi" in text
    assert "gradients✓" in text.replace("masked: ", "")


# ---- one safe file


def test_page_loads_nothing_and_runs_nothing(run: RunFolder) -> None:
    page, outline = page_of(run)
    assert "http:" not in page
    assert "https:" not in page
    assert not {"script", "iframe", "object", "embed", "img"} & {tag for tag, _ in outline.elements}
    assert all(value.startswith(("#", "data:")) for name in ("href", "src") for value in outline.values(name))
    assert not re.search(r"@import|url\((?!#)", page)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in outline.values("content")


def test_text_of_the_run_is_escaped_wherever_it_stands(run: RunFolder) -> None:
    target = {"index": 1, "original": NASTY, "shown": NASTY, "rank": 2}
    target["predictions"] = [{"token": NASTY + "2", "probability": 0.5}]
    write_json(run.examples, [{"tokens": [NASTY, "x"], "words_before": [True, True], "targets": [target]}])
    change_json(run.info, command=["unmask", NASTY], model_class=NASTY, machine={"cpu": NASTY})
    change_json(
        run.evaluation, baselines={NASTY: {"accuracy": 0.1}, "ngram": {"accuracy": 0.2, "what": NASTY}}
    )
    run.config.write_text(f'model: {{name: "{NASTY}"}}\n', encoding="utf-8")
    page, outline = page_of(run)
    assert "<script" not in page
    assert outline.text.count(NASTY) >= 8


def test_no_identifier_stands_twice(adapted: RunFolder) -> None:
    identifiers = page_of(adapted)[1].values("id")
    assert len(identifiers) == len(set(identifiers))


def test_same_files_give_the_same_bytes(run: RunFolder) -> None:
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


def test_chart_references_resolve_and_colours_are_variables(run: RunFolder) -> None:
    page, outline = page_of(run)
    identifiers = set(outline.values("id"))
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= identifiers
    assert {value[1:] for value in outline.values("href") if value.startswith("#")} <= identifiers
    charts = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.S))
    assert charts.count("<svg") == 6
    assert not re.search(r"#[0-9a-f]{6}\b", charts)
    style = page[page.index("<style>") : page.index("</style>")]
    assert all(f"{name}:" in style for name in re.findall(r"var\((--[a-z0-9-]+)\)", page))


def test_no_model_is_loaded(run: RunFolder) -> None:
    code = (
        "import sys; from pathlib import Path; from unmask.reporting.page import write_report; "
        "from unmask.run_folder import RunFolder; write_report(RunFolder(Path(sys.argv[1]))); "
        "print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(run.root)], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


# ---- values that are no numbers


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_shown(run: RunFolder, rewrite: Rewrite, bad: float) -> None:
    rows = read_rows(run.metrics)
    for row in rows:
        if row["step"] in (300, 305, 400):
            row.update({key: bad for key in ("loss", "eval_loss", "eval_accuracy") if key in row})
    rewrite(run, rows)
    page, outline = page_of(run)
    assert "Training loss was NaN or infinite at steps 300, 305, 400." in outline.text
    assert "Held-out loss was NaN or infinite at step 400." in outline.text
    loss, accuracy = re.findall(r"<svg.*?</svg>", page, flags=re.S)[:2]
    assert loss.count('style="fill: var(--bad)') == 4
    assert accuracy.count('style="fill: var(--bad)') == 1
    assert "3 not finite" in outline.values("aria-label")[1]


def test_a_mean_over_nothing_is_missing_not_an_error(run: RunFolder, rewrite: Rewrite) -> None:
    rewrite(run, [{**row, "loss": None} if row["step"] == 300 else row for row in read_rows(run.metrics)])
    page, outline = page_of(run)
    assert "NaN or infinite" not in outline.text
    assert 'style="fill: var(--bad)' not in page


def test_many_bad_steps_are_counted_not_hidden(run: RunFolder, rewrite: Rewrite) -> None:
    rewrite(run, [{**row, "loss": math.nan} if "loss" in row else row for row in read_rows(run.metrics)])
    assert "35, 40 and 152 more logged steps, the last 800." in page_of(run)[1].text


def test_a_final_evaluation_without_numbers_is_said(run: RunFolder) -> None:
    change_json(run.evaluation, accuracy=math.nan, loss=math.nan)
    text = page_of(run)[1].text
    assert (
        "held-out text (every target replaced by the mask token) is NaN or infinite. Compared with: most frequent token 5.1%"
        in text
    )
    assert "NaN or infinite in the final evaluation: accuracy, loss." in text


# ---- files that are absent, stopped half way, or broken


def test_a_run_half_way_says_what_is_not_there_yet(run: RunFolder, rewrite: Rewrite) -> None:
    rewrite(run, [row for row in read_rows(run.metrics) if row["step"] <= 430])
    with run.metrics.open("a", encoding="utf-8") as file:
        file.write('{"step": 435, "lo')
    run.evaluation.unlink()
    run.examples.unlink()
    change_json(run.info, finished=None)
    text = page_of(run)[1].text
    assert (
        "At step 400 the model predicts 31.6% of the masked tokens in held-out text correctly "
        "(every target replaced by the mask token), with a loss of" in text
    )
    assert "had not finished" in text
    assert "metrics.jsonl is incomplete and was skipped" in text
    assert "There is no final evaluation yet" in text
    assert "There are no predictions yet" in text
    assert "430 of 800" in text


def test_an_evaluation_of_the_least_figures(run: RunFolder) -> None:
    write_json(run.evaluation, {"accuracy": 0.25, "loss": 4.0, "perplexity": 54.6, "masked_tokens": 100})
    text = page_of(run)[1].text
    assert "The model predicts 25.0% of 100 masked tokens in held-out text (" in text
    assert " correctly, with a loss of 4.000." in text
    assert "best of these" not in text


def test_a_baseline_without_a_loss_still_stands_in_the_table(run: RunFolder) -> None:
    change_json(run.evaluation, baselines={"ngram": {"accuracy": 0.3}}, before={"accuracy": 0.2})
    text = page_of(run)[1].text
    assert "bidirectional n-gram 30.0% ––" in text
    assert "loss–3.941–" in text


def test_only_training_rows(run: RunFolder, rewrite: Rewrite) -> None:
    rewrite(run, read_rows(run.metrics)[:1])
    run.evaluation.unlink()
    text = page_of(run)[1].text
    assert "At step 5 the training loss is" in text
    assert "has not been evaluated on held-out text yet" in text


def test_settings_alone_make_a_page(run: RunFolder) -> None:
    for path in (run.metrics, run.evaluation, run.examples, run.info):
        path.unlink()
    text = page_of(run)[1].text
    assert "Nothing is recorded yet." in text
    assert "There are no curves yet" in text
    assert "There is no run.json" in text
    run.config.unlink()
    run.metrics.touch()
    assert "There is no config.yaml." in page_of(run)[1].text


def test_no_run_here(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected the folder of a run"):
        write_report(RunFolder(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "metrics.jsonl",
            '{"step": 1, "tokens": 2, "loss": 3}\nnot json\n',
            r"metrics\.jsonl:2: expected a JSON",
        ),
        ("metrics.jsonl", "3\n", r"metrics\.jsonl:1: expected a JSON object with a step"),
        ("evaluation.json", "[]", "expected a JSON dict, not a list"),
        ("evaluation.json", '{"accuracy": 0.5}', "expected the metric 'loss'"),
        ("examples.json", '[{"tokens": ["a"]}]', "example 0 is not in the format"),
        (
            "examples.json",
            '[{"tokens": ["a"], "words_before": [true], "targets": [{"index": 1}]}]',
            "1 tokens, 1 spaces, targets at \\[1\\]",
        ),
        ("config.yaml", "a: [", "config.yaml: not valid YAML"),
        ("config.yaml", "- 1", "expected a mapping of settings"),
    ],
)
def test_a_broken_file_is_named_and_no_page_is_written(
    run: RunFolder, name: str, content: str, message: str
) -> None:
    (run.root / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message) as raised:
        write_report(run)
    assert "\n" not in str(raised.value)
    assert not run.report.exists()


def test_a_page_that_cannot_be_written(run: RunFolder) -> None:
    run.report.mkdir()
    with pytest.raises(DiskError, match="cannot be written"):
        write_report(run)


def test_steps_gone_through_again_count_once(run: RunFolder, rewrite: Rewrite) -> None:
    rows = read_rows(run.metrics)
    again = [row for row in rows if row["step"] >= 700]
    before = [{**row, **({"eval_loss": 99.0} if "eval_loss" in row else {"loss": 99.0})} for row in again]
    first = write_report(run).read_bytes()
    rewrite(run, [row for row in rows if row["step"] < 700] + before + again)
    assert write_report(run).read_bytes() == first


# ---- curves


def test_thinning_keeps_extremes_and_gaps() -> None:
    ys = [float(place % 7) for place in range(5000)]
    ys[1234], ys[4000], ys[2500] = 99.0, -99.0, math.nan
    xs, kept = thin(list(range(5000)), ys, 500)
    assert len(xs) <= 750
    assert xs == sorted(set(xs))
    assert max(y for y in kept if not math.isnan(y)) == 99.0
    assert min(y for y in kept if not math.isnan(y)) == -99.0
    assert math.isnan(kept[xs.index(2500)])
    assert thin([1.0, 2.0], [3.0, 4.0], 500) == ([1.0, 2.0], [3.0, 4.0])


def test_smoothing_leaves_gaps_and_means_the_rest() -> None:
    found = smooth([1.0, 2.0, math.nan, 4.0, 5.0], 3)
    assert [found[0], found[1], found[3], found[4]] == [1.5, 1.5, 4.5, 4.5]
    assert math.isnan(found[2])


def test_a_spike_does_not_flatten_the_curve() -> None:
    rows = [{"step": step, "tokens": step * 10, "loss": 4.0} for step in range(1, 30)]
    rows[10]["loss"] = 4000.0
    chart = main_charts(rows, [], {})[0]
    assert ">1000<" in chart.svg
    assert ">5<" in chart.svg


def test_rows_without_tokens_are_drawn_over_steps() -> None:
    rows = [{"step": step, "loss": 4.0 / step} for step in range(1, 30)]
    assert ">step<" in main_charts(rows, [], {})[0].svg


def test_a_causal_detour_has_a_line_of_its_own() -> None:
    """Its losses are of other targets, so no line and no mean joins them with those of masked tokens."""
    rows = [
        {"step": n, "tokens": 100 * n, "loss": 9.0 - n, "objective": "clm" if n < 3 else "mlm"}
        for n in range(6)
    ]
    chart = main_charts(rows, [], {})[0]
    labels = [
        "training, next tokens (causal detour)",
        "training, masked tokens",
        "masked tokens from here on",
    ]
    assert [entry.label for entry in chart.legend] == labels
    assert len({entry.role for entry in chart.legend}) == 3
    assert "(causal detour): from 9 to 7." in chart.svg
    assert "masked tokens: from 6 to 4." in chart.svg
