"""Text to measure a changed tokenizer on."""

from __future__ import annotations

from unmask.data.corpus import document_key, is_held_out

_HELDOUT_SHARE = 0.05
_MAX_CHARACTERS = 4 << 20


class HeldOutSample:
    """Documents held out from choosing entries, or the beginning of a text with too few documents."""

    def __init__(self) -> None:
        self._heldout: list[str] = []
        self._others: list[str] = []
        self._size = [0, 0]

    def take(self, text: str) -> bool:
        """Keep a text up to the limit; return whether it is held out."""
        heldout = bool(is_held_out(document_key(text), _HELDOUT_SHARE))  # those of a run on the same text
        if self._size[heldout] < _MAX_CHARACTERS:
            self._size[heldout] += len(text)
            (self._heldout if heldout else self._others).append(text)
        return heldout

    def release(self) -> list[str]:
        """Hold nothing out, and return what was: of a text of very few documents it may be all."""
        texts, self._others, self._heldout = self._heldout, self._heldout, []
        return texts

    @property
    def held_out(self) -> bool:
        return bool(self._heldout)

    @property
    def texts(self) -> list[str]:
        return self._heldout or self._others
