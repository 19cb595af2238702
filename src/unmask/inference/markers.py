"""Texts with masks in them: read into the ids of a sequence, and written again with tokens in the masks."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from unmask.data.tokenizer import plain_copy

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARKERS = ("[MASK]", "<mask>")
"""What stands for a mask whatever the model, beside the tokenizer's own mask token."""


class MarkerEncoder:
    """Turns a text with mask markers into the ids of a whole sequence.

    The ids are those that the tokenizer gives for the text with its own mask token in place of every marker,
    except that other control tokens in the text, such as a literal ``[SEP]``, are taken as text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._mask = str(tokenizer.mask_token)
        self._core = plain_copy(tokenizer, read_mask=True)
        self.mask_id = int(tokenizer.mask_token_id)
        self.markers = tuple(dict.fromkeys((*MARKERS, self._mask)))
        longest_first = sorted(self.markers, key=len, reverse=True)
        self._pattern = re.compile("|".join(re.escape(marker) for marker in longest_first))

    def __call__(self, texts: Sequence[str]) -> list[tuple[np.ndarray, int]]:
        """Return for every text its ``int64 [n]`` ids, control tokens included, and how many markers it has."""
        replaced = [self._pattern.subn(lambda _: self._mask, text) for text in texts]
        encodings = self._core.encode_batch_fast([text for text, _ in replaced], add_special_tokens=True)
        return [
            (np.array(encoding.ids, dtype=np.int64), count)
            for encoding, (_, count) in zip(encodings, replaced, strict=True)
        ]

    def split(self, text: str) -> list[str]:
        """Return the parts of the text around its markers, one more than it has markers."""
        return self._pattern.split(text)


class TokenWriter:
    """Writes tokens as text, and into a text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, encoder: MarkerEncoder) -> None:
        self._tokenizer = tokenizer
        self._continuation, self._opening = _word_marks(tokenizer)
        mask = str(tokenizer.mask_token)
        (tight, _), (spaced, _) = encoder([f"a{mask}", f"a {mask}"])
        # Where a space before the mask leaves no trace in the ids, the token itself says whether there is one.
        self._space_is_free = np.array_equal(tight, spaced)
        self._known: dict[int, tuple[bool, str]] = {}

    def token(self, token_id: int) -> str:
        """Return the vocabulary's own spelling."""
        return str(self._tokenizer.convert_ids_to_tokens(token_id))

    def text(self, token_id: int) -> str:
        """Return the token as text, without the mark of a beginning or continued word."""
        return self._read(token_id)[1]

    def sequence(self, parts: Sequence[str], token_ids: Sequence[int]) -> str:
        """Return the text with a token between each two of its parts."""
        whole = parts[0]
        for token_id, after in zip(token_ids, parts[1:], strict=True):
            whole = self._append(whole, token_id) + after
        return whole

    def _append(self, before: str, token_id: int) -> str:
        opens, text = self._read(token_id)
        if not opens:
            return (before.rstrip() if self._space_is_free else before) + text
        sticks = bool(before) and not before[-1].isspace()
        if self._continuation:
            sticks = sticks and _one_word(before[-1], text[:1])
        return before + (" " if sticks and (self._continuation or self._opening) else "") + text

    def _read(self, token_id: int) -> tuple[bool, str]:
        """Return whether the token begins a word, and its text."""
        if token_id not in self._known:
            self._known[token_id] = self._parse(token_id)
        return self._known[token_id]

    def _parse(self, token_id: int) -> tuple[bool, str]:
        token = self.token(token_id)
        if self._continuation:
            return not token.startswith(self._continuation), token.removeprefix(self._continuation)
        text = str(self._tokenizer.decode([token_id], clean_up_tokenization_spaces=False))
        if self._opening:
            opens = token.startswith(self._opening)
            return opens, text.removeprefix(" ") if opens else text
        return True, text


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
    """Whether two characters, side by side, would read as one word; Chinese characters never do."""
    return left.isalnum() and right.isalnum() and not (_ideograph(left) or _ideograph(right))


def _ideograph(character: str) -> bool:
    return "㐀" <= character <= "鿿" or "豈" <= character <= "\ufaff" or character >= "\U00020000"
