"""Messages in words of the Python API: keyword arguments for flags, names of arguments for temporary files."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from unmask.config.options import OPTION_OF, renamed
from unmask.errors import DataError, UnmaskError
from unmask.progress import Progress

T = TypeVar("T")

TEMPORARY = "unmask-text-"
"""Prefix of the temporary folders that hold texts in memory as files, ``ARGUMENT.jsonl``."""

_SWITCHES = (
    "allow_overlap", "allow_unknown", "drop_overlap", "dry_run", "force", "offline", "offload", "private", "resume", "skip_unreadable",
    "strict",
)  # fmt: skip
_WORDS = (
    (r"'unmask train -o (\S+) --resume'", r"unmask.train(out='\1', resume=True)"),
    (r"(?<![\w-])--set ([\w.]+)(?:=null)?", r"settings['\1']"),
    (r"(?<![\w-])-o(?![\w-])", "out="),
    (
        r"(?<![\w-])--(parallel|precision|objective|documents|markup|strategy) "
        r"(ddp|fsdp|fp32|bf16|mlm|clm|nsp|sop|rtd|contrastive|file|line|block|strip|keep|token|word|span|terms)(?![\w-])",
        r"\1='\2'",
    ),
)
_IN_A_FILE = re.compile(r"\.ya?ml:\d+: ")
_FLAG = r"(?<![\w-])--([a-z][a-z-]*)=?"


class Reworded(Progress):
    """Passes everything on, log lines in words of Python."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.begin, self.advance, self.end = progress.begin, progress.advance, progress.end  # type: ignore[method-assign]

    def log(self, text: str) -> None:
        self._progress.log(in_python(text))

    def warning(self, text: str) -> None:
        self._progress.warning(in_python(text))


@contextmanager
def errors_in_python() -> Iterator[None]:
    """Put the messages of the errors that are raised meanwhile in words of Python."""
    try:
        yield
    except UnmaskError as error:
        error.args = tuple(in_python(part) if isinstance(part, str) else part for part in error.args)
        if isinstance(error, DataError):
            error.path = without_files(error.path)
        raise


def in_python(text: str) -> str:
    """Return a message with ``mask_rate=`` for ``--mask-rate``, and ``<text>`` for the file of the argument ``text``."""
    text = without_files(text)
    if not _IN_A_FILE.search(text):
        text = renamed(text, OPTION_OF.__getitem__)
    for pattern, words in _WORDS:
        text = re.sub(pattern, words, text)
    return re.sub(_FLAG, _keyword, text)


def _keyword(flag: re.Match[str]) -> str:
    name = flag[1].replace("-", "_")
    return f"{name}=True" if name in _SWITCHES else f"{name}="


def without_files(value: T) -> T:
    """Return plain values, or a result made of them, with ``<text>`` for the temporary file of the argument ``text``."""
    found: Any = value
    if isinstance(value, str):
        folder = re.escape(tempfile.gettempdir())
        found = re.sub(rf"{folder}/{TEMPORARY}\w+/(\w+)\.jsonl", r"<\1>", value)
    elif isinstance(value, Mapping):
        found = {name: without_files(item) for name, item in value.items()}
    elif isinstance(value, list):
        found = [without_files(item) for item in value]
    elif is_dataclass(value) and not isinstance(value, type):
        plain = {item.name: getattr(value, item.name) for item in fields(value)}
        plain = {name: item for name, item in plain.items() if isinstance(item, str | dict | list)}
        found = replace(value, **without_files(plain))
    return found
