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
        self.strategy, self.vocabulary = strategy, vocabulary
        self._names = token_names(tokenizer, vocabulary, range(vocabulary.size))

    @property
    def name(self) -> str:
        """Module and name of the function."""
        return f"{self.strategy.__module__}.{getattr(self.strategy, '__qualname__', type(self.strategy).__name__)}"

    def __call__(self, packed: Packed) -> MaskUnits:
        """Group the tokens of packed sequences.

        Raises:
            ConfigError: the strategy returns another number of values than there are tokens.
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
        found = self.strategy([self._names[number] for number in ids.tolist()], words.tolist())
        units, weights = found if isinstance(found, tuple) else (found, np.ones(len(ids)))
        arrays = np.asarray(units), np.asarray(weights, dtype=np.float64)
        if any(array.shape != (len(ids),) for array in arrays) or not (arrays[1] >= 0).all():
            raise ConfigError(
                f"the masking strategy {self.name} must return a unit for each of {plural(len(ids), 'token')}, and a weight of 0 "
                f"or more where it gives weights; it returned {arrays[0].shape} and {arrays[1].shape}"
            )
        return arrays
