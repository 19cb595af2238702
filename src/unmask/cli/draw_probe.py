"""What the verb ``probe`` shows on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unmask.cli.terminal import Page, format_seconds

Found = Mapping[str, Any]

_FIGURES = {
    "classification": {"macro_f1": "macro F1", "accuracy": "accuracy = micro F1"},
    "entities": {"f1": "entity F1", "precision": "precision", "recall": "recall", "macro_f1": "macro F1"},
    "tags": {"macro_f1": "macro F1", "accuracy": "accuracy = micro F1"},
}
_METHODS = {"frozen": "linear probe, model frozen", "finetune": "fine-tuned"}
_BASELINES = {
    "most_frequent_label": "the most frequent label",
    "most_frequent_label_of_token": "each token's most frequent label in train",
}


def draw_probe(page: Page, found: Found) -> None:
    """Draw a table for each method, verdicts, and what a reader has to know.

    Args:
        page: where to draw.
        found: :meth:`unmask.probing.probe.ProbeResult.to_dict`.
    """
    columns = _FIGURES[found["task"]["kind"]]
    first, *others = columns.values()
    for method, seeds in found["a_seed"].items():
        rows = [_row(row, columns) for row in found["models"] if row["method"] == method]
        rows += [_baseline(name, row, columns) for name, row in found["baselines"].items()]
        page.table([_METHODS[method], first, "95%", *others, "time"], rows)
        page.say(f"per cent, mean ± standard deviation over {_count(found['seeds'])}: {seeds}", style="dim")
        page.say("")
    for verdict in found["verdicts"]:
        page.say(verdict["verdict"])
    sizes = found["task"]["sizes"]
    page.say(
        f"{sizes['train']:,} examples to learn from, {sizes['test']:,} to be tested on; {found['precision']}"
    )
    page.say(f"95%: {found['interval']}", style="dim")
    for note in found["notes"]:
        page.say(note, style="dim")


def _row(row: Found, columns: Mapping[str, str]) -> list[object]:
    figures = row["figures"]
    cells: list[object] = [_spread(figures[name]) for name in columns]
    span = row["interval"]
    cells.insert(1, f"{100 * span[0]:.1f}–{100 * span[1]:.1f}" if span else None)
    return [row["label"], *cells, format_seconds(row["seconds"])]


def _baseline(name: str, row: Found, columns: Mapping[str, str]) -> list[object]:
    first, *others = (f"{100 * row[figure]:.1f}" for figure in columns)
    return [_BASELINES[name], first, None, *others, None]


def _spread(figure: Found) -> str:
    sd = "" if figure["sd"] is None else f" ± {100 * figure['sd']:.1f}"
    return f"{100 * figure['mean']:.1f}{sd}"


def _count(seeds: int) -> str:
    return f"{seeds} seed{'s' * (seeds > 1)}"
