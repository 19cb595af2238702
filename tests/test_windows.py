"""unmask without what Windows lacks: fcntl, resource, SIGUSR1, fork, sysconf, and opening a folder as a file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

WITHOUT = """\
import os, shutil, signal, sys, types
import getpass, subprocess, tempfile  # which tell the system by these modules

locking = types.ModuleType("msvcrt")  # the locks of Windows: of bytes at the place of the descriptor
locking.LK_NBLCK = 2
locking.locking = lambda handle, mode, count: os.lockf(handle, os.F_TLOCK, count)
del signal.SIGUSR1, signal.SIGUSR2
for name in ("fork", "pread", "sysconf", "sched_getaffinity"):
    delattr(os, name)
shutil._use_fd_functions = False
opened = os.open

def no_folders(path, flags, *rest, **more):
    if not isinstance(path, int) and os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return opened(path, flags, *rest, **more)

os.open = no_folders
sys.modules.update(fcntl=None, resource=None, msvcrt=locking)
"""

# Other packages know by themselves on which system they are, so they are imported with all that Linux has.
IMPORTS = """\
import datasets, torch.distributed.checkpoint, matplotlib.pyplot
import transformers.models.bert.modeling_bert, transformers.models.bert.tokenization_bert
"""

VERBS = """\
import sys
from unmask.cli.main import main
from unmask.machine import memory_bytes, peak_memory_bytes

assert memory_bytes() is None and peak_memory_bytes() is None
model, quick = sys.argv[1], ["--max-steps", "2", "--device", "cpu", "--precision", "fp32"]
codes = [
    main(["train", "notes.txt", "--model", model, *quick, "--dry-run"]),
    main(["train", "notes.txt", "--model", model, *quick, "-o", "run"]),
    main(["fill", "run", "The dog [MASK]."]),
]
sys.exit(str(codes) if any(codes) else 0)
"""

LOCKED = """\
import sys
from pathlib import Path
from unmask.errors import ConfigError
from unmask.progress import Progress
from unmask.run.lock import lock_run

try:
    with lock_run(Path(sys.argv[1]), Progress()):
        print("free")
        sys.stdout.flush()
        sys.stdin.read()
except ConfigError as error:
    print(error)
"""


def python(tmp_path: Path, code: str, *arguments: str) -> subprocess.Popen[str]:
    source = Path(__file__).parents[1] / "src"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(source)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_run_can_be_made_and_used(
    tmp_path: Path, checkpoint: Callable[..., Path], corpus_text: list[str]
) -> None:
    (tmp_path / "notes.txt").write_text("\n".join(corpus_text[:60]) + "\n")
    process = python(tmp_path, IMPORTS + WITHOUT + VERBS, str(checkpoint("bert")))
    shown, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "unknown on this system" in shown
    assert (tmp_path / "run" / "report.html").is_file()
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_run_folder_is_locked(tmp_path: Path) -> None:
    first = python(tmp_path, WITHOUT + LOCKED, str(tmp_path))
    assert first.stdout is not None
    assert first.stdout.readline() == "free\n"
    second, _ = python(tmp_path, WITHOUT + LOCKED, str(tmp_path)).communicate()
    assert f"another run uses {tmp_path} (process {first.pid} on " in second
    first.communicate()
    assert python(tmp_path, WITHOUT + LOCKED, str(tmp_path)).communicate()[0] == "free\n"
