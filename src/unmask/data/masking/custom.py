"""A masking strategy of one's own: a Python function that groups the tokens of a sequence into units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from unmask.data.masking.units import MaskUnits, word_starts
from unmask.data.packing import Packed
from unmask.data.tokenizer import Vocabulary, token_names
from unmask.errors import ConfigError, plural

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Grouping = Sequence[int] | tuple[Sequence[int], Sequence[float]]
Strategy = Callable[[list[str], list[int]], Grouping]
"""From the ``n`` tokens of a sequence, as the vocabulary spells them, and the number of the word that each is in, to the
number of the unit that each is in: neighbours of one number are masked together or not at all. A second list may have
weights of the tokens: a unit is selected in proportion to that of its first token, and the mask rate stays what it is. The
result must depend on nothing but the tokens, so that masks are the same after a resume."""


class CustomUnits:
    """Calls a strategy for every sequence; special tokens are units of their own.

    Args:
        strategy: see :data:`Strategy`.
        vocabulary: of the tokenizer.
        tokenizer: spells the tokens.
    """

    def __init__(
        self, strategy: Strategy, vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        if isinstance(strategy, type):
            raise ConfigError(
                f"the masking strategy {strategy.__name__} is a class; pass an object of it, {strategy.__name__}()"
            )
        self.strategy, self.vocabulary = strategy, vocabulary
        self._repeats = False  # whether the strategy was found to do so
        self._names = token_names(tokenizer, vocabulary, range(vocabulary.size))

    @property
    def name(self) -> str:
        """Module and name of the function."""
        return f"{self.strategy.__module__}.{getattr(self.strategy, '__qualname__', type(self.strategy).__name__)}"

    def __call__(self, packed: Packed) -> MaskUnits:
        """Group the tokens of packed sequences.

        Raises:
            ConfigError: the strategy returns something else than a unit for each token, or not the same twice.
        """
        if self.vocabulary.words is None:
            starts = np.ones(len(packed.input_ids), dtype=bool)
        else:
            starts = word_starts(packed, self.vocabulary)
        special = self.vocabulary.special[packed.input_ids]
        begins = special | np.roll(special, 1)
        weights = np.ones(len(begins))
        for begin, end in zip(packed.cu_seqlens[:-1], packed.cu_seqlens[1:], strict=True):
            if begin == end:
                continue
            here = slice(begin, end)
            units, weights[here] = self._grouped(packed.input_ids[here], np.cumsum(starts[here]) - 1)
            begins[begin] = True
            begins[begin + 1 : end] |= np.diff(units) != 0
        first = np.flatnonzero(begins)
        return MaskUnits(first, None if (weights == 1.0).all() else weights[first])

    def _grouped(self, ids: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = self._returned(ids, words)
        if not self._repeats and len(ids) > 1:
            again = self._returned(ids, words)
            if not all(np.array_equal(*both) for both in zip(found, again, strict=True)):
                raise ConfigError(
                    f"the masking strategy {self.name} returns something else when it is called again with the same tokens; "
                    f"masks must be the same after a resume, so it must depend on nothing else"
                )
            self._repeats = True
        return found

    def _returned(self, ids: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        tokens = [self._names[number] for number in ids.tolist()]
        found = self.strategy(tokens, words.tolist())
        units, weights = found if isinstance(found, tuple) and len(found) == 2 else (found, np.ones(len(ids)))
        try:
            arrays = np.asarray(units), np.asarray(weights, dtype=np.float64)
            fits = all(array.shape == (len(ids),) for array in arrays) and arrays[0].dtype.kind in "biuf"
        except (TypeError, ValueError):  # lists of different lengths, or of no numbers
            fits = False
        if not fits or not (np.isfinite(arrays[1]) & (arrays[1] >= 0)).all():
            raise ConfigError(
                f"the masking strategy {self.name} must return the number of a unit for each of {plural(len(ids), 'token')}, "
                f"and a finite weight of 0 or more where it gives weights; it returned {found!r}"[:300]
            )
        return arrays
