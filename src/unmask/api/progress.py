"""Progress shown by default: a bar in a terminal and in a notebook, the log elsewhere, or a callback."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from typing import Any, Literal

from unmask.api.wording import Reworded, errors_in_python
from unmask.data.hub import offline_mode
from unmask.errors import ConfigError
from unmask.progress import Progress
from unmask.remote.files import list_files
from unmask.reporting.format import progress_metrics

ProgressLike = Progress | bool | Callable[["ProgressEvent"], object] | None
"""``None`` shows progress where somebody looks, ``False`` does not, a function is called with each event."""

_LOGGER = logging.getLogger("unmask")
_SECONDS_BETWEEN_UPDATES = 0.25


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """Something that happened in a long function.

    Attributes:
        kind: ``log``, ``warning``, ``begin``, ``advance`` or ``end``.
        phase: the phase of work, such as ``train``; empty outside of one.
        share: how much of the phase is done, 0 to 1, or ``None``.
        metrics: of the phase, such as the loss.
        text: of a log line or warning.
    """

    kind: Literal["log", "warning", "begin", "advance", "end"]
    phase: str = ""
    share: float | None = None
    metrics: Mapping[str, object] = field(default_factory=dict)
    text: str = ""


class CallbackProgress(Progress):
    """Calls a function with each event."""

    def __init__(self, callback: Callable[[ProgressEvent], object]) -> None:
        self._callback = callback
        self._phases: list[str] = []

    @property
    def _phase(self) -> str:
        return self._phases[-1] if self._phases else ""

    def log(self, text: str) -> None:
        self._callback(ProgressEvent("log", self._phase, text=text))

    def warning(self, text: str) -> None:
        self._callback(ProgressEvent("warning", self._phase, text=text))

    def begin(self, phase: str) -> None:
        self._phases.append(phase)
        self._callback(ProgressEvent("begin", phase))

    def advance(self, share: float | None, metrics: Mapping[str, object]) -> None:
        self._callback(ProgressEvent("advance", self._phase, share, dict(metrics)))

    def end(self) -> None:
        self._callback(ProgressEvent("end", self._phase))
        if self._phases:
            self._phases.pop()


class LogProgress(Progress):
    """Writes to the logger ``unmask``: warnings are seen by default, the rest with ``logging.basicConfig(level="INFO")``."""

    def log(self, text: str) -> None:
        _LOGGER.info(text)

    def warning(self, text: str) -> None:
        _LOGGER.warning(text)


class NotebookProgress(Progress):
    """A bar below the cell of a notebook, which goes when the phase is over; log lines stay.

    Args:
        display: ``IPython.display.display``.
    """

    def __init__(self, display: Callable[..., Any]) -> None:
        self._display = display
        self._phases: list[str] = []
        self._lines: list[str] = []
        self._handle: Any = None
        self._updated = 0.0

    def log(self, text: str) -> None:
        self._lines.append(text)
        self._show("")

    def begin(self, phase: str) -> None:
        self._phases.append(phase)
        self._updated = 0.0
        self.advance(None, {})

    def advance(self, share: float | None, metrics: Mapping[str, object]) -> None:
        now = time.monotonic()
        if now - self._updated < _SECONDS_BETWEEN_UPDATES:
            return
        self._updated = now if metrics else 0.0
        value = "" if share is None else f' value="{min(max(share, 0.0), 1.0):.4f}"'
        text = "  ".join([*self._phases[-1:], *progress_metrics(metrics)])
        self._show(f'<progress max="1"{value}></progress> {escape(text)}')

    def end(self) -> None:
        if self._phases:
            self._phases.pop()
        self._show("")

    def _show(self, bar: str) -> None:
        html = _Html("".join(f"<div>{escape(line)}</div>" for line in self._lines) + f"<div>{bar}</div>")
        if self._handle is None:
            self._handle = self._display(html, display_id=True)
        else:
            self._handle.update(html)


class _Html:
    """Something that a notebook shows as HTML."""

    def __init__(self, html: str) -> None:
        self._html = html

    def _repr_html_(self) -> str:
        return self._html

    def __repr__(self) -> str:
        return ""


@contextmanager
def shown(progress: ProgressLike, offline: bool = False) -> Iterator[Progress]:
    """Yield the progress that an argument ``progress=`` stands for, and remove what it draws at the end.

    Errors and log lines are in words of Python, but for a :class:`Progress`, which the command line gives.

    With ``offline`` no library makes a network call meanwhile.

    Raises:
        ConfigError: it is something else.
    """
    list_files.cache_clear()  # what changed since an earlier call is seen
    with offline_mode(offline), without_bars_of_transformers():
        if isinstance(progress, Progress):
            yield progress
        else:
            with errors_in_python(), _listener(progress) as listener:
                yield Reworded(listener)


@contextmanager
def _listener(progress: bool | Callable[[ProgressEvent], object] | None) -> Iterator[Progress]:
    if progress is False:
        yield Progress()
    elif callable(progress):
        yield CallbackProgress(progress)
    elif progress is not None and progress is not True:
        kind = type(progress).__name__
        raise ConfigError(f"progress must be None, False, a function of an event or a Progress, not {kind}")
    elif display := _notebook_display():
        yield NotebookProgress(display)
    elif sys.stderr.isatty():
        from unmask.api.terminal import terminal_progress

        with terminal_progress(sys.stderr) as bars:
            yield bars
    else:
        yield LogProgress()


@contextmanager
def without_bars_of_transformers() -> Iterator[None]:
    """Hide the bars of loading and saving weights, which take no time; those of downloads stay."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging

    downloads, loading = not are_progress_bars_disabled(), logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    if downloads:
        enable_progress_bars()
    try:
        yield
    finally:
        if loading and downloads:  # it enables the bars of downloads too
            logging.enable_progress_bar()


def _notebook_display() -> Callable[..., Any] | None:
    """Return IPython's ``display`` in the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import display

    return display
