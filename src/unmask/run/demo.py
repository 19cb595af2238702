"""The demo: train a small encoder from scratch on the docstrings of this Python installation, without a download.

Docstrings are a real domain with its own words. Modules, not sentences, are held out.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from unmask.config.load import load_config
from unmask.config.settings import RunConfig
from unmask.errors import ConfigError
from unmask.progress import Progress
from unmask.run.docstrings import collect_docstrings, write_jsonl
from unmask.run.lock import LOCK, lock_run
from unmask.run.train import train
from unmask.run.training_run import FinishedRun
from unmask.run_folder import RunFolder
from unmask.storage import read_json

TRAINING_MINUTES = 2.9
"""Minutes of training by default: with collecting, preparing and evaluating the demo takes well under four on two cores."""

_CHARACTERS = 20_000_000
_TEXT = "text.jsonl"


def run_demo(
    out: Path | str = Path("runs/demo"),
    *,
    minutes: float = TRAINING_MINUTES,
    seed: int = 0,
    progress: Progress = Progress(),
) -> FinishedRun:
    """Collect documentation text, train a tokenizer and an encoder on it, evaluate, fill masks, write the report.

    Args:
        out: the run folder; an earlier demo there is replaced, anything else refused.
        minutes: minutes of training, without collecting and evaluating.
        seed: of weights, order and masks.
        progress: gets counts, choices and metrics.

    Raises:
        ConfigError: ``out`` holds something that is not a demo.
    """
    folder = RunFolder(Path(out))
    _clear_earlier(folder, progress)
    staging = folder.root.with_name(f".{folder.root.name}.text")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        text, heldout = staging / _TEXT, staging / folder.heldout.name
        corpus = collect_docstrings(max_characters=_CHARACTERS, progress=progress)
        progress.log(
            f"{len(corpus.train):,} docstrings to train on ({corpus.train_characters / 1e6:.1f} million characters) "
            f"and {len(corpus.heldout):,} held out, from {corpus.modules:,} modules"
        )
        write_jsonl(corpus.train, text)
        write_jsonl(corpus.heldout, heldout)
        result = train(
            demo_config(text, heldout, minutes=minutes, seed=seed),
            folder.root,
            command=["unmask", "demo", "--minutes", f"{minutes:g}", "--seed", str(seed)],
            extra={"demo": True},
            progress=progress,
        )
        shutil.copyfile(heldout, folder.heldout)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return result


def demo_config(text: Path, heldout: Path, *, minutes: float, seed: int) -> RunConfig:
    """Return the settings of the demo: a preset's recipe, with sequences and steps short enough for minutes."""
    return load_config(
        None,
        flags={
            "data.inputs": [str(text)],
            "data.heldout": [str(heldout)],
            "data.max_length": 128,
            "model.preset": "modernbert-tiny",
            "model.vocab_size": 8192,
            "train.minutes": minutes,
            "train.seed": seed,
        },
    )


def _clear_earlier(folder: RunFolder, progress: Progress) -> None:
    if not folder.root.exists() or (folder.root.is_dir() and not any(folder.root.iterdir())):
        return
    info = read_json(folder.info) if folder.root.is_dir() else None
    if not isinstance(info, dict) or not info.get("demo"):
        raise ConfigError(f"{folder.root} holds something that is not a demo; choose another folder with -o")
    progress.log(f"replacing the earlier demo in {folder.root}")
    with lock_run(folder.root, progress):
        for path in folder.root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:  # which Windows removes where it is let go of
                path.unlink()
    folder.root.rmdir()
