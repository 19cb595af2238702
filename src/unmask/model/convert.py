"""Convert weights in ``pytorch_model.bin`` to safetensors.

The file is read in a process of its own, by torch's reader that makes tensors and nothing else.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from unmask.errors import ConfigError
from unmask.progress import Progress
from unmask.storage import new_folder

_OTHER_WEIGHTS = ("*.bin", "*.bin.index.json", "*.h5", "*.msgpack", "*.ot", "*.onnx", "*.pt", "*.pth")


def convert_weights(folder: Path, out: Path, progress: Progress = Progress()) -> None:
    """Write a copy of a model folder with ``model.safetensors`` in place of its other weights, and load it.

    Args:
        folder: holds ``pytorch_model.bin``, in one file or several.
        out: a folder, absent or empty; it appears complete or not at all.
        progress: logs an LM head that the weights lack.

    Raises:
        ConfigError: there are no such weights, they hold more than tensors, or they are no masked language model.
    """
    from unmask.model.load import read_checkpoint  # not in the process below, which needs torch alone

    pickled = sorted(folder.glob("pytorch_model*.bin"))
    if not pickled:
        raise ConfigError(f"'{folder}' has no pytorch_model.bin; give a model folder that has one")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: exists already and is not an empty folder; choose another name")
    with new_folder(out) as partial:
        ignored = shutil.ignore_patterns(*_OTHER_WEIGHTS)
        shutil.copytree(folder, partial, ignore=ignored, dirs_exist_ok=True)
        code = "import sys; from unmask.model.convert import rewrite; rewrite(*sys.argv[1:])"
        command = [sys.executable, "-c", code, str(partial / "model.safetensors"), *map(str, pickled)]
        done = subprocess.run(command, stderr=subprocess.PIPE, encoding="utf-8", errors="replace")
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise ConfigError(f"'{folder}': the weights hold more than tensors, or are damaged ({reason})")
        read_checkpoint(str(partial), offline=True, progress=progress)


def rewrite(out: str, *pickled: str) -> None:
    """Write the tensors of pickled files to a safetensors file."""
    import torch
    from safetensors.torch import save_file

    tensors = {}
    for path in pickled:
        for name, tensor in torch.load(path, map_location="cpu", weights_only=True).items():
            tensors[name] = (
                tensor.contiguous().clone()
            )  # tied weights share memory, which the format has no word for
    save_file(tensors, out, metadata={"format": "pt"})
