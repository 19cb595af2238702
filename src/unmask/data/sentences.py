"""Find where sentences end, by the text of token ids."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from unmask.data.words import WordTables

_MARKS = tuple(mark.encode() for mark in ".!?。！？．｡।॥؟۔։።။។")
_BYTES = max(map(len, _MARKS))


class SentenceEnds:
    """The tokens that end a sentence.

    A token does if its text ends with a mark such as ``.`` or ``।``, also with quotation marks or brackets behind it. Of a mark whose
    bytes are in several tokens, the last one ends the sentence.

    Args:
        tokenizer: the tokenizer.
        words: its word tables, if it marks words; without them, the text of a token is its entry in the vocabulary.
        size: the largest token id plus one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, words: WordTables | None, size: int) -> None:
        self._text = [b""] * size
        for entry, number in tokenizer.get_vocab().items():
            self._text[number] = entry.encode() if words is None else words.spelling[number]
        self._whole = np.array([_ends(text) for text in self._text])
        self._last_bytes = np.array([_is_end_of_mark(text) for text in self._text])

    def find(self, input_ids: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Return ``bool [T]``: the tokens of sequences that end a sentence.

        Args:
            input_ids: ``int64 [T]``, the sequences, one after the other.
            place: ``int64 [T]``, the place of each token in its sequence.
        """
        ends: np.ndarray = self._whole[input_ids]
        for last in np.flatnonzero(self._last_bytes[input_ids]).tolist():
            first = last - min(_BYTES - 1, int(place[last]))
            ends[last] = b"".join(self._text[at] for at in input_ids[first : last + 1].tolist()).endswith(
                _MARKS
            )
        return ends


def _ends(raw: bytes) -> bool:
    text = raw.decode("utf-8", "replace")
    while text and (
        text[-1].isspace() or text[-1] in "\"'" or unicodedata.category(text[-1]) in ("Pe", "Pf", "Pi")
    ):
        text = text[:-1]
    return text.encode().endswith(_MARKS)


def _is_end_of_mark(raw: bytes) -> bool:
    """Return whether bytes are the last ones of a mark, but not all of them."""
    return bool(raw) and any(len(raw) < len(mark) and mark.endswith(raw) for mark in _MARKS)
