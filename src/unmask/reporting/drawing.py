"""One pair of axes as SVG to put inside a page: no file, no colour of its own, the same bytes every time.

Colours are drawn as agreed hex values and then replaced by CSS variables, so the page around a chart decides how it
looks in light and in dark.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What is drawn in the key becomes the CSS variable of the value.
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
}
COLOUR = {name.removeprefix("--"): colour for colour, name in _VARIABLES.items()}
"""What to draw in: each stands for the CSS variable of its name."""


def drawing(
    key: str,
    summary: str,
    size: tuple[int, int],
    margins: tuple[int, int, int, int],
    paint: Callable[[Axes], None],
) -> str:
    """Draw one pair of axes as SVG to put inside a page.

    Args:
        key: its name on the page; the ids inside the SVG begin with it.
        summary: what somebody who cannot see it should know.
        size: width and height, in units of the SVG.
        margins: left, bottom, right and top, set by hand: measuring text would depend on fonts.
        paint: random_bits, in the colours of ``COLOUR``.
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


@contextmanager
def _plain_matplotlib() -> Iterator[None]:
    """Matplotlib as it comes, whatever this machine's own settings say, and deterministic."""
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
