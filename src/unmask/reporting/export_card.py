"""The card of an exported model: that of the model itself, and a section on what the form changes."""

from __future__ import annotations

from typing import Any

import yaml

from unmask.reporting.format import METRICS, change_interval, metric, metric_change
from unmask.reporting.render import environment
from unmask.storage import JsonDict


def exported_card(card: str | None, made: JsonDict, what: str, use: str, base: str | None) -> str:
    """Return the text of ``README.md``.

    Args:
        card: that of the model, if it has one.
        made: :meth:`unmask.exporting.export.Export.to_dict`.
        what: the form in a few words.
        use: Python code that uses it.
        base: name of the model on the Hub, if it has one.
    """
    pages = environment()
    pages.filters |= {
        "metric_name": lambda name: METRICS.get(name, name),
        "metric": lambda value, name: metric(name, value),
        "change": lambda value, name: metric_change(name, value),
        "change_interval": lambda ends, name: change_interval(name, ends),
        "small": lambda value: f"{value:.1e}",
        "megabytes": lambda value: f"{value:,.1f}",
    }
    section = pages.get_template("export.md.j2").render(made=made, what=what, use=use)
    return f"{(card or _front(base)).rstrip()}\n\n{section}"


def _front(base: str | None) -> str:
    front: dict[str, Any] = {"pipeline_tag": "fill-mask", "tags": ["unmask"]}
    if base:
        front["base_model"] = base
    title = f"# {base.rpartition('/')[2] if base else 'Masked language model'}"
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n{title}"
