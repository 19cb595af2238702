"""Parts of a preparation: runs of inputs, each read and written without the others.

::

    .NAME.partial/plan.json           inputs and their parts, settings, and a digest of what determines the content
    .NAME.partial/encoder.json        what makes ids of text
    .NAME.partial/part-00000.json     written last of a part: its counts and errors, and the SHA-256 of its files
    .NAME.partial/shards/part-00000/  its shards
    .NAME.partial/shards/tokenizer/
    .NAME.partial/logs/               what the tasks of an executor say

Where parts begin depends on the inputs and their sizes alone, and no shard crosses from one to the next, so the shards do
not depend on how many processes write them. What is whole is kept for the next preparation of the same text;
``shards`` becomes the folder NAME when every part is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import astuple, dataclass, field, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unmask.config.settings import DocumentSettings
from unmask.data.batching import in_batches
from unmask.data.corpus import FORMAT, MANIFEST, document_key, manifest_text
from unmask.data.reading.documents import DocumentReader
from unmask.data.reading.errors import ReadStats
from unmask.data.reading.inputs import Expanded, HubInput, Input, StdinInput
from unmask.data.shards import ShardWriter
from unmask.data.tokenizer import TextEncoder
from unmask.data.unknown import UnknownTokens
from unmask.progress import Progress
from unmask.remote.files import RemoteFile
from unmask.storage import new_folder, read_json, sha256, sync_to_disk, write_atomically, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PART_BYTES = 1 << 27
"""Consecutive files are one part up to so many bytes; a larger file is one alone."""

_BATCH_CHARACTERS = 1 << 20

Kept = Callable[[Iterable[str], int], Iterable[str]]
"""Returns the texts of a part, by its number, that are written."""


def cut(inputs: list[Input]) -> list[tuple[int, int]]:
    """Return where parts begin and end, by the number of the input; anything but a file is a part alone."""
    parts: list[tuple[int, int]] = []
    size = PART_BYTES + 1
    for number, item in enumerate(inputs):
        here = _size(item)
        if size + here > PART_BYTES:
            parts.append((number, number))
            size = 0
        size += here
        parts[-1] = (parts[-1][0], number + 1)
    return parts


def _size(item: Input) -> int:
    if isinstance(item, RemoteFile):
        return item.size
    return item.stat().st_size if isinstance(item, Path) and item.is_file() else PART_BYTES + 1


@dataclass(frozen=True)
class Plan:
    """What is to be prepared, and the folder in which its parts are collected.

    Attributes:
        folder: that folder.
        inputs: files, Hub data sets or standard input, in reading order.
        parts: where each part begins and ends in ``inputs``.
        settings: how files become documents.
        small_files: whether a file of plain text is a document, which depends on all of them.
        stats: what was found of the inputs before they are read, such as hidden files.
        fingerprint: what determines the content of the shards.
        vocabulary: entries of the tokenizer.
        digest: a hash of that and of the parts.
    """

    folder: Path
    inputs: Expanded
    parts: list[tuple[int, int]]
    settings: DocumentSettings
    small_files: bool
    stats: dict[str, Any]
    fingerprint: dict[str, Any]
    vocabulary: int

    @cached_property
    def digest(self) -> str:
        return sha256(json.dumps([self.fingerprint, self.parts]).encode())

    @property
    def shards(self) -> Path:
        """The folder of the shards that are whole."""
        return self.folder / "shards"

    def save(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Write the plan and the tokenizer; parts that belong to another plan are removed."""
        before = read_json(self.folder / "plan.json")
        if before is None or before["digest"] != self.digest:
            shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        with new_folder(self.shards / "tokenizer") as folder:
            tokenizer.save_pretrained(folder)
        encode = TextEncoder(tokenizer)
        write_atomically(self.folder / "encoder.json", encode.core.to_str())
        names = ("parts", "small_files", "stats", "fingerprint", "vocabulary", "digest")
        content = {name: getattr(self, name) for name in names} | {"unknown": encode.unknown}
        inputs = [
            [type(item).__name__, *astuple(item)] if is_dataclass(item) else ["Path", str(item)]
            for item in self.inputs
        ]
        settings = self.settings.model_dump(include=set(DocumentSettings.model_fields))
        content |= {"inputs": inputs, "settings": settings}
        write_atomically(self.folder / "plan.json", json.dumps(content) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Plan:
        """Read what :meth:`save` wrote."""
        content = read_json(folder / "plan.json")
        kinds = {kind.__name__: kind for kind in (Path, RemoteFile, HubInput, StdinInput)}
        inputs: list[Input] = [kinds[kind](*values) for kind, *values in content["inputs"]]
        return cls(
            folder,
            Expanded(inputs),
            [(begin, end) for begin, end in content["parts"]],
            DocumentSettings(**content["settings"]),
            content["small_files"],
            content["stats"],
            content["fingerprint"],
            content["vocabulary"],
        )

    def encoder(self) -> TextEncoder:
        """Return what makes ids of text, from what :meth:`save` wrote."""
        definition = (self.folder / "encoder.json").read_text(encoding="utf-8")
        return TextEncoder.restore(definition, read_json(self.folder / "plan.json")["unknown"])

    def reader(self, progress: Progress = Progress()) -> DocumentReader:
        """Return a reader of the parts."""
        return DocumentReader(self.inputs, self.settings, progress=progress, small_files=self.small_files)

    def record(self, part: int) -> dict[str, Any] | None:
        """Return what describes a part if it is whole, else ``None``."""
        found = read_json(self.folder / f"{part_name(part)}.json")
        if found is None or found["plan"] != self.digest:
            return None
        return found if all((self.shards / name).is_file() for name in found["files"]) else None

    @property
    def deduplicate(self) -> str | None:
        """Which documents are left out as duplicates: ``exact`` or ``near`` ones."""
        return self.fingerprint.get("deduplicate")

    @contextlib.contextmanager
    def own_folder(self, name: str) -> Iterator[Path]:
        """Yield an empty folder that no other process uses; it is removed at the end."""
        folder = self.folder / f".{name}.{socket.gethostname()}.{os.getpid()}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def new_part(self, part: int) -> Iterator[Path]:
        """Yield a folder for the shards of a part; they are in their place, on disk, when the block ends."""
        place = self.shards / part_name(part)
        with self.own_folder(part_name(part)) as folder:
            yield folder
            sync_to_disk(folder)
            if self.record(part) is None:  # otherwise another process, taken for dead, was faster
                shutil.rmtree(place, ignore_errors=True)
                if any(folder.iterdir()):
                    folder.rename(place)
                sync_to_disk(self.shards)


@dataclass(frozen=True)
class Stage:
    """Work in numbered pieces, which tasks share out; each is done once.

    Attributes:
        name: its name.
        count: of the pieces.
        is_done: whether a piece is whole.
        run: does a piece.
        files: a pattern of the files, below the folder of the plan, that say that a piece is whole.
        unit: what a piece is, in the plural.
        phase: the phase of work, as it is shown.
    """

    name: str
    count: int
    is_done: Callable[[int], bool]
    run: Callable[[int], object]
    files: str
    unit: str = "parts"
    phase: str = "deduplicate"

    def missing(self) -> list[int]:
        """Return the pieces that are not whole."""
        return [number for number in range(self.count) if not self.is_done(number)]


def parts_stage(plan: Plan, write: Callable[[int], object]) -> Stage:
    """Return the writing of the parts, each by ``write``."""
    return Stage(
        "parts",
        len(plan.parts),
        lambda part: plan.record(part) is not None,
        write,
        "part-*.json",
        phase="prepare",
    )


def make_plan(folder: Path, reader: DocumentReader, fingerprint: dict[str, Any], vocabulary: int) -> Plan:
    """Return the plan of a reader that has read nothing yet; see :class:`Plan`."""
    return Plan(
        folder,
        Expanded(reader.inputs),
        cut(reader.inputs),
        reader.settings,
        reader.small_files,
        deepcopy(vars(reader.stats)),
        fingerprint,
        vocabulary,
    )


def part_name(part: int) -> str:
    return f"part-{part:05d}"


@dataclass
class Written:
    """What several parts, one after another, hold together: the content of a manifest."""

    unknown: UnknownTokens
    read: ReadStats
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("documents", "tokens", "bytes"), 0))
    duplicates: dict[str, int] = field(default_factory=dict)
    shards: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)

    def add(self, record: dict[str, Any]) -> None:
        """Add the next part, by its record."""
        self.counts = {name: count + record["counts"][name] for name, count in self.counts.items()}
        for name, count in record["duplicates"].items():
            self.duplicates[name] = self.duplicates.get(name, 0) + count
        self.unknown.merge(UnknownTokens(None, *record["unknown"]))
        self.read.add(ReadStats(**record["read"]))
        self.shards += record["shards"]
        self.files |= record["files"]


def write_part(
    plan: Plan,
    part: int,
    reader: DocumentReader,
    encode: TextEncoder,
    *,
    kept: Kept | None = None,
    tell: Callable[[int, int], None] = lambda documents, tokens: None,
) -> dict[str, Any]:
    """Tokenise a part into its shards and return its record, which is written last.

    Args:
        kept: leaves texts out, as duplicates.
        tell: gets the documents and tokens so far.
    """
    name, unknown = part_name(part), UnknownTokens(encode.unknown)
    texts: Iterable[str] = (document.text for document in reader.part(*plan.parts[part]))
    with plan.new_part(part) as folder:
        writer = ShardWriter(folder, np.dtype(np.uint16 if plan.vocabulary <= 1 << 16 else np.uint32))
        for batch, arrays in _encoded(kept(texts, part) if kept else texts, encode):
            writer.add(batch, arrays, list(map(document_key, batch)))
            unknown.add_all(arrays, batch, encode.unknown_parts)
            tell(writer.documents, writer.tokens)
        writer.close()
    read = vars(reader.stats)
    record = {
        "plan": plan.digest,
        "counts": {"documents": writer.documents, "tokens": writer.tokens, "bytes": writer.bytes},
        "duplicates": {"documents": read["documents"] - writer.documents} if kept else {},
        "unknown": [unknown.tokens, unknown.unknown, unknown.examples],
        "read": read,
        "shards": [shard | {"name": f"{name}/{shard['name']}"} for shard in writer.shards],
        "files": {f"{name}/{file}": checksum for file, checksum in writer.files.items()},
    }
    write_json(plan.folder / f"{name}.json", record)
    return record


def _encoded(texts: Iterable[str], encode: TextEncoder) -> Iterator[tuple[list[str], list[np.ndarray]]]:
    """Yield batches of texts with their token ids; the next batch is read while one is encoded."""
    with ThreadPoolExecutor(1) as pool:
        waiting: tuple[list[str], Future[list[np.ndarray]]] | None = None
        for batch in in_batches(texts, _BATCH_CHARACTERS):
            job = (batch, pool.submit(encode, batch))
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = job
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def join(plan: Plan, written: Written, out: Path) -> None:
    """Write the manifest of all parts; then their folder becomes ``out``."""
    files = written.files | {
        path.relative_to(plan.shards).as_posix(): sha256(path)
        for path in (plan.shards / "tokenizer").rglob("*")
        if path.is_file()
    }
    content: dict[str, Any] = {"format": FORMAT, **written.counts, "unknown_tokens": written.unknown.unknown}
    content |= {"unknown_examples": written.unknown.examples, "read": vars(written.read), **plan.fingerprint}
    if written.duplicates:
        content["duplicates"] = written.duplicates
    content |= {"shards": written.shards, "files": dict(sorted(files.items()))}
    write_atomically(plan.shards / MANIFEST, manifest_text(content))
    sync_to_disk(plan.shards)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists():  # empty; Windows renames nothing over it
        out.rmdir()
    plan.shards.rename(out)
    sync_to_disk(out.parent)
    shutil.rmtree(plan.folder, ignore_errors=True)
