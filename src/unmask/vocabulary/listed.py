"""Words of one's own to add to a vocabulary, and why some of them cannot be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unmask.data.tokenizer import TextEncoder, Vocabulary
from unmask.vocabulary.choose import AddedWord, SubwordJoiner, pre_tokens, written_without_spaces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class LeftOutWord:
    """A listed word that was not added.

    Attributes:
        word: the word as it was given.
        reason: why.
    """

    word: str
    reason: str


def listed_words(
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    encode: TextEncoder,
    given: Iterable[str],
    counts: dict[tuple[int, ...], int],
) -> tuple[list[AddedWord], list[LeftOutWord]]:
    """Return the listed words that can be entries, in their order, and the others with the reason.

    A word can be added if the tokenizer keeps it in one piece before it splits it into two or more subwords, and knows all of
    its characters; then text without it is tokenised as before.

    Args:
        tokenizer: the tokenizer to extend.
        vocabulary: its vocabulary.
        encode: tokenises by it.
        given: the words; white space around them does not count, empty ones are skipped.
        counts: occurrences of words in a text, by their subwords.

    Raises:
        ConfigError: the tokenizer does not mark where words begin.
    """
    joiner = SubwordJoiner(tokenizer, vocabulary)
    added: dict[tuple[int, ...], AddedWord] = {}
    left_out: list[LeftOutWord] = []
    for word in filter(None, map(str.strip, given)):
        text = f" {word}"
        (ids,) = encode([text])
        subwords = tuple(ids.tolist())
        pieces = len(pre_tokens(encode.core, text))
        if reason := _obstacle(word, pieces, encode.unknown in subwords, len(subwords)):
            left_out.append(LeftOutWord(word, reason))
        elif subwords in added:
            first = added[subwords].given
            left_out.append(
                LeftOutWord(
                    word,
                    "is in the list twice" if word == first else f"is the same to the tokenizer as '{first}'",
                )
            )
        else:
            entry = AddedWord(
                joiner.text(subwords), joiner.entry(subwords), subwords, counts.get(subwords, 0), given=word
            )
            if entry.word and joiner.can_add(entry):
                added[subwords] = entry
            else:
                left_out.append(LeftOutWord(word, "cannot be one entry of this kind of tokenizer"))
    return list(added.values()), left_out


def _obstacle(word: str, pieces: int, has_unknown: bool, subwords: int) -> str:
    """Return why a word of so many pre-tokens and subwords cannot be added; empty if it may be."""
    if len(word.split()) > 1:
        return "is more than one word"
    if written_without_spaces(word):
        return "is of a script without spaces between words, where it would not be found in running text"
    if has_unknown:
        return "has characters that the tokenizer does not know"
    if pieces != 1:
        return f"is split by the tokenizer before it looks for entries, into {pieces} parts"
    if subwords == 1:
        return "is one token already"
    return ""
