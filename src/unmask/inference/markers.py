"""Texts with masks and blanks: read into token ids, and written again with the gaps filled."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from unmask.data.special_tokens import unknown_id
from unmask.data.tokenizer import plain_copy
from unmask.data.words import WITHOUT_SPACES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARKERS = ("[MASK]", "<mask>")
"""What means a mask whatever the model, as the tokenizer's own mask token does."""

MAX_SUBWORDS = 8
"""Most subwords of a blank."""

_BLANK = (1, 4)  # subwords of ___
_COUNT = r"\{([1-9]\d{0,2})(?:-(\d{1,3}))?\}"


class Gap(NamedTuple):
    """What one marker takes: one token, or a whole word of so many subwords."""

    fewest: int = 1
    most: int = 1
    word: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """A text that was read.

    Attributes:
        body: ``int64 [n]`` token ids without control tokens; one mask token stands for each marker.
        parts: the text around the markers, one part more than there are markers.
        gaps: what each marker takes.
        error: why the text cannot be used, or ``None``.
    """

    body: np.ndarray
    parts: list[str]
    gaps: list[Gap]
    error: str | None = None


class MarkerEncoder:
    """Turns a text with markers into ids.

    The ids are those that the tokenizer gives for the text with its own mask token in place of every marker, except
    that other control tokens in the text, such as a literal ``[SEP]``, are taken as text.

    Args:
        tokenizer: of the model.
        blanks: whether ``___``, ``{2}`` and ``{1-4}`` are markers too, and ``[MASK]{2}`` is one. An underscore next to
            a letter and braces that belong to a formula, as in ``x^{2}``, are text in any case.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, blanks: bool = True) -> None:
        self._mask = str(tokenizer.mask_token)
        self._core = plain_copy(tokenizer, read_mask=True)
        self.mask_id = int(tokenizer.mask_token_id)
        self.unknown_id = unknown_id(tokenizer)
        self.markers = tuple(dict.fromkeys((*MARKERS, self._mask)))
        self._with_blanks = _pattern(self.markers, blanks=True)
        self._pattern = self._with_blanks if blanks else _pattern(self.markers, blanks=False)
        self.blanks = blanks

    def __call__(self, texts: Sequence[str]) -> list[Reading]:
        """Read texts; one that cannot be used has its error set."""
        found = [self._divide(text) for text in texts]
        wanted = [self._mask.join(parts) for parts, _, error in found if not error]
        ids = iter(self.encode(wanted))
        return [Reading(_NOTHING if error else next(ids), parts, gaps, error) for parts, gaps, error in found]

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return ``int64 [n]`` ids of texts with the tokenizer's own mask token in them, without control tokens."""
        encodings = self._core.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def encode_around(self, before: str, middle: str | None, after: str) -> list[int]:
        """Return the ids of a text; ``None`` in the middle stands for a mask."""
        text = before + (self._mask if middle is None else middle) + after
        return list(self._core.encode(text, add_special_tokens=False).ids)

    def split(self, text: str) -> list[str]:
        """Return the parts of the text around its markers, one more than it has markers."""
        return self._divide(text)[0]

    def gaps(self, text: str) -> list[Gap]:
        """Return the gaps that the markers of the text stand for."""
        return self._divide(text)[1]

    def _divide(self, text: str) -> tuple[list[str], list[Gap], str | None]:
        error = _unusable(text)
        parts, gaps, end = [], [], 0
        for found in self._pattern.finditer(text) if not error else ():
            parts.append(text[end : found.start()])
            gap = _gap(found)
            error = error or (gap if isinstance(gap, str) else None)
            gaps.append(gap if isinstance(gap, Gap) else Gap())
            end = found.end()
        if not gaps and not error:
            error = self._no_mask(text)
        return [*parts, text[end:]], gaps, error

    def _no_mask(self, text: str) -> str:
        message = f"no mask in this text: write {' or '.join(self.markers)} where a token is wanted"
        if self.blanks and re.search(rf"___|{_COUNT}", text):
            return f"{message}, once for each; ___ and {{2}} between letters are taken as text: for a whole word, put spaces around them"
        if self.blanks:
            return f"{message}, or ___ for a word"
        if self._with_blanks.search(text):
            return f"{message} (___ and {{1-4}} are taken as text)"
        return message


_NOTHING = np.zeros(0, dtype=np.int64)


def _pattern(markers: Sequence[str], *, blanks: bool) -> re.Pattern[str]:
    """Return the pattern of a marker; its groups are the marker and the numbers of subwords."""
    mask = "|".join(re.escape(marker) for marker in sorted(markers, key=len, reverse=True))
    if not blanks:
        return re.compile(f"({mask})")
    letter = rf"[^\W{WITHOUT_SPACES}]"
    alone = rf"(?<![\\$^{{}})\]])(?<!{letter}){_COUNT}(?![{{}}])(?!{letter})"
    return re.compile(rf"({mask}|(?<!{letter})_{{3,}}(?!{letter}))(?:{_COUNT})?|{alone}")


def _gap(found: re.Match[str]) -> Gap | str:
    """Return what a marker takes, or what is wrong with it."""
    what, *counts = found.groups()
    numbers = [int(count) for count in counts if count]
    if not numbers:
        return Gap(*_BLANK, word=True) if what.startswith("_") else Gap()
    fewest, most = numbers[0], numbers[-1]
    if not 1 <= fewest <= most <= MAX_SUBWORDS:
        return (
            f"'{found[0]}' asks for {fewest} to {most} subwords; a blank is 1 to {MAX_SUBWORDS} subwords, the lower number "
            f"first, as in {{1-4}}"
        )
    return Gap(fewest, most, word=True)


def _unusable(text: str) -> str | None:
    """Say why no tokenizer should see this text, if none should."""
    if not text or text.isspace():
        return "the text is empty"
    if "\0" in text:
        return f"the text has a NUL character at position {text.index(chr(0)) + 1}; it is not plain text"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return (
            f"the text has a lone surrogate (U+{ord(text[error.start]):04X}) at position {error.start + 1}; "
            f"it was not decoded as UTF-8"
        )
    return None


class TokenWriter:
    """Writes tokens as text, and into a text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, encoder: MarkerEncoder) -> None:
        self._tokenizer = tokenizer
        self._continuation, self.opening = _word_marks(tokenizer)
        mask = str(tokenizer.mask_token)
        tight, spaced = encoder.encode([f"a{mask}", f"a {mask}"])
        # Where a space before the mask leaves no trace in the ids, the token itself shows whether there is one.
        self._space_is_free = np.array_equal(tight, spaced)
        after = tokenizer.convert_ids_to_tokens(encoder.encode([f"{mask}a"])[0].tolist())[1:]
        # After a mask, a word may begin though the text has no space there.
        self._next_begins = bool(
            self._continuation or (self.opening and "".join(after[:1]).startswith(self.opening))
        )
        letter = next((entry for entry in tokenizer.get_vocab() if _one_word(entry, entry)), "a")
        joined, apart = encoder.encode([letter * 2, f"{letter} {letter}"])
        self._without_spaces = np.array_equal(joined, apart)
        self._known: dict[int, tuple[str, bool, str]] = {}

    def token(self, token_id: int) -> str:
        """Return the vocabulary's own spelling."""
        return self._read(token_id)[0]

    def text(self, token_ids: Sequence[int]) -> str:
        """Return the subwords of one gap as text, without the mark of a beginning or continued word."""
        return self._joined(token_ids)[1]

    def sequence(self, parts: Sequence[str], fills: Sequence[Sequence[int]]) -> str:
        """Return the text with the tokens of a gap between each two of its parts."""
        whole, waiting = parts[0], list[int]()
        for token_ids, after in zip(fills, parts[1:], strict=True):
            waiting.extend(token_ids)
            if after or self._continuation:
                # Bytes of one character may be split between neighbours, so those are decoded together.
                whole, waiting = self._followed(self._append(whole, *self._joined(waiting)), after), []
        return self._append(whole, *self._joined(waiting)) if waiting else whole

    def sequence_of_word(self, parts: Sequence[str], word: str, token_ids: Sequence[int]) -> str:
        """Return the text with a word, as it is written, between its two parts; its tokens say whether it begins one."""
        before, after = parts
        return self._followed(self._append(before, self._joined(token_ids)[0], word), after)

    def _followed(self, before: str, after: str) -> str:
        """Return two texts as one; where the model saw the beginning of a word, a space keeps them apart."""
        sticks = self._next_begins and not self._without_spaces and _one_word(before[-1:], after[:1])
        return before + (" " if sticks else "") + after

    def _append(self, before: str, opens: bool, text: str) -> str:
        if self._without_spaces:
            return before + text
        if not opens:
            return (before.rstrip() if self._space_is_free else before) + text
        sticks = bool(before) and not before[-1].isspace()
        if self._continuation:
            sticks = sticks and _one_word(before[-1], text[:1])
        return before + (" " if sticks and (self._continuation or self.opening) else "") + text

    def _joined(self, token_ids: Sequence[int]) -> tuple[bool, str]:
        """Return whether the first token begins a word, and the text of all."""
        if len(token_ids) == 1:
            return self._read(token_ids[0])[1:]
        if self._continuation:
            return self._read(token_ids[0])[1], "".join(self._read(number)[2] for number in token_ids)
        return self._decoded(token_ids)

    def _read(self, token_id: int) -> tuple[str, bool, str]:
        """Return the token, whether it begins a word, and its text."""
        if token_id not in self._known:
            self._known[token_id] = (
                str(self._tokenizer.convert_ids_to_tokens(token_id)),
                *self._parse(token_id),
            )
        return self._known[token_id]

    def _parse(self, token_id: int) -> tuple[bool, str]:
        if not self._continuation:
            return self._decoded([token_id])
        token = str(self._tokenizer.convert_ids_to_tokens(token_id))
        return not token.startswith(self._continuation), token.removeprefix(self._continuation)

    def _decoded(self, token_ids: Sequence[int]) -> tuple[bool, str]:
        text = str(self._tokenizer.decode(list(token_ids), clean_up_tokenization_spaces=False))
        if not self.opening:
            return True, text
        opens = str(self._tokenizer.convert_ids_to_tokens(token_ids[0])).startswith(self.opening)
        return opens, text.removeprefix(" ") if opens else text


def _word_marks(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Return the mark of a continued word (``##``) and of a beginning one (``Ġ``, ``▁``); one or both empty."""
    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    if definition["model"]["type"] == "WordPiece":
        return definition["model"]["continuing_subword_prefix"], ""
    steps = json.dumps(
        [definition[part] for part in ("normalizer", "pre_tokenizer", "decoder")], ensure_ascii=False
    )
    return "", "▁" if "▁" in steps else "Ġ" if '"ByteLevel"' in steps else ""


def _one_word(left: str, right: str) -> bool:
    """Whether two characters, side by side, would read as one word; those of scripts without spaces never do."""
    return len(left) == len(right) == 1 and all(
        character.isalnum() and not _UNSPACED.match(character) for character in (left, right)
    )


_UNSPACED = re.compile(f"[{WITHOUT_SPACES}]")
