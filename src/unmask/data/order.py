"""The order of sequences in an epoch: a pure function of seed and epoch, looked up where it is needed.

No array of all sequences is made of many: place ``p`` holds the sequence ``permutation(p)``, and only the sizes of the
sequences of one step are looked up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sized
from typing import Protocol

import numpy as np

from unmask.data.masking.random_bits import MIX_1, MIX_2, MaskKey, shuffled

ORDER = 2
"""The version of the order: up to 65,536 sequences sorted by a hash, as any number in version 1, and more by
:class:`Bijection`. A cursor names its version, so that a run goes on in the order in which it began."""
_SORTED = 1 << 16
_ROUNDS = 6
_AT_ONCE = 1 << 16
_HALF = np.uint64(32)


class Permutation(Protocol):
    """A permutation of the numbers below a count."""

    def at(self, places: np.ndarray) -> np.ndarray:
        """Return the numbers at ``int64 [N]`` places."""


def permutation(count: int, key: MaskKey, version: int = ORDER) -> Permutation:
    """Return the permutation that a key determines."""
    return _Sorted(count, key) if version == 1 or count <= _SORTED else Bijection(count, key)


class _Sorted:
    """The order of hashes, which is held in memory."""

    def __init__(self, count: int, key: MaskKey) -> None:
        self._numbers = shuffled(count, key)

    def at(self, places: np.ndarray) -> np.ndarray:
        return self._numbers[places]


class Bijection:
    """A permutation in constant memory: a Feistel network with cycle walking.

    A number is a pair (left, right) of digits, ``left < height`` and ``right < width``, ``height * width`` being hardly
    more than ``count``. Each round adds a hash of one digit to the other, modulo its base, which can be undone; so all
    rounds map the pairs one to one. A pair beyond ``count`` is mapped again, until it is below.

    Args:
        count: how many numbers are permuted.
        key: seed and epoch.
    """

    def __init__(self, count: int, key: MaskKey) -> None:
        self.count = count
        self._width = max(1, math.isqrt(max(count - 1, 0)) + 1)
        self._height = max(1, -(-count // self._width))
        self._keys = [key.stream(f"order {number}") for number in range(_ROUNDS)]

    def at(self, places: np.ndarray) -> np.ndarray:
        """Return the numbers at ``int64 [N]`` places."""
        numbers = self._permute(places)
        while len(beyond := np.flatnonzero(numbers >= self.count)):
            numbers[beyond] = self._permute(numbers[beyond])
        return numbers

    def _permute(self, numbers: np.ndarray) -> np.ndarray:
        height, width = np.uint64(self._height), np.uint64(self._width)
        with np.errstate(over="ignore"):
            left = numbers.astype(np.uint64) // width
            right = numbers.astype(np.uint64) - left * width
            for number, key in enumerate(self._keys):
                if number % 2:
                    right = _added(right, left, width, key)
                else:
                    left = _added(left, right, height, key)
            return (left * width + right).astype(np.int64)


def _added(digit: np.ndarray, other: np.ndarray, base: np.uint64, key: np.uint64) -> np.ndarray:
    """Add a hash of another digit, which is below 2³² as the base is, to a digit, modulo its base."""
    draw = other + key
    draw *= MIX_1
    draw ^= draw >> _HALF
    draw *= MIX_2
    draw >>= _HALF
    draw *= base
    draw >>= _HALF
    draw += digit
    draw -= base * (draw >= base)
    return draw


class Text(Protocol):
    """What is ordered."""

    @property
    def sequences(self) -> Sized:
        """Its sequences, numbered from 0."""

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""

    def sizes(self, numbers: np.ndarray) -> np.ndarray:
        """Return ``int64 [N]``: tokens of sequences."""


class Order:
    """The order of a text's sequences, a new one every epoch.

    Args:
        source: the text.
        seed: seed of the order.
    """

    def __init__(self, source: Text, seed: int) -> None:
        self.source, self.seed = source, seed
        self._loaded: tuple[tuple[int, int], Callable[[np.ndarray], np.ndarray]] | None = None

    def take(
        self, version: int, at: tuple[int, int], budget: int, *, at_least_one: bool = True
    ) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
        """Return the next sequences that fit a budget of tokens.

        Args:
            version: of the order.
            at: the epoch, and how many sequences of it are used.
            budget: most tokens.
            at_least_one: take a sequence even where it is longer.

        Returns:
            ``int64 [N]`` sequences, their tokens, and the position after them.
        """
        epoch, used = at
        count = len(self.source.sequences)
        step = 8 + int(1.2 * max(0, budget) * count / self.source.tokens)
        numbers, sizes = self._look_up(version, epoch, used, min(used + step, count))
        while (total := int(sizes.sum())) <= budget and used + len(numbers) < count:
            more = self._look_up(version, epoch, used + len(numbers), min(used + len(numbers) + step, count))
            numbers, sizes = (np.concatenate(pair) for pair in zip((numbers, sizes), more, strict=True))
        end = len(sizes) if total <= budget else int(np.searchsorted(np.cumsum(sizes), budget, side="right"))
        end = max(end, int(at_least_one))
        following = (epoch, used + end) if used + end < count else (epoch + 1, 0)
        return numbers[:end], sizes[:end], following

    def tokens_before(self, version: int, at: tuple[int, int]) -> int:
        """Return the number of tokens before a position: a pass over the epoch."""
        epoch, used = at
        parts = range(0, used, _AT_ONCE)
        sizes = (self._look_up(version, epoch, part, min(part + _AT_ONCE, used))[1] for part in parts)
        return (epoch * self.source.tokens if epoch else 0) + sum(int(part.sum()) for part in sizes)

    def _look_up(self, version: int, epoch: int, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the sequences at consecutive places, and their tokens."""
        if self._loaded is None or self._loaded[0] != (version, epoch):
            found = permutation(len(self.source.sequences), MaskKey(self.seed, epoch), version)
            self._loaded = (version, epoch), found.at
        numbers = self._loaded[1](np.arange(begin, end))
        return numbers, self.source.sizes(numbers)
