"""The parts ``faults`` and ``use`` of ``gpu.py``: too little memory, SIGTERM, resuming; filling, scoring, serving."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from gpu_inputs import Result, Step, peak, release

PATIENCE = 60.0


def faults(sizes: Result) -> Iterator[Step]:
    yield "out of memory", partial(_out_of_memory, sizes)
    yield "SIGTERM and resume", partial(_stopped, sizes)


def _out_of_memory(sizes: Result) -> Result:
    """Train with all of a step at once where only a part of it fits, and compare the losses with those of parts."""
    import torch

    step_tokens = sizes["step_tokens"]
    _, plain = _losses(sizes, step_tokens // 4, [])
    needed = peak("cuda") if sizes["device"] == "cuda" else None
    release()
    told: list[str] = []
    with ExitStack() as stack:
        if needed is None:
            _make_it_short(stack, step_tokens // 2)
        else:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, 1.25 * needed / total))
            stack.callback(torch.cuda.set_per_process_memory_fraction, 1.0)
        tokens, losses = _losses(sizes, step_tokens, told)
    off = max(abs(a - b) / b for a, b in zip(losses, plain, strict=True))
    shown = f"from {step_tokens:,} to {tokens:,} tokens at once; losses {off:.1e} off"
    return {"bytes_of_a_quarter": needed, "tokens_at_once": [step_tokens, tokens], "log": told,
            "losses": losses, "losses_in_quarters": plain, "greatest_relative_difference": off, "shown": shown}  # fmt: skip


def _losses(sizes: Result, micro_batch_tokens: int, told: list[str]) -> tuple[int, list[float]]:
    """Train three steps; return the tokens computed at once at the end, and the losses."""
    from ours import ready_loop

    rows: list[Result] = []
    place = Path(sizes["place"])
    flags = {
        "train.micro_batch_tokens": micro_batch_tokens,
        "train.max_steps": 3,
        "train.log_every": 1,
    }
    with tempfile.TemporaryDirectory(prefix="unmask-benchmark-") as folder:
        loop = ready_loop(
            folder, str(place / "bert"), str(place / "shards"), 512 // sizes["scale"], sizes["step_tokens"],
            sizes["precision"],
            sizes["device"], **flags,
        )  # fmt: skip
        loop.on_row, loop.log = rows.append, told.append
        loop.run()
    return loop.micro_batch_tokens, [row["loss"] for row in rows]


def _make_it_short(stack: ExitStack, most: int) -> None:
    """On a CPU: let batches of more tokens fail as they do on a GPU."""
    import torch

    from unmask.training import loop as training

    whole = training.step_gradients

    def compute(model: Any, batches: list[Any], *more: Any) -> Any:
        if max(batch.tokens for batch in batches) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(model, batches, *more)

    training.step_gradients = compute
    stack.callback(setattr, training, "step_gradients", whole)


def _stopped(sizes: Result) -> Result:
    """Train by the command: twice as a whole, and once ended by SIGTERM and continued; compare the weights."""
    import torch
    from safetensors.torch import load_file

    weights: Result = {}
    with tempfile.TemporaryDirectory(prefix="unmask-benchmark-") as folder:
        log = Path(folder) / "log.txt"

        def start(name: str, *more: str) -> subprocess.Popen[bytes]:
            with log.open("a", encoding="utf-8") as file:
                return _train(sizes, Path(folder) / name, file, *more)

        codes = {name: start(name).wait(PATIENCE) for name in ("whole", "again")}
        process = start("part")
        seen = _wait_for_step(process, Path(folder) / "part", 4)
        process.send_signal(signal.SIGTERM)
        codes["ended"] = process.wait(PATIENCE)
        codes["resumed"] = start("part", "--resume").wait(PATIENCE)
        for name in ("whole", "again", "part"):
            path = Path(folder) / name / "model" / "model.safetensors"
            if path.is_file():
                weights[name] = torch.cat([tensor.reshape(-1) for tensor in load_file(path).values()])
        said = log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:]
    found = {
        name: float((weights[name] - weights["whole"]).norm() / weights["whole"].norm())
        for name in ("again", "part")
        if {name, "whole"} <= weights.keys()
    }
    shown = f"exit codes {codes}, ended after step {seen}; from the whole run: {found}"
    return {
        "exit_codes": codes,
        "ended_after_step": seen,
        "relative_distance_of_weights": found,
        "log": said,
        "shown": shown,
    }


def _train(sizes: Result, out: Path, log: TextIO, *more: str) -> subprocess.Popen[bytes]:
    place = Path(sizes["place"])
    given = [str(place / "shards"), "--model", str(place / "bert"), "--max-steps", str(sizes["run_steps"]),
             "--max-length", "128", "--device", sizes["device"], "--precision", "fp32", "--offline", "--batch-tokens", "4096",
             "--set", "train.log_every=1"]  # fmt: skip
    command = [sys.executable, "-m", "unmask", "train", *(more or given), "-o", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)


def _wait_for_step(process: subprocess.Popen[bytes], run: Path, step: int) -> int:
    """Wait until a run has written the row of a step; return the last step written."""
    end, seen = time.perf_counter() + PATIENCE, 0
    while seen < step and process.poll() is None and time.perf_counter() < end:
        path = run / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        steps = [json.loads(line).get("step", 0) for line in lines if line.endswith("}")]
        seen = max(steps, default=0)
        time.sleep(0.02)
    return seen


# ---------------------------------------------------------------- asking


def use(sizes: Result) -> Iterator[Step]:
    for precision in dict.fromkeys(("fp32", sizes["precision"])):
        yield f"score, {precision}", partial(_score, sizes, precision)
        yield f"fill, {precision}", partial(_fill, sizes, precision)
    yield "serve", partial(_serve, sizes)


def _texts(sizes: Result) -> list[str]:
    """Return texts of about twenty words."""
    lines = (Path(sizes["place"]) / "text.txt").read_text(encoding="utf-8").splitlines()
    return [" ".join(line.split()[:20]) for line in lines if len(line.split()) >= 5][: sizes["texts"]]


def _masked(text: str) -> str:
    words = text.split()
    return " ".join([*words[: len(words) // 2], "[MASK]", *words[len(words) // 2 + 1 :]])


def _loaded(sizes: Result, precision: str) -> Any:
    import unmask

    return unmask.load(
        Path(sizes["place"]) / "bert", device=sizes["device"], precision=precision, offline=True
    )


def _score(sizes: Result, precision: str) -> Result:
    model, texts = _loaded(sizes, precision), _texts(sizes)
    model.score(texts[:8])
    begin = time.perf_counter()
    found = model.score(texts)
    seconds = time.perf_counter() - begin
    tokens = sum(score.tokens for score in found)
    return {"texts_per_second": len(texts) / seconds, "tokens_per_second": tokens / seconds,
            "peak_device_bytes": peak(sizes["device"]), "shown": f"{len(texts) / seconds:,.0f} texts/s"}  # fmt: skip


def _fill(sizes: Result, precision: str) -> Result:
    model = _loaded(sizes, precision)
    texts = [_masked(text) for text in _texts(sizes)]
    model.fill(texts[:8])
    begin = time.perf_counter()
    model.fill(texts)
    together = time.perf_counter() - begin
    few = texts[: max(8, len(texts) // 20)]
    begin = time.perf_counter()
    for text in few:
        model.fill(text)
    one = time.perf_counter() - begin
    shown = f"{len(texts) / together:,.0f} texts/s together, {len(few) / one:,.0f} one after another"
    return {"texts_per_second": len(texts) / together, "alone_per_second": len(few) / one, "shown": shown}


def _serve(sizes: Result) -> Result:
    """Start ``unmask serve`` and ask it from 1, 8 and 64 clients; it needs the packages of the extra ``serve``."""
    from serving import _load

    texts = [_masked(text) for text in _texts(sizes)[:200]]
    command = [sys.executable, "-m", "unmask", "serve", f"m={Path(sizes['place']) / 'bert'}", "--port", "0", "--json",
               "--offline", "-q", "--device", sizes["device"], "--precision", "fp32"]  # fmt: skip
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout
        line = process.stdout.readline()
        if not line:
            process.wait(PATIENCE)
            log.seek(0)
            raise RuntimeError(f"the server did not start: {log.read()[-1000:].strip()}")
    try:
        port = int(json.loads(line)["url"].rsplit(":", 1)[1])
        found = {}
        for clients in (1, 8, 64) if sizes["device"] == "cuda" else (1, 4):
            found[str(clients)] = asyncio.run(_load(port, texts, clients, sizes["seconds"]))
    finally:
        process.terminate()
        process.wait(PATIENCE)
    rates = ", ".join(
        f"{clients} clients {row['requests_per_second']:,.0f}/s" for clients, row in found.items()
    )
    return {"clients": found, "shown": rates}
