"""Settings of the data: what is read, how it is cut, what is masked."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from unmask.config.base import Settings


class DocumentSettings(Settings):
    """How files become documents."""

    documents: Literal["auto", "file", "block", "line"] = "auto"
    """A document of plain text is a whole ``file``, a ``block`` between empty lines, or a ``line``; ``auto`` takes
    blocks where a file has empty lines and lines where it has none."""
    text_field: str = "text"
    """The field, or column, of the text in JSONL, CSV, TSV, Parquet and Hub data sets."""
    split: str = "train"
    """The split of Hub data sets."""
    strict: bool = False
    """Refuse text with any fault, instead of leaving out what is at fault, aloud and counted."""


class DataSettings(DocumentSettings):
    """What is trained on and what is held out."""

    inputs: list[str] = []
    """Files, folders, globs, ``-`` for standard input, ``hf://org/name``, or a folder made by ``unmask prepare``."""
    heldout: list[str] = []
    """Text to evaluate on; by default a share of the inputs is set aside."""
    heldout_share: float = Field(0.05, gt=0, lt=1)
    """Share of documents set aside, by a hash of the text: the same documents every time."""
    replay: list[str] = []
    """General text that is mixed into every step so that the model forgets less; a share of it is held out to measure
    that."""
    replay_share: float = Field(0.05, gt=0, lt=1)
    """Share of the tokens that come from the general text."""
    general_heldout: list[str] = []
    """General text to measure forgetting on; by default the held-out share of ``replay``."""
    max_length: int | None = Field(None, ge=8)
    """Tokens of a sequence with its special tokens; longer documents go on in further sequences. By default 512,
    or what the model takes if that is less."""
    overlap: int = Field(0, ge=0)
    """Tokens that a continued sequence repeats from the one before."""


class MaskingSettings(Settings):
    """What is masked, and what stands in its place (BERT's 15% and 80/10/10 by default)."""

    strategy: Literal["token", "word", "span", "ngram", "terms"] = "token"
    """What is drawn as one: a ``token``, a whole ``word``, a ``span`` of words (SpanBERT), an ``ngram``: the words of
    a collocation (PMI-Masking), or a word with domain ``terms`` more often."""
    rate: float = Field(0.15, gt=0, le=1)
    """Share of the text's tokens that are predicted, whatever the strategy."""
    rate_start: float | None = Field(None, gt=0, le=1)
    """Where the rate begins when it changes over the run and ends at ``rate``; by default twice the rate from
    scratch, and the rate itself to adapt. Evaluation always masks ``rate``."""
    rate_schedule: Literal["linear", "cosine"] = "linear"
    """How the rate goes from ``rate_start`` to ``rate``."""
    count: Literal["bernoulli", "fixed"] = "bernoulli"
    """``bernoulli`` draws by itself for every token, word or span, so that the number of targets of a sequence
    varies; ``fixed`` takes the same share of every sequence, and at least one target of two tokens or more."""
    mask_share: float = Field(0.8, ge=0, le=1)
    """Share of the targets that become the mask token."""
    random_share: float = Field(0.1, ge=0, le=1)
    """Share of the targets that become a random token; the rest keep their own."""
    span_p: float = Field(0.2, gt=0, lt=1)
    """The geometric distribution of the words in a span: the chance that it ends after each."""
    span_words: int = Field(10, ge=1)
    """Words that a span has at most."""
    collocations: str | None = None
    """The file of collocations that ``ngram`` needs."""
    terms: str | None = None
    """For ``terms``: a file with a term of one or more words on each line, and after a tab its weight, if any."""
    terms_pattern: str | None = None
    """For ``terms``: a regular expression; a word in which it is found is a term."""
    term_weight: float = Field(5.0, gt=0)
    """How many times likelier than another word a term is masked, where the file gives it no weight."""

    @model_validator(mode="after")
    def _shares_fit(self) -> MaskingSettings:
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise ValueError(
                f"mask_share + random_share must be at most 1, "
                f"not {self.mask_share} + {self.random_share} = {self.mask_share + self.random_share:g}"
            )
        return self

    @model_validator(mode="after")
    def _pattern_compiles(self) -> MaskingSettings:
        try:
            re.compile(self.terms_pattern or "")
        except re.error as fault:
            raise ValueError(
                f"terms_pattern must be a regular expression, not '{self.terms_pattern}': {fault}"
            ) from None
        return self
