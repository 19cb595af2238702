"""The unmask side of the benchmarks: each function runs in its own process, see ``harness.run``."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import shutil
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unmask.data.batches import TextSource
    from unmask.model.masked_lm import MaskedLM
    from unmask.training.loop import Loop

Result = dict[str, Any]


def machine() -> Result:
    """Return the machine and the versions of libraries."""
    from unmask.run.fingerprint import machine_info

    return machine_info()


def make_start(out: str, vocabulary: str, layers: int, hidden: int, **config: Any) -> Result:
    """Write a BERT with new weights and the tokenizer of a vocabulary, where both sides start."""
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertTokenizer

    entries = Path(vocabulary).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    tokenizer = BertTokenizer(
        vocab={entry: number for number, entry in enumerate(entries)}, model_max_length=512
    )
    shape: Result = {
        "vocab_size": len(entries),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "intermediate_size": 4 * hidden,
    }
    torch.manual_seed(0)
    partial = Path(out + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    BertForMaskedLM(BertConfig(**(shape | config))).save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(out)
    return {}


def documentation(out: str, characters: int) -> Result:
    """Write the documentation of the installed packages, for :func:`harness.documentation`."""
    from unmask.run.docstrings import collect_docstrings, write_jsonl

    corpus = collect_docstrings(max_characters=characters)
    partial = Path(out + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_jsonl(corpus.train, partial / "train.jsonl")
    write_jsonl(corpus.heldout, partial / "heldout.jsonl")
    partial.rename(out)
    return {}


def shards(out: str, start: str, files: list[str], documents: str) -> Result:
    """Prepare text as ``unmask prepare`` does."""
    from unmask.config.settings import DocumentSettings
    from unmask.data.preparation import prepare
    from unmask.data.tokenizer import load_tokenizer

    corpus = prepare(files, DocumentSettings(documents=documents), load_tokenizer(start), Path(out))
    return {"tokens": corpus.tokens, "documents": len(corpus)}


def prepare_speed(start: str, files: list[str], documents: str, tasks: int | None = None) -> Result:
    """Time the preparation of text into a new folder, without imports and loading the tokenizer."""
    from unmask.config.settings import DocumentSettings
    from unmask.data.preparation import prepare
    from unmask.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(start)
    with tempfile.TemporaryDirectory(prefix="unmask-benchmark-") as place:
        begin = time.perf_counter()
        corpus = prepare(
            files, DocumentSettings(documents=documents), tokenizer, Path(place) / "shards", tasks=tasks
        )
        seconds = time.perf_counter() - begin
    read = corpus.manifest["bytes"]
    return {"seconds": seconds, "tokens": corpus.tokens, "megabytes_per_second": read / 1e6 / seconds,
            "tokens_per_second": corpus.tokens / seconds}  # fmt: skip


def prepare_tasks(start: str, files: list[str], documents: str, tasks: int | None) -> Result:
    """As :func:`prepare_speed` by tasks of this machine, in small parts; with the CPU time and the peak memory of a task."""
    from unmask.data import parts

    parts.PART_BYTES = 6 << 20
    peaks: dict[str, int] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    if b"unmask.data.task" in (process / "cmdline").read_bytes():
                        peak = re.search(r"VmHWM:\s+(\d+)", (process / "status").read_text(encoding="utf-8"))
                        peaks[process.name] = int(peak[1]) * 1024 if peak else 0

    def used() -> float:
        return sum(
            sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )

    watcher, before = threading.Thread(target=watch), used()
    watcher.start()
    try:
        result = prepare_speed(start, files, documents, tasks=tasks)
    finally:
        done.set()
        watcher.join()
    return result | {"cpu_seconds": used() - before, "task_peak_rss_bytes": max(peaks.values(), default=0)}


def encode_speed(start: str, files: list[str], documents: str, fast: bool) -> Result:
    """Time the tokenizers library alone: the same documents in memory, results discarded."""
    from unmask.config.settings import DocumentSettings
    from unmask.data.batching import in_batches
    from unmask.data.reading.documents import DocumentReader
    from unmask.data.tokenizer import load_tokenizer

    texts = [document.text for document in DocumentReader(files, DocumentSettings(documents=documents))]
    core = load_tokenizer(start).backend_tokenizer
    core.no_truncation()
    encode = core.encode_batch_fast if fast else core.encode_batch
    tokens, begin = 0, time.perf_counter()
    for part in in_batches(texts, 1 << 20):
        tokens += sum(len(encoding) for encoding in encode(part, add_special_tokens=False))
    seconds = time.perf_counter() - begin
    read = sum(len(text.encode()) for text in texts)
    return {"seconds": seconds, "tokens": tokens, "megabytes_per_second": read / 1e6 / seconds,
            "tokens_per_second": tokens / seconds}  # fmt: skip


def ceiling(precision: str, device: str) -> Result:
    """Measure the matrix-product rate of this machine."""
    import torch

    from unmask.benchmark.flops import matmul_rate

    found = matmul_rate(precision, torch.device(device), seconds=0.6)
    return {"teraflops": found.teraflops, "shape": found.shape}


def speed(
    start: str,
    shards: str,
    length: int,
    batch_tokens: int,
    precision: str,
    seconds: float,
    warm_up: int,
    device: str = "cpu",
    least: int = 5,
    compiled: bool = False,
) -> Result:
    """Train for some seconds and return tokens per second, with everything a step does."""
    import torch

    from unmask.benchmark.bench import run_measured, shape_of_steps
    from unmask.benchmark.flops import flops_per_token
    from unmask.benchmark.stopwatch import Stopwatch

    with tempfile.TemporaryDirectory(prefix="unmask-benchmark-") as place:
        loop = ready_loop(
            place, start, shards, length, batch_tokens, precision, device, **{"train.compile": compiled}
        )
        attended, predicted = shape_of_steps(loop)
        rows: list[Result] = []
        loop.on_row = rows.append
        if device == "cpu":
            # A metrics row per step shows the waiting time of each; on CUDA it would stall the queue.
            loop.log_every = 1
        settle = torch.cuda.synchronize if device == "cuda" else lambda: None
        watch = Stopwatch(seconds, warm_up=warm_up, least=least, settle=settle)
        run_measured(loop, watch)
    return {
        "tokens_per_second": watch.tokens_per_second,
        "seconds_per_step": watch.seconds_per_step,
        "step_seconds": watch.step_seconds,
        "tokens_per_step": watch.tokens / len(watch.step_seconds),
        "attended": attended,
        "predicted": predicted,
        "flops_per_token": flops_per_token(loop.model, attended, predicted),
        "wait_share": median(row["wait_share"] for row in rows) if rows else None,
        "packed": loop.model.packed,
        "parameters": loop.model.parameters,
        "peak_device_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None,
    }


def ready_loop(
    place: str,
    start: str,
    shards: str,
    length: int,
    batch_tokens: int,
    precision: str,
    device: str,
    **flags: Any,
) -> Loop:
    """Put together the loop that ``unmask train`` would run, without an end unless the flags have one."""
    from unmask.benchmark.bench import training_loop
    from unmask.config.load import load_config
    from unmask.progress import Progress
    from unmask.run.components import build_components
    from unmask.run_folder import RunFolder

    config = load_config(
        None,
        flags={
            "model.name": start,
            "model.offline": True,
            "data.inputs": [shards],
            "data.max_length": length,
            "train.batch_tokens": batch_tokens,
            "train.precision": precision,
            "train.device": device,
            "train.optimizer.name": "adamw",
            "train.max_steps": 10**9,
        }
        | flags,
    )
    return training_loop(config, build_components(config, RunFolder(Path(place)), Progress()))


# ---------------------------------------------------------------- time to quality


def train_run(
    out: str, shards: str, heldout: str, preset: str, tokenizer: str, minutes: float, length: int, seed: int,
    eval_every: int, eval_tokens: int, overrides: list[str],
) -> Result:  # fmt: skip
    """Train a preset from scratch for some minutes, as ``unmask train`` does, and return its loss curve."""
    from unmask.config.load import load_config
    from unmask.run.train import train
    from unmask.storage import read_rows

    flags = {
        "model.preset": preset,
        "model.tokenizer": tokenizer,
        "model.offline": True,
        "data.inputs": [shards],
        "data.heldout": [heldout],
        "data.max_length": length,
        "train.minutes": minutes,
        "train.seed": seed,
        "train.eval_every": eval_every,
        "train.eval_tokens": eval_tokens,
        "train.keep_last": 1,
    }
    shutil.rmtree(out, ignore_errors=True)
    result = train(load_config(None, overrides, flags), out)
    rows = [row for row in read_rows(result.folder.metrics) if "eval_loss" in row]
    curve = [
        {"seconds": row["seconds"], "loss": row["eval_loss"], "accuracy": row["eval_accuracy"]}
        for row in rows
    ]
    info = json.loads(result.folder.info.read_text(encoding="utf-8"))
    about = {key: info[key] for key in ("parameters", "precision", "model_class", "batch_tokens")}
    return {"curve": curve, "model": str(result.folder.model), "steps": result.steps, "tokens": result.tokens,
            "seconds": result.seconds} | about  # fmt: skip


def evaluate_models(models: list[str], heldout: str, length: int, tokens: int, precision: str) -> Result:
    """Evaluate saved checkpoints at the same frozen masks of the same held-out text."""
    from unmask.evaluation.heldout import evaluate_batches
    from unmask.model.load import load_for_inference

    found = []
    for name in models:
        model = load_for_inference(name, device="cpu", precision=precision, offline=True)
        source = _source(heldout, model, length)
        figures = evaluate_batches(model, source.evaluation_batches(8192, tokens))
        found.append(figures.to_dict() | {"parameters": model.parameters})
    return {"figures": found}


def _source(shards: str, model: MaskedLM, length: int) -> TextSource:
    import numpy as np

    from unmask.config.settings import MaskingSettings
    from unmask.data.batches import TextSource
    from unmask.data.corpus import open_corpus

    corpus = open_corpus(Path(shards))
    return TextSource(corpus, np.arange(len(corpus)), model.vocabulary, MaskingSettings(), length)


def parameters(preset: str, start: str) -> Result:
    """Return the number of weights of a preset, with the tokenizer of a checkpoint, and of the checkpoint."""
    from unmask.data.tokenizer import load_tokenizer
    from unmask.model.load import new_model, read_checkpoint

    made = {
        "preset": new_model(preset, load_tokenizer(start), 0),
        "start": read_checkpoint(start, offline=True).model,
    }
    return {name: sum(weight.numel() for weight in model.parameters()) for name, model in made.items()}
