"""Word boundaries of token ids, derived from the vocabulary.

A word begins where the tokenizer marks it (no ``##``, a ``Ġ``, a ``▁``); punctuation and each Chinese character are
words of their own. Character offsets are not needed, so shards hold only token ids.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

import numpy as np

from unmask.errors import ConfigError

Segmenter = Callable[[str], Iterable[str]]
"""A function that splits a text without spaces, such as Chinese, into words."""

_OPENS, _CLOSES, _CONTINUES, _IDEOGRAPH, _SPECIAL, _MARKED, _BARE, _SPLIT = 1, 2, 4, 8, 16, 32, 64, 128
PARTS_OF_CHARACTERS = _CONTINUES | _SPLIT
"""Flags of tokens whose first or last character is in several tokens."""
_CONTINUATION = bytes(range(0x80, 0xC0))
_BYTE = re.compile(r"^<0x([0-9A-F]{2})>$")
WITHOUT_SPACES = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f\u2e80-\u9fff"
    "\ua980-\ua9ff\uaa60-\uaadf\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b2ff\U00020000-\U0003ffff"
)
"""Scripts in which a word may touch the next one, as ranges of a regular expression: Han, kana, Thai, Lao, Tibetan,
Myanmar, Khmer, Tai, Balinese and Javanese."""
_CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
IDEOGRAPHS = "".join(f"{chr(low)}-{chr(high)}" for low, high in _CJK)
"""Chinese characters, as ranges of a regular expression; each is a word."""


@dataclass(frozen=True, eq=False)
class WordTables:
    """Word flags and spelling of each token id.

    Attributes:
        flags: ``uint8 [size]``, bits: the token begins a word, ends one, continues the token before it, begins with a
            Chinese character, is special, has the mark of a word start, is only that mark, ends within a character.
        spelling: the UTF-8 bytes of each token without marks; empty for special tokens.
    """

    flags: np.ndarray
    spelling: tuple[bytes, ...] = field(repr=False)

    def starts(self, input_ids: np.ndarray) -> np.ndarray:
        """Return ``bool [T]``: whether a word begins at each of ``int [T]`` token ids of one text."""
        if not len(input_ids):
            return np.zeros(0, dtype=bool)
        flags = self._joined_flags(input_ids)
        before = flags[:-1]
        starts = (flags & _OPENS) != 0
        starts[1:] |= (before & _CLOSES) != 0
        starts &= (flags & _CONTINUES) == 0
        # A bare mark is part of the next word, also of punctuation or Chinese, unless that has its own mark.
        starts[1:] &= ((before & _BARE) == 0) | ((flags[1:] & (_MARKED | _SPECIAL)) != 0)
        starts[1:] |= (before & _SPECIAL) != 0
        starts[0] = True
        return starts

    def _joined_flags(self, input_ids: np.ndarray) -> np.ndarray:
        """Return ``uint8 [T]`` flags, those of characters whose bytes are in several tokens included."""
        flags = self.flags[input_ids]
        split = np.flatnonzero(flags & _SPLIT).tolist()
        if not split:
            return flags
        ids, marks = input_ids.tolist(), flags.tolist()
        for place in split:
            raw = self.spelling[ids[place]]
            begin = len(raw.rstrip(_CONTINUATION)) - 1
            last, character = place, raw[begin:]
            while len(character) < 4 and last + 1 < len(ids) and marks[last + 1] & _CONTINUES:
                last += 1
                character += self.spelling[ids[last]]
            size, kind = _first_character(character)
            if kind != "letter":
                marks[place] |= (_OPENS | _IDEOGRAPH * (kind == "ideograph")) * (begin == 0)
                marks[last] |= _CLOSES * (size == len(character))
        return np.array(marks, dtype=np.uint8)

    def opening(self, input_ids: np.ndarray) -> np.ndarray:
        """Return ``bool [T]``: tokens that would begin a word behind any other, of ``int [T]`` token ids of one text."""
        return _open(self._joined_flags(input_ids))

    @property
    def opens(self) -> np.ndarray:
        """``bool [size]``: tokens that begin a word wherever they occur."""
        return _open(self.flags)

    @property
    def closes(self) -> np.ndarray:
        """``bool [size]``: tokens after which a word begins, unless the next token continues them."""
        return (self.flags & _CLOSES) != 0

    def name(self, number: int, entry: str) -> str:
        """Return a vocabulary entry with its bytes as text behind its marks; a part of a character is escaped."""
        text = (
            self.spelling[number].decode("utf-8", "backslashreplace") if number < len(self.spelling) else ""
        )
        if text in entry or text.replace(" ", "▁") in entry or _BYTE.match(entry):
            return entry
        return entry[: len(entry) - len(entry.lstrip("Ġ"))] + text

    def text(self, input_ids: Iterable[int]) -> str:
        """Return the text of tokens without spaces between words."""
        return b"".join([self.spelling[number] for number in input_ids]).decode("utf-8", "replace")


@dataclass(frozen=True, eq=False)
class SegmentedWords(WordTables):
    """Word tables in which Chinese characters form the words of a segmenter."""

    segment: Segmenter

    def starts(self, input_ids: np.ndarray) -> np.ndarray:
        starts, flags = super().starts(input_ids), self._joined_flags(input_ids)
        first = np.flatnonzero(starts)
        bare = (flags[first] & _BARE) != 0
        chinese = (flags[np.minimum(first + bare, len(input_ids) - 1)] & _IDEOGRAPH) != 0
        edges = np.flatnonzero(np.diff(chinese, prepend=False, append=False))
        for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            stop = int(first[end]) if end < len(first) else len(input_ids)
            run = slice(int(first[begin]), stop)
            starts[run] &= self._word_starts(input_ids[run].tolist())
        return starts

    def _word_starts(self, input_ids: list[int]) -> np.ndarray:
        """Return ``bool [n]``: the tokens of a run of Chinese at which a word of the segmenter begins."""
        text = self.text(input_ids)
        words = list(self.segment(text))
        if "".join(words) != text:
            raise ConfigError(
                f"the word segmenter must split its text without changing it; of '{text}' it made {words}"
            )
        # In bytes, as a character may be several tokens.
        begins = np.cumsum([0] + [len(self.spelling[number]) for number in input_ids[:-1]])
        word_begins = np.cumsum([0] + [len(word.encode()) for word in words[:-1]])
        return np.isin(begins, word_begins)


def word_tables(definition: str, tokens: dict[str, int], special: np.ndarray) -> WordTables | None:
    """Return the word tables of a tokenizer, or ``None`` if its vocabulary does not mark words.

    Args:
        definition: the JSON of the backing tokenizer.
        tokens: every entry with its id.
        special: ``bool [size]``, special tokens, which are words of their own.
    """
    marks = _WordMarks.of(json.loads(definition))
    if marks is None:
        return None
    flags = np.full(len(special), _OPENS | _CLOSES | _SPECIAL, dtype=np.uint8)
    spelling = [b""] * len(special)
    for token, number in tokens.items():
        if not special[number]:
            flags[number], spelling[number] = marks.read(token)
    return WordTables(flags, tuple(spelling))


@dataclass(frozen=True)
class _WordMarks:
    """How a family of tokenizers marks words."""

    continuation: str = ""
    start: str = ""
    end: str = ""
    byte_level: bool = False
    byte_fallback: bool = False

    @staticmethod
    def of(definition: dict[str, Any]) -> _WordMarks | None:
        model = definition["model"]
        fallback = bool(model.get("byte_fallback"))
        kinds = {part["type"] for key in ("pre_tokenizer", "decoder") for part in _parts(definition.get(key))}
        if model.get("continuing_subword_prefix"):
            return _WordMarks(continuation=model["continuing_subword_prefix"])
        if "ByteLevel" in kinds:
            return _WordMarks(start="Ġ", byte_level=True)
        if "Metaspace" in kinds or any(token.startswith("▁") for token in _sample(model)):
            return _WordMarks(start="▁", byte_fallback=fallback)
        if model.get("end_of_word_suffix"):
            return _WordMarks(end=model["end_of_word_suffix"], byte_fallback=fallback)
        return None

    def read(self, token: str) -> tuple[int, bytes]:
        """Return the flags of a vocabulary entry, and the bytes of its text without marks."""
        starts, ends, text = self._strip(token)
        byte = _BYTE.match(token) if self.byte_fallback else None
        raw = bytes([int(byte[1], 16)]) if byte else _bytes_of(text) if self.byte_level else text.encode()
        if self.byte_level or byte:
            first, last = _byte_classes(raw)
        else:
            first, last = (_class(text[0]), _class(text[-1])) if text else ("space", "letter")
        opens = starts or (bool(text) and first in ("punctuation", "ideograph", "space"))
        closes = ends or (bool(text) and last in ("punctuation", "ideograph", "space"))
        flags = _OPENS * opens | _CLOSES * closes | _CONTINUES * (first == "continuation" and not starts)
        flags |= _MARKED * starts | _BARE * (starts and not text) | _SPLIT * (last == "part")
        return flags | _IDEOGRAPH * (first == "ideograph"), raw

    def _strip(self, token: str) -> tuple[bool, bool, str]:
        """Return whether the token begins a word, whether it ends one, and its text without the marks."""
        if self.continuation:
            text = token.removeprefix(self.continuation)
            return text == token, False, text
        if self.end:
            text = token.removesuffix(self.end)
            return False, text != token, text
        text = token.lstrip(self.start)
        return text != token, False, text if self.byte_level else text.replace(self.start, " ")


def _open(flags: np.ndarray) -> np.ndarray:
    opens: np.ndarray = ((flags & _OPENS) != 0) & ((flags & _CONTINUES) == 0)
    return opens


def _parts(node: dict[str, Any] | None) -> list[dict[str, Any]]:
    if not node:
        return []
    children = node.get("pretokenizers") or node.get("decoders") or []
    return [node, *(part for child in children for part in _parts(child))]


def _sample(model: dict[str, Any]) -> list[str]:
    vocab = model.get("vocab") or {}
    return [entry if isinstance(entry, str) else entry[0] for entry in vocab][:2000]


def is_ideograph(character: str) -> bool:
    """Return whether BERT's tokenizers take a character, as Chinese, for a word of its own."""
    return any(low <= ord(character) <= high for low, high in _CJK)


@cache
def _class(character: str) -> str:
    if character.isspace():
        return "space"
    if is_ideograph(character):
        return "ideograph"
    return "letter" if unicodedata.category(character)[0] in "LNM" else "punctuation"


def _byte_classes(raw: bytes) -> tuple[str, str]:
    """Return the classes of the first and last character of bytes that may split characters."""
    whole = raw.lstrip(_CONTINUATION)
    if not whole:
        return ("continuation", "letter") if raw else ("space", "letter")
    text = whole.decode("utf-8", errors="replace")
    first, last = ("part" if end == "\ufffd" else _class(end) for end in (text[0], text[-1]))
    return "continuation" if len(whole) < len(raw) else first, last


@lru_cache(maxsize=1 << 14)
def _first_character(raw: bytes) -> tuple[int, str]:
    """Return the length and the class of the character that bytes begin with; an incomplete one is a letter."""
    for size in range(2, len(raw) + 1):
        try:
            return size, _class(raw[:size].decode())
        except UnicodeDecodeError:
            continue
    return len(raw), "letter"


@lru_cache(maxsize=1)
def _byte_alphabet() -> dict[str, int]:
    """Return the byte of each character of byte-level vocabularies (Radford et al. 2019)."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + rank): byte for rank, byte in enumerate(hidden)}


def _bytes_of(text: str) -> bytes:
    alphabet = _byte_alphabet()
    if all(character in alphabet for character in text):
        return bytes(alphabet[character] for character in text)
    return text.encode("utf-8")
