"""Prepared corpora: tokenised documents in checksummed shards, described by a manifest.

::

    FOLDER/manifest.json            inputs, tokenizer hash, settings, counts, errors, and the SHA-256 of every file
    FOLDER/tokenizer/               the tokenizer that made the ids
    FOLDER/part-00000/              the shards of a run of files (:mod:`unmask.data.parts`)
        shard-00000.tokens.npy      uint16 or uint32 [tokens], concatenated documents, no special tokens
        shard-00000.lengths.npy     int64 [documents]
        shard-00000.keys.npy        uint64 [documents], a hash of each document's normalised text

Sequence length, masking and order are not part of it, so changing them needs no new preparation.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unmask.config.settings import DataSettings, DocumentSettings
from unmask.data.document_set import DocumentSet, RunningSums, slices
from unmask.data.packing import split_by_tokens
from unmask.data.reading.documents import DocumentReader
from unmask.data.reading.inputs import HubInput, StdinInput
from unmask.data.shards import PARTS, Column, Lengths, open_part
from unmask.data.special_tokens import unknown_id
from unmask.data.tokenizer import tokenizer_hash
from unmask.data.unknown import UnknownTokens, require_known
from unmask.data.verification import Verification
from unmask.errors import DataError, plural
from unmask.machine import cores
from unmask.progress import Progress
from unmask.remote.folders import fetch, files_below
from unmask.remote.systems import is_url
from unmask.storage import read_json, sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MANIFEST = "manifest.json"
FORMAT = 2
_COUNTED_AT_ONCE = 1 << 20  # tokens


class Corpus:
    """A prepared corpus, memory-mapped; what is held in memory is a few bytes a document at most.

    Attributes:
        folder: its folder.
        manifest: the content of ``manifest.json``.
        lengths: ``int64 [D]`` tokens of the documents, without special tokens.
        keys: ``uint64 [D]`` hashes of the documents' text (:func:`document_key`).
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self._tokens, lengths, keys = (open_part(folder, manifest["shards"], part) for part in PARTS)
        self.lengths, self.keys = (
            Lengths(lengths, [len(tokens) for tokens in self._tokens]),
            Column(keys, np.uint64),
        )
        self._begins = RunningSums(len(self.lengths), self.lengths.__getitem__)
        self._shard_begins = np.cumsum([0, *(len(tokens) for tokens in self._tokens)])

    def __len__(self) -> int:
        return len(self.lengths)

    def __repr__(self) -> str:
        return f"Corpus('{self.folder}': {plural(len(self), 'document')}, {plural(self.tokens, 'token')})"

    @property
    def tokens(self) -> int:
        """Text tokens of the corpus."""
        return self._begins.total

    def unknown(self, tokenizer: PreTrainedTokenizerBase) -> UnknownTokens:
        """Return the unknown tokens of the tokenizer that made the ids; shards of an earlier version are counted."""
        token, count = unknown_id(tokenizer), self.manifest.get("unknown_tokens")
        if count is None:
            count = (
                sum(int((tokens.array() == token).sum()) for tokens in self._tokens)
                if token is not None
                else 0
            )
        return UnknownTokens(token, self.tokens, count, self.manifest.get("unknown_examples", []))

    def document(self, number: int) -> np.ndarray:
        """Return the ``int64 [n]`` token ids of one document."""
        return self.gather(np.array([number]), np.array([0]), self.lengths[np.array([number])])

    def gather(self, documents: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Return ``int64 [sum(lengths)]``: slices of documents, concatenated.

        Args:
            documents: ``int64 [N]``.
            starts: ``int64 [N]`` first position in each; positions outside the document, which callers overwrite
                with special tokens, hold arbitrary ids.
            lengths: ``int64 [N]`` positions to return of each.
        """
        begins = self._begins.before(documents) + starts
        ends = np.cumsum(lengths)
        if len(self._tokens) == 1:
            index = _ranges(begins, lengths)
            return self._tokens[0].array().take(index, mode="clip").astype(np.int64)
        order, parts = self.keys.by_shard(documents)
        lengths, begins, ends = lengths[order], begins[order], ends[order]
        places, found, done = _ranges(begins, lengths), [np.zeros(0, dtype=np.int64)], 0
        for shard, part in parts:
            index = places[done : done + int(lengths[part].sum())]
            done += len(index)
            found.append(self._tokens[shard].array().take(index - self._shard_begins[shard], mode="clip"))
        out = np.empty(len(places), dtype=np.int64)
        out[_ranges(ends - lengths, lengths)] = np.concatenate(found)
        return out

    def read(self, documents: DocumentSet | np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the lengths and the tokens of documents, ``int64`` both, about a million tokens at a time."""
        for block in documents.blocks() if isinstance(documents, DocumentSet) else [documents]:
            lengths = self.lengths[block]
            for part in split_by_tokens(lengths, _COUNTED_AT_ONCE):
                yield lengths[part], self.gather(block[part], np.zeros_like(lengths[part]), lengths[part])

    def where(self, chosen: Callable[[np.ndarray], np.ndarray]) -> DocumentSet:
        """Return the documents of which a function of their ``uint64`` keys is true."""
        parts = (np.packbits(chosen(self.keys[part]), bitorder="little") for part in slices(len(self)))
        return DocumentSet(len(self), np.concatenate([np.zeros(0, dtype=np.uint8), *parts]))

    def least_keys(self, count: int) -> np.ndarray:
        """Return the least keys, copies once: ``uint64`` in ascending order, ``count`` of them or as many as there are."""
        least = np.zeros(0, dtype=np.uint64)
        for part in slices(len(self)):
            keys = self.keys[part]
            if len(least) == count:
                keys = keys[keys < least[-1]]
            least = np.unique(np.concatenate([least, keys]))[:count]
        return least

    def verify(self) -> None:
        """Compare every file with its checksum; raise :class:`DataError` where one is missing or was changed."""
        with Verification(cores()) as verification:
            verification.add(self.folder, self.manifest["files"])
            verification.check()


def open_corpus(folder: str | Path, *, verify: bool = True, strict: bool = False) -> Corpus:
    """Open a folder that ``prepare`` made.

    Args:
        folder: its path.
        verify: compare every file with its checksum; the sizes of arrays are compared in any case.
        strict: refuse shards whose text had errors.

    Raises:
        DataError: it is no such folder, was made by another version, is damaged, or its text had errors.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    for name in manifest["files"]:
        if not (folder / name).is_file():
            raise DataError("the file is missing; prepare the shards again", path=folder / name)
    corpus = Corpus(folder, manifest)
    if verify:
        corpus.verify()
    errors = sum(manifest["read"]["errors"].values())
    if strict and errors:
        first = next(iter(manifest["read"]["error_examples"].values()))[0]
        raise DataError(f"{first} ({plural(errors, 'error')} in the text of the shards in {folder})")
    return corpus


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Read a manifest and check that it is, to the byte, what was written."""
    path = folder / MANIFEST
    manifest = read_json(path)
    if manifest is None:
        raise DataError(f"no {MANIFEST} here; expected a folder made by 'unmask prepare'", path=folder)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise DataError(
            f"format {found!r} of the shards is not {FORMAT}; prepare them again",
            path=folder,
        )
    if path.read_bytes() != manifest_text(manifest).encode("utf-8"):
        raise DataError(
            "the manifest was changed or is damaged: its checksum does not match; prepare the shards again",
            path=path,
        )
    read = manifest["read"]
    for now, before in (("errors", "faults"), ("error_examples", "fault_examples")):  # older names
        if before in read:
            read[now] = read.pop(before)
    if isinstance(read["error_examples"], list):  # of an earlier version
        read["error_examples"] = {"any": read["error_examples"]} if read["error_examples"] else {}
    return manifest


def manifest_text(content: dict[str, Any]) -> str:
    """Return the JSON of a manifest; its last entry is the checksum of the others."""
    content = {key: value for key, value in content.items() if key != "sha256"}
    digest = sha256(json.dumps(content).encode())
    return json.dumps(content | {"sha256": digest}, indent=2, ensure_ascii=False) + "\n"


def token_counts(corpus: Corpus, documents: DocumentSet | np.ndarray, size: int) -> np.ndarray:
    """Return ``int64 [V]`` token counts of some documents, in bounded memory."""
    counts = np.zeros(size, dtype=np.int64)
    for _, ids in corpus.read(documents):
        counts += np.bincount(ids, minlength=size)
    return counts


def is_corpus(path: str | Path) -> bool:
    """Return whether a path or URL is a folder made by ``unmask prepare``."""
    if is_url(path):
        return (
            not str(path).startswith("hf://")
            and not has_magic(str(path))
            and MANIFEST in files_below(str(path))
        )
    return (Path(path) / MANIFEST).is_file()


def fetch_shards(url: str, progress: Progress = Progress()) -> Path:
    """Return the folder of the cache that holds the shards at a URL, with the checksums of their manifest.

    Raises:
        DataError: they are no whole shards, or cannot be read.
        DiskError: they do not fit into the cache.
    """
    found, where = files_below(url), f"{url.rstrip('/')}/{MANIFEST}"
    try:
        content = found[MANIFEST].read()
        sums = dict(json.loads(content)["files"])
    except (ValueError, TypeError, KeyError):
        raise DataError(
            "this is no manifest of shards, or it is damaged; prepare them again", path=where
        ) from None
    for name in sums:
        if name not in found:
            raise DataError(
                "the object is missing; prepare the shards again", path=f"{url.rstrip('/')}/{name}"
            )
    files = {name: found[name] for name in (*sums, MANIFEST)}
    return fetch(url, files, "shards", sums=sums | {MANIFEST: sha256(content)}, progress=progress)


def given_shards(inputs: Sequence[str], progress: Progress = Progress()) -> Path | None:
    """Return the folder if the input is prepared shards, else ``None``; shards and other inputs are a :class:`DataError`.

    Shards by URL are fetched into the cache.
    """
    shards = _shards_among(inputs)
    if shards is None:
        return None
    return fetch_shards(shards, progress) if is_url(shards) else Path(shards)


def _shards_among(inputs: Sequence[str]) -> str | None:
    shards = [item for item in inputs if is_corpus(item)]
    if shards and len(inputs) > 1:
        raise DataError(
            f"'{shards[0]}' holds prepared shards; it must be the only input, not one of {len(inputs)}"
        )
    return shards[0] if shards else None


def require_readable(inputs: Sequence[str], settings: DocumentSettings) -> None:
    """Raise what reading would meet at its beginning, before work that takes long: an input that does not exist, or no text.

    Standard input, Hub data sets and shards are not read.

    Raises:
        DataError: an input does not exist, or no document can be read.
    """
    if inputs and _shards_among(inputs) is None:
        reader = DocumentReader(inputs, settings)
        if not any(isinstance(item, StdinInput | HubInput) for item in reader.inputs):
            next(iter(reader), None)


def require_texts(data: DataSettings) -> None:
    """As :func:`require_readable`, for all texts of a run."""
    for inputs in (data.inputs, data.heldout, data.replay, data.forgetting_eval):
        require_readable(inputs, data)


def open_shards(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    allow_unknown: bool = False,
    progress: Progress = Progress(),
) -> Corpus:
    """Open prepared shards for a tokenizer; as :func:`open_corpus`, and another tokenizer's shards are a :class:`DataError`."""
    corpus = open_corpus(folder)
    require_made_by(tokenizer, corpus, allow_unknown=allow_unknown, progress=progress)
    return corpus


def require_made_by(
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    *,
    allow_unknown: bool = False,
    progress: Progress = Progress(),
) -> None:
    """Raise :class:`DataError` where shards were made by another tokenizer, or hold too many unknown tokens."""
    if corpus.manifest["tokenizer_sha256"] != tokenizer_hash(tokenizer):
        raise DataError(
            "these shards were made with another tokenizer than the model's; prepare them again with "
            "'unmask prepare --model' and the model's name, or give the text",
            path=corpus.folder,
        )
    progress.log(
        f"using {plural(corpus.tokens, 'token')} of {plural(len(corpus), 'document')} prepared in {corpus.folder}"
    )
    require_known(corpus.unknown(tokenizer), str(corpus.folder), allow_unknown, progress)


def document_key(text: str) -> int:
    """Return the 64-bit hash by which a document is masked, ordered and held out.

    Texts that are equal after Unicode NFKC, but for case and white space, have one key, so they are on one side of a
    split.
    """
    text = text if text.isascii() else unicodedata.normalize("NFKC", text)
    data = " ".join(text.lower().split()).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _ranges(begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the numbers of ranges, end to end."""
    index = np.repeat(begins - (np.cumsum(lengths) - lengths), lengths)
    index += np.arange(len(index))
    return index
