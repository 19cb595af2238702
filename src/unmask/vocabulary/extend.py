"""Extend the vocabulary of a model by words of a domain, and measure the fertility before and after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.config.settings import DocumentSettings
from unmask.data.batching import in_batches
from unmask.data.corpus import require_readable
from unmask.data.reading.documents import DocumentReader
from unmask.data.reading.inputs import as_list
from unmask.data.tokenizer import TextEncoder, Vocabulary, load_tokenizer, vocabulary_of
from unmask.errors import ConfigError, DataError, plural
from unmask.model.load import read_checkpoint
from unmask.model.save import sample_logits, save_checked
from unmask.model.sentence_modules import copy_sentence_modules, find_sentence_modules
from unmask.progress import Progress
from unmask.reporting.results import Result, Rows
from unmask.run_folder import ADDED_WORDS
from unmask.storage import new_folder, require_new, write_json
from unmask.vocabulary.choose import MIN_COUNT, AddedWord, WordCounts, choose_words
from unmask.vocabulary.embeddings import add_rows
from unmask.vocabulary.listed import LeftOutWord, listed_words
from unmask.vocabulary.sample import HeldOutSample
from unmask.vocabulary.tokenizer import check_extendable, write_extended

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHOWN = 5
"""Reasons that a message gives."""


@dataclass(frozen=True)
class Fertility:
    """Token counts of a tokenizer on a text.

    Attributes:
        tokens: number of tokens.
        fertility: tokens per word of the old tokenizer.
        tokens_per_byte: tokens per byte of UTF-8.
    """

    tokens: int
    fertility: float
    tokens_per_byte: float


@dataclass(frozen=True, repr=False)
class ExtendedVocabulary(Result):
    """The result of :func:`extend_vocabulary`.

    Attributes:
        folder: folder of the model and tokenizer.
        words: the new words: listed ones in their order, then chosen ones, the best first.
        left_out: listed words that were not added, with the reason.
        first: id of the first word; the others follow in order.
        entries: size of the new vocabulary.
        before: fertility of the old tokenizer; ``None`` without text.
        after: fertility of the new tokenizer; ``None`` without text.
        held_out: whether it was measured on text from which no word was chosen; a short text has too little.
        changed: documents of that text whose tokens differ in more than new words.
        has_head: whether the model has an LM head; one without is trained before its predictions are compared.
    """

    folder: Path
    words: list[AddedWord]
    left_out: list[LeftOutWord]
    first: int
    entries: int
    before: Fertility | None
    after: Fertility | None
    held_out: bool
    changed: int
    has_head: bool

    def _title(self) -> str:
        return f"{plural(len(self.words), 'word')} added in {self.folder}; the vocabulary has {self.entries:,} entries"

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
            "before": self.before and asdict(self.before),
            "after": self.after and asdict(self.after),
            "changed_documents": self.changed,
            "left_out": [asdict(word) for word in self.left_out],
            "words": [
                {
                    "word": word.word,
                    "given": word.given,
                    "id": self.first + place,
                    "entry": word.entry,
                    "count": word.count,
                    "pieces": list(word.subwords),
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
    words: str | Path | Sequence[str | Path] = (),
    general: str | Path | Sequence[str | Path] = (),
    add: int = 1000,
    min_count: int = MIN_COUNT,
    settings: DocumentSettings = DocumentSettings(),
    offline: bool = False,
    progress: Progress = Progress(),
) -> ExtendedVocabulary:
    """Add words of a domain to the vocabulary of a model.

    New embeddings are initialised to the mean of the subwords they replace (IndoBERTweet, Koto et al. 2021).

    Args:
        model: Hub name or folder of a masked language model with its tokenizer.
        data: domain text, to choose words from; may be empty if ``words`` is not.
        out: the folder to write, which must not exist or be empty; it appears complete or not at all.
        words: text with a word on each line (or in each record) that is added in any case.
        general: general text, to weight words of ``data`` by their odds ratio.
        add: most words to choose, besides ``words``.
        min_count: fewest occurrences in the text.
        settings: how text is read.
        offline: make no network calls.
        progress: gets documents and words read.

    Raises:
        ConfigError: a setting is invalid, or the model or tokenizer cannot be extended.
        DataError: the text cannot be read, or no word can be added.
        UnmaskError: the model loaded again gives other logits for the old vocabulary; nothing is written then.
    """
    out = Path(out)
    _check(add, out, text=bool(as_list(data)), listed=bool(as_list(words)), general=bool(as_list(general)))
    tokenizer = load_tokenizer(model, offline=offline, progress=progress)
    check_extendable(tokenizer)
    vocabulary = vocabulary_of(tokenizer)
    settings = settings.model_copy(update={"offline": settings.offline or offline})
    for inputs in (data, general, words):
        require_readable([str(item) for item in as_list(inputs)], settings)
    encode, sample = TextEncoder(tokenizer), HeldOutSample()
    domain, background = WordCounts(vocabulary), WordCounts(vocabulary) if general else None
    if data:
        _count_words(DocumentReader(data, settings, progress=progress), encode, domain, progress, sample)
    if background is not None:
        _count_words(DocumentReader(general, settings, progress=progress), encode, background, progress)
    added: list[AddedWord] = []
    left_out: list[LeftOutWord] = []
    if words:
        lines = settings.model_copy(update={"documents": "line"})
        given = [document.text for document in DocumentReader(words, lines, progress=progress)]
        added, left_out = listed_words(tokenizer, vocabulary, encode, given, dict(domain))
    if data and add:
        besides = {word.subwords for word in added}
        chosen = choose_words(
            tokenizer, vocabulary, domain, add, general=background, min_count=min_count, besides=besides
        )
        _log_fewer(len(chosen), add, min_count, progress)
        added += chosen
    if not added:
        raise DataError(_none_added(left_out))
    with new_folder(out) as folder:
        extended = write_extended(tokenizer, added, folder)
        loaded, new_head = read_checkpoint(model, offline=offline, progress=progress)
        logits = sample_logits(loaded, vocabulary)[:, : vocabulary.size]
        add_rows(loaded, vocabulary.size, [word.subwords for word in added])
        save_checked(loaded, vocabulary, folder, logits, new_head)
        if (modules := find_sentence_modules(model, offline=offline)) is not None:
            copy_sentence_modules(modules, folder, progress)
        before, after, changed = (
            _measure(sample.texts, tokenizer, vocabulary, extended, added) if data else (None, None, 0)
        )
        result = ExtendedVocabulary(
            out,
            added,
            left_out,
            vocabulary.size,
            len(extended),
            before,
            after,
            sample.held_out,
            changed,
            has_head=not new_head,
        )
        write_json(folder / ADDED_WORDS, result.to_dict())
    return result


def _check(add: int, out: Path, *, text: bool, listed: bool, general: bool) -> None:
    if not text and not listed:
        raise ConfigError(
            "expected text to choose words from, or a list of words (--words); neither was given"
        )
    if general and not text:
        raise ConfigError("general text weighs the words of a text (TEXT), but none was given")
    least = 0 if listed else 1
    if add < least:
        raise ConfigError(f"the number of words to add must be {least} or more, not {add}")
    require_new(out)


def _log_fewer(chosen: int, wanted: int, min_count: int, progress: Progress) -> None:
    if chosen < wanted:
        progress.log(
            f"added all of the {plural(chosen, 'word')} of several subwords with a count of at least {min_count}, not {wanted:,}"
        )


def _none_added(left_out: Sequence[LeftOutWord]) -> str:
    if not left_out:
        return "the list has no words; expected one on each line"
    words: dict[str, list[str]] = {}
    for word in left_out:
        words.setdefault(word.reason, []).append(word.word)
    shown = list(words.items())[:_SHOWN]
    parts = [
        f"'{same[0]}' {reason}" + (f" (and {len(same) - 1:,} more)" if len(same) > 1 else "")
        for reason, same in shown
    ]
    if rest := len(left_out) - sum(len(same) for _, same in shown):
        parts.append(f"{rest:,} more for other reasons")
    which = (
        "the listed word cannot" if len(left_out) == 1 else f"none of the {len(left_out):,} listed words can"
    )
    return f"{which} be added: {'; '.join(parts)}"


def _count_words(
    reader: DocumentReader,
    encode: TextEncoder,
    counts: WordCounts,
    progress: Progress,
    sample: HeldOutSample | None = None,
) -> None:
    """Count the words of documents, except those that the sample holds out."""
    progress.begin("words")

    def kept() -> Iterator[str]:
        texts = (document.text for document in reader)
        if sample is None:
            yield from texts
        else:
            yield from (text for text, is_held in sample.split(texts) if not is_held)

    for batch in in_batches(kept()):
        for input_ids in encode(batch):
            counts.add(input_ids)
        progress.advance(None, {"documents": reader.stats.documents, "words": counts.words})
    progress.end()


def _measure(
    texts: Sequence[str],
    old: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    new: PreTrainedTokenizerBase,
    words: Sequence[AddedWord],
) -> tuple[Fertility, Fertility, int]:
    """Return ``before``, ``after`` and ``changed`` of :class:`ExtendedVocabulary` for texts."""
    counts = WordCounts(vocabulary)
    after = changed = size = 0
    encoders = TextEncoder(old), TextEncoder(new)
    subwords = {vocabulary.size + place: list(word.subwords) for place, word in enumerate(words)}
    for batch in in_batches(texts):
        for text, plain, extended in zip(batch, *(encode(batch) for encode in encoders), strict=True):
            counts.add(plain)
            size += len(text.encode("utf-8", "replace"))
            after += len(extended)
            expanded = [part for number in extended.tolist() for part in subwords.get(number, (number,))]
            changed += expanded != plain.tolist()
    before_after = [
        Fertility(tokens, tokens / max(1, counts.words), tokens / max(1, size))
        for tokens in (counts.tokens, after)
    ]
    return before_after[0], before_after[1], changed
