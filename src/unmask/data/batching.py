"""Streams of texts: batches of about so many characters, and the first so many characters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

BATCH_CHARACTERS = 1 << 20
"""Characters of a batch of texts that is tokenised at once."""


def in_batches(texts: Iterable[str], characters: int = BATCH_CHARACTERS) -> Iterator[list[str]]:
    """Yield the texts in lists, each of at least ``characters`` but for the last."""
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
