"""The card of an exported model: that of the model itself, and a section on what the form changes."""

from __future__ import annotations

from typing import Any

import yaml

from unmask.reporting.format import METRICS, change_interval, metric, metric_change
from unmask.reporting.render import environment
from unmask.storage import JsonDict


def exported_card(
    card: str | None, made: JsonDict, what: str, use: str, base: str | None, metadata: JsonDict
) -> str:
    """Return the text of ``README.md``.

    Args:
        card: that of the model, if it has one.
        made: :meth:`unmask.exporting.export.Export.to_dict`.
        what: the form in a few words.
        use: Python code that uses it.
        base: name of the model on the Hub, if it has one.
        metadata: what the form changes in the card's metadata; its tags are added.
    """
    pages = environment()
    pages.filters |= {
        "metric_name": lambda name: METRICS.get(name, name),
        "metric": lambda value, name: metric(name, value),
        "change": lambda value, name: metric_change(name, value),
        "change_interval": lambda ends, name: change_interval(name, ends),
        "small": lambda value: f"{value:.1e}",
        "figure": lambda value: f"{value:.3g}",
        "cosine": lambda value: f"{value:.6f}",
        "megabytes": lambda value: f"{value:,.1f}",
    }
    section = pages.get_template("export.md.j2").render(made=made, what=what, use=use)
    return f"{_with_metadata(card or _front(base), metadata).rstrip()}\n\n{section}"


def _with_metadata(card: str, metadata: JsonDict) -> str:
    """Return a card with other metadata; a card without readable metadata as it is."""
    start, _, rest = card.partition("---\n")
    front, end, body = rest.partition("\n---\n")
    try:
        known = yaml.safe_load(front)
    except yaml.YAMLError:
        return card
    if start or not end or not metadata or not isinstance(known, dict):
        return card
    tags = known.get("tags") or []
    tags = dict.fromkeys([*([tags] if isinstance(tags, str) else tags), *metadata["tags"]])
    changed = yaml.safe_dump({**known, **metadata, "tags": [*tags]}, sort_keys=False, allow_unicode=True)
    return f"---\n{changed}---\n{body}"


def _front(base: str | None) -> str:
    front: dict[str, Any] = {"pipeline_tag": "fill-mask", "tags": ["unmask"]}
    if base:
        front["base_model"] = base
    title = f"# {base.rpartition('/')[2] if base else 'Masked language model'}"
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n{title}"
