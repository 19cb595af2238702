"""The verbs ``eval`` and ``compare``: what models know, and which knows more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from typer import Argument

from unmask.cli import options
from unmask.cli import runtime as shell
from unmask.cli.terminal import Page
from unmask.errors import plural
from unmask.reporting.format import (
    METRICS,
    WORD_METRICS,
    baseline_name,
    change_interval,
    interval,
    masks,
    metric,
    metric_change,
    number,
    percent,
)
from unmask.storage import JsonDict

FirstModel = Annotated[
    str,
    Argument(metavar="A", help="Model: Hub name, name@revision, folder or run folder."),
]
SecondModel = Annotated[str, Argument(metavar="B", help="The model to compare it with.")]
Tokens = Annotated[
    int | None,
    options.text("--tokens", min=1, help="Evaluate on at most N tokens, of documents drawn by hash."),
]
PllBytes = Annotated[
    int | None,
    options.text(
        "--pll-bytes",
        show_default="10000, on a GPU 200000",
        min=1,
        help="Models with different tokenizers: bytes of text to score token by token, for bits per byte.",
    ),
]


def evaluate(
    models: options.ModelsArgument,
    data: options.EvaluatedText,
    train_data: options.TrainData = None,
    mask_rate: options.MaskRate = None,
    strategy: options.StrategyOption = None,
    max_length: options.MaxLength = None,
    tokens: Tokens = None,
    documents: options.DocumentsOption = None,
    text_field: options.TextField = None,
    encoding: options.Encoding = None,
    delimiter: options.Delimiter = None,
    markup: options.MarkupOption = None,
    skip_unreadable: options.SkipUnreadable = False,
    overrides: options.Overrides = None,
    device: options.DeviceOrAuto = "auto",
    precision: options.PrecisionOrFp32 = "fp32",
    html: options.Html = None,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """Evaluate models on held-out text, at fixed masks.

    The masks never change, and every target is replaced by the mask token. Prints loss, perplexity, accuracy and mean reciprocal rank with 95% intervals over documents, and two baselines.

    Examples:
        unmask eval runs/notes --data heldout/
        unmask eval bert-base-uncased runs/notes --data heldout/ --html eval.html
    """
    shell.check_page(html, charts=True)
    config = options.load_settings(
        locals()
    )  # so that a wrong option is found before anything heavy is imported
    with shell.working() as progress:
        from unmask.api import evaluation, texts

        results: Any = evaluation.evaluate(
            models, texts.Paths(data), train_data=texts.Paths(train_data or ()), tokens=tokens,
            max_length=config.data.max_length, device=device, precision=precision, offline=offline,
            progress=progress, config=config,
        ).to_dict()  # fmt: skip
    if html is not None:
        from unmask.reporting.evaluation_page import render_evaluation

        shell.write_page(html, render_evaluation(results))
    document = results[0] if len(results) == 1 else {"models": results}
    shell.show(as_json, document, lambda page: draw_evaluations(page, results))


def compare(
    first: FirstModel,
    second: SecondModel,
    data: options.EvaluatedText,
    train_data: options.TrainData = None,
    mask_rate: options.MaskRate = None,
    strategy: options.StrategyOption = None,
    max_length: options.MaxLength = None,
    tokens: Tokens = None,
    pll_bytes: PllBytes = None,
    documents: options.DocumentsOption = None,
    text_field: options.TextField = None,
    encoding: options.Encoding = None,
    delimiter: options.Delimiter = None,
    markup: options.MarkupOption = None,
    skip_unreadable: options.SkipUnreadable = False,
    overrides: options.Overrides = None,
    device: options.DeviceOrAuto = "auto",
    precision: options.PrecisionOrFp32 = "fp32",
    html: options.Html = None,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """Compare two models on the same text, with an interval.

    Models with one tokenizer are compared at identical masks; others on whole words and in bits per byte.

    Examples:
        unmask compare bert-base-uncased runs/notes --data heldout/
    """
    shell.check_page(html, charts=True)
    config = options.load_settings(locals())
    with shell.working() as progress:
        from unmask.api import evaluation, texts

        result = evaluation.compare(
            first, second, texts.Paths(data), train_data=texts.Paths(train_data or ()), tokens=tokens,
            max_length=config.data.max_length, pll_bytes=pll_bytes, device=device, precision=precision,
            offline=offline, progress=progress, config=config,
        ).to_dict()  # fmt: skip
    if html is not None:
        from unmask.reporting.evaluation_page import render_comparison

        shell.write_page(html, render_comparison(result))
    shell.show(as_json, result, lambda page: draw_comparison(page, result))


def draw_evaluations(page: Page, found: Sequence[JsonDict]) -> None:
    """Draw the metrics of models and baselines in one table; of a single model its own tables too.

    ``found`` has :meth:`unmask.evaluation.evaluate.Evaluation.to_dict` of each.
    """
    columns = ["loss", "95%", "perplexity", "accuracy", "95%", "@5", "@10", "MRR"]
    page.table(
        ["held-out text", *columns], [_row(row["label"], row) for row in found] + list(_baseline_rows(found))
    )
    one = found[0]
    page.say(
        f"{_masked(one)}; {percent(one['mask_rate'])} of the text masked (strategy {one['strategy']}), {masks(one)}; "
        f"sequences of up to {one['max_length']:,} tokens"
    )
    for row in found:
        error = row["calibration"]["expected_calibration_error"]
        name = f" of {row['label']}" if len(found) > 1 else ""
        page.say(f"expected calibration error{name}: {number(error)}")
    if len(found) == 1:
        _draw_tables(page, one["tables"])
    elif len({row["tokenizer"] for row in found}) > 1:
        page.say(
            "these models have different tokenizers: loss and accuracy of a token do not compare them; use "
            "'unmask compare A B'"
        )


def _masked(row: JsonDict, what: str = "masked token") -> str:
    key = what.replace(" ", "_") + "s"
    return f"{plural(row[key], what)} of {plural(row['documents'], 'document')}"


def _row(name: str, row: JsonDict) -> list[object]:
    spans = row["intervals"]
    keys = ("accuracy_at_5", "accuracy_at_10", "mean_reciprocal_rank")
    return [
        name,
        metric("loss", row["loss"]),
        interval("loss", spans["loss"]) or None,
        metric("perplexity", row.get("perplexity")),
        percent(row["accuracy"]),
        interval("accuracy", spans["accuracy"]) or None,
        *(metric(key, row.get(key)) for key in keys),
    ]


def _baseline_rows(found: Sequence[JsonDict]) -> Iterator[list[object]]:
    """The baselines of each tokenizer, named by it where there are several."""
    seen = {row["tokenizer"]: row for row in reversed(found)}
    for row in reversed(seen.values()):
        after = f", tokens of {row['label']}" if len(seen) > 1 else ""
        for name, baseline in (row["baselines"] or {}).items():
            yield _row(baseline_name(name) + after, baseline)


def _draw_tables(page: Page, tables: JsonDict) -> None:
    for table in tables.values():
        page.say("")
        rows = []
        for row in table["rows"]:
            _, loss, span, _, accuracy, shares, *_ = _row(row["label"], row)
            rows.append([row["label"], row["masked_tokens"], loss, span, accuracy, shares])
        page.table([table["title"].lower(), "masked", "loss", "95%", "accuracy", "95%"], rows)
        page.say(table["note"], style="dim")


def draw_comparison(page: Page, found: JsonDict) -> None:
    """Draw what :meth:`unmask.evaluation.compare.Comparison.to_dict` returns, the verdict first."""
    page.say(found["verdict"])
    page.say("")
    if found["one_tokenizer"]:
        sides = [found["a"], found["b"]]
        rows = [_compared(key, name, sides, found["difference"]) for key, name in METRICS.items()]
        page.table(
            ["identical positions", *found["labels"], "difference", f"{100 * found['level']:g}% interval"],
            rows,
        )
        page.say(f"{_masked(found)}, {masks(found['a'])}")
    else:
        _draw_word_comparison(page, found)
    for note in found["notes"]:
        page.say(note, style="dim")


def _compared(key: str, name: str, sides: Sequence[JsonDict], changes: JsonDict) -> list[object]:
    """A metric of two models, its difference and the interval of that."""
    change = changes.get(key)
    ends = (
        [metric_change(key, change["value"]), change_interval(key, change["interval"]) or None]
        if change
        else []
    )
    return [name, *(metric(key, side[key]) for side in sides), *(ends or (None, None))]


def _draw_word_comparison(page: Page, found: JsonDict) -> None:
    words, bits = found["words"], found["bits_per_byte"]
    rows = [_compared(key, name, words["models"], words["difference"]) for key, name in WORD_METRICS.items()]
    rows.append(_compared("value", "bits per byte", bits["models"], {"value": bits["difference"]}))
    level = f"{100 * found['level']:g}%"
    page.table(["the same text", *found["labels"], "difference", f"{level} interval"], rows)
    page.say(f"{level} each, since two measures decide: a verdict from both has 95%", style="dim")
    page.say(
        f"{_masked(words, 'masked word')}; bits per byte over {plural(bits['bytes'], 'byte')} in "
        f"{plural(bits['passages'], 'passage')} ({bits['method']})"
    )
