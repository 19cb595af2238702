"""Drop entries of a vocabulary that a text does not use, with their embeddings."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unmask.config.settings import DocumentSettings
from unmask.data.batching import in_batches
from unmask.data.reading.documents import DocumentReader
from unmask.data.tokenizer import TextEncoder, Vocabulary, load_tokenizer, vocabulary_of
from unmask.errors import ConfigError, DataError, UnmaskError, plural
from unmask.model.load import read_checkpoint
from unmask.model.save import sample_logits, save_checked
from unmask.model.sentence_modules import copy_sentence_modules, find_sentence_modules
from unmask.progress import Progress
from unmask.reporting.results import Result, Rows
from unmask.run_folder import ADDED_WORDS, model_folder
from unmask.storage import new_folder, read_json, require_new, write_json
from unmask.vocabulary.embeddings import keep_rows
from unmask.vocabulary.sample import HeldOutSample
from unmask.vocabulary.smaller_tokenizer import Entries

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

KEEP = 0.999
_MULTIPLES = (64, 8)


@dataclass(frozen=True)
class VocabularySize:
    """The size of a vocabulary and of its model.

    Attributes:
        entries: of the tokenizer.
        rows: of the embeddings.
        embedding_mb: megabytes of the weights over the vocabulary in fp32.
        mb: megabytes of all weights in fp32.
    """

    entries: int
    rows: int
    embedding_mb: float
    mb: float


@dataclass(frozen=True)
class ChangedTokens:
    """How the tokens of a text change.

    Attributes:
        documents: of the text, and
        changed_documents: how many have other tokens than before.
        tokens_before: tokens of the old tokenizer, and
        tokens_after: of the new one.
        unchanged: share of the old tokens that the new tokenizer finds at the same place.
        unknown_before: unknown tokens of the old tokenizer, and
        unknown_after: of the new one.
    """

    documents: int
    changed_documents: int
    tokens_before: int
    tokens_after: int
    unchanged: float
    unknown_before: int
    unknown_after: int


@dataclass(frozen=True, repr=False)
class TrimmedVocabulary(Result):
    """The result of :func:`trim_vocabulary`.

    Attributes:
        folder: folder of the model and tokenizer.
        before: size of the old vocabulary and model.
        after: size of the new ones.
        kept: share of the tokens of the text whose entry is kept.
        kept_unseen: the same share of documents that were held out from choosing what to keep, which is what to expect of
            other text of this kind; ``None`` where the text has too few documents. The entries that these documents need
            are kept all the same.
        changed: how the tokens of a sample of the text change, by which it was chosen too: of those documents, or of the
            beginning of the text where there are none, at most 4 MB.
        has_head: whether the model has an LM head; one without is trained before its predictions are compared.
    """

    folder: Path
    before: VocabularySize
    after: VocabularySize
    kept: float
    kept_unseen: float | None
    changed: ChangedTokens
    has_head: bool

    def _title(self) -> str:
        return f"{self.after.entries:,} of {self.before.entries:,} entries kept in {self.folder}"

    def to_rows(self) -> Rows:
        """Return a row for the size before and one for that after."""
        return [{"": name} | asdict(size) for name, size in (("before", self.before), ("after", self.after))]

    def to_dict(self) -> dict[str, Any]:
        """Return the sizes and shares as plain values."""
        return {
            "before": asdict(self.before),
            "after": asdict(self.after),
            "kept": self.kept,
            "kept_unseen": self.kept_unseen,
            "changed": asdict(self.changed),
        }


def trim_vocabulary(
    model: str,
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    keep: float = KEEP,
    settings: DocumentSettings = DocumentSettings(),
    offline: bool = False,
    progress: Progress = Progress(),
) -> TrimmedVocabulary:
    """Write a model without the vocabulary entries that a text uses least.

    Text whose tokens are all kept has the same tokens and the same logits of kept entries as before. Special and added
    tokens, single characters and the parts of kept BPE entries are always kept.

    Args:
        model: Hub name or folder of a masked language model with its tokenizer.
        data: text of the kind that the model is for.
        out: the folder to write, which must not exist or be empty; it appears complete or not at all.
        keep: share of the tokens of the text whose entries are kept at least; 1 keeps all that occur.
        settings: how text is read.
        offline: make no network calls.
        progress: gets documents and tokens read.

    Raises:
        ConfigError: a setting is invalid, or entries cannot be dropped from the tokenizer, or none would be.
        DataError: the text cannot be read or has no tokens.
        UnmaskError: the model loaded again gives other logits or other tokens; nothing is written then.
    """
    out = Path(out)
    if not 0 < keep <= 1:
        raise ConfigError(f"the share of tokens to keep must be above 0 and at most 1 (100%), not {keep:g}")
    require_new(out)
    tokenizer = load_tokenizer(model, offline=offline, progress=progress)
    entries = Entries(tokenizer)
    settings = settings.model_copy(update={"offline": settings.offline or offline})
    sample = HeldOutSample()
    seen, heldout = _count(DocumentReader(data, settings, progress=progress), tokenizer, sample, progress)
    loaded, new_head = read_checkpoint(model, offline=offline, progress=progress)
    words = _added_words(model)
    required = entries.required.union(_configured_ids(loaded, tokenizer), (word["id"] for word in words))
    chosen = _choose(seen + heldout, keep, entries, required)
    if len(chosen) == len(tokenizer.get_vocab()):
        raise ConfigError(
            f"none of the {len(chosen):,} entries can be dropped: the text uses them, or they are special tokens or single "
            f"characters; a lower --keep than {100 * keep:g}% drops rare ones"
        )
    unseen = None
    if seen.any() and heldout.any():
        unseen = _share(heldout, _choose(seen, keep, entries, required))
    before = _size(loaded, tokenizer)
    order = entries.in_order(chosen, loaded.config.pad_token_id)
    with new_folder(out) as folder:
        trimmed = entries.write(tokenizer, order, folder)
        _save(loaded, vocabulary_of(trimmed), order, folder, new_head)
        if (modules := find_sentence_modules(model, offline=offline)) is not None:
            copy_sentence_modules(modules, folder, progress)
        if words:
            write_json(folder / ADDED_WORDS, _renumbered(model, order))
        changed = _measure(sample.texts, tokenizer, trimmed, order)
        return TrimmedVocabulary(
            folder=out,
            before=before,
            after=_size(loaded, trimmed),
            kept=_share(seen + heldout, chosen),
            kept_unseen=unseen,
            changed=changed,
            has_head=not new_head,
        )


def _count(
    reader: DocumentReader, tokenizer: PreTrainedTokenizerBase, sample: HeldOutSample, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``int64 [V]`` counts of the tokens of the documents, those held out by a sample apart."""
    encode, size = TextEncoder(tokenizer), 1 + max(tokenizer.get_vocab().values())
    counts = np.zeros((2, size), dtype=np.int64)
    progress.begin("tokens")
    held: deque[bool] = deque()  # whether each text of the next batch is

    def texts() -> Iterator[str]:
        for text, is_held in sample.split(document.text for document in reader):
            held.append(is_held)
            yield text

    for batch in in_batches(texts()):
        for ids in encode(batch):
            counts[int(held.popleft())] += np.bincount(ids, minlength=size)
        progress.advance(None, {"documents": reader.stats.documents, "tokens": int(counts.sum())})
    progress.end()
    if not counts.any():
        raise DataError("the text has no tokens, so nothing says which entries it needs; give more text")
    return counts[0], counts[1]


def _choose(counts: np.ndarray, keep: float, entries: Entries, required: set[int]) -> set[int]:
    """Return the ids to keep: the required ones, and the most frequent until a share of the tokens have theirs."""
    rare = counts.copy()
    rare[list(required)] = 0
    order = np.argsort(rare, kind="stable")
    lost = np.cumsum(rare[order])
    kept = order[(lost > (1 - keep) * counts.sum() + 1e-6) & (rare[order] > 0)]
    return entries.closed(required.union(kept.tolist()))


def _share(counts: np.ndarray, chosen: set[int]) -> float:
    return float(counts[sorted(chosen)].sum() / counts.sum())


def _token_ids(config: Any) -> Iterator[tuple[str, list[int]]]:
    """Yield the settings of a config that are ids of tokens."""
    for name, value in config.to_dict().items():
        if name.endswith("_token_id") and value is not None:
            yield name, list(value) if isinstance(value, (list, tuple)) else [value]


def _configs(model: PreTrainedModel) -> list[Any]:
    return [
        config for config in (model.config, getattr(model, "generation_config", None)) if config is not None
    ]


def _configured_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the ids of entries that the config of a model names."""
    known = set(tokenizer.get_vocab().values())
    return {
        number
        for config in _configs(model)
        for _, ids in _token_ids(config)
        for number in ids
        if number in known
    }


def _save(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    order: Sequence[int],
    folder: Path,
    new_head: Sequence[str],
) -> None:
    """Drop rows of a model, save it and check the logits of what is left against those before."""
    old = np.asarray(order)
    as_before = replace(
        vocabulary,
        mask_id=int(old[vocabulary.mask_id]),
        prefix=tuple(old[list(vocabulary.prefix)].tolist()),
        suffix=tuple(old[list(vocabulary.suffix)].tolist()),
        replacements=old[vocabulary.replacements],
    )
    logits = sample_logits(model, as_before)[:, old]
    rows = int(model.config.vocab_size)
    multiple = next((size for size in _MULTIPLES if rows % size == 0), 1)
    # A multiple that suits matrix hardware stays one: rows of dropped entries fill it up, the last of the table first.
    missing = -len(order) % multiple
    spare = np.setdiff1d(np.arange(rows), old)[::-1][:missing].tolist()
    keep_rows(model, [*order, *spare])
    new = {number: place for place, number in enumerate(order)}
    for config in _configs(model):
        for name, ids in _token_ids(config):
            value = [new.get(number) for number in ids]
            setattr(config, name, value if isinstance(getattr(config, name), (list, tuple)) else value[0])
    save_checked(model, vocabulary, folder, logits, new_head)


def _size(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> VocabularySize:
    rows = int(model.config.vocab_size)
    weights = list(model.parameters())  # tied ones once
    per_row = [weight for weight in weights if rows in weight.shape]
    mb, embedding_mb = (4e-6 * sum(weight.numel() for weight in some) for some in (weights, per_row))
    return VocabularySize(len(tokenizer.get_vocab()), rows, embedding_mb, mb)


def _added_words(model: str) -> list[dict[str, Any]]:
    """Return the words that were added to a vocabulary before."""
    content = read_json(Path(model_folder(model)) / ADDED_WORDS)
    return list(content["words"]) if content else []


def _renumbered(model: str, order: Sequence[int]) -> dict[str, Any]:
    """Return the content of the list of added words with new ids; a dropped subword of a word has none."""
    new = {old: number for number, old in enumerate(order)}
    content = read_json(Path(model_folder(model)) / ADDED_WORDS)
    words = [
        word | {"id": new[word["id"]], "pieces": [new.get(old) for old in word.get("pieces", ())]}
        for word in content["words"]
    ]
    return dict(content) | {"entries": len(order), "words": words}


def _measure(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    trimmed: PreTrainedTokenizerBase,
    order: Sequence[int],
) -> ChangedTokens:
    """Compare the tokens of texts.

    Raises:
        UnmaskError: a text has other tokens although all of its entries are kept.
    """
    old, new = TextEncoder(tokenizer), TextEncoder(trimmed)
    numbers = {number: place for place, number in enumerate(order)}
    documents = changed = before = after = same = unknown = unknown_after = 0
    for batch in in_batches(texts):
        encoded = (encode.core.encode_batch(list(batch), add_special_tokens=False) for encode in (old, new))
        for text, was, now in zip(batch, *encoded, strict=True):
            ids = [numbers.get(number, -1) for number in was.ids]
            places = set(zip(now.ids, now.offsets, strict=True))
            same += sum(pair in places for pair in zip(ids, was.offsets, strict=True))
            documents, before, after = documents + 1, before + len(ids), after + len(now.ids)
            unknown += was.ids.count(old.unknown) if old.unknown is not None else 0
            unknown_after += now.ids.count(new.unknown) if new.unknown is not None else 0
            if ids != now.ids:
                changed += 1
                # A word that was unknown may be spelled by shorter entries now.
                if -1 not in ids and old.unknown not in was.ids:
                    raise UnmaskError(
                        f"a text of {plural(len(ids), 'token')} whose entries are all kept is tokenised differently, so the "
                        f"result is not kept: '{text[:60]}'. This is an error of unmask; please report it"
                    )
    return ChangedTokens(documents, changed, before, after, same / max(1, before), unknown, unknown_after)
