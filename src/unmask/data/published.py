"""Prepared shards at a URL: written into the cache, then published, the manifest last."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from unmask.data.corpus import MANIFEST, Corpus, fetch_shards, is_corpus, open_corpus
from unmask.errors import DataError, DiskError
from unmask.progress import Progress
from unmask.remote.files import listed
from unmask.remote.folders import adopt, place_of, publication, publish
from unmask.storage import read_json, sha256


def prepare_at(url: str, prepare: Callable[[Path], Corpus], progress: Progress = Progress()) -> Corpus:
    """Prepare shards with ``prepare(folder)`` and publish them at a URL, or open those that it would write again.

    Raises:
        DataError: there are shards of something else, or other files.
        DiskError: they could not be uploaded; they stay in the cache, and the next call uploads them.
    """
    url = url.rstrip("/")
    if any(str(file) == f"{url}/{MANIFEST}" for file in listed(url, DiskError)):
        folder = fetch_shards(url, progress)
        try:
            return prepare(folder)
        except DataError as error:
            raise _at(error, folder, url) from None
    local = place_of(url, "prepared")
    with publication(url, MANIFEST):
        _write(local, prepare, progress)
    try:
        publish(local, url, last=MANIFEST, progress=progress)
    except DiskError as error:
        raise DiskError(
            f"{error}; the shards are kept in {local}, and the same command uploads them"
        ) from None
    sums = read_json(local / MANIFEST)["files"] | {MANIFEST: sha256(local / MANIFEST)}
    return open_corpus(adopt(local, url, "shards", sums), verify=False)


def _write(local: Path, prepare: Callable[[Path], Corpus], progress: Progress) -> None:
    """Prepare shards, or keep those that could not be published before if they are the same."""
    try:
        prepare(local)
    except DataError as error:
        if error.path != str(local) or not is_corpus(local):
            raise
        shutil.rmtree(local)  # of other text, or damaged
        prepare(local)


def _at(error: DataError, folder: Path, url: str) -> DataError:
    shown = DataError(str(error).replace(str(folder), url))
    shown.path, shown.line = url, error.line
    return shown
