"""Labelled examples and tasks made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["classification", "multilabel", "regression", "entities", "tags"]
OfTexts = Literal["classification", "multilabel", "regression"]
"""What is predicted of a text: one class, any number of them, or a number."""


@dataclass(frozen=True)
class Examples:
    """One part of a task, E examples.

    Attributes:
        source: the file or folder.
        texts: E texts; of a tagged sentence its tokens, joined by spaces.
        words: E lists of tokens, or ``None`` where texts are labelled.
        labels: E lists of labels: one per token, a single one, or those of a text with several.
        lines: E line numbers of the beginning of each example, from 1.
        seconds: E second texts of pairs.
    """

    source: str
    texts: list[str]
    words: list[list[str]] | None
    labels: list[list[str]]
    lines: list[int | None]
    seconds: list[str] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int]) -> Examples:
        """Return the examples of these numbers."""
        words = None if self.words is None else [self.words[row] for row in rows]
        return Examples(
            self.source,
            [self.texts[row] for row in rows],
            words,
            [self.labels[row] for row in rows],
            [self.lines[row] for row in rows],
            self.seconds and [self.seconds[row] for row in rows],
        )

    @property
    def keys(self) -> list[str]:
        """The texts without differences in white space; of a pair both texts."""
        texts = [" ".join(text.split()) for text in self.texts]
        if self.seconds is None:
            return texts
        return [f"{text}\n{' '.join(other.split())}" for text, other in zip(texts, self.seconds, strict=True)]


@dataclass(frozen=True)
class Task:
    """A labelled task: examples to train on and to test on.

    Attributes:
        name: the folder or file given.
        kind: ``classification``, ``multilabel``, ``regression``, ``entities`` (tags that mark spans) or ``tags`` (any other
            label per token).
        train, dev, test: the parts; ``dev`` may be absent.
        shared: number of test texts that occur in train too.
        notes: remarks for the reader.
        metric: the metric by which the task is known, or nothing.
        published: whether train and test are those of a published task.
    """

    name: str
    kind: Kind
    train: Examples
    dev: Examples | None
    test: Examples
    shared: int = 0
    notes: tuple[str, ...] = ()
    metric: str | None = None
    published: bool = False


def sample(examples: Examples, limit: int | None) -> Examples:
    """Return at most ``limit`` examples, a random choice that depends only on how many there are."""
    if limit is None or limit >= len(examples):
        return examples
    rows = np.random.default_rng(0).permutation(len(examples))[:limit]
    return examples.take(sorted(rows.tolist()))


def label_set(examples: Examples) -> list[str]:
    """Return the different labels in order."""
    return sorted({label for labels in examples.labels for label in labels})
