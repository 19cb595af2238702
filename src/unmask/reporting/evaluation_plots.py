"""Charts of an evaluation: metrics with their intervals by row, and calibration.

Models differ by colour or by the shape of their marks, and the first five by both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from unmask.reporting.drawing import COLOUR, Chart, drawing, dress, three_digits, tick_labels
from unmask.reporting.format import axis_change, axis_number, axis_percent, percent
from unmask.storage import JsonDict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Scale = Literal["share", "number", "points", "change"]
"""What values are: shares or numbers, from zero; or differences, of shares in points or of numbers."""

_ROLES = ("heldout", "baseline", "baseline2", "before", "train")
_MARKS = ("o", "s", "^", "D", "v")
_GLYPHS = ("●", "■", "▲", "◆", "▼")
_WIDE = 440
_LEFT = 116
_BELOW = 44
_ROW, _STEP = 20, 9


@dataclass(frozen=True)
class Mark:
    """One entry of a legend: a glyph in the CSS variable ``colour``, and its model."""

    glyph: str
    colour: str
    label: str


@dataclass(frozen=True)
class Series:
    """A value for each row, with its interval or ``None``."""

    label: str
    values: Sequence[float]
    intervals: Sequence[Sequence[float] | None]


def _shape(place: int) -> int:
    """The shape of a model's mark: a second round of the colours begins with the next shape."""
    return (place + place // len(_ROLES)) % len(_MARKS)


def legend(labels: Sequence[str]) -> list[Mark]:
    """Return the marks of some models, in the order of their series."""
    return [
        Mark(_GLYPHS[_shape(place)], f"--{_ROLES[place % len(_ROLES)]}", label)
        for place, label in enumerate(labels)
    ]


def ranges(key: str, title: str, rows: Sequence[str], series: Sequence[Series], scale: Scale) -> Chart:
    """Draw a mark and its interval for each row and series, rows from the top.

    Args:
        key: the name of the chart on its page.
        title: its title.
        rows: names of the rows.
        series: one for each model.
        scale: see :data:`Scale`.
    """
    height = len(rows) * (_ROW + _STEP * len(series)) + _BELOW + 8

    def paint(axes: Axes) -> None:
        for place, found in enumerate(series):
            _paint_series(axes, place, found, _offset(place, len(series)))
        _dress_rows(axes, rows, scale)

    summary = _summary(title, rows, series, scale)
    return Chart(key, title, drawing(key, summary, (_WIDE, height), (_LEFT, _BELOW, 18, 8), paint))


def _offset(place: int, count: int) -> float:
    """How far below the middle of its row a series lies, in rows."""
    return (place - (count - 1) / 2) * 0.62 / max(count, 2)


def _paint_series(axes: Axes, place: int, found: Series, offset: float) -> None:
    colour = COLOUR[_ROLES[place % len(_ROLES)]]
    heights = [row + offset for row in range(len(found.values))]
    for height, interval in zip(heights, found.intervals, strict=True):
        if interval is not None:
            axes.plot(
                interval, [height, height], color=colour, linewidth=2.2, alpha=0.55, solid_capstyle="butt"
            )
    known = [
        (value, height) for value, height in zip(found.values, heights, strict=True) if math.isfinite(value)
    ]
    xs, ys = [value for value, _ in known], [height for _, height in known]
    axes.plot(xs, ys, linestyle="none", marker=_MARKS[_shape(place)], markersize=6, color=colour)


def _dress_rows(axes: Axes, rows: Sequence[str], scale: Scale) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    dress(axes, 11)
    axes.grid(visible=False)
    axes.grid(axis="x", color=COLOUR["grid"], linewidth=0.8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.yaxis.set_major_locator(FixedLocator(list(range(len(rows)))))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda _, place: short(rows[place or 0])))
    low, high = axes.get_xlim()
    if scale in ("share", "number"):
        axes.set_xlim(0, 1.04 * high if high > 0 else 1)
    else:
        reach = max(abs(low), abs(high), 1e-6)
        axes.set_xlim(min(low, -0.15 * reach), max(high, 0.15 * reach))
        axes.axvline(0, color=COLOUR["axis"], linewidth=1.2)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    tick_labels(axes.xaxis, lambda value: tick_text(value, scale))


def calibration_chart(key: str, title: str, found: Sequence[tuple[str, Sequence[JsonDict]]]) -> Chart:
    """Draw the accuracy by the probability of the most probable token.

    Args:
        key: the name of the chart on its page.
        title: its title.
        found: for each model its name and bins with ``confidence``, ``accuracy`` and ``masked_tokens``, which the
            size of a mark shows.
    """

    def paint(axes: Axes) -> None:
        from matplotlib.ticker import MultipleLocator

        axes.plot([0, 1], [0, 1], color=COLOUR["axis"], linewidth=1.2, linestyle=(0, (5, 3)))
        for place, (_, bins) in enumerate(found):
            _paint_bins(axes, place, bins)
        dress(axes, 11)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MultipleLocator(0.2))
            tick_labels(axis, lambda share: percent(share, 0))
        axes.set_xlabel(
            "probability of the most probable token", fontsize=11, color=COLOUR["axis"], labelpad=6
        )

    parts = [
        f"{label}: "
        + ", ".join(
            f"predicted {percent(row['confidence'], 0)}, correct {percent(row['accuracy'], 0)}"
            for row in bins
        )
        for label, bins in found
    ]
    svg = drawing(key, f"{title}. {'. '.join(parts)}.", (_WIDE, 340), (48, 44, 14, 10), paint)
    return Chart(key, title, svg)


def _paint_bins(axes: Axes, place: int, bins: Sequence[JsonDict]) -> None:
    colour: Any = COLOUR[_ROLES[place % len(_ROLES)]]
    xs, ys = [row["confidence"] for row in bins], [row["accuracy"] for row in bins]
    axes.plot(xs, ys, color=colour, linewidth=1.6, alpha=0.7)
    most = max((row["masked_tokens"] for row in bins), default=1)
    for x, y, row in zip(xs, ys, bins, strict=True):
        size = 3 + 6 * math.sqrt(row["masked_tokens"] / most)
        axes.plot([x], [y], marker=_MARKS[_shape(place)], markersize=size, color=colour)


def short(label: str) -> str:
    """A label of a row, with thousands as k and at most 18 characters."""
    label = re.sub(r"(\d+),000 or more", r"≥ \1k", label)
    label = re.sub(r"(\d+),000–(\d+),999", lambda found: f"{found[1]}k–{int(found[2]) + 1}k", label)
    return label if len(label) <= 18 else f"…{label[-17:]}"


def tick_text(value: float, scale: Scale) -> str:
    """Return a value of a scale as at a tick."""
    if scale in ("share", "number"):
        return axis_percent(value) if scale == "share" else axis_number(value)
    return axis_change(100 * value if scale == "points" else value)


def _summary(title: str, rows: Sequence[str], series: Sequence[Series], scale: Scale) -> str:
    parts = [f"{title}."]
    for found in series:
        known = zip(rows, found.values, strict=True)
        text = ", ".join(
            f"{row} {tick_text(three_digits(value), scale)}" for row, value in known if math.isfinite(value)
        )
        parts.append(f"{found.label}: {text}.")
    return " ".join(parts)
