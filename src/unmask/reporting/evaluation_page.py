"""The page of an evaluation or a comparison, from what ``eval`` and ``compare`` print with ``--json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unmask.errors import plural
from unmask.reporting.cells import Cell, change_cell, metric_cell
from unmask.reporting.drawing import Chart
from unmask.reporting.evaluation_plots import Scale, Series, calibration_chart, legend, ranges
from unmask.reporting.format import (
    METRICS,
    WORD_METRICS,
    as_float,
    baseline_name,
    compared_with,
    count,
    interval,
    loss,
    masks,
    number,
    percent,
)
from unmask.reporting.render import environment
from unmask.storage import JsonDict

ROW_METRICS = {key: name for key, name in METRICS.items() if key != "perplexity"}
_ABSOLUTE: tuple[tuple[str, str, Scale], ...] = (
    ("accuracy", "Accuracy", "share"),
    ("loss", "Loss", "number"),
)
_CHANGES: tuple[tuple[str, str, Scale], ...] = (
    ("accuracy", "Accuracy, points", "points"),
    ("loss", "Loss", "change"),
)


@dataclass(frozen=True)
class Stratum:
    """Metrics by group of targets: charts, and the rows of the table."""

    title: str
    note: str
    pictures: list[Chart]
    rows: list[tuple[str, list[tuple[str, JsonDict]]]]


def render_evaluation(found: Sequence[JsonDict]) -> str:
    """Return the page of the metrics of one or several models.

    Args:
        found: :meth:`unmask.evaluation.evaluate.Evaluation.to_dict` of each, at least one.
    """
    return _render(
        kind="Evaluation",
        name=", ".join(row["label"] for row in found),
        verdict=evaluation_verdict(found),
        table=list(metric_rows(found)),
        **_parts(found),
    )


def render_comparison(found: JsonDict) -> str:
    """Return the page of a comparison.

    Args:
        found: :meth:`unmask.evaluation.compare.Comparison.to_dict`.
    """
    name = " and ".join(found["labels"])
    common = {"kind": "Comparison", "name": name, "verdict": found["verdict"], "labels": found["labels"]}
    common["level"] = f"{100 * found['level']:g}%"
    if not found["one_tokenizer"]:
        return _render(
            **common,
            changes=list(word_changes(found)),
            scales=_scale_pictures(found),
            facts=_word_facts(found),
            notes=found["notes"],
        )
    sides = [found["a"], found["b"]]
    parts = _parts(sides) | {"notes": found["notes"]}
    return _render(
        **common,
        changes=list(token_changes(found)),
        differences=_difference_pictures(found),
        table=list(metric_rows(sides)),
        **parts,
    )


def _render(**values: Any) -> str:
    lists = "table changes strata differences scales notes facts marks errors labels".split()
    blank: dict[str, Any] = {name: [] for name in lists} | {"calibration": None, "baselines": None}
    found = environment()
    found.filters["metric_cells"] = lambda row: [metric_cell(row, key) for key in ROW_METRICS]
    return found.get_template("evaluation.html.j2").render(**(blank | values))


def _parts(found: Sequence[JsonDict]) -> dict[str, Any]:
    """What the pages of evaluations and of comparisons with one tokenizer share."""
    bins = [(row["label"], row["calibration"]["bins"]) for row in found]
    errors = [(row["label"], number(row["calibration"]["expected_calibration_error"])) for row in found]
    return {
        "names": METRICS,
        "row_names": ROW_METRICS,
        "marks": legend([row["label"] for row in found]) if len(found) > 1 else [],
        "strata": list(strata(found)),
        "calibration": calibration_chart("calibration", "Accuracy by predicted probability", bins),
        "errors": errors,
        "facts": _facts(found),
        "notes": list(dict.fromkeys(note for row in found for note in row["notes"])),
        "baselines": found[0]["baselines_fitted_on"],
    }


# ---- sentences and tables


def evaluation_verdict(found: Sequence[JsonDict]) -> str:
    """The main result in one sentence."""
    first = found[0]
    masked = f"{plural(first['masked_tokens'], 'masked token')} in {plural(first['documents'], 'document')} ({masks(first)})"
    if len(found) == 1:
        baselines = {baseline_name(key): row for key, row in (first["baselines"] or {}).items()}
        return (
            f"{first['label']} predicts {percent(first['accuracy'])} of {masked} correctly{_between(first)}, "
            f"with a loss of {loss(first['loss'])}.{compared_with(baselines)}"
        )
    if len({row["positions"] for row in found}) > 1:
        return (
            f"{len(found)} models on one text. Their tokenizers differ, so metrics of tokens do not compare them; "
            f"'unmask compare' does, on whole words and bytes."
        )
    best = max(found, key=lambda row: as_float(row["accuracy"]))
    lowest = min(found, key=lambda row: as_float(row["loss"]))
    which = "it" if lowest is best else lowest["label"]
    accuracy = f"{percent(best['accuracy'])} of {masked}{_between(best)}"
    return f"{best['label']} has the highest accuracy: {accuracy}; {which} has the lowest loss: {loss(lowest['loss'])}."


def _between(row: JsonDict) -> str:
    span = interval("accuracy", row["intervals"]["accuracy"])
    return span and f" (95% interval {span})"


def metric_rows(found: Sequence[JsonDict]) -> Iterator[tuple[str, bool, list[Cell]]]:
    """Yield the rows of the table of metrics: name, whether it is a model, and a cell for each metric."""
    tokenizers = {row["tokenizer"]: row for row in reversed(found)}
    for row in reversed(tokenizers.values()):
        after = f", tokens of {row['label']}" if len(tokenizers) > 1 else ""
        for name, baseline in (row["baselines"] or {}).items():
            yield baseline_name(name) + after, False, [metric_cell(baseline, key) for key in METRICS]
    for row in found:
        yield row["label"], True, [metric_cell(row, key) for key in METRICS]


def token_changes(found: JsonDict) -> Iterator[tuple[str, list[str], Cell]]:
    """Yield the rows of the table of differences: name, both values, and their difference."""
    for key, name in METRICS.items():
        if key in found["difference"]:
            yield (
                name,
                [metric_cell(found[side], key).text for side in ("a", "b")],
                change_cell(found["difference"][key], key),
            )


def word_changes(found: JsonDict) -> Iterator[tuple[str, list[str], Cell]]:
    """The same for models with different tokenizers."""
    bits, words = found["bits_per_byte"], found["words"]
    yield (
        "bits per byte",
        [loss(side["value"]) for side in bits["models"]],
        change_cell(bits["difference"], "bits"),
    )
    for key, name in WORD_METRICS.items():
        sides = [metric_cell(side, key).text for side in words["models"]]
        yield name, sides, change_cell(words["difference"].get(key), key)


def _facts(rows: Sequence[JsonDict]) -> list[tuple[str, str]]:
    found = rows[0]
    alike = len({row["positions"] for row in rows}) == 1
    targets = " · ".join(
        f"{plural(row['masked_tokens'], 'masked token')} of {plural(row['documents'], 'document')}"
        for row in (rows[:1] if alike else rows)
    )
    return [
        ("Text", ", ".join(found["data"])),
        ("Targets", targets),
        (
            "Masked",
            f"{percent(found['mask_rate'])} of the tokens, strategy {found['strategy']}, {masks(found)}",
        ),
        ("Sequences", f"up to {count(found['max_length'])} tokens"),
        ("Precision", found["precision"]),
        ("Mask fingerprint", found["positions"] if alike else "differs between the tokenizers"),
        ("Intervals", found["interval"]),
        ("Baselines", f"fitted on {found['baselines_fitted_on']}" if found["baselines"] else "none"),
    ]


def _word_facts(found: JsonDict) -> list[tuple[str, str]]:
    words, bits = found["words"], found["bits_per_byte"]
    return [
        ("Text", ", ".join(found["data"])),
        ("Words", f"{count(words['masked_words'])} masked of {plural(words['documents'], 'document')}"),
        (
            "Bytes",
            f"{count(bits['bytes'])} in {plural(bits['passages'], 'passage')}, method {bits['method']}",
        ),
        ("Sequences", f"up to {count(found['max_length'])} tokens"),
        ("Intervals", found["interval"]),
    ]


# ---- charts


def strata(found: Sequence[JsonDict]) -> Iterator[Stratum]:
    """Yield the tables of models; each has the rows that any of them has."""
    known = {key: table for row in reversed(found) for key, table in row["tables"].items()}
    for key, table in known.items():
        sides = [
            (row["label"], {item["label"]: item for item in row["tables"][key]["rows"]})
            for row in found
            if key in row["tables"]
        ]
        labels = [label for label in table["labels"] if any(label in items for _, items in sides)]
        pictures = []
        for name, title, scale in _ABSOLUTE:
            series = [_series(model, items, labels, name) for model, items in sides]
            pictures.append(ranges(f"{key}-{name}", title, labels, series, scale))
        rows = [
            (label, [(model, items[label]) for model, items in sides if label in items]) for label in labels
        ]
        yield Stratum(table["title"], table["note"], pictures, rows)


def _series(label: str, rows: Mapping[str, JsonDict], labels: Sequence[str], key: str) -> Series:
    nothing: JsonDict = {key: None, "intervals": {key: None}}
    chosen = [rows.get(name, nothing) for name in labels]
    return Series(label, [as_float(row[key]) for row in chosen], [row["intervals"][key] for row in chosen])


def _difference_pictures(found: JsonDict) -> list[tuple[str, list[Chart]]]:
    """Charts of the differences by row of each table."""
    name = f"{found['labels'][1]} minus {found['labels'][0]}"
    pictures = []
    for key, table in found["tables"].items():
        labels = [row["label"] for row in table["rows"]]
        charts = []
        for metric_key, title, scale in _CHANGES:
            cells = [row[metric_key] for row in table["rows"]]
            series = Series(name, [cell["value"] for cell in cells], [cell["interval"] for cell in cells])
            charts.append(ranges(f"change-{key}-{metric_key}", title, labels, [series], scale))
        pictures.append((table["title"], charts))
    return pictures


def _scale_pictures(found: JsonDict) -> list[Chart]:
    """Charts of bits per byte and of nats per masked word."""
    bits, words = found["bits_per_byte"]["models"], found["words"]["models"]
    series = [
        Series("bits per byte", [side["value"] for side in bits], [side["interval"] for side in bits]),
        Series(
            "nats per masked word",
            [side["loss_per_word"] for side in words],
            [side["intervals"]["loss_per_word"] for side in words],
        ),
    ]
    return [
        ranges(key, item.label[0].upper() + item.label[1:], found["labels"], [item], "number")
        for key, item in zip(("bits", "words"), series, strict=True)
    ]
