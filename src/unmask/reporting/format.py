"""Figures as text, and the templates that show them: what all pages and the model card share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from unmask.reporting.plots import Row, as_float

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"


def environment() -> Environment:
    """Return the templates' environment. HTML is escaped; only the Markdown of the model card is not HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    escaping = select_autoescape(enabled_extensions=(), disabled_extensions=("md.j2",), default=True)
    found = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=escaping,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters.update(percent=percent, count=count, figure=figure, change=change, bar=bar)
    return found


def percent(value: object) -> str:
    """A share as ``36.4%``; tiny ones as ``<0.1%``."""
    share = as_float(value)
    if math.isnan(share):
        return "not finite" if value is not None else "–"
    return "<0.1%" if 0 < share < 0.0005 else f"{100 * share:.1f}%"


def points(gap: float, signed: bool = False) -> str:
    """A difference of two shares as ``4.4 points``."""
    if math.isnan(gap):
        return "not finite"
    return f"{100 * gap:{'+' if signed else ''}.1f} points".replace("-", "−")


def count(value: object) -> str:
    """A whole number with separators."""
    number = as_float(value)
    return "not finite" if math.isnan(number) else f"{round(number):,}"


def figure(value: object, signed: bool = False) -> str:
    """A number in about four digits."""
    number = as_float(value)
    if math.isnan(number):
        return "not finite" if value is not None else "–"
    size = abs(number)
    style = (
        ",.0f"
        if 1000 <= size < 1e6
        else ".2f"
        if 0.1 <= size < 100
        else ".1f"
        if 100 <= size < 1000
        else ".3g"
    )
    return format(number, ("+" if signed else "") + style).replace("-", "−")


def change(pair: tuple[Row, Row], key: str) -> str:
    """How a figure changed: points for a share, otherwise a signed number."""
    if any(row.get(key) is None for row in pair):
        return "–"
    before, after = (as_float(row[key]) for row in pair)
    return points(after - before, signed=True) if key == "accuracy" else figure(after - before, signed=True)


def bar(value: object) -> str:
    """A share as the width of a bar, a CSS percentage of bare digits."""
    share = as_float(value)
    return "0%" if math.isnan(share) else f"{100 * min(1.0, max(0.0, share)):.1f}%"


def duration(seconds: float) -> str:
    """Seconds as ``3 min 20 s`` or ``2 h 5 min``."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
