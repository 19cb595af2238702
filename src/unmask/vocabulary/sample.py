"""Text to measure a changed tokenizer on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from unmask.config.settings import DataSettings
from unmask.data.heldout_size import MINIMUM
from unmask.data.split import split_texts

_MAX_CHARACTERS = 4 << 20


class HeldOutSample:
    """Documents held out from choosing entries, or the beginning of a single one."""

    def __init__(self) -> None:
        self._heldout: list[str] = []
        self._others: list[str] = []
        self._size = [0, 0]

    def split(self, texts: Iterable[str]) -> Iterator[tuple[str, bool]]:
        """Yield texts, and whether they are held out, which are those of a run on the same text; keep some of them."""
        for text, is_held in split_texts(texts, DataSettings().heldout_share, MINIMUM):
            if self._size[is_held] < _MAX_CHARACTERS:
                self._size[is_held] += len(text)
                (self._heldout if is_held else self._others).append(text)
            yield text, is_held

    @property
    def held_out(self) -> bool:
        return bool(self._heldout)

    @property
    def texts(self) -> list[str]:
        return self._heldout or self._others
