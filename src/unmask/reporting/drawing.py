"""Draw one pair of axes as SVG for a page: deterministic, without files, in the colours of the page.

Colours are drawn as fixed hex values that are then replaced by CSS variables, for light and dark pages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from io import StringIO
from typing import TYPE_CHECKING, Literal

from unmask.errors import MissingExtra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

# Colours to draw in and the CSS variables that replace them.
_VARIABLES = {
    "#a00001": "--train",
    "#a00002": "--heldout",
    "#a00003": "--before",
    "#a00004": "--baseline",
    "#a00005": "--baseline2",
    "#a00006": "--quiet",
    "#a00007": "--bad",
    "#a00008": "--axis",
    "#a00009": "--grid",
    "#a00010": "--baseline3",
}
COLOUR = {name.removeprefix("--"): colour for colour, name in _VARIABLES.items()}
"""Colours to draw in, each replaced by the CSS variable of its name."""
Role = Literal[
    "train", "heldout", "before", "baseline", "baseline2", "baseline3", "quiet", "bad", "point"
]  # fmt: skip


@dataclass(frozen=True)
class Legend:
    """One entry of a chart's legend, drawn by the page in the style of ``role``."""

    label: str
    role: Role


@dataclass(frozen=True)
class Chart:
    """One chart: ``svg`` is trusted markup, everything else is text to escape."""

    key: str
    title: str
    svg: str
    legend: tuple[Legend, ...] = ()


def require_charts(purpose: str) -> None:
    """Raise :class:`MissingExtra` where charts cannot be drawn, before the work that ends with ``purpose``."""
    if find_spec("matplotlib") is None:
        raise MissingExtra("matplotlib", None, purpose)


def drawing(
    key: str,
    summary: str,
    size: tuple[int, int],
    margins: tuple[int, int, int, int],
    paint: Callable[[Axes], None],
) -> str:
    """Draw one pair of axes as SVG to put inside a page.

    Args:
        key: prefix of the ids inside the SVG.
        summary: the chart in words, for a screen reader.
        size: width and height, in units of the SVG.
        margins: left, bottom, right and top, set by hand: measuring text would depend on fonts.
        paint: draws on the axes, in the colours of ``COLOUR``.
    """
    with _plain_matplotlib():
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        # One point of the figure is one unit of the SVG.
        (wide, high), (left, bottom, right, top) = size, margins
        figure = Figure(figsize=(wide / 72, high / 72))
        FigureCanvasSVG(figure)
        box = (left / wide, bottom / high, (wide - left - right) / wide, (high - bottom - top) / high)
        paint(figure.add_axes(box))
        text = StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(text.getvalue(), key, summary)


def dress(axes: Axes, size: int = 11) -> None:
    """Give axes the look of all charts: a line below, a quiet grid, labels in ``size``."""
    axes.tick_params(length=0, labelsize=size, labelcolor=COLOUR["axis"], pad=5)
    axes.grid(axis="y", color=COLOUR["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(COLOUR["axis"])
        spine.set_alpha(0.6)


def tick_labels(axis: Axis, text: Callable[[float], str]) -> None:
    """Label the ticks of an axis by a function of their values."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))


def three_digits(value: float) -> float:
    """Return ``value`` rounded to three significant digits."""
    return float(f"{value:.3g}")


@contextmanager
def _plain_matplotlib() -> Iterator[None]:
    """Use matplotlib's default settings, deterministically."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "unmask", "path.simplify": False})
        yield


def _inline(svg: str, key: str, summary: str) -> str:
    """Turn a stand-alone SVG into one for a page: own ids, CSS colours, the page's fonts, no name spaces."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", body, flags=re.S)
    body = re.sub(r"<g id=\"[^\"]*\"", "<g", body)
    for pattern in (r'(\bid=")', r"(url\(#)", r'\bxlink:(href="#)'):
        body = re.sub(pattern, rf"\g<1>{key}-", body)
    body = re.sub(r"font-family: [^;\"]*; ?", "", body)
    for colour, name in _VARIABLES.items():
        body = body.replace(colour, f"var({name})")
    box = re.search(r'viewBox="[^"]*"', body)
    head = f'<svg class="plot" role="img" aria-label="{escape(summary)}" {box.group() if box else ""}>'
    return (
        re.sub(r"\s+", " ", re.sub(r"<svg[^>]*>", lambda _: head, body, count=1)).replace("> <", "><").strip()
    )
