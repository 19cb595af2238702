"""Memory a document of the corpus in the training process: the slope between two corpora of tiny documents.

The shards are made of random tokens. A process opens them, splits off held-out text, plans steps of two epochs, evaluates and
counts tokens, without a model; what it needs whatever the corpus falls out of the slope. ``private`` is the most private memory
that was seen meanwhile; the mapped files belong to the page cache of the system, which all processes of a host share and which
is given back when memory is short.

``--before FOLDER`` measures another version too: the folder of its sources (``git worktree add FOLDER COMMIT``, then
``FOLDER/src``).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import harness
from harness import Result

GOAL = 24.0
_A_SHARD = 2_000_000
_WORDS = 1000
_STEPS = 20


def options() -> argparse.ArgumentParser:
    made = harness.parser(__doc__ or "", rounds=None)
    made.add_argument(
        "--documents", type=int, nargs=2, default=[4_000_000, 16_000_000], help="documents of the corpora"
    )
    made.add_argument("--tokens", type=int, default=8, help="mean tokens of a document")
    made.add_argument("--before", type=Path, metavar="FOLDER", help="sources of another version")
    return made


def work(args: argparse.Namespace) -> None:
    folders = [
        harness.once("corpus", [], "corpus_memory", "make", {"documents": count, "tokens": args.tokens})
        for count in args.documents
    ]
    measured, rows = {}, []
    for side, source in (("before", args.before), ("now", None)):
        if side == "before" and source is None:
            continue
        found = [_measured(folder, source) for folder in folders]
        more = args.documents[1] - args.documents[0]
        slopes = {name: (found[1][name] - found[0][name]) / more for name in ("private", "mapped")}
        measured[side] = {"results": found, "bytes_a_document": slopes}
        times = [found[1]["seconds"], 1000 * found[1]["take"], 1000 * found[1]["epoch"]]
        rows.append([side, *(f"{slopes[name]:.1f}" for name in slopes), *(f"{value:.1f}" for value in times)])
    goals = [harness.goal("bytes a document", measured["now"]["bytes_a_document"]["private"], most=GOAL)]
    harness.write(args.json, harness.report("corpus_memory", args, measured=measured, goals=goals))
    header = [
        "bytes a document",
        "private",
        "mapped files",
        "seconds",
        "ms to take a step",
        "to begin an epoch",
    ]
    harness.table(header, rows)
    harness.show_goals(goals)


def _measured(folder: str, source: Path | None) -> Result:
    """Measure in a process of its own, with the sources of this version or of another."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(source.resolve()) if source else str(harness.ROOT / "src")
    try:
        return harness.run("corpus_memory", "measure", {"folder": folder})
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


def make(documents: int, tokens: int, out: str) -> Result:
    """Write shards of random tokens."""
    import numpy as np

    from unmask.data.corpus import FORMAT, MANIFEST, manifest_text

    folder = Path(out)
    partial = folder.with_name(f".{folder.name}.partial")
    subprocess.run(["rm", "-rf", str(partial)], check=True)
    partial.mkdir(parents=True)
    draw, shards, files = np.random.default_rng(0), [], {}
    for begin in range(0, documents, _A_SHARD):
        count, name = min(_A_SHARD, documents - begin), f"shard-{len(shards):05d}"
        lengths = draw.integers(1, 2 * tokens, count)
        total = int(lengths.sum())
        parts = {
            "tokens": draw.integers(5, _WORDS, total, dtype=np.uint16),
            "lengths": lengths.astype(np.int64),
            "keys": draw.integers(0, 2**64, count, dtype=np.uint64),
        }
        for part, array in parts.items():
            np.save(partial / f"{name}.{part}.npy", array)
            files[f"{name}.{part}.npy"] = ""
        shards.append({"name": name, "documents": count, "tokens": total, "sha256": {}})
    content = {
        "format": FORMAT,
        "shards": shards,
        "files": files,
        "read": {"errors": {}, "error_examples": {}},
    }
    (partial / MANIFEST).write_text(manifest_text(content), encoding="utf-8")
    partial.rename(folder)
    return {}


def measure(folder: str) -> Result:
    """Do with a corpus what training does besides computing."""
    from unmask.config.settings import MaskingSettings
    from unmask.data.batches import Cursor, TextSource, TrainingStream
    from unmask.data.corpus import open_corpus
    from unmask.data.overlap import find_overlap
    from unmask.run.components import split_documents

    vocabulary, seen = _vocabulary(), _Peak()
    begin = time.perf_counter()
    with seen:
        corpus = open_corpus(folder, verify=False)
        sources = [
            TextSource(corpus, documents, vocabulary, MaskingSettings(), 128)
            for documents in split_documents(corpus, 0.01)
            if documents is not None
        ]
        text, heldout = sources
        text.token_counts()
        stream = TrainingStream(text, 65_536, 0)
        taken = []
        for epoch in (0, 1):
            cursor = Cursor(epoch)
            for _ in range(_STEPS):
                before = time.perf_counter()
                numbers, following = stream.take(cursor)
                taken.append(time.perf_counter() - before)
                stream.micro_batches(cursor, numbers, 0.3, 8)
                cursor = following
        for _ in heldout.evaluation_batches(8192, 100_000):
            pass
        find_overlap(heldout, [text])
        mapped = _memory()["RssFile"]
    seconds = {"seconds": time.perf_counter() - begin, "take": median(taken), "epoch": max(taken)}
    return {"private": seen.peak, "mapped": mapped, **seconds}


def _vocabulary() -> Any:
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    from unmask.data.tokenizer import vocabulary_of

    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    words = [*special.values(), *(f"w{number}" for number in range(_WORDS - len(special)))]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return vocabulary_of(PreTrainedTokenizerFast(tokenizer_object=made, **special))


class _Peak:
    """Looks at the private memory of this process a hundred times a second; ``peak`` is the most that it saw."""

    def __init__(self) -> None:
        self.peak, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.01):
            self.peak = max(self.peak, _memory()["RssAnon"])


def _memory() -> dict[str, int]:
    """Return the private memory and the mapped files of this process in bytes (Linux)."""
    status = Path("/proc/self/status")
    if not status.is_file():
        raise harness.Failure("this benchmark reads /proc/self/status, which only Linux has")
    lines = (line.split(":") for line in status.read_text(encoding="utf-8").splitlines() if ":" in line)
    found = {name: value.split() for name, value, *_ in lines}
    return {name: int(found[name][0]) * 1024 for name in ("RssAnon", "RssFile")}


if __name__ == "__main__":
    raise SystemExit(harness.main(work, options()))
