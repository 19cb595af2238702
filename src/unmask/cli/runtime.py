"""What the verbs share: progress, output, input, quiet libraries, error messages and exit codes."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

from unmask.cli.processes import to_print
from unmask.cli.usage import usage_message
from unmask.errors import DataError, DiskError, Interrupted, UnmaskError
from unmask.machine import processes
from unmask.progress import Progress
from unmask.reporting.drawing import require_charts

if TYPE_CHECKING:
    from unmask.api.terminal import TerminalProgress
    from unmask.cli.terminal import Page
    from unmask.config.settings import DataSettings

STOPPED = 130  # by Ctrl-C, with nothing to resume
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


@dataclasses.dataclass
class Mode:
    """What ``--quiet`` and ``--debug`` say about this call of the program."""

    quiet: bool = False
    debug: bool = False


mode = Mode()


@contextlib.contextmanager
def working(*, models: bool = True) -> Iterator[TerminalProgress]:
    """Show progress on stderr; what a library prints goes there too, so that stdout holds only the result.

    Args:
        models: whether models or tokenizers are loaded or saved, which transformers would show with bars.
    """
    from unmask.api.terminal import terminal_progress

    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(open(os.devnull, "w", encoding="utf-8")) if mode.quiet else sys.stderr
        stack.enter_context(contextlib.redirect_stdout(stream))
        progress = stack.enter_context(terminal_progress(stream))
        if models and os.environ.get("TRANSFORMERS_VERBOSITY") == "error":
            from transformers.utils import logging

            from unmask.api.progress import without_bars_of_transformers

            logging.set_verbosity_error()
            stack.enter_context(without_bars_of_transformers())
        yield progress


def show(as_json: bool, document: Any, draw: Callable[[Page], object]) -> None:
    """Print a result on stdout: a JSON document with ``--json``, otherwise what ``draw`` draws."""
    if as_json:
        emit(document)
    else:
        from unmask.cli.terminal import Page

        draw(Page(sys.stdout))


def emit(document: Any, stdout: TextIO | None = None) -> None:
    """Print one JSON document; numbers that JSON does not know (``nan``, ``inf``) become ``null``."""
    stream = stdout or sys.stdout
    is_utf8 = (stream.encoding or "").lower().replace("-", "") == "utf8"
    stream.write(json.dumps(_plain(document), ensure_ascii=not is_utf8, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        DiskError: it cannot be written.
    """
    from unmask.storage import write_atomically

    try:
        write_atomically(path, text)
    except OSError as error:
        raise DiskError(f"{path}: cannot be written: {error.strerror}") from None


def read_stdin() -> str:
    """Return standard input without its last line break.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = error.object[: error.start].count(b"\n") + 1, error.object[error.start]
        what = f"expected UTF-8 text, found the byte 0x{byte:02x}"
        raise DataError(what, path="standard input", line=line) from None
    return text.replace("\r\n", "\n").removesuffix("\n")


def check_page(html: Path | None, *, charts: bool = False) -> None:
    """Raise an error if a page, perhaps with charts, could not be written, before the work that it would show."""
    if html is not None and charts:
        require_charts("--html")
    if html is None:
        return
    if html.is_dir():
        raise DiskError(
            f"{html}: cannot be written: it is a folder; name a file in it, such as {html / 'page.html'}"
        )
    if not html.absolute().parent.is_dir():
        raise DiskError(f"{html}: cannot be written: there is no folder {html.parent}")
    if not os.access(html.absolute().parent, os.W_OK):
        raise DiskError(f"{html}: cannot be written: nothing can be written in {html.absolute().parent}")


def check_texts(data: DataSettings) -> None:
    """Raise an error if a text of a run cannot be read, before torch and the model are loaded.

    Of several processes one reads the text, and the others may not see it.
    """
    if processes() == 1:
        from unmask.data.corpus import require_texts

        require_texts(data)


def write_page(html: Path, text: str) -> None:
    """Write an HTML page and log its name."""
    write(html, text)
    log(str(html), "wrote")


def log(message: str, word: str) -> None:
    """Print one line on stderr, unless ``--quiet`` was given."""
    if not mode.quiet:
        print_error(message, word)


class Lines(Progress):
    """Prints what is logged on stderr, where no bar is drawn."""

    def log(self, text: str) -> None:
        if not mode.quiet:
            _print_on_stderr(text)


def print_error(message: str, word: str = "error") -> None:
    """Print one line on stderr, wrapped where that is a terminal."""
    _print_on_stderr(f"{word}: {_one_line(message)}")


def _print_on_stderr(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        if sys.stderr.isatty():
            from unmask.api.terminal import plain_console, print_line

            print_line(plain_console(sys.stderr), text)
        else:  # where rich need not be imported
            sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _one_line(text: str) -> str:
    return " ".join(part.strip() for part in text.splitlines() if part.strip())


def quiet_libraries() -> None:
    """Keep the log, warnings and bars of other packages away. Call it before they are imported."""
    for name in ("TRANSFORMERS", "DATASETS", "HF_HUB", "HF_XET"):
        os.environ.setdefault(f"{name}_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if mode.quiet or not sys.stderr.isatty():  # on a terminal, the bar of a download is welcome
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def share_cores() -> None:
    """Let a thread of torch that waits for another sleep soon, not spin. Call it before torch is imported.

    OpenMP's own patience is about a millisecond. Where another program takes part of a core, the thread that spins
    keeps the one it waits for from running, and a training step takes three times as long; alone, a short step takes some
    hundredths longer.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def exit_code_of(call: Callable[[], Any]) -> int:
    """Run ``call`` and return the exit code; an error becomes one line on stderr.

    Args:
        call: does everything; what it returns is the exit code, ``None`` stands for 0.
    """
    try:
        code = call()
        sys.stdout.flush()
        return int(code or 0)
    except typer.Exit as done:
        return done.exit_code
    except BrokenPipeError:
        _forget_stdout()
        return UnmaskError.exit_code
    except (Exception, KeyboardInterrupt) as error:
        if mode.debug:
            traceback.print_exc()
        return _report(error)


def _report(error: BaseException) -> int:
    """Print the line that says what went wrong, and return the exit code."""
    text, code = _explained(error)
    if (line := to_print(_one_line(text))) is not None:
        print_error(line, "interrupted" if isinstance(error, KeyboardInterrupt | Interrupted) else "error")
    return code


def _explained(error: BaseException) -> tuple[str, int]:
    """Return what went wrong, and the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped by Ctrl-C", STOPPED
    if isinstance(error, UnmaskError):
        return str(error), error.exit_code
    if isinstance(error, typer.TyperException):
        return usage_message(error), error.exit_code
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return f"{error.filename or 'disk'}: cannot be written: {error.strerror}", DiskError.exit_code
    if isinstance(error, NotADirectoryError | PermissionError) and error.filename:
        text = f"{error.filename}: {error.strerror}; choose another place, or change its permissions"
        return text, DiskError.exit_code
    text = f"unexpected {type(error).__name__}: {error}; run again with --debug to see where it came from"
    return text, UnmaskError.exit_code


def _forget_stdout() -> None:
    """Let what is left in the buffer of stdout, whose reader has gone, go nowhere."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
