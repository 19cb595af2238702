"""How many documents are held out, and how many an interval needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unmask.config.settings import DataSettings

FEWEST_UNITS = 10
"""With fewer documents no interval is given: it would be right, and mostly so wide that it says nothing."""
MINIMUM = 15
"""Texts that are held out at least: ten, which an interval needs, and some to choose the weights on."""
PART = 4
"""To reach the minimum, one text in so many is held out at most."""


def least_held_out(data: DataSettings) -> int:
    """Return how many texts a new run holds out if there are enough."""
    return data.heldout_minimum or MINIMUM


def smaller_documents(splits: Iterable[str]) -> str | None:
    """Return how to get smaller documents out of plain text; ``None`` where there is no way.

    Args:
        splits: what its documents are: ``file``, ``block`` and ``line``; nothing for records.
    """
    found = {*splits}
    ways = ("line", "block") if "file" in found else ("line",) if "block" in found else ()
    return f"smaller documents (--documents {' or '.join(ways)})" if ways else None


def held_out_texts(by_share: int, texts: int, minimum: int = MINIMUM) -> int:
    """Return how many of some texts are held out; copies count once.

    Args:
        by_share: how many of them the share holds out, at least 1.
        texts: at least 2.
        minimum: how many to hold out if there are enough texts.
    """
    return max(by_share, min(minimum, texts // PART))
