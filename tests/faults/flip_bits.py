"""One bit of a checkpoint flipped: it is found, said, and the checkpoint before it is used."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import tiny_run

from unmask.progress import Progress
from unmask.run_folder import RunFolder
from unmask.training.checkpoint import find_checkpoint, list_checkpoints


class Notices(Progress):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def log(self, text: str) -> None:
        self.heard.append(text)


def flip_bits(folder: Path, text: Path, whole: RunFolder, flips: int, seed: int) -> dict[str, Any]:
    """Flip single bits in all files of the newest checkpoint in turn; with a tenth of them, go on with the run."""
    draw, config, out = random.Random(seed), tiny_run.configure(text), folder / "flipped"
    shutil.copytree(whole.root, out)
    before, newest = list_checkpoints(RunFolder(out).checkpoints)[-2:]
    files = sorted(path for path in newest.iterdir())
    found = used = 0
    differing: list[str] = []
    for number in range(flips):
        path = files[number % len(files)]
        content = bytearray(path.read_bytes())
        place = draw.randrange(len(content))
        content[place] ^= 1 << draw.randrange(8)
        kept, progress = path.read_bytes(), Notices()
        path.write_bytes(content)
        chosen = find_checkpoint(newest.parent, "auto", progress)
        found += len(progress.heard) == 1 and progress.heard[0].startswith("skipped a damaged checkpoint")
        used += chosen == before
        if number < max(1, flips // 10):
            resumed = folder / f"flipped-{number}"
            shutil.copytree(out, resumed)
            differing += tiny_run.differences(tiny_run.finish(config, resumed), whole)
        path.write_bytes(kept)
    return {"flips": flips, "found": found, "previous used": used, "differing": differing}
