"""``masks`` and ``terms``: what is masked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.api.data import tokenizer_of
from unmask.api.options import MASKING, READING, sections
from unmask.api.progress import ProgressLike
from unmask.api.texts import Text, text_files
from unmask.config.settings import DocumentSettings
from unmask.errors import ConfigError, plural
from unmask.progress import Progress
from unmask.reporting.results import Result, Rows, Table
from unmask.storage import JsonDict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from unmask.api.model import ModelLike
    from unmask.data.corpus import Corpus

    TokenizerLike = str | Path | PreTrainedTokenizerBase


def masks(
    text: Text,
    tokenizer: TokenizerLike | ModelLike | None = None,
    *,
    seed: int = 0,
    epoch: int = 0,
    tokens: int = 1_000_000,
    max_length: int | None = None,
    offline: bool = False,
    progress: ProgressLike = None,
    **options: Any,
) -> MaskSurvey:
    """Mask a text as training does, and count: the rate, the replacements, whole words, spans.

    Args:
        text: paths, a folder of :func:`unmask.prepare`, or texts in memory.
        tokenizer: Hub name, folder or object, or a model; not needed with prepared shards.
        seed, epoch: of the masks.
        tokens: tokens to look at, at most.
        max_length: tokens of a sequence.
        offline, progress: as for :func:`unmask.load`.
        options: ``mask_rate``, ``strategy``, ``documents``, ``text_field``, ``strict``, and a whole ``config``.

    Raises:
        ConfigError, DataError: as for :func:`unmask.prepare`.
    """
    import numpy as np

    from unmask.data.batches import TextSource
    from unmask.data.tokenizer import vocabulary_of
    from unmask.evaluation.mask_survey import sample, survey

    config = sections(options, (*MASKING, *READING), offline)
    with _corpus(text, tokenizer, config.data, offline, progress) as (corpus, loaded, _):
        source = TextSource(
            corpus, np.arange(len(corpus)), vocabulary_of(loaded), config.masking, max_length or 512
        )
        return MaskSurvey(survey(source, tokens, seed, epoch) | {"sample": sample(source, seed, epoch)})


class MaskSurvey(Result):
    """What masking does to a text: statistics, and a masked passage."""

    def __init__(self, content: JsonDict) -> None:
        self._content = content

    def _title(self) -> str:
        return f"masks of strategy '{self._content['strategy']}'"

    def to_rows(self) -> Rows:
        rows: list[dict[str, object]] = []
        for name, value in self._content.items():
            if isinstance(value, Mapping):
                rows += [{"measure": f"{name}: {part}", "value": inner} for part, inner in value.items()]
            elif not isinstance(value, list):
                rows.append({"measure": name, "value": value})
        return rows

    def _repr_html_(self) -> str:
        """Return the passage with what masking does to it, and the statistics below."""
        tokens = " ".join(_token_html(row) for row in self._content["sample"])
        kinds = " ".join(f'<span style="{style}">{kind}</span>' for kind, style in _STYLES.items())
        return f'<p style="line-height:2">{tokens}</p><p>{kinds}</p>{super()._repr_html_()}'

    def to_dict(self) -> JsonDict:
        """Return what ``unmask masks --json`` prints; see :mod:`unmask.evaluation.mask_survey`."""
        return self._content


def _token_html(row: Mapping[str, Any]) -> str:
    """Return what the model sees of a token, and the original above it where it is another one."""
    shown = escape(row["shown"])
    if row["target"] is None:
        return f'<span style="opacity:.6">{shown}</span>' if row["special"] else shown
    over = "" if row["target"] == "keep" else f"<rt>{escape(row['token'])}</rt>"
    return f'<ruby style="{_STYLES[row["target"]]}">{shown}{over}</ruby>'


# They differ by their border as well as by their colour.
_STYLES = {
    "mask": "border:2px solid #1f5fae;padding:0 .2em",
    "random": "border:2px dashed #a8620a;padding:0 .2em",
    "keep": "border-bottom:3px double #17663a;padding:0 .2em",
}


def terms(
    text: Text,
    general: Text,
    tokenizer: TokenizerLike | ModelLike | None = None,
    *,
    out: str | Path | None = None,
    offline: bool = False,
    progress: ProgressLike = None,
    **options: Any,
) -> Table:
    """Find the words that set a text apart, the best first, for ``strategy="terms"``.

    They are at least twice as frequent as in general text, rare there, and occur in several documents.

    Args:
        text, general: paths, a folder of :func:`unmask.prepare`, or texts in memory.
        tokenizer: Hub name, folder or object, or a model; not needed with prepared shards.
        out: a file to write them to, for ``settings={"masking.terms": out}``.
        offline, progress: as for :func:`unmask.load`.
        options: ``documents``, ``text_field``, ``strict``.

    Raises:
        ConfigError, DataError: as for :func:`unmask.prepare`.
    """
    from unmask.data.masking.terms import count_words, find_salient_terms, save_terms

    settings, counts = sections(options, READING, offline).data, []
    for part in (text, general):
        with _corpus(part, tokenizer, settings, offline, progress) as (corpus, loaded, _):
            counts.append(count_words(corpus, _words(loaded)))
    (words, documents), (elsewhere, _) = counts
    found = find_salient_terms(words, elsewhere, documents)
    if out is not None:
        save_terms(Path(out), found)
    return Table(plural(len(found), "term"), [asdict(term) for term in found])


@contextmanager
def _corpus(
    text: Text,
    tokenizer: TokenizerLike | ModelLike | None,
    settings: DocumentSettings,
    offline: bool,
    progress: ProgressLike,
) -> Iterator[tuple[Corpus, PreTrainedTokenizerBase, Progress]]:
    """Yield text as tokens, prepared shards as they are, with the tokenizer."""
    from unmask.evaluation.text_cache import EvaluationText

    with (
        text_files(progress, offline, settings.text_field) as files,
        EvaluationText(files.inputs(text), settings, files.progress) as inputs,
    ):
        shards = inputs.shards
        loaded = tokenizer_of(tokenizer if shards is None else shards / "tokenizer", offline, files.progress)
        yield inputs.corpus(loaded), loaded, files.progress


def _words(tokenizer: PreTrainedTokenizerBase) -> Any:
    from unmask.data.tokenizer import vocabulary_of

    words = vocabulary_of(tokenizer).words
    if words is None:
        raise ConfigError("the tokenizer does not mark where words begin; take another with --tokenizer")
    return words
