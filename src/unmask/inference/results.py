"""What filling masks gives back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from unmask.errors import plural
from unmask.reporting.results import Result, Rows, short

Ranking = Literal["joint", "independent"]
"""How fillings of several masks are ranked: by the chain rule, or by the product of the predictions at each mask alone."""


@dataclass(frozen=True, slots=True)
class TokenCandidate:
    """One token for one mask.

    Attributes:
        token: the vocabulary's own spelling, for example ``##ing`` or ``Ġthe``.
        text: the token as text, without the mark of a beginning or continued word.
        token_id: its id.
        probability: softmax over the whole vocabulary, 0 to 1.
    """

    token: str
    text: str
    token_id: int
    probability: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something for every gap of a text.

    Attributes:
        text: what goes into the gaps, in order, with a space between gaps.
        tokens: the vocabulary's own spellings, one for each mask; a word may have several.
        token_ids: their ids.
        probability: the product of ``probabilities``, 0 to 1. For ``joint`` it is the probability of these tokens
            together, by the chain rule of :mod:`unmask.inference.beam`, among all fillings of so many masks.
        probabilities: of each token: for ``joint`` at its turn in the chain, for ``independent`` with all masked.
        sequence: the whole text with the gaps filled; around them it is the original text, except that the
            space before a token that continues a word goes, and that a word gets one where it would stick to
            the word before or behind it although its tokens begin or end one.
        score: what candidates are ranked by: the natural logarithm of ``probability``, except that a word in a
            blank of several lengths counts with the mean over its subwords, so that long and short words are comparable.
        ranking: ``joint`` or ``independent``.
    """

    text: str
    tokens: list[str]
    token_ids: list[int]
    probability: float
    probabilities: list[float]
    sequence: str
    score: float
    ranking: Ranking = "joint"


@dataclass(frozen=True, slots=True, repr=False)
class FillResult(Result):
    """What the model puts into the gaps of one text.

    Attributes:
        text: the text as it was given.
        masks: positions of the gaps among the text's tokens, control tokens such as ``[CLS]`` counted and each gap
            taken for one token.
        candidates: the best fillings, best first; with targets, these in the order in which they were given.
        per_mask: the best tokens of each mask while all are masked, best first; empty with blanks or targets.
        error: why the text could not be filled (no mask, masks too far apart), or ``None``.
        ranking: how fillings are ranked.
        exact: whether no filling can be missing from ``candidates``. If not, the list is
            approximate: beam search may have missed candidates.
        window: the tokens of the text that the model saw, first and behind the last, or ``None`` for all of them.
        target_errors: why a target could not be scored, by target.
        unknown: unknown tokens among those that the model saw, for text outside the vocabulary; the more there are,
            the less the model knows of the text.
    """

    text: str
    masks: list[int] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    per_mask: list[list[TokenCandidate]] = field(default_factory=list)
    error: str | None = None
    ranking: Ranking = "joint"
    exact: bool = True
    window: tuple[int, int] | None = None
    target_errors: dict[str, str] = field(default_factory=dict)
    unknown: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings, ready for JSON."""
        return asdict(self)

    def _title(self) -> str:
        unknown = f" ({plural(self.unknown, 'unknown token')} around its masks)" if self.unknown else ""
        return f"fill of '{short(self.text)}'{unknown}" + (f": {self.error}" if self.error else "")

    def to_rows(self) -> Rows:
        """Return a row for each candidate, or one with the error."""
        if self.error:
            return [{"text": self.text, "error": self.error}]
        return [
            {
                "text": self.text,
                "rank": rank,
                "fill": candidate.text,
                "probability": candidate.probability,
                "sequence": candidate.sequence,
            }
            for rank, candidate in enumerate(self.candidates, 1)
        ]

    def _shown_rows(self) -> Rows:
        names = ("fill", "probability", "sequence")
        return [{name: row[name] for name in names} for row in self.to_rows() if not self.error]
