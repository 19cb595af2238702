"""The exceptions of unmask, each with the exit code that the command line gives it.

::

    UnmaskError              1   an error of unmask itself, with an explanation
    ├── ConfigError          2   a setting, option or combination that cannot work
    │   └── MissingExtra     2   an optional dependency is not installed
    ├── DataError            3   text, files or shards that cannot be used; knows file and line
    ├── DivergedError        4   the loss, the gradient or a probability is NaN or infinite
    ├── DiskError            5   no space, or no permission, to write what is needed
    ├── RequirementError     6   a finished run does not meet what --require asks
    └── Interrupted         75   stopped by a signal; can be resumed
        └── LostProcess     75   another process of the run ended or hangs; can be resumed

A message says what was expected, what came, where, and what to do. The library raises; only the command line exits.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec


class UnmaskError(Exception):
    """Base class of every error that unmask raises on purpose."""

    exit_code = 1


class ConfigError(UnmaskError):
    """A setting, an option, or a combination of them, that cannot work."""

    exit_code = 2


class MissingExtra(ConfigError):
    """An optional dependency is not installed; the message has the exact install command.

    Args:
        package: its name.
        extra: the extra of unmask that brings it, or ``None`` where no extra does.
        purpose: what needs it.
    """

    def __init__(self, package: str, extra: str | None, purpose: str) -> None:
        install = f"'unmask[{extra}]'" if extra else package
        super().__init__(f"{purpose} needs the package '{package}': pip install {install}")


def require_packages(packages: Iterable[str], extra: str, purpose: str) -> None:
    """Look for the packages of an extra without importing them, which is quick, so that it comes before any work.

    Raises:
        MissingExtra: one of them is not installed.
    """
    for package in packages:
        found = find_spec(package)
        if found is None or found.origin is None:  # a folder of that name that a library left is no package
            raise MissingExtra(package, extra, purpose)


class DataError(UnmaskError):
    """Text, a file or a shard that cannot be used.

    Args:
        message: what was expected, what came and what to do.
        path: the file, if there is one: its path or URL.
        line: its line, counted from 1, if there is one.
    """

    exit_code = 3

    def __init__(self, message: str, *, path: object = None, line: int | None = None) -> None:
        self.path = None if path is None else str(path)
        self.line = line
        shown = "" if path is None else on_one_line(str(path))
        where = "" if path is None else f"{shown}: " if line is None else f"{shown}:{line}: "
        super().__init__(where + message)


class DivergedError(UnmaskError):
    """The loss, the gradient or a probability is NaN or infinite."""

    exit_code = 4


class DiskError(UnmaskError):
    """A file cannot be written: no space, or no permission."""

    exit_code = 5


class RequirementError(UnmaskError):
    """A run is finished and its model is written, but does not meet what was required of it."""

    exit_code = 6


class Interrupted(UnmaskError):
    """A signal stopped the run; it is saved and can be resumed."""

    exit_code = 75


class LostProcess(Interrupted):
    """Another process of the run ended or hangs; the run can be resumed."""


ERRORS: dict[int, type[UnmaskError]] = {
    kind.exit_code: kind
    for kind in (ConfigError, DataError, DivergedError, DiskError, RequirementError, Interrupted)
}
"""The exception of each exit code."""


def on_one_line(text: str) -> str:
    """Return a text with line feeds and other unprintable characters escaped, for a message of one line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest of ``known``, or an empty string."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""


def plural(number: float, noun: str, nouns: str | None = None) -> str:
    """A count with its noun: ``1 document``, ``1,234 documents``; ``nouns`` is the plural where an s does not make it."""
    size = f"{number:,.0f}" if float(number).is_integer() else f"{number:g}"
    return f"{size} {noun if number == 1 else nouns or noun + 's'}"
