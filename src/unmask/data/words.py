"""How tokens join to words, read off the vocabulary itself.

The rule is the tokenizer's own mark of a beginning word (no ``##``, a ``Ġ``, a ``▁``), and beside it: punctuation
is a word of its own, and a Chinese character is a word of its own. Offsets are not needed, so shards hold token
ids alone.
"""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

_OPENS, _CLOSES, _GLUED = 1, 2, 4
_CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


@dataclass(frozen=True)
class WordTables:
    """One byte of flags per token id: it opens a word, it closes one, it is glued to the token before."""

    flags: np.ndarray

    def starts(self, input_ids: np.ndarray) -> np.ndarray:
        """Return ``bool [T]``: whether a word begins at each of the ``int [T]`` token ids of one text."""
        if not len(input_ids):
            return np.zeros(0, dtype=bool)
        flags = self.flags[input_ids]
        starts = (flags & _OPENS).astype(bool)
        starts[1:] |= (flags[:-1] & _CLOSES).astype(bool)
        starts &= (flags & _GLUED) == 0
        starts[0] = True
        return starts


def word_tables(definition: str, tokens: dict[str, int], special: np.ndarray) -> WordTables | None:
    """Build the tables from a tokenizer's JSON definition and vocabulary.

    Args:
        definition: the JSON of the backing tokenizer.
        tokens: every entry with its id.
        special: ``bool [size]``, ids that are words of their own whatever they are called.

    Returns:
        The tables, or ``None`` for a tokenizer whose vocabulary carries no mark of words.
    """
    style = _Style.of(json.loads(definition))
    if style is None:
        return None
    flags = np.full(len(special), _OPENS | _CLOSES, dtype=np.uint8)
    for token, number in tokens.items():
        if not special[number]:
            flags[number] = style.flags(token)
    return WordTables(flags)


@dataclass(frozen=True)
class _Style:
    """How one family of vocabularies marks words."""

    continuation: str = ""
    opening: str = ""
    ending: str = ""
    byte_level: bool = False

    @staticmethod
    def of(definition: dict[str, Any]) -> _Style | None:
        model = definition["model"]
        kinds = {part["type"] for key in ("pre_tokenizer", "decoder") for part in _parts(definition.get(key))}
        if model["type"] == "WordPiece":
            return _Style(continuation=model["continuing_subword_prefix"])
        if "ByteLevel" in kinds:
            return _Style(opening="Ġ", byte_level=True)
        if "Metaspace" in kinds or any(token.startswith("▁") for token in _sample(model)):
            return _Style(opening="▁")
        if model.get("end_of_word_suffix"):
            return _Style(ending=model["end_of_word_suffix"])
        return None

    def flags(self, token: str) -> int:
        leads, ends, text = self._strip(token)
        if self.byte_level:
            first, last = _byte_classes(_bytes_of(text))
        else:
            first, last = (_class(text[0]), _class(text[-1])) if text else ("space", "letter")
        # A bare mark ("▁", "Ġ") opens the word that the next token goes on with.
        opens = leads or (bool(text) and first in ("punctuation", "ideograph", "space"))
        closes = ends or (bool(text) and last in ("punctuation", "ideograph", "space"))
        return _OPENS * opens | _CLOSES * closes | _GLUED * (first == "glued" and not leads)

    def _strip(self, token: str) -> tuple[bool, bool, str]:
        """Return whether the token begins a word, whether it ends one, and its text without the marks."""
        if self.continuation:
            leads = not token.startswith(self.continuation)
            return leads, False, token if leads else token[len(self.continuation) :]
        if self.ending:
            ends = token.endswith(self.ending)
            return False, ends, token[: -len(self.ending)] if ends else token
        leads = token.startswith(self.opening)
        return leads, False, token.lstrip(self.opening)


def _parts(node: dict[str, Any] | None) -> list[dict[str, Any]]:
    if not node:
        return []
    children = node.get("pretokenizers") or node.get("decoders") or []
    return [node, *(part for child in children for part in _parts(child))]


def _sample(model: dict[str, Any]) -> list[str]:
    vocab = model.get("vocab") or {}
    return [entry if isinstance(entry, str) else entry[0] for entry in vocab][:2000]


def _class(character: str) -> str:
    if character.isspace():
        return "space"
    code = ord(character)
    if any(low <= code <= high for low, high in _CJK):
        return "ideograph"
    return "letter" if unicodedata.category(character)[0] in "LNM" else "punctuation"


def _byte_classes(raw: bytes) -> tuple[str, str]:
    """Return the classes of the first and the last character of bytes that may cut characters in two."""
    if not raw:
        return "space", "letter"
    if 0x80 <= raw[0] < 0xC0:
        return "glued", "letter"
    text = raw.decode("utf-8", errors="replace")
    return _class_or_part(text[0], raw), _class_or_part(text[-1], raw)


def _class_or_part(character: str, raw: bytes) -> str:
    if character != "\ufffd":
        return _class(character)
    # A lone lead byte: two-byte letters are alphabets, longer ones are ideographs or emoji.
    return "letter" if max(raw) < 0xE0 else "ideograph"


@lru_cache(maxsize=1)
def _byte_alphabet() -> dict[str, int]:
    """The visible characters by which byte-level tokenizers write the 256 bytes (Radford et al. 2019)."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + rank): byte for rank, byte in enumerate(hidden)}


def _bytes_of(text: str) -> bytes:
    alphabet = _byte_alphabet()
    if all(character in alphabet for character in text):
        return bytes(alphabet[character] for character in text)
    return text.encode("utf-8")
