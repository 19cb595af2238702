"""What ``growth.py`` measures; each function runs in its own process, see ``harness.run``."""

from __future__ import annotations

import contextlib
import random
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import harness

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Result = dict[str, Any]

_FILE = 64_000_000  # bytes of a file of text
_EVERY, _LINE = 12, 8  # words
_STEPS, _HELD_OUT = 20, 0.01


# ---------------------------------------------------------------- what grows


def text(out: str, files: list[str], megabytes: int) -> Result:
    """Write the text of files again and again, every 12th word replaced by another of it, in files of 64 MB."""
    documents = [words for name in files for words in _documents(name)]
    every_word = [word for words in documents for word in words if "\n" not in word]
    draw, left, number = random.Random(0), megabytes * 1_000_000, 0
    with _new(out) as folder:
        while left > 0:
            size, room = 0, min(left, _FILE)
            with (folder / f"text-{number:05d}.txt").open("w", encoding="utf-8") as file:
                while size < room:
                    words = documents[draw.randrange(len(documents))].copy()
                    for place in range(draw.randrange(_EVERY), len(words), _EVERY):
                        words[place] = every_word[int(draw.random() * len(every_word))]
                    whole = " ".join(words) + "\n\n"
                    file.write(whole)
                    size += len(whole.encode())
            left, number = left - size, number + 1
    return {}


def lines(out: str, files: list[str], documents: int) -> Result:
    """Write lines of eight words drawn from the text of files."""
    words = [word for name in files for text in _documents(name) for word in text if "\n" not in word]
    draw = random.Random(0)
    with _new(out) as folder, (folder / "lines.txt").open("w", encoding="utf-8") as file:
        for _ in range(documents):
            file.write(" ".join(draw.choices(words, k=_LINE)) + "\n")
    return {}


def _documents(name: str) -> list[list[str]]:
    return [part.split(" ") for part in Path(name).read_text(encoding="utf-8").split("\n\n") if part.strip()]


def corpus(out: str, documents: int, tokens: int, shards: int, vocabulary: int, length: int) -> Result:
    """Write shards of random tokens, and a small model with the tokenizer of these."""
    import numpy as np
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from unmask.data.corpus import FORMAT, MANIFEST, manifest_text
    from unmask.data.tokenizer import tokenizer_hash

    tokenizer, draw = _tokenizer(vocabulary), np.random.default_rng(0)
    content: Result = {"format": FORMAT, "documents": documents, "unknown_tokens": 0, "unknown_examples": [],
                       "read": {"errors": {}, "error_examples": {}}, "shards": [], "files": {}}  # fmt: skip
    content["tokenizer_sha256"] = tokenizer_hash(tokenizer)
    dtype = np.uint16 if vocabulary <= 1 << 16 else np.uint32
    with _new(out) as folder:
        config = BertConfig(vocab_size=vocabulary, hidden_size=128, num_hidden_layers=2, num_attention_heads=2,
                            intermediate_size=512, max_position_embeddings=length)  # fmt: skip
        torch.manual_seed(0)
        BertForMaskedLM(config).save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        (folder / "shards").mkdir()
        for begin, end in zip(*_bounds(documents, shards), strict=True):
            lengths = draw.integers(1, 2 * tokens, end - begin)
            arrays = {
                "tokens": draw.integers(5, vocabulary, int(lengths.sum()), dtype=dtype),
                "lengths": lengths.astype(np.int64),
                "keys": draw.integers(0, 2**64, end - begin, dtype=np.uint64),
            }
            name = f"shard-{len(content['shards']):05d}"
            sums = {part: _saved(folder / "shards" / f"{name}.{part}.npy", arrays[part]) for part in arrays}
            content["files"] |= {f"{name}.{part}.npy": found for part, found in sums.items()}
            shard = {"name": name, "documents": end - begin, "tokens": int(lengths.sum()), "sha256": sums}
            content["shards"].append(shard)
        content["tokens"] = sum(shard["tokens"] for shard in content["shards"])
        (folder / "shards" / MANIFEST).write_text(manifest_text(content), encoding="utf-8")
    return {}


def _bounds(count: int, parts: int) -> tuple[list[int], list[int]]:
    ends = [count * (number + 1) // parts for number in range(parts)]
    return [0, *ends[:-1]], ends


def _saved(path: Path, array: Any) -> str:
    import numpy as np

    from unmask.storage import sha256

    np.save(path, array)
    return sha256(path)


def _tokenizer(size: int) -> PreTrainedTokenizerBase:
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    words = [*special.values(), *(f"w{number}" for number in range(size - len(special)))]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


@contextlib.contextmanager
def _new(out: str) -> Iterator[Path]:
    """Yield a folder that becomes ``out`` when the block ends."""
    partial = Path(out).with_name(f".{Path(out).name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    partial.rename(out)


# ---------------------------------------------------------------- what it costs


def prepare(start: str, text: str, out: str, documents: str) -> Result:
    """Prepare text anew."""
    from unmask.config.settings import DocumentSettings
    from unmask.data.preparation import prepare
    from unmask.data.tokenizer import load_tokenizer

    shutil.rmtree(out, ignore_errors=True)
    settings, tokenizer = DocumentSettings(documents=documents), load_tokenizer(start)
    with _Cost() as cost:
        made = prepare([text], settings, tokenizer, out)
    return {"megabytes": made.manifest["bytes"] / 1e6, "tokens": made.tokens, "documents": len(made),
            "disk": _size(Path(out))} | cost.result  # fmt: skip


def plan(shards: str, model: str) -> Result:
    """Open shards, plan and read steps of two epochs, and evaluate, without computing."""
    from unmask.config.settings import MaskingSettings
    from unmask.data.batches import TextSource
    from unmask.data.corpus import open_corpus
    from unmask.data.heldout_size import MINIMUM
    from unmask.data.overlap import find_overlap
    from unmask.data.split import split_documents
    from unmask.data.tokenizer import load_tokenizer, vocabulary_of
    from unmask.data.training_stream import Cursor, TrainingStream

    vocabulary = vocabulary_of(load_tokenizer(model))
    taken = []
    with _Cost() as cost:
        begin = time.perf_counter()
        corpus = open_corpus(shards, verify=False)
        opened = time.perf_counter() - begin
        train, heldout = split_documents(corpus, _HELD_OUT, MINIMUM)
        text = TextSource(corpus, train, vocabulary, MaskingSettings(), 128)
        text.token_counts()
        stream = TrainingStream(text, 65_536, 0)
        for epoch in (0, 1):
            cursor = Cursor(epoch)
            for _ in range(_STEPS):
                before = time.perf_counter()
                numbers, following = stream.take(cursor)
                taken.append(time.perf_counter() - before)
                stream.micro_batches(cursor, numbers, 0.3, 8)
                cursor = following
        if heldout is not None:
            other = TextSource(corpus, heldout, vocabulary, MaskingSettings(), 128)
            for _ in other.evaluation_batches(8192, 100_000):
                pass
            find_overlap(other, [text])
        mapped = _memory()["RssFile"]
    return {"open": opened, "take": median(taken), "epoch": max(taken), "mapped": mapped, "documents": len(corpus),
            "tokens": corpus.tokens} | cost.result  # fmt: skip


def train(shards: str, model: str, length: int, batch_tokens: int, steps: int) -> Result:
    """Train some steps of prepared shards as ``unmask train`` does, with one checkpoint."""
    from unmask.config.load import load_config
    from unmask.progress import Progress
    from unmask.run.train import train
    from unmask.storage import read_rows
    from unmask.training.checkpoint import CheckpointWriter

    done: list[tuple[float, float, int]] = []
    saved: Result = {}
    save = CheckpointWriter.save

    def timed(self: CheckpointWriter, *given: Any, **named: Any) -> Any:
        begin = time.perf_counter()
        result = save(self, *given, **named)
        saved["stop"] = time.perf_counter() - begin
        self.wait()
        saved["whole"] = time.perf_counter() - begin
        return result

    class Steps(Progress):
        def advance(self, share: float | None, metrics: Mapping[str, object]) -> None:
            if "step" in metrics:
                done.append((time.perf_counter(), time.process_time(), cost.peak))

    flags = {"model.name": model, "model.offline": True, "data.inputs": [shards], "data.max_length": length,
             "train.batch_tokens": batch_tokens, "train.precision": "fp32", "train.device": "cpu",
             "train.optimizer.name": "adamw", "train.max_steps": steps, "train.eval_every": 10**9,
             "train.save_every": 10**9, "train.eval_tokens": 8192, "train.log_every": 1}  # fmt: skip
    CheckpointWriter.save = timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory(prefix="unmask-benchmark-") as place, _Cost() as cost:
        begin, cpu = time.perf_counter(), time.process_time()
        run = train(load_config(None, [], flags), f"{place}/run", progress=Steps())
        rows = [row for row in read_rows(run.folder.metrics) if "loss" in row]
        size = _size(run.folder.checkpoints)
    tokens = run.tokens / run.steps * (len(done) - 2)
    return {
        "first_step": done[0][0] - begin,
        "first_step_cpu": done[0][1] - cpu,
        "first_step_private": done[0][2],
        "tokens_per_second": tokens / (done[-1][0] - done[1][0]),
        "cpu_per_token": (done[-1][1] - done[1][1]) / tokens,
        "wait_share": median(row["wait_share"] for row in rows),
        "checkpoint": size,
        **{f"checkpoint_{name}": value for name, value in saved.items()},
    } | cost.result


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class _Cost:
    """``result`` is what a block took: seconds, CPU seconds, and by how much private memory rose at most."""

    def __enter__(self) -> _Cost:
        self._ended, self._thread = threading.Event(), threading.Thread(target=self._watch, daemon=True)
        self._before = self._peak = _memory()["RssAnon"]
        self._began = time.perf_counter(), _cpu()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        seconds, cpu = time.perf_counter() - self._began[0], _cpu() - self._began[1]
        self._ended.set()
        self._thread.join()
        self.result = {"seconds": seconds, "cpu": cpu, "private": self.peak}

    @property
    def peak(self) -> int:
        """By how much private memory has risen at most so far."""
        return self._peak - self._before

    def _watch(self) -> None:
        while not self._ended.wait(0.01):
            self._peak = max(self._peak, _memory()["RssAnon"])


def _cpu() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _memory() -> dict[str, int]:
    """Return the private memory and the mapped files of this process in bytes (Linux)."""
    status = Path("/proc/self/status")
    if not status.is_file():
        raise harness.Failure("this benchmark reads /proc/self/status, which only Linux has")
    found = dict(
        line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines() if ":" in line
    )
    return {name: int(found[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile")}
