"""Convert weights in ``pytorch_model.bin`` to safetensors.

The file is read in a process of its own, by torch's reader that makes tensors and nothing else.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from unmask.errors import ConfigError
from unmask.progress import Progress
from unmask.storage import LFS_POINTER, is_lfs_pointer, new_folder, require_new

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
    if pointers := list(filter(is_lfs_pointer, pickled)):
        raise ConfigError(f"{pointers[0]}: {LFS_POINTER}")
    require_new(out)
    with new_folder(out) as partial:
        ignored = shutil.ignore_patterns(*_OTHER_WEIGHTS)
        shutil.copytree(folder, partial, ignore=ignored, dirs_exist_ok=True)
        code = "import sys; from unmask.model.convert import rewrite; rewrite(*sys.argv[1:])"
        command = [sys.executable, "-c", code, str(partial / "model.safetensors"), *map(str, pickled)]
        done = subprocess.run(command, stderr=subprocess.PIPE, encoding="utf-8", errors="replace")
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise ConfigError(
                f"'{folder}': {reason}; download the file again, or ask its author for model.safetensors"
            )
        read_checkpoint(str(partial), offline=True, progress=progress)


def rewrite(out: str, *pickled: str) -> None:
    """Write the tensors of pickled files to a safetensors file, or exit with a line on stderr that says why not."""
    import torch
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for path in pickled:
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            other = re.search(r"GLOBAL (\S+)", str(error))
            what = (
                f"holds more than tensors ({other[1]})"
                if other
                else "is damaged, or was not written by torch"
            )
            sys.exit(f"{Path(path).name} {what}")
        if not isinstance(loaded, dict) or not all(
            isinstance(found, torch.Tensor) for found in loaded.values()
        ):
            sys.exit(f"{Path(path).name} is no dictionary of tensors, as state_dict() returns one")
        # Tied weights share memory, which the format has no word for.
        tensors |= {name: tensor.contiguous().clone() for name, tensor in loaded.items()}
    save_file(tensors, out, metadata={"format": "pt"})
