"""The verbs ``eval`` and ``compare``: what models know, and which knows more."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from unmask.cli import options
from unmask.cli import runtime as shell
from unmask.cli.terminal import Page, format_number
from unmask.errors import DiskError

if TYPE_CHECKING:
    from unmask.evaluation.evaluate import EvaluationSettings


Models = Annotated[
    list[str],
    Argument(
        metavar="MODEL...", help="Checkpoints: Hub names, name@revision, or folders.", show_default=False
    ),
]
FirstModel = Annotated[str, Argument(metavar="A", help="Checkpoint: Hub name, name@revision, or folder.")]
SecondModel = Annotated[str, Argument(metavar="B", help="The checkpoint to compare it with.")]
Data = Annotated[
    list[str],
    Option(
        metavar="PATH",
        help="Text to ask about: a file, folder, glob, -, hf://org/name or a folder of 'unmask prepare'; may be repeated.",
        show_default=False,
    ),
]
TrainData = Annotated[
    list[str] | None,
    Option(
        metavar="PATH",
        help="Text that the frequency of tokens and the baselines are counted on [default: the evaluated text, and for "
        "each document the other documents].",
    ),
]
Tokens = Annotated[int | None, Option(help="Read so many tokens at most, of documents drawn by hash.", min=1)]
PllBytes = Annotated[
    int | None,
    Option(
        help="With different tokenizers: bytes of text to score token by token, for bits per byte [default: 10000, on "
        "a GPU 200000].",
        min=1,
    ),
]


def evaluate(
    models: Models,
    data: Data,
    train_data: TrainData = None,
    mask_rate: options.MaskRate = None,
    strategy: options.StrategyOption = None,
    max_length: options.MaxLength = None,
    tokens: Tokens = None,
    documents: options.DocumentsOption = None,
    text_field: options.TextField = None,
    overrides: options.Overrides = None,
    device: options.DeviceOrAuto = "auto",
    precision: options.PrecisionOrFp32 = "fp32",
    html: options.Html = None,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """Held-out figures of models on masks that never change, with intervals."""
    _check_page(html)
    flags = _flags(data, documents, text_field, max_length, mask_rate, strategy)
    settings = _settings(flags, overrides, tokens, device, precision, offline)
    with shell.working() as progress:
        from unmask.evaluation.evaluate import evaluate as evaluate_models

        found = evaluate_models(models, data, settings, train_data=train_data or (), progress=progress)
    answers = [evaluation.to_dict() for evaluation in found]
    if html is not None:
        from unmask.reporting.evaluation_page import render_evaluation

        shell.write(html, render_evaluation(answers))
        shell.tell(str(html), "wrote")
    if as_json:
        shell.emit(answers[0] if len(answers) == 1 else {"models": answers})
        return
    draw_evaluations(shell.page(), answers)


def compare(
    first: FirstModel,
    second: SecondModel,
    data: Data,
    train_data: TrainData = None,
    mask_rate: options.MaskRate = None,
    strategy: options.StrategyOption = None,
    max_length: options.MaxLength = None,
    tokens: Tokens = None,
    pll_bytes: PllBytes = None,
    documents: options.DocumentsOption = None,
    text_field: options.TextField = None,
    overrides: options.Overrides = None,
    device: options.DeviceOrAuto = "auto",
    precision: options.PrecisionOrFp32 = "fp32",
    html: options.Html = None,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """Say which of two models predicts a text better, by how much, and how sure that is."""
    _check_page(html)
    flags = _flags(data, documents, text_field, max_length, mask_rate, strategy)
    settings = _settings(flags, overrides, tokens, device, precision, offline)
    with shell.working() as progress:
        from unmask.evaluation.compare import compare as compare_models

        comparison = compare_models(
            first, second, data, settings, train_data=train_data or (), pll_bytes=pll_bytes, progress=progress
        )
    answer = comparison.to_dict()
    if html is not None:
        from unmask.reporting.evaluation_page import render_comparison

        shell.write(html, render_comparison(answer))
        shell.tell(str(html), "wrote")
    if as_json:
        shell.emit(answer)
        return
    draw_comparison(shell.page(), answer)


def _check_page(html: Path | None) -> None:
    """See that a page can be written before there is anything to write: an evaluation may take long."""
    if html is not None and not html.absolute().parent.is_dir():
        raise DiskError(f"{html}: cannot be written: there is no folder {html.parent}")


def _flags(
    data: Sequence[str],
    documents: str | None,
    text_field: str | None,
    max_length: int | None,
    mask_rate: float | None,
    strategy: str | None,
) -> dict[str, Any]:
    """What both verbs take, under the names of the settings."""
    return {
        "data.inputs": list(data),
        "data.documents": documents,
        "data.text_field": text_field,
        "data.max_length": max_length,
        "masking.rate": mask_rate,
        "masking.strategy": strategy,
    }


def _settings(
    flags: dict[str, Any],
    overrides: Sequence[str] | None,
    tokens: int | None,
    device: str,
    precision: str,
    offline: bool,
) -> EvaluationSettings:
    """Check the settings before anything heavy is imported."""
    from unmask.config.load import load_config

    config = load_config(None, overrides or (), flags)
    if offline:  # read once, when the libraries that go to the Hub are imported
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    with shell.working():
        from unmask.config.settings import DocumentSettings
        from unmask.evaluation.evaluate import EvaluationSettings

    names = set(DocumentSettings.model_fields)
    return EvaluationSettings(
        documents=DocumentSettings(**config.data.model_dump(include=names)),
        masking=config.masking,
        max_length=config.data.max_length,
        tokens=tokens,
        device=device,
        precision=precision,
        offline=offline,
    )


Found = Mapping[str, Any]

BASELINES = {
    "most_frequent_token": "most frequent token",
    "ngram": "bidirectional n-gram",
    "ngram_true_neighbours": "n-gram that sees all neighbours",
}
FIGURES = {
    "loss": "loss",
    "perplexity": "perplexity",
    "accuracy": "accuracy",
    "accuracy_at_5": "accuracy@5",
    "accuracy_at_10": "accuracy@10",
    "mean_reciprocal_rank": "mean reciprocal rank",
}


def draw_evaluations(page: Page, found: Sequence[Found]) -> None:
    """Draw the figures of models and baselines in one table; of a single model its own tables too.

    Args:
        page: where to draw.
        found: :meth:`unmask.evaluation.evaluate.Evaluation.to_dict` of each.
    """
    columns = ["loss", "95%", "perplexity", "accuracy", "95%", "@5", "@10", "MRR"]
    page.table(
        ["held-out text", *columns], [_row(row["label"], row) for row in found] + list(_baseline_rows(found))
    )
    one = found[0]
    page.say(
        f"{one['masked_tokens']:,} masked tokens of {one['documents']:,} documents; {one['mask_rate']:.0%} of the text "
        f"masked (strategy {one['strategy']}); sequences of up to {one['max_length']:,} tokens"
    )
    for row in found:
        error = row["calibration"]["expected_calibration_error"]
        name = f" of {row['label']}" if len(found) > 1 else ""
        page.say(f"expected calibration error{name}: {format_number(error)}")
    if len(found) == 1:
        _draw_tables(page, one["tables"])
    elif len({row["tokenizer"] for row in found}) > 1:
        page.say(
            "these models have different tokenizers: loss and accuracy of a token do not compare them; use "
            "'unmask compare A B'"
        )


def _row(name: str, row: Found) -> list[object]:
    spans = row["intervals"]
    return [
        name,
        row["loss"],
        _span(spans["loss"]),
        f"{row['perplexity']:,.1f}" if "perplexity" in row else None,
        _percent(row["accuracy"]),
        _span(spans["accuracy"], 100),
        _percent(row.get("accuracy_at_5")),
        _percent(row.get("accuracy_at_10")),
        row.get("mean_reciprocal_rank"),
    ]


def _baseline_rows(found: Sequence[Found]) -> Iterator[list[object]]:
    """The baselines of each tokenizer, named by it where there are several."""
    seen = {row["tokenizer"]: row for row in reversed(found)}
    for row in reversed(seen.values()):
        after = f", tokens of {row['label']}" if len(seen) > 1 else ""
        for name, baseline in (row["baselines"] or {}).items():
            yield _row(BASELINES[name] + after, baseline)


def _draw_tables(page: Page, tables: Found) -> None:
    for table in tables.values():
        page.say("")
        rows = [
            [
                row["label"],
                row["masked_tokens"],
                row["loss"],
                _span(row["intervals"]["loss"]),
                _percent(row["accuracy"]),
                _span(row["intervals"]["accuracy"], 100),
            ]
            for row in table["rows"]
        ]
        header = [table["title"].lower(), "masked", "loss", "95%", "accuracy", "95%"]
        page.table(header, rows)
        page.say(table["note"], style="dim")


def draw_comparison(page: Page, found: Found) -> None:
    """Draw a verdict, then what it rests on.

    Args:
        page: where to draw.
        found: :meth:`unmask.evaluation.compare.Comparison.to_dict`.
    """
    page.say(found["verdict"])
    page.say("")
    if found["one_tokenizer"]:
        _draw_token_comparison(page, found)
    else:
        _draw_word_comparison(page, found)
    for note in found["notes"]:
        page.say(note, style="dim")


def _draw_token_comparison(page: Page, found: Found) -> None:
    rows: list[list[object]] = []
    for key, name in FIGURES.items():
        sides = [found[side][key] for side in ("a", "b")]
        change = found["difference"].get(key)
        scale, show = (100, _percent) if key.startswith("accuracy") else (1, format_number)
        cells = [show(value) for value in sides]
        if change is None:
            rows.append([name, *cells, None, None])
        else:
            rows.append(
                [name, *cells, f"{scale * change['value']:+.3f}", _span(change["interval"], scale, "+")]
            )
    page.table(["identical positions", *found["labels"], "difference", "95%"], rows)
    page.say(
        f"{found['masked_tokens']:,} masked tokens of {found['documents']:,} documents; accuracies in per cent"
    )


def _draw_word_comparison(page: Page, found: Found) -> None:
    words, bits = found["words"], found["bits_per_byte"]
    names = {
        "loss_per_word": "nats per masked word",
        "accuracy": "words right",
        "pieces_per_word": "pieces per word",
    }
    rows: list[list[object]] = []
    for key, name in names.items():
        sides = [side[key] for side in words["models"]]
        change = words["difference"].get(key)
        scale, show = (100, _percent) if key == "accuracy" else (1, format_number)
        ends: list[str | None] = [None, None]
        if change is not None:
            ends = [f"{scale * change['value']:+.3f}", _span(change["interval"], scale, "+")]
        rows.append([name, *(show(value) for value in sides), *ends])
    change = bits["difference"]
    rows.append(
        [
            "bits per byte",
            *(side["value"] for side in bits["models"]),
            f"{change['value']:+.3f}",
            _span(change["interval"], 1, "+"),
        ]
    )
    page.table(["the same text", *found["labels"], "difference", "95%"], rows)
    page.say(
        f"{words['masked_words']:,} masked words of {words['documents']:,} documents; bits per byte over {bits['bytes']:,} "
        f"bytes in {bits['passages']:,} passages ({bits['method']})"
    )


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.1f}%"


def _span(interval: Sequence[float] | None, scale: float = 1, sign: str = "") -> str | None:
    """An interval as ``3.310–3.622``; signed ends are set apart by a word."""
    if interval is None:
        return None
    digits = 1 if scale == 100 and not sign else 3
    low, high = (f"{scale * end:{sign}.{digits}f}" for end in interval)
    return f"{low} to {high}" if sign else f"{low}–{high}"
