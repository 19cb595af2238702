"""Folders by URL: fetched once for a host into its cache, and published so that they appear whole or not at all.

::

    CACHE/KIND/NAME-KEY     a folder as it was at a URL; KEY stands for its content, so it never changes

``CACHE`` is the variable ``UNMASK_CACHE``, or ``~/.cache/unmask``. Nothing in it is needed: it can be deleted at any time.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO

from unmask.errors import DataError, DiskError, on_one_line, plural
from unmask.progress import Progress
from unmask.remote.files import RemoteFile, list_files, listed
from unmask.remote.systems import changed, explained, open_system
from unmask.storage import lock_file, new_folder, sha256

INCOMPLETE = ".unmask-incomplete"
"""An object that marks a folder whose publication has begun and not ended."""


PATIENCE = 5.0
"""Seconds that a process waits for another one of its host before it says so."""


class DamagedFile(DataError):
    """A file that is not what its checksum says."""


def sums_of(manifest: RemoteFile) -> dict[str, str]:
    """Return the SHA-256 by name of the files of a folder, from its manifest.

    Raises:
        DataError: it is no manifest.
    """
    try:
        content = json.loads(manifest.read())
        return {name: value for name, value in content.get("files", content).items() if len(str(value)) == 64}
    except (ValueError, AttributeError):
        raise DamagedFile("this is no manifest, or it is damaged", path=manifest.url) from None


def cache_folder(kind: str) -> Path:
    """Return the folder of the cache for one kind of content."""
    given = os.environ.get("UNMASK_CACHE")
    usual = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "unmask"
    return (Path(given).expanduser() if given else usual) / kind


def files_below(url: str) -> dict[str, RemoteFile]:
    """Return the files of a folder by their names in it.

    Raises:
        DataError: there are none, or they cannot be listed.
    """
    begin = len(url.rstrip("/")) + 1
    return {str(file)[begin:]: file for file in list_files(url)}


def fetch(
    url: str,
    files: Mapping[str, RemoteFile],
    kind: str,
    *,
    sums: Mapping[str, str] | None = None,
    progress: Progress = Progress(),
) -> Path:
    """Return a folder of the cache that holds these files; they are downloaded unless an earlier call did it.

    Processes of one host wait for the first of them. The folder appears whole or not at all.

    Args:
        url: the folder, for messages.
        files: by their names in the folder.
        kind: of content, a folder of the cache.
        sums: SHA-256 by name, of the files that have one.

    Raises:
        DataError: a file cannot be read, or is not what its checksum says.
        DiskError: the cache has no room, or cannot be written.
    """
    sums = sums or {}
    target = _place(
        url, kind, {name: sums.get(name) or (file.size, file.version) for name, file in files.items()}
    )
    if strange := [name for name in files if ".." in PurePosixPath(name).parts]:
        raise DataError(f"a name that leaves its folder: {on_one_line(strange[0])}", path=url)
    with cache_errors(target, url), host_lock(target, url, progress):
        if not target.is_dir():
            _require_room(target.parent, url, sum(file.size for file in files.values()))
            with new_folder(target) as folder:
                _download(url, files, sums, folder, progress)
            progress.log(f"fetched {plural(len(files), 'file')} of {url} into {target}")
    return target


def adopt(folder: Path, url: str, kind: str, sums: Mapping[str, str]) -> Path:
    """Move a folder that was published into the place of the cache where :func:`fetch` would put it; return that."""
    target = _place(url, kind, sums)
    with cache_errors(target, url), host_lock(target, url, Progress()):
        if target.is_dir():
            shutil.rmtree(folder)
        else:
            folder.rename(target)
    return target


def _place(url: str, kind: str, versions: Mapping[str, object]) -> Path:
    return place_of(url, kind, repr(sorted(versions.items())))


def place_of(url: str, kind: str, key: str | None = None) -> Path:
    """Return the folder of the cache for what is at a URL, or for one version of it, by a key of that."""
    return (
        cache_folder(kind)
        / f"{PurePosixPath(url).name}-{sha256((url if key is None else key).encode())[:16]}"
    )


def _download(
    url: str, files: Mapping[str, RemoteFile], sums: Mapping[str, str], folder: Path, progress: Progress
) -> None:
    done, size = 0, sum(file.size for file in files.values()) or 1
    progress.begin("fetch")
    for name, file in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        system, remote = open_system(file.url)
        with explained(file.url):
            system.get_file(remote, str(path))
        done += path.stat().st_size
        progress.advance(min(1.0, done / size), {"MB": round(done / 1e6)})
        if path.stat().st_size != file.size or sums.get(name) not in (None, sha256(path)):
            what = "what came is not what its manifest says" if name in sums else "what came has another size"
            raise DamagedFile(
                f"{what}: the object is damaged, or was replaced; publish the folder again", path=file.url
            )
    progress.end()
    unsummed = [file for name, file in files.items() if name not in sums]
    if unsummed and not set(unsummed) <= set(listed(url)):
        raise changed(url)


@contextmanager
def host_lock(target: Path, url: str, progress: Progress) -> Iterator[None]:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("w", encoding="utf-8") as file:
        if not _locked_soon(file):
            if not target.is_dir():
                progress.log(f"waiting for another process of this host, which fetches {url}")
            lock_file(file.fileno(), wait=True)
        yield


def _locked_soon(file: IO[str]) -> bool:
    """Take a lock that is free within some seconds."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            lock_file(file.fileno(), wait=False)
            return True
        except OSError:
            if time.monotonic() > until:
                return False
        time.sleep(0.05)


def _require_room(folder: Path, url: str, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DiskError(
            f"{folder}: the cache has no room for {url}: {size / 1e6:,.1f} MB are needed and {free / 1e6:,.1f} MB free; "
            f"free some, or set UNMASK_CACHE to a folder on another disk"
        )


@contextmanager
def cache_errors(target: Path, url: str) -> Iterator[None]:
    """Turn an error of the disk of the cache into a :class:`DiskError`."""
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"{target.parent}: the cache cannot be written ({error.strerror or error}), so {url} is not fetched; free "
            f"space, or set UNMASK_CACHE to a folder on another disk"
        ) from None


# ----------------------------------------------------------------------------------------------------- publishing


@contextmanager
def publication(url: str, last: str) -> Iterator[None]:
    """Find out before the work of the block that a folder can be published at a URL, and mark that this has begun.

    What an interrupted publication left there is removed.

    Raises:
        DataError: there are other files.
        DiskError: nothing can be written there.
    """
    found = {str(file).removeprefix(url).lstrip("/") for file in listed(url, DiskError)}
    if found - {INCOMPLETE} and INCOMPLETE not in found:
        raise DataError(f"there are other files and no {last}; choose another name, or delete them", path=url)
    system, path = open_system(url, writing=True)
    with explained(url, DiskError):
        for name in sorted(found - {INCOMPLETE}):
            system.rm_file(f"{path}/{name}")
        system.pipe_file(
            f"{path}/{INCOMPLETE}", b"unmask writes this folder; it is whole when this file is gone\n"
        )
    try:
        yield
    except BaseException:
        with suppress(Exception):  # that one is raised
            system.rm_file(f"{path}/{INCOMPLETE}")
        raise


def publish(folder: Path, url: str, *, last: str, progress: Progress = Progress()) -> None:
    """Upload a folder, the file ``last`` after all others: who finds that, finds the folder whole.

    Large files are uploaded in parts.

    Raises:
        DiskError: a file could not be uploaded; ``last`` is then absent.
    """
    system, path = open_system(url.rstrip("/"), writing=True)
    names = sorted(found.relative_to(folder).as_posix() for found in folder.rglob("*") if found.is_file())
    progress.begin("upload")
    for number, name in enumerate(sorted(names, key=lambda name: name == last), 1):
        with explained(f"{url.rstrip('/')}/{name}", DiskError):
            system.put_file(str(folder / name), f"{path}/{name}")
        progress.advance(number / len(names), {"files": number})
    progress.end()
    with explained(f"{url.rstrip('/')}/{INCOMPLETE}", DiskError):
        if system.exists(f"{path}/{INCOMPLETE}"):
            system.rm_file(f"{path}/{INCOMPLETE}")
    list_files.cache_clear()
    progress.log(f"published {plural(len(names), 'file')} at {url}")
