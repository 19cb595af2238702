"""A run outlives its viewer: output whose reader is gone (``| head``) is discarded."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class SurvivingStream:
    """A text stream that discards what is written once nobody reads it any more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._discard()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._discard()

    def _discard(self) -> None:
        """Let the descriptor, which libraries may write to as well, lead to nothing."""
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), self._stream.fileno())


@contextlib.contextmanager
def surviving_viewers() -> Iterator[None]:
    """Survive that the readers of stdout and stderr go away; works as a decorator, too."""
    stdout, stderr = SurvivingStream(sys.stdout), SurvivingStream(sys.stderr)
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            yield
        finally:
            stdout.flush()
            stderr.flush()
