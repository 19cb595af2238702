"""unmask without what Windows lacks: fcntl, resource, SIGUSR1, fork, sysconf, opening a folder as a file, letters beyond its
code page in pipes, removing and renaming what is open or mapped, and renaming over what is there."""

from __future__ import annotations

import ast
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

def in_use():  # what this process has open or mapped
    for handle in os.listdir("/proc/self/fd"):
        if os.path.islink(f"/proc/self/fd/{handle}"):
            yield os.readlink(f"/proc/self/fd/{handle}")
    with open("/proc/self/maps") as maps:
        for line in maps:
            yield from (name.strip() for name in line.split(maxsplit=5)[5:])

rmdir = os.rmdir

def refusing(change, new):
    def changed(path, *target, **more):
        place = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        busy = [file for file in in_use() if f"{file}/".startswith(f"{place}/")]
        if busy and not (change is rmdir and not os.path.isdir(place)):
            raise PermissionError(13, "The process cannot access the file because it is being used", str(busy[0]))
        if new and os.path.lexists(target[0]):
            raise FileExistsError(17, "Cannot create a file when that file already exists", str(target[0]))
        return change(path, *target, **more)
    return changed

for name in ("remove", "unlink", "rmdir", "replace", "rename"):
    setattr(os, name, refusing(getattr(os, name), name == "rename"))
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
os.mkdir("shards")
sys.modules["unmask.cli.main"].on_windows = lambda: True
codes = [
    main(["train", "notes.txt", "--model", model, *quick, "--dry-run"]),
    main(["prepare", "notes.txt", "--model", model, "-o", "shards"]),
    main(["train", "shards", "--model", model, *quick, "-o", "run", "--save-every", "1"]),
    main(["train", "shards", "--model", model, *quick, "-o", "run", "--save-every", "1", "--resume"]),
    main(["eval", "run", "--data", "notes.txt"]),
    main(["fill", "run", "The dog [MASK].", "\u4f60\u597d [MASK]", "--json"]),
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
    temporary = tmp_path / "temporary"
    temporary.mkdir(exist_ok=True)
    source = Path(__file__).parents[1] / "src"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        env=os.environ
        | {
            "PYTHONPATH": str(source),
            "PYTHONIOENCODING": "cp1252",
            "TMPDIR": str(temporary),
            "UNMASK_CACHE": str(temporary),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def test_a_run_can_be_made_and_used(
    tmp_path: Path, checkpoint: Callable[..., Path], corpus_text: list[str]
) -> None:
    (tmp_path / "notes.txt").write_text("\n".join(corpus_text[:60]) + "\n", encoding="utf-8")
    process = python(tmp_path, IMPORTS + WITHOUT + VERBS, str(checkpoint("bert")))
    shown, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "unknown on this system" in shown
    assert (tmp_path / "run" / "report.html").is_file()
    assert not (tmp_path / "run" / ".lock").exists()
    assert not list(tmp_path.glob("temporary/unmask-*"))
    assert "你好 [MASK]" in shown
    assert b"\r" not in (tmp_path / "run" / "metrics.jsonl").read_bytes()


def test_a_run_folder_is_locked(tmp_path: Path) -> None:
    first = python(tmp_path, WITHOUT + LOCKED, str(tmp_path))
    assert first.stdout is not None
    assert first.stdout.readline() == "free\n"
    second, _ = python(tmp_path, WITHOUT + LOCKED, str(tmp_path)).communicate()
    assert f"another run uses {tmp_path} (process {first.pid} on " in second
    first.communicate()
    assert python(tmp_path, WITHOUT + LOCKED, str(tmp_path)).communicate()[0] == "free\n"


def test_text_is_read_and_written_in_a_named_encoding() -> None:
    """Where none is named, it is the code page of the system."""
    missing = []
    for path in (Path(__file__).parents[1] / "src").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            texts = [each.value for each in call.args if isinstance(each, ast.Constant)]
            # Paths have the mode first, open() second; other methods of this name have no mode.
            opens = name == "open" and any(mode in ("r", "w", "a", "a+", "r+", "x") for mode in texts)
            named = any(each.arg == "encoding" for each in call.keywords) or "utf-8" in texts
            own = ast.unparse(call.func) in (
                "yaml_text.read_text",
                "formatter.write_text",
            )  # no methods of a path
            if (opens or name in ("read_text", "write_text")) and not named and not own:
                missing.append(f"{path.name}:{call.lineno}")
    assert missing == []
