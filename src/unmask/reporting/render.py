"""The templates of the pages and of the model card, and the filters they use."""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from unmask.errors import plural
from unmask.reporting import format as text
from unmask.reporting.format import as_float

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_TEMPLATES = Path(__file__).parent / "templates"


@cache
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
    found.filters.update(
        percent=text.percent,
        count=text.count,
        number=text.number,
        loss=text.loss,
        points=text.points,
        own_name=text.own_name,
        plural=plural,
        bar=bar,
        unbroken=unbroken,
    )
    return found


def unbroken(text: str) -> Markup:
    """``text`` as HTML in which no line breaks within the word n-gram or an option such as ``--max-steps``."""
    from markupsafe import Markup, escape

    return Markup(
        re.sub(r"n-gram|(?<!\S)--?[a-z-]+", r'<span class="nowrap">\g<0></span>', str(escape(text)))
    )


def bar(value: object) -> str:
    """A share as the width of a bar, a CSS percentage of bare digits."""
    share = as_float(value)
    return "0%" if math.isnan(share) else f"{100 * min(1.0, max(0.0, share)):.1f}%"
