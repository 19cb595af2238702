"""Unknown tokens: text that a tokenizer has no entries for, counted, warned of, and refused where it is much of a text.

A text of which most tokens are unknown is not evaluated or scored at all: the metric would be of the unknown token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from unmask.errors import DataError, on_one_line
from unmask.progress import Progress

MANY, MOST = 0.01, 0.2
"""Shares of the tokens above which unknown ones are a warning, and above which a training text is refused."""
UNMEASURABLE = 0.5
"""Share above which a text is neither evaluated nor scored, whatever is allowed."""

_EXAMPLES, _SHOWN_CHARACTERS = 5, 30


@dataclass
class UnknownTokens:
    """The unknown tokens of a text.

    Attributes:
        id: of the unknown token, ``None`` for a tokenizer without one.
        tokens: tokens of the text.
        unknown: how many of them are unknown.
        examples: some of the text that they stand for.
    """

    id: int | None
    tokens: int = 0
    unknown: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Share of the tokens."""
        return self.unknown / max(1, self.tokens)

    def add(self, ids: np.ndarray, parts: Callable[[], Iterable[str]]) -> int:
        """Count ``int64 [n]`` ids and return how many are unknown; ``parts`` returns the text of those."""
        return self.add_all([ids], [""], lambda _: parts())

    def add_all(
        self, arrays: Sequence[np.ndarray], texts: Sequence[str], parts: Callable[[str], Iterable[str]]
    ) -> int:
        """As :meth:`add` of the ids of each of some texts; ``parts`` gets the text."""
        ids = np.concatenate([np.zeros(0, dtype=np.int64), *arrays])
        found = np.flatnonzero(ids == self.id) if self.id is not None else ids[:0]
        self.tokens += len(ids)
        self.unknown += len(found)
        if len(found) and len(self.examples) < _EXAMPLES:
            owners = np.searchsorted(np.cumsum([len(array) for array in arrays]), found, side="right")
            for place in dict.fromkeys(owners.tolist()):
                self._show(parts(texts[place]))
                if len(self.examples) >= _EXAMPLES:
                    break
        return len(found)

    def merge(self, later: UnknownTokens) -> None:
        """Count the tokens of text that comes after this; the result is that of counting both at once."""
        self.tokens += later.tokens
        self.unknown += later.unknown
        self._show(later.examples)

    def _show(self, parts: Iterable[str]) -> None:
        self.examples = list(dict.fromkeys([*self.examples, *parts]))[:_EXAMPLES]

    def message(self, where: str = "") -> str | None:
        """Return a sentence about them, or ``None`` where they are few; ``where`` is such as `` of FILE``."""
        if self.share <= MANY:
            return None
        shown = ", ".join(f"'{on_one_line(_shown(example))}'" for example in self.examples)
        return (
            f"{self.share:.1%} of the tokens{where} are unknown to the tokenizer ({self.unknown:,} of "
            f"{self.tokens:,}{', such as ' if shown else ''}{shown}): its vocabulary has no entries for them"
        )


def _shown(example: str) -> str:
    return example if len(example) <= _SHOWN_CHARACTERS else example[: _SHOWN_CHARACTERS - 1] + "…"


def why_unmeasurable(found: UnknownTokens) -> str | None:
    """Return why there can be no metric of a text; ``None`` where there can."""
    if found.share <= UNMEASURABLE:
        return None
    return (
        f"{found.share:.1%} of the tokens are unknown to the tokenizer, so a metric would be of the unknown token, not of the text; use a model whose tokenizer covers "
        f"this text ('unmask check' counts unknown tokens)"
    )


def require_measurable(found: UnknownTokens) -> None:
    """Raise :class:`DataError` where there can be no metric of a text."""
    if why := why_unmeasurable(found):
        raise DataError(why)


def require_known(found: UnknownTokens, name: str, allowed: bool, progress: Progress) -> None:
    """Warn of many unknown tokens; ``name`` is what messages call the text.

    Raises:
        DataError: they are more than a fifth of the text, and that is not ``allowed``.
    """
    message = found.message(f" of {on_one_line(name)}")
    if message is None:
        return
    if found.share > MOST and not allowed:
        raise DataError(
            f"{message}, and the model sees the same unknown token for all of them. Use a tokenizer that covers this "
            f"text: that of another model ('unmask check' counts unknown tokens), or one trained on text of this kind "
            f"(--preset trains it on the training text); or use the text all the same with --allow-unknown"
        )
    progress.warning(message)
