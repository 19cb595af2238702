"""Samples of a text: documents by their hash, passages by a hash of document and position."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from unmask.data.corpus import document_key
from unmask.data.masking.random_bits import EVALUATION_KEY, random_bits
from unmask.data.packing import Packed
from unmask.data.reading.documents import Document


class Sampled(NamedTuple):
    """A document or a part of one, and the hash of the whole."""

    key: int
    text: str


def sample_documents(documents: Iterable[Document], most_bytes: int | None) -> Iterator[Sampled]:
    """Yield the documents with the lowest hashes, in that order, up to a size; without one, all in their own order.

    The choice does not depend on the order of the files; no more than the chosen documents are in memory.

    Args:
        documents: the documents.
        most_bytes: UTF-8 bytes to yield at most; a single longer document is yielded all the same.
    """
    if most_bytes is None:
        yield from (Sampled(document_key(document.text), document.text) for document in documents)
        return
    held: list[tuple[int, str]] = []  # variants of a text share a key
    size, left_out = 0, None
    for document in documents:
        entry = (-document_key(document.text), document.text)
        if left_out is not None and entry <= left_out:
            continue  # a document with a lower hash was left out, in whatever order they come
        heapq.heappush(held, entry)
        size += _bytes(document.text)
        while len(held) > 1 and size > most_bytes:
            left_out = heapq.heappop(held)
            size -= _bytes(left_out[1])
    yield from (Sampled(-negative, text) for negative, text in sorted(held, reverse=True))


def sample_passages(documents: Iterable[Document], most_bytes: int, passage_bytes: int) -> list[Sampled]:
    """Return short passages, chosen by hash: one of each document, then a second one, and so on up to the limit.

    Passages begin and end at white space, so every tokenizer sees the same text. No more than they are in memory.

    Args:
        documents: the documents.
        most_bytes: UTF-8 bytes of all passages, at most; the first one is returned all the same.
        passage_bytes: bytes of one, at most; a single longer word is a passage all the same.
    """
    held: list[tuple[int, int, str, int, Sampled]] = []
    size, number, left_out = 0, 0, None
    for document in documents:
        key = document_key(document.text)
        for turn, (draw, text) in enumerate(_shuffled_parts(key, document.text, passage_bytes)):
            if left_out is not None and (-turn, -draw, text) <= left_out[:3]:
                break
            heapq.heappush(held, (-turn, -draw, text, -number, Sampled(key, text)))
            size, number = size + _bytes(text), number + 1
            while len(held) > 1 and size > most_bytes:
                left_out = heapq.heappop(held)
                size -= _bytes(left_out[4].text)
    return [found for *_, found in sorted(held, key=lambda item: item[:3], reverse=True)]


def _shuffled_parts(key: int, text: str, most_bytes: int) -> list[tuple[int, str]]:
    """Return the parts of a document in an order drawn by its hash, each with its draw."""
    parts = list(_parts(text, most_bytes))
    packed = Packed(
        np.zeros(len(parts), np.int64),
        np.array([0, len(parts)]),
        np.array([key], np.uint64),
        np.zeros(1, np.int64),
    )
    order = [int(draw) for draw in random_bits(packed, EVALUATION_KEY.stream("passage"))]
    return sorted(zip(order, parts, strict=True))


def _parts(text: str, most_bytes: int) -> Iterator[str]:
    held: list[str] = []
    size = 0
    for word in text.split():
        length = _bytes(word) + 1
        if held and size + length > most_bytes + 1:
            yield " ".join(held)
            held, size = [], 0
        held.append(word)
        size += length
    if held:
        yield " ".join(held)


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
