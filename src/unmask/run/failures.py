"""Errors of a run that ends early: what happened, what is saved, and what to do."""

from __future__ import annotations

from contextlib import nullcontext, suppress

from safetensors import SafetensorError

from unmask.data.corpus import is_corpus
from unmask.errors import DiskError, DivergedError, Interrupted, LostProcess, UnmaskError
from unmask.machine import processes
from unmask.run.disk import shown, size_of
from unmask.run.signals import StoppedAtOnce
from unmask.run_folder import RunFolder
from unmask.storage import write_atomically
from unmask.training.checkpoint import list_checkpoints

NOT_OURS = (StoppedAtOnce, OSError, SafetensorError)
"""Errors without a code and a message of unmask, which :func:`explained` gives them."""

EARLY_ENDS = (DivergedError, LostProcess, *NOT_OURS)
"""The errors that :func:`explained` takes; safetensors does not raise ``OSError`` where it cannot write."""


def is_worth_keeping(folder: RunFolder, error: BaseException) -> bool:
    """Return whether a run that ended early left a checkpoint, or prepared text that was not to blame.

    Preparing can take hours. Where settings, the text or the disk are to blame, it would be in the way of the next try.
    """
    if list_checkpoints(folder.checkpoints):
        return True
    to_blame = isinstance(error, UnmaskError | OSError | SafetensorError)
    return (not to_blame or isinstance(error, DivergedError | Interrupted)) and is_corpus(str(folder.shards))


def write_exit_code(folder: RunFolder, error: BaseException | None) -> None:
    """Write how the run ended for a scheduler, since ``torchrun`` ends with 1 whatever the codes of its processes."""
    code = 0
    if error is not None:
        known = explained(error, folder) if isinstance(error, EARLY_ENDS) else error
        code = getattr(known, "exit_code", 1)
    with suppress(OSError) if error else nullcontext():  # that one is raised
        if folder.root.is_dir():
            write_atomically(folder.exit_code, f"{code}\n")


def further(folder: RunFolder) -> str:
    """Return how to train the result of a run on other text, as the end of a sentence; nothing where it has none."""
    if not (folder.model / "config.json").is_file():
        return ""
    return (
        f"; to train its model on new or more text, start a run with --model {folder.model} in another folder"
    )


def explained(error: BaseException, folder: RunFolder) -> UnmaskError:
    """Return the error to raise for one of ``EARLY_ENDS``."""
    whole = list_checkpoints(folder.checkpoints)
    if isinstance(error, StoppedAtOnce):
        return Interrupted(f"stopped by a signal; {_left(folder)}")
    if isinstance(error, LostProcess):
        newest = f"{whole[-1].name} is saved, " if whole else ""
        return LostProcess(f"{error}; {newest}{how_to_continue(folder)}")
    if isinstance(error, DivergedError):
        safe = f"the last good checkpoint is {whole[-1]}" if whole else "there is no checkpoint yet"
        if not whole and is_corpus(str(folder.shards)):
            safe += f", but the prepared text is kept: start another run with {folder.shards} as its text"
        return DivergedError(f"{error}; {safe}")
    if not whole:
        return DiskError(f"cannot write the run: {error}; free space or choose another folder with -o")
    return DiskError(
        f"cannot write the run: {error}; {whole[-1].name} is safe: free at least {shown(size_of(whole[-1]))} on the disk "
        f"of {folder.root}, then continue the run with --resume"
    )


def how_to_continue(folder: RunFolder) -> str:
    """Return what to do to continue a run; several processes, or a run without its settings yet, need the whole command."""
    if processes() > 1 or not folder.config.is_file():
        return "continue with --resume and the same settings"
    return f"continue with 'unmask train -o {folder.root} --resume'"


def _left(folder: RunFolder) -> str:
    if whole := list_checkpoints(folder.checkpoints):
        return f"{whole[-1].name} is safe, {how_to_continue(folder)}"
    if folder.root.is_dir() and is_corpus(str(folder.shards)):
        return f"the prepared text is kept, {how_to_continue(folder)}"
    return "nothing was written, start again with the same command"
