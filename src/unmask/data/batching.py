"""Split streams of texts into batches by number of characters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

BATCH_CHARACTERS = 1 << 20
"""Characters of a batch of texts for the tokenizer."""


def in_batches(texts: Iterable[str], characters: int = BATCH_CHARACTERS) -> Iterator[list[str]]:
    """Yield lists of texts, each but the last of at least ``characters`` characters."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def first_characters(texts: Iterable[str], limit: int) -> Iterator[str]:
    """Yield texts until ``limit`` characters are reached."""
    seen = 0
    for text in texts:
        yield text
        seen += len(text)
        if seen >= limit:
            return
