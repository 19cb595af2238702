"""Preparation is the same with any number of threads, and after being killed at any moment.

    python tests/faults/preparation.py FOLDER --kills 50 [--seed 0]

Prints one JSON object: the digest of the shards with 1, 2 and 8 threads, and after each kill -9 the digest of the
preparation that was done again. Every preparation is a process of its own, forked from this one before it uses any
thread, so that the libraries are imported once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import time
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from unmask.config.settings import DocumentSettings
from unmask.data import corpus, parts, preparation, shards

WORDS = "when shall we three meet again in thunder lightning or in rain".split()


def make_text(folder: Path, lines: int) -> Path:
    """Write four files, each a part of several shards."""
    draw = random.Random(0)
    text = folder / "text"
    text.mkdir()
    for number in range(4):
        content = "".join(" ".join(draw.choices(WORDS, k=12)) + "\n" for _ in range(lines // 4))
        (text / f"{number}.txt").write_text(content, encoding="utf-8")
    return text


def make_tokenizer() -> PreTrainedTokenizerFast:
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(WORDS)]
    core = Tokenizer(models.WordPiece({entry: n for n, entry in enumerate(entries)}, unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=core, mask_token="[MASK]", **names)


def start(text: Path, out: Path, threads: int) -> int:
    """Prepare in a new process and return its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.environ["RAYON_NUM_THREADS"], os.environ["TOKENIZERS_PARALLELISM"] = str(threads), "true"
        shards._SHARD_TOKENS, parts._BATCH_CHARACTERS, parts.PART_BYTES = 20_000, 50_000, 1
        preparation.prepare([text], DocumentSettings(documents="line"), make_tokenizer(), out)
        code = 0
    finally:
        os._exit(code)


def finish(child: int) -> None:
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(f"a preparation ended with status {status}")


def digest(out: Path) -> str:
    """Return a hash of every file of the shards; all of them are checked on the way."""
    made = corpus.open_corpus(out)
    return hashlib.sha256(json.dumps(made.manifest["files"], sort_keys=True).encode()).hexdigest()


def kill_once(text: Path, out: Path, after: float) -> bool:
    """Kill a preparation after so many seconds; return whether it was still at work."""
    child = start(text, out, 2)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lines", type=int, default=20_000)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    text = make_text(folder, arguments.lines)
    threads = {}
    for count in (1, 2, 8):
        begin = time.monotonic()
        finish(start(text, folder / f"threads-{count}", count))
        seconds = time.monotonic() - begin
        threads[count] = digest(folder / f"threads-{count}")
    draw, killed, whole, again = random.Random(arguments.seed), 0, 0, []
    for number in range(arguments.kills):
        out = folder / f"killed-{number}"
        killed += kill_once(text, out, draw.random() * seconds)
        whole += corpus.is_corpus(out)
        finish(start(text, out, 2))
        again.append(digest(out))
    left = sorted(path.name for path in folder.iterdir() if path.name.endswith(".partial"))
    print(json.dumps({"threads": threads, "killed": killed, "whole": whole, "again": again, "left": left}))


if __name__ == "__main__":
    main()
