"""Survey of a tokenizer on text: document lengths, fertility, unknown tokens, words worth adding.

Fertility is subwords per word, of words that the tokenizer knows: an unknown one is a single token, however long. Text of
scripts that do not mark words has characters per token instead. Words are counted (:mod:`unmask.data.round_trip`), and
each distinct one is tokenised once.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unmask.data.round_trip import RoundTrip, WordCounter, encode_words, is_word
from unmask.data.special_tokens import text_specials
from unmask.data.tokenizer import TextEncoder
from unmask.data.unknown import UNMEASURABLE, UnknownTokens
from unmask.data.words import WITHOUT_SPACES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ADDED = 1000
"""Words that are considered for an extension of the vocabulary."""
_LEAST = 5
_SHOWN = 12
_WITHOUT_SPACES = re.compile(f"[{WITHOUT_SPACES}]")


class TokenSurvey:
    """Tokenises text and counts; :meth:`add` takes texts, :meth:`found` returns the results.

    Attributes:
        lengths: tokens of each document, without special tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._encode = TextEncoder(tokenizer)
        self._unknown, self._unknown_documents = UnknownTokens(self._encode.unknown), 0
        self.lengths = array("q")
        self._words = WordCounter()
        specials = text_specials(tokenizer)
        self._read_whole = re.compile("|".join(map(re.escape, specials))) if specials else None

    def add(self, texts: Sequence[str]) -> None:
        """Tokenise some documents."""
        for ids in self._encode(texts):
            self.lengths.append(len(ids))
            self._unknown_documents += self._unknown.add(ids, list) > 0
        for text in texts:
            self._words.add(self._read_whole.sub(" ", text) if self._read_whole else text)

    def found(self) -> dict[str, Any]:
        """Return tokens, unknown tokens, fertility, the words of most subwords, and the tokens that adding words saves."""
        tokens = self._unknown.tokens
        extra: Counter[str] = Counter()  # tokens beyond the first, by normalised word
        split_words: dict[str, tuple[int, list[str]]] = {}
        unknown: Counter[str] = Counter()
        words = unknown_words = total = characters = unspaced = 0
        round_trip = RoundTrip()
        for item in encode_words(self._encode.core, self._words.counts):
            round_trip.add(item)
            if not is_word(item.word):
                continue
            word, count, split, ids = item.word, item.occurrences, item.tokens, item.ids
            normal = item.normal.strip(" ▁")
            words += count
            if self._unknown.id in ids:
                unknown[word] += count
                unknown_words += count
                continue
            total, characters = total + count * len(split), characters + count * len(word)
            unspaced += count * len(_WITHOUT_SPACES.findall(word))
            extra[normal] += count * (len(split) - 1)
            split_words[normal] = (split_words.get(normal, (0, []))[0] + count, split)
        saved = sorted(
            ((n, word) for word, n in extra.items() if n and _may_add(word, split_words[word][0])),
            reverse=True,
        )
        most_known = max(unknown_words / max(1, words), self._unknown.share) <= UNMEASURABLE
        has_words = 2 * unspaced <= characters
        return {
            "tokens": tokens,
            "unknown": {
                "tokens": self._unknown.unknown,
                "share": self._unknown.share,
                "documents": self._unknown_documents,
                "words": [[word, count] for word, count in _top(unknown)],
            },
            "round_trip": round_trip.to_dict(),
            "words": words,
            "words_unknown": unknown_words,
            "subwords_per_word": total / (words - unknown_words)
            if total and most_known and has_words
            else None,
            "characters_per_token": characters / total if total and most_known else None,
            "words_forgotten": self._words.dropped,
            "most_split": [
                {"word": word, "count": split_words[word][0], "subwords": split_words[word][1]}
                for _, word in saved[:_SHOWN]
            ],
            "added_words": min(ADDED, len(saved)),
            "saved_share": sum(n for n, _ in saved[:ADDED]) / max(1, tokens),
        }


def _may_add(word: str, count: int) -> bool:
    return count >= _LEAST and len(word) > 1


def _top(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN]
