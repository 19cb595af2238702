"""Errors under ``torchrun``: what several processes of a host meet alike is printed by one of them."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from unmask.machine import processes
from unmask.storage import lock_file

PATIENCE = 2.0
"""Seconds that a process waits with its error for that of the first process of its host."""

_POLL = 0.05
_NAMED = re.compile(r"process \d+ (of \d+ )?on ")


def to_print(text: str) -> str | None:
    """Return the line of an error as this process prints it, or ``None`` where another one of this host has printed it.

    The first process of a host prints what all of them meet; an error of another one is printed with its number,
    unless it names the process that is to blame.
    """
    if processes() == 1:
        return text
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    by = "" if first or _NAMED.match(text) else f"process {os.environ['RANK']} of {processes()}: "
    own = f"{by}{text}"
    of_torchrun = os.environ.get("TORCHELASTIC_ERROR_FILE")  # in a temporary folder of this process
    if not of_torchrun:
        return own
    said = Path(of_torchrun).parent.parent / "said.txt"
    until = time.monotonic() + (0.0 if first else PATIENCE)
    while not said.exists() and time.monotonic() < until:
        time.sleep(_POLL)
    try:
        with said.open("a+", encoding="utf-8") as file:
            lock_file(file.fileno(), wait=True)
            file.seek(0)
            # What another process tells of a third one has its name in front.
            if any(line in text or text in line for line in file.read().splitlines() if line):
                return None
            file.write(f"{text}\n")
    except OSError:
        pass
    return own
