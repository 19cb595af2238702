"""The part of a text around its masks that a model can take, and the ways to set masks into it.

A *form* of a text is a sequence of token ids in which every gap holds a certain number of masks. A text whose gaps are
single masks has one form; a blank of 1 to 4 subwords gives four. All forms of a text show the same part of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from unmask.data.tokenizer import Vocabulary
from unmask.inference.markers import Gap

MOST_FORMS = 64
"""Combinations of lengths of the blanks in one text."""


@dataclass(frozen=True, slots=True)
class Form:
    """A text with its masks set.

    Attributes:
        input_ids: ``int64 [n]``, control tokens included.
        masks: ``int64 [m]`` positions of the masks.
        sizes: subwords of each gap; they add up to ``m``.
    """

    input_ids: np.ndarray
    masks: np.ndarray
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a text that is shown to the model.

    Attributes:
        body: ``int64 [n]`` token ids without control tokens, one mask for each gap.
        places: positions of the gaps in it.
        begin: tokens of the text before it.
        length: tokens of the whole text.
    """

    body: np.ndarray
    places: tuple[int, ...]
    begin: int
    length: int

    @property
    def whole(self) -> bool:
        return len(self.body) == self.length


def window_around(body: np.ndarray, places: Sequence[int], room: int) -> Window | None:
    """Take as many tokens as there is room for, the masks in the middle of them.

    Where the text ends on one side, the other side gets what is left.

    Args:
        body: ``int64 [n]`` token ids.
        places: ascending positions of the masks.
        room: tokens that may be taken.

    Returns:
        The window, or ``None`` if there is no room for all masks.
    """
    first, span = places[0], places[-1] + 1 - places[0]
    if span > room:
        return None
    begin = max(0, min(first - (room - span) // 2, len(body) - room))
    part = body[begin : begin + room]
    return Window(part, tuple(place - begin for place in places), begin, len(body))


def all_sizes(gaps: Sequence[Gap], most: int) -> list[tuple[int, ...]] | None:
    """Return every combination of lengths of the gaps, the longest last, or ``None`` if there are more than ``most``."""
    if math.prod(gap.most + 1 - gap.fewest for gap in gaps) > most:
        return None
    return list(product(*(range(gap.fewest, gap.most + 1) for gap in gaps)))


def form(window: Window, sizes: tuple[int, ...], vocabulary: Vocabulary) -> Form:
    """Set so many masks into each gap of a window, and frame it with control tokens."""
    subwords: list[np.ndarray] = [np.array(vocabulary.prefix, dtype=np.int64)]
    masks: list[int] = []
    end, length = 0, len(vocabulary.prefix)
    for place, size in zip(window.places, sizes, strict=True):
        before = window.body[end:place]
        length += len(before)
        masks.extend(range(length, length + size))
        subwords += [before, np.full(size, vocabulary.mask_id, dtype=np.int64)]
        length, end = length + size, place + 1
    subwords += [window.body[end:], np.array(vocabulary.suffix, dtype=np.int64)]
    return Form(np.concatenate(subwords), np.array(masks, dtype=np.int64), sizes)
