"""Figures of models → one offline HTML page. Its input is what the verbs ``eval`` and ``compare`` give with ``--json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unmask.reporting.cells import Cell, change_cell, metric_cell
from unmask.reporting.evaluation_plots import Picture, Scale, Series, calibration_chart, legend, ranges
from unmask.reporting.format import (
    METRICS,
    WORD_METRICS,
    as_float,
    baseline_name,
    count,
    interval,
    loss,
    number,
    percent,
    plural,
)
from unmask.reporting.render import environment

Found = Mapping[str, Any]

ROW_METRICS = {key: name for key, name in METRICS.items() if key != "perplexity"}
_ABSOLUTE: tuple[tuple[str, str, Scale], ...] = (
    ("accuracy", "Filled in exactly", "share"),
    ("loss", "Loss", "number"),
)
_CHANGES: tuple[tuple[str, str, Scale], ...] = (
    ("accuracy", "Filled in exactly, points", "points"),
    ("loss", "Loss", "change"),
)


@dataclass(frozen=True)
class Stratum:
    """A table of targets: charts of it, and all its figures for those who want them."""

    title: str
    note: str
    pictures: list[Picture]
    rows: list[tuple[str, list[tuple[str, Found]]]]


def render_evaluation(found: Sequence[Found]) -> str:
    """Return the page of one or several models' figures.

    Args:
        found: :meth:`unmask.evaluation.evaluate.Evaluation.to_dict` of each, at least one.
    """
    return _render(
        kind="Evaluation",
        name=", ".join(row["label"] for row in found),
        verdict=evaluation_verdict(found),
        table=list(figure_rows(found)),
        **_parts(found),
    )


def render_comparison(found: Found) -> str:
    """Return the page of a comparison.

    Args:
        found: :meth:`unmask.evaluation.compare.Comparison.to_dict`.
    """
    name = " and ".join(found["labels"])
    common = {"kind": "Comparison", "name": name, "verdict": found["verdict"], "labels": found["labels"]}
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
        table=list(figure_rows(sides)),
        **parts,
    )


def _render(**values: Any) -> str:
    lists = "table changes strata differences scales notes facts marks errors labels".split()
    blank: dict[str, Any] = {name: [] for name in lists} | {"calibration": None, "baselines": None}
    found = environment()
    found.filters["metric_cells"] = lambda row: [metric_cell(row, key) for key in ROW_METRICS]
    return found.get_template("evaluation.html.j2").render(**(blank | values))


def _parts(found: Sequence[Found]) -> dict[str, Any]:
    """What the pages of evaluations and of comparisons of tokens share."""
    bins = [(row["label"], row["calibration"]["bins"]) for row in found]
    errors = [(row["label"], number(row["calibration"]["expected_calibration_error"])) for row in found]
    return {
        "names": METRICS,
        "row_names": ROW_METRICS,
        "marks": legend([row["label"] for row in found]) if len(found) > 1 else [],
        "strata": list(strata(found)),
        "calibration": calibration_chart("calibration", "How often the most probable token is right", bins),
        "errors": errors,
        "facts": _facts(found),
        "notes": list(dict.fromkeys(note for row in found for note in row["notes"])),
        "baselines": found[0]["baselines_fitted_on"],
    }


# ---- what it says


def evaluation_verdict(found: Sequence[Found]) -> str:
    """The one sentence of the page, with its figures."""
    first = found[0]
    place = f"Of {count(first['masked_tokens'])} masked tokens in {plural(first['documents'], 'document')}"
    if len(found) == 1:
        said = f"{first['label']} fills in {percent(first['accuracy'])} exactly{_between(first)}"
        beside = "; ".join(
            f"{baseline_name(name)}: {percent(row['accuracy'])}"
            for name, row in (first["baselines"] or {}).items()
        )
        return f"{place}, {said}." + (f" Beside it: {beside}." if beside else "")
    if len({row["positions"] for row in found}) > 1:
        return (
            f"{len(found)} models on one text. Their tokenizers differ, so figures of tokens do not compare them; "
            f"'unmask compare' does, on whole words and bytes."
        )
    best = max(found, key=lambda row: as_float(row["accuracy"]))
    return f"{place}, {best['label']} fills in the most exactly: {percent(best['accuracy'])}{_between(best)}."


def _between(row: Found) -> str:
    span = interval("accuracy", row["intervals"]["accuracy"])
    return span and f" (95% interval {span})"


def figure_rows(found: Sequence[Found]) -> Iterator[tuple[str, bool, list[Cell]]]:
    """Yield the rows of the table of figures: name, whether it is a model, and a cell for each figure."""
    tokenizers = {row["tokenizer"]: row for row in reversed(found)}
    for row in reversed(tokenizers.values()):
        after = f", tokens of {row['label']}" if len(tokenizers) > 1 else ""
        for name, baseline in (row["baselines"] or {}).items():
            yield baseline_name(name) + after, False, [metric_cell(baseline, key) for key in METRICS]
    for row in found:
        yield row["label"], True, [metric_cell(row, key) for key in METRICS]


def token_changes(found: Found) -> Iterator[tuple[str, list[str], Cell]]:
    """Yield the rows of the table of differences: name, both figures, and their difference."""
    for key, name in METRICS.items():
        if key in found["difference"]:
            yield (
                name,
                [metric_cell(found[side], key).text for side in ("a", "b")],
                change_cell(found["difference"][key], key),
            )


def word_changes(found: Found) -> Iterator[tuple[str, list[str], Cell]]:
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


def _facts(rows: Sequence[Found]) -> list[tuple[str, str]]:
    found = rows[0]
    alike = len({row["positions"] for row in rows}) == 1
    asked = " · ".join(
        f"{count(row['masked_tokens'])} masked tokens of {plural(row['documents'], 'document')}"
        for row in (rows[:1] if alike else rows)
    )
    shares = f"{percent(found['mask_share'])} hidden, {percent(found['random_share'])} replaced, the rest as it was"
    return [
        ("Text", ", ".join(found["data"])),
        ("Asked", asked),
        ("Masked", f"{percent(found['mask_rate'])} of the tokens, strategy {found['strategy']}: {shares}"),
        ("Sequences", f"up to {count(found['max_length'])} tokens"),
        ("Precision", found["precision"]),
        ("Positions", found["positions"] if alike else "others for each tokenizer"),
        ("Intervals", found["interval"]),
        ("Baselines", f"counted on {found['baselines_fitted_on']}" if found["baselines"] else "none"),
    ]


def _word_facts(found: Found) -> list[tuple[str, str]]:
    words, bits = found["words"], found["bits_per_byte"]
    return [
        ("Text", ", ".join(found["data"])),
        ("Words", f"{count(words['masked_words'])} masked of {plural(words['documents'], 'document')}"),
        ("Bytes", f"{count(bits['bytes'])} in {count(bits['passages'])} passages, method {bits['method']}"),
        ("Sequences", f"up to {count(found['max_length'])} tokens"),
        ("Intervals", found["interval"]),
    ]


# ---- what it random_bits


def strata(found: Sequence[Found]) -> Iterator[Stratum]:
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


def _series(label: str, rows: Mapping[str, Found], labels: Sequence[str], key: str) -> Series:
    nothing: Found = {key: None, "intervals": {key: None}}
    chosen = [rows.get(name, nothing) for name in labels]
    return Series(label, [as_float(row[key]) for row in chosen], [row["intervals"][key] for row in chosen])


def _difference_pictures(found: Found) -> list[tuple[str, list[Picture]]]:
    """Charts of the differences by row of each table."""
    name = f"{found['labels'][1]} minus {found['labels'][0]}"
    pictures = []
    for key, table in found["tables"].items():
        labels = [row["label"] for row in table["rows"]]
        charts = []
        for figure_key, title, scale in _CHANGES:
            cells = [row[figure_key] for row in table["rows"]]
            series = Series(name, [cell["value"] for cell in cells], [cell["interval"] for cell in cells])
            charts.append(ranges(f"change-{key}-{figure_key}", title, labels, [series], scale))
        pictures.append((table["title"], charts))
    return pictures


def _scale_pictures(found: Found) -> list[Picture]:
    """Charts of both models' cost, where tokenizers differ."""
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
