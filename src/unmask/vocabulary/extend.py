"""Extend the vocabulary of a model by the words of a domain: choose them, tokenizer, embeddings, figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.config.settings import DocumentSettings
from unmask.data.batching import in_batches
from unmask.data.corpus import document_key
from unmask.data.reading.documents import DocumentReader
from unmask.data.tokenizer import TextEncoder, Vocabulary, load_tokenizer, vocabulary_of
from unmask.errors import ConfigError
from unmask.model.load import read_checkpoint
from unmask.progress import Progress
from unmask.reporting.results import Result, Rows
from unmask.run_folder import ADDED_WORDS
from unmask.storage import new_folder, write_json
from unmask.vocabulary.choose import MIN_COUNT, AddedWord, WordCounts, choose_words
from unmask.vocabulary.embeddings import add_rows
from unmask.vocabulary.tokenizer import check_extendable, write_extended

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ONE_IN = 20
_MOST = 4 << 20


@dataclass(frozen=True)
class Cut:
    """How finely a tokenizer cuts a text.

    Attributes:
        tokens: tokens it makes.
        fertility: tokens per word; words as the old tokenizer sees them.
        tokens_per_byte: tokens per byte of UTF-8.
    """

    tokens: int
    fertility: float
    tokens_per_byte: float


@dataclass(frozen=True, repr=False)
class ExtendedVocabulary(Result):
    """What :func:`extend_vocabulary` did.

    Attributes:
        folder: model and tokenizer.
        words: the new words, the best first.
        first: id of the first; the others follow in order.
        entries: the vocabulary's size now.
        before: how finely the old tokenizer cuts the text.
        after: how finely the new one does.
        held_out: whether that was measured on text from which no word was chosen; else there was too little.
        changed: documents of that text whose cut differs in more than new words.
    """

    folder: Path
    words: list[AddedWord]
    first: int
    entries: int
    before: Cut
    after: Cut
    held_out: bool
    changed: int

    def _title(self) -> str:
        return (
            f"{len(self.words):,} words added in {self.folder}; the vocabulary has {self.entries:,} entries"
        )

    def to_rows(self) -> Rows:
        """Return a row for each new word."""
        rows: Rows = self.to_dict()["words"]
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Return what ``added_words.json`` holds."""
        return {
            "entries": self.entries,
            "added": len(self.words),
            "held_out": self.held_out,
            "before": asdict(self.before),
            "after": asdict(self.after),
            "changed_documents": self.changed,
            "words": [
                {
                    "word": word.word,
                    "id": self.first + place,
                    "entry": word.entry,
                    "count": word.count,
                    "pieces": list(word.pieces),
                    "tokens_saved": word.tokens_saved,
                    "weight": word.weight,
                }
                for place, word in enumerate(self.words)
            ],
        }


def extend_vocabulary(
    model: str,
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    general: str | Path | Sequence[str | Path] = (),
    add: int = 1000,
    min_count: int = MIN_COUNT,
    settings: DocumentSettings = DocumentSettings(),
    offline: bool = False,
    progress: Progress = Progress(),
) -> ExtendedVocabulary:
    """Add words of a domain to the vocabulary of a model.

    The new rows of the model start as the mean of the pieces they replace (IndoBERTweet, Koto et al. 2021).

    Args:
        model: Hub name or folder of a masked language model with its tokenizer.
        data: text of the domain.
        out: the folder to write, absent or empty; it appears whole or not at all.
        general: general text; with it, words are weighted by how much likelier they are in the domain.
        add: how many words, at most.
        min_count: occurrences in the text, at least.
        settings: how text is read.
        offline: make no network call.
        progress: called with documents and words read.

    Raises:
        ConfigError: a setting, or a model or tokenizer that cannot be extended.
        DataError: the text cannot be read, or no word of it is worth an entry.
    """
    out = Path(out)
    _check(add, out)
    tokenizer = load_tokenizer(model, offline=offline)
    check_extendable(tokenizer)
    vocabulary = vocabulary_of(tokenizer)
    settings = settings.model_copy(update={"offline": settings.offline or offline})
    reader = _Reader(tokenizer, vocabulary, settings, progress)
    sample = _Sample()
    counts = reader.count(data, sample)
    background = reader.count(general) if general else None
    words = choose_words(tokenizer, vocabulary, counts, add, general=background, min_count=min_count)
    if len(words) < add:
        progress.log(f"only {len(words):,} words occur {min_count} times or more in pieces; all are added")
    with new_folder(out) as folder:
        extended = write_extended(tokenizer, words, folder)
        loaded = read_checkpoint(model, offline=offline, progress=progress).model
        add_rows(loaded, vocabulary.size, [word.pieces for word in words])
        loaded.save_pretrained(folder)
        figures = _measure(sample, tokenizer, vocabulary, extended, words)
        result = ExtendedVocabulary(out, words, vocabulary.size, len(extended), *figures)
        write_json(folder / ADDED_WORDS, result.to_dict())
    return result


def _check(add: int, out: Path) -> None:
    if add < 1:
        raise ConfigError(f"the number of words to add must be 1 or more, not {add}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: exists already and is not an empty folder; choose another name")


class _Sample:
    """Some text to measure on: documents that no word is chosen from, or of a short text its beginning."""

    def __init__(self) -> None:
        self._apart: list[str] = []
        self._rest: list[str] = []
        self._size = [0, 0]

    def take(self, text: str) -> bool:
        """Keep a text if it is wanted; return whether it is kept apart from those that words are chosen from."""
        apart = document_key(text) % _ONE_IN == 0
        if self._size[apart] < _MOST:
            self._size[apart] += len(text)
            (self._apart if apart else self._rest).append(text)
            return apart
        return False

    @property
    def held_out(self) -> bool:
        return bool(self._apart)

    @property
    def texts(self) -> list[str]:
        return self._apart or self._rest


@dataclass(frozen=True)
class _Reader:
    """Reads text and counts its words."""

    tokenizer: PreTrainedTokenizerBase
    vocabulary: Vocabulary
    settings: DocumentSettings
    progress: Progress

    def count(self, inputs: str | Path | Sequence[str | Path], sample: _Sample | None = None) -> WordCounts:
        """Count the words of some inputs, those of a sample kept apart aside."""
        counts, encode = WordCounts(self.vocabulary), TextEncoder(self.tokenizer)
        reader = DocumentReader(inputs, self.settings, progress=self.progress)
        self.progress.begin("words")
        texts = (document.text for document in reader)
        for batch in in_batches(text for text in texts if sample is None or not sample.take(text)):
            for input_ids in encode(batch):
                counts.add(input_ids)
            self.progress.advance(None, {"documents": reader.stats.documents, "words": counts.words})
        self.progress.end()
        return counts


def _measure(
    sample: _Sample,
    old: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    new: PreTrainedTokenizerBase,
    words: Sequence[AddedWord],
) -> tuple[Cut, Cut, bool, int]:
    """Cut the sample with both tokenizers; see the last attributes of :class:`ExtendedVocabulary`."""
    counts = WordCounts(vocabulary)
    after = changed = size = 0
    encoders = TextEncoder(old), TextEncoder(new)
    pieces = {vocabulary.size + place: list(word.pieces) for place, word in enumerate(words)}
    for batch in in_batches(sample.texts):
        for text, plain, extended in zip(batch, *(encode(batch) for encode in encoders), strict=True):
            counts.add(plain)
            size += len(text.encode("utf-8", "replace"))
            after += len(extended)
            spelt = [piece for number in extended.tolist() for piece in pieces.get(number, (number,))]
            changed += spelt != plain.tolist()
    cuts = [
        Cut(tokens, tokens / max(1, counts.words), tokens / max(1, size)) for tokens in (counts.tokens, after)
    ]
    return cuts[0], cuts[1], sample.held_out, changed
