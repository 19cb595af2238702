"""What the verb ``pairs`` shows on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unmask.cli.terminal import Page

_HEADER = ("accuracy", "95%", "pairs", "ties")


def draw_pairs(page: Page, found: Mapping[str, Any]) -> None:
    """Draw accuracy by paradigm, by term and overall.

    Args:
        page: where to draw.
        found: :meth:`unmask.scoring.pairs.PairFigures.to_dict`.
    """
    table: Sequence[Mapping[str, Any]] = found["table"]
    if len(table) > 1:
        page.table(("paradigm", *_HEADER), [[row["paradigm"], *_figures(row)] for row in table])
    if len(found["terms"]) > 1:
        page.table(("term", *_HEADER), [[row["term"], *_figures(row)] for row in found["terms"]])
    page.table((found["method"], *_HEADER), [["all pairs", *_figures(found)]])
    if len(table) > 1:
        page.say(f"mean over {len(table)} paradigms {found['mean_of_paradigms']:.3f}")
    page.say(f"intervals: {found['interval_method']}; a tie is not right", style="dim")


def _figures(row: Mapping[str, Any]) -> list[object]:
    low, high = row["interval"]
    return [f"{row['accuracy']:.3f}", f"{low:.3f}–{high:.3f}", row["pairs"], row["ties"]]
