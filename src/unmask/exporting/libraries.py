"""The JavaScript libraries of an export for the web: from npm, or from a folder, with their hashes checked.

``tokenizers`` is the tokenizer of transformers.js. It and ONNX Runtime Web are copied as they are, under names that every
host of static files serves with the right type.
"""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unmask.errors import ConfigError

_REGISTRY = "https://registry.npmjs.org"
_SECONDS = 60


@dataclass(frozen=True)
class Library:
    """A package of npm.

    Attributes:
        package, version: which one.
        integrity: SHA-512 of its archive in Base64, as npm writes it.
        files: what is taken from the archive, by its name in the export.
        license: its name, and the file of the archive that holds it, if any does.
    """

    package: str
    version: str
    integrity: str
    files: dict[str, str]
    license: tuple[str, str | None]

    @property
    def url(self) -> str:
        """Address of the archive."""
        return f"{_REGISTRY}/{self.package}/-/{self.package.rpartition('/')[2]}-{self.version}.tgz"

    @property
    def title(self) -> str:
        """Package and version, as npm takes them."""
        return f"{self.package}@{self.version}"


LIBRARIES = (
    Library(
        "@huggingface/tokenizers",
        "0.2.0",
        "LidMHe1FpcSYH4vcSjXooda34pC0M8m1gmDOv7SQi6Iv+ib1zX7J3sHBCC9/3FPCkn2k1b55FneVqMRxrr99pg==",
        {"tokenizers.js": "dist/tokenizers.min.mjs"},
        ("Apache-2.0", "LICENSE"),
    ),
    Library(
        "onnxruntime-web",
        "1.30.0",
        "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
        {"ort.js": "dist/ort.wasm.bundle.min.mjs", "ort.wasm": "dist/ort-wasm-simd-threaded.wasm"},
        ("MIT", None),
    ),
)
_MIT = """\
Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation
files (the "Software"), to deal in the Software without restriction, including without limitation the rights to use, copy,
modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software
is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE,
ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def read_libraries(folder: Path | None, *, offline: bool = False) -> dict[str, bytes]:
    """Return the files of all libraries by their names in the export, with a file of their licences.

    Args:
        folder: that holds the archives (``.tgz``) under any name; without one they are downloaded.
        offline: make no network call.

    Raises:
        ConfigError: an archive is missing, cannot be downloaded, or is not the one that was tested.
    """
    files: dict[str, bytes] = {}
    licenses = []
    for library, archive in archives(folder, offline=offline):
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as packed:
            files |= {name: _member(packed, path) for name, path in library.files.items()}
            name, path = library.license
            text = _member(packed, path).decode() if path else _MIT
            licenses.append(f"{library.title} ({', '.join(library.files)}), {name}\n\n{text.strip()}\n")
    files["LICENSES.txt"] = "\n\n".join(licenses).encode()
    return files


def archives(folder: Path | None, *, offline: bool = False) -> Iterator[tuple[Library, bytes]]:
    """Yield the libraries with their archives; arguments and errors are those of :func:`read_libraries`."""
    if folder is None:
        for library in LIBRARIES:
            yield library, _downloaded(library, offline)
        return
    found = {_integrity(path.read_bytes()): path for path in sorted(folder.glob("*.tgz"))}
    for library in LIBRARIES:
        if library.integrity not in found:
            raise ConfigError(
                f"{folder}: has no archive of {library.title} with the expected SHA-512; fill the folder with "
                f"'npm pack {' '.join(one.title for one in LIBRARIES)}', or with the files of "
                f"{' and '.join(one.url for one in LIBRARIES)}"
            )
        yield library, found[library.integrity].read_bytes()


def keep_archives(folder: Path) -> None:
    """Download the archives into a folder, unless they are there.

    Raises:
        ConfigError: one cannot be downloaded, or is not the one that was tested.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for library in LIBRARIES:
        path = folder / library.url.rpartition("/")[2]
        if not path.is_file() or _integrity(path.read_bytes()) != library.integrity:
            path.write_bytes(_downloaded(library, offline=False))


def _downloaded(library: Library, offline: bool) -> bytes:
    instead = "give a folder with its archive as --web-libraries"
    if offline:
        raise ConfigError(f"{library.title} is not downloaded because of --offline; {instead}")
    try:
        with urllib.request.urlopen(library.url, timeout=_SECONDS) as answer:
            archive: bytes = answer.read()
    except OSError as error:
        raise ConfigError(f"{library.url} cannot be downloaded ({error}); {instead}") from error
    if _integrity(archive) != library.integrity:
        raise ConfigError(f"{library.url} is not the file that was tested: its SHA-512 differs; {instead}")
    return archive


def _integrity(archive: bytes) -> str:
    return base64.b64encode(hashlib.sha512(archive).digest()).decode()


def _member(packed: tarfile.TarFile, path: str) -> bytes:
    found = packed.extractfile(f"package/{path}")
    assert found is not None
    return found.read()
