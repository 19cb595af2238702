"""Preparation: text is tokenised once, into the shards of a corpus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unmask.config.settings import DocumentSettings
from unmask.data.batching import in_batches
from unmask.data.corpus import FORMAT, MANIFEST, Corpus, document_key, is_corpus, manifest_text, open_corpus
from unmask.data.reading.documents import Document, DocumentReader
from unmask.data.reading.inputs import as_list, describe_inputs
from unmask.data.shards import ShardWriter
from unmask.data.tokenizer import TextEncoder, tokenizer_hash
from unmask.data.unknown import UnknownTokens, require_known
from unmask.errors import DataError, plural
from unmask.progress import Progress
from unmask.storage import new_folder, sha256, write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH_CHARACTERS = 1 << 20


def prepare(
    inputs: str | Path | Iterable[str | Path],
    settings: DocumentSettings,
    tokenizer: PreTrainedTokenizerBase,
    out: str | Path,
    *,
    described: list[dict[str, str | int]] | None = None,
    progress: Progress = Progress(),
) -> Corpus:
    """Tokenise documents into shards, or open the shards that the same inputs gave before.

    Text is read while the last batch is tokenised; memory is bounded by a shard and a few batches of text. The folder
    ``out`` appears complete or not at all.

    Args:
        described: fingerprint of the inputs; by default their names, sizes and times.

    Raises:
        DataError: the text cannot be read or is empty, a fifth of its tokens are unknown (unless
            ``settings.allow_unknown``), or ``out`` is a folder of other files.
    """
    out = Path(out)
    names = [str(item) for item in as_list(inputs)]
    fingerprint = _fingerprint(described or describe_inputs(names), settings, tokenizer)
    what = ", ".join(names)[:200]
    if is_corpus(out):
        corpus = _reuse(out, fingerprint, settings.strict, progress)
        require_known(corpus.unknown(tokenizer), what, settings.allow_unknown, progress)
        return corpus
    if out.exists() and any(out.iterdir()):
        raise DataError("the folder is not empty and holds no shards; choose another, or empty it", path=out)
    with new_folder(out) as folder:
        reader = DocumentReader(names, settings, progress=progress)
        unknown = _write(folder, reader, fingerprint, tokenizer, progress)
        require_known(unknown, what, settings.allow_unknown, progress)
    return open_corpus(out, verify=False)


def _fingerprint(
    inputs: list[dict[str, str | int]], settings: DocumentSettings, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Return what determines the content of shards."""
    return {
        "inputs": inputs,
        "tokenizer_sha256": tokenizer_hash(tokenizer),
        "settings": _content_settings(settings),
    }


def _content_settings(settings: DocumentSettings) -> dict[str, Any]:
    """Return the settings that determine what is read; the others say what stops the reading."""
    known = set(DocumentSettings.model_fields) - {"strict", "skip_unreadable", "allow_unknown", "offline"}
    return settings.model_dump(include=known)


def _reuse(out: Path, fingerprint: dict[str, Any], strict: bool, progress: Progress) -> Corpus:
    corpus = open_corpus(out, strict=strict)
    made = corpus.manifest | {"settings": _content_settings(DocumentSettings(**corpus.manifest["settings"]))}
    for part, wanted in fingerprint.items():
        if made[part] != wanted:
            raise DataError(
                f"the folder holds shards made from other {part.replace('_sha256', '')}; "
                f"choose another folder, or delete this one",
                path=out,
            )
    progress.log(
        f"reusing {plural(corpus.tokens, 'token')} of {plural(len(corpus), 'document')} prepared before in {out}"
    )
    return corpus


def _write(
    folder: Path,
    reader: DocumentReader,
    fingerprint: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    progress: Progress,
) -> UnknownTokens:
    encode = TextEncoder(tokenizer)
    writer = ShardWriter(folder, np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32))
    unknown = UnknownTokens(encode.unknown)
    progress.begin("prepare")
    for texts, arrays in _encoded(reader, encode):
        writer.add(texts, arrays, list(map(document_key, texts)))
        for text, array in zip(texts, arrays, strict=True):
            unknown.add(array, partial(encode.unknown_parts, text))
        progress.advance(None, {"documents": writer.documents, "tokens": writer.tokens})
    writer.close()
    progress.end()
    tokenizer.save_pretrained(folder / "tokenizer")
    counts = {"documents": writer.documents, "tokens": writer.tokens, "bytes": writer.bytes}
    counts |= {"unknown_tokens": unknown.unknown}
    content = {"format": FORMAT, **counts, "unknown_examples": unknown.examples, "read": vars(reader.stats),
               **fingerprint, "shards": writer.shards}  # fmt: skip
    made = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): sha256(path) for path in made}
    write_atomically(folder / MANIFEST, manifest_text(content | {"files": files}))
    return unknown


def _encoded(
    documents: Iterable[Document], encode: TextEncoder
) -> Iterator[tuple[list[str], list[np.ndarray]]]:
    """Yield batches of texts with their token ids; the next batch is read while one is encoded."""
    with ThreadPoolExecutor(1) as pool:
        waiting: tuple[list[str], Future[list[np.ndarray]]] | None = None
        for texts in in_batches((document.text for document in documents), _BATCH_CHARACTERS):
            job = (texts, pool.submit(encode, texts))
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = job
        if waiting is not None:
            yield waiting[0], waiting[1].result()
