"""Requests per second and their times: `unmask serve` compared with the fill-mask pipeline of transformers behind FastAPI.

Both serve the same model (BERT of two sizes with BERT's vocabulary, new weights) on loopback, each in its own process, and
get the same requests (the fill-mask task of Hugging Face, one masked word in a text) from 1, 8, 32 and 128 clients, each of
which sends its next request when it has an answer. The sides take turns. Memory is the peak of the server's process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import harness
from fill import masked
from harness import Result, goal, middle, say
from throughput import sentences

CLIENTS = (1, 8, 32, 128)
SIZES = {"6x384": (6, 384), "BERT-base": (12, 768)}


def options() -> argparse.ArgumentParser:
    made = harness.parser(__doc__ or "", rounds=3)
    add = made.add_argument
    add("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="models")
    add("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32"], help="number formats")
    add("--clients", nargs="+", type=int, default=list(CLIENTS), help="clients at once")
    add(
        "--texts",
        nargs="+",
        choices=("short", "long"),
        default=["short", "long"],
        help="sentences, or 200 words",
    )
    add("--seconds", type=float, default=8.0, help="seconds of a measurement")
    return made


def work(args: argparse.Namespace) -> None:
    source = sentences(harness.texts(args.text, 1))
    document = harness.report("serving", args, source=source)
    rows: list[Result] = []
    for size in args.sizes:
        model = harness.start(args.vocabulary, *SIZES[size])
        for precision in args.precisions:
            rows += _of_model(model, source, args, {"model": size, "precision": precision})
    harness.write(args.json, document | {"rows": rows, "goals": _goals(rows)})
    _show(rows)


def _of_model(model: str, source: str, args: argparse.Namespace, about: Result) -> list[Result]:
    rows = []
    with (
        _serving("ours", model, about["precision"]) as ours,
        _serving("peer", model, about["precision"]) as peer,
    ):
        for kind in args.texts:
            texts = masked(source, 256, "[MASK]") if kind == "short" else _long(source)
            for clients in args.clients:
                found = harness.take_turns(
                    {
                        name: partial(_measured, url, texts, clients, args.seconds)
                        for name, (url, _) in {"ours": ours, "peer": peer}.items()
                    },
                    args.rounds,
                    lambda *_: None,
                )
                rows.append(
                    about
                    | {"texts": kind, "clients": clients}
                    | {
                        f"{name} {key}": middle(results, key)
                        for name, results in found.items()
                        for key in ("requests_per_second", "p50", "p95", "p99")
                    }
                )
                say(f"{about['model']}, {about['precision']}, {kind}, {clients} clients: done")
        for row in rows:
            row |= {"ours memory": _peak(ours[1]), "peer memory": _peak(peer[1])}
    return rows


def _measured(url: str, texts: list[str], clients: int, seconds: float) -> Result:
    return asyncio.run(_load(url, texts, clients, seconds))


async def _load(url: str, texts: list[str], clients: int, seconds: float) -> Result:
    """Send requests from so many clients for so many seconds; return the rate and the times in seconds."""
    import httpx2

    times: list[float] = []
    limits = httpx2.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx2.AsyncClient(timeout=120, limits=limits) as client:
        begin = time.perf_counter()

        async def one(number: int) -> None:
            draw = random.Random(number)
            while time.perf_counter() - begin < seconds:
                sent = time.perf_counter()
                answer = await client.post(url, json={"inputs": draw.choice(texts)})
                answer.raise_for_status()
                times.append(time.perf_counter() - sent)

        await asyncio.gather(*(one(number) for number in range(clients)))
        took = time.perf_counter() - begin
    times.sort()
    return {"requests_per_second": len(times) / took} | {
        f"p{share}": times[min(len(times) - 1, len(times) * share // 100)] for share in (50, 95, 99)
    }


@contextmanager
def _serving(side: str, model: str, precision: str) -> Iterator[tuple[str, int]]:
    """Start a server; yields its URL and process id."""
    command = {
        "ours": ["-m", "unmask", "serve", f"m={model}", "--port", "0", "--json", "--offline", "-q", "--precision", precision],
        "peer": [str(Path(__file__)), "--peer", model, precision],
    }[side]  # fmt: skip
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        yield json.loads(process.stdout.readline())["url"], process.pid
    finally:
        process.terminate()
        process.wait()


def serve_peer(model: str, precision: str) -> None:
    """Serve the pipeline as its documentation would: a plain function of FastAPI, so in FastAPI's pool of threads."""
    import torch
    import uvicorn
    from fastapi import FastAPI
    from transformers import pipeline

    fill = pipeline(
        "fill-mask", model, dtype=getattr(torch, {"fp32": "float32", "bf16": "bfloat16"}[precision])
    )
    app = FastAPI()

    @app.post("/")
    def answer(body: dict[str, Any]) -> Any:
        with torch.inference_mode():
            return fill(body["inputs"], **body.get("parameters", {}))

    config = uvicorn.Config(app, log_level="warning", access_log=False)
    listening = socket.socket(
        socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )  # as uvicorn's own command makes it
    listening.bind(("127.0.0.1", 0))
    sys.stdout.write(json.dumps({"url": f"http://127.0.0.1:{listening.getsockname()[1]}"}) + "\n")
    sys.stdout.flush()
    uvicorn.Server(config).run(sockets=[listening])


def _long(source: str) -> list[str]:
    """Return texts of 200 words with one of them masked."""
    words = Path(source).read_text(encoding="utf-8").split()
    draw, texts = random.Random(1861), []
    for begin in range(0, min(len(words) - 200, 20_000), 200):
        part = words[begin : begin + 200]
        part[draw.randrange(200)] = "[MASK]"
        texts.append(" ".join(part))
    return texts


def _peak(process: int) -> int:
    """Return the peak of resident memory of a process in bytes."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def _goals(rows: list[Result]) -> list[Result]:
    goals = []
    for row in rows:
        name = f"{row['model']}, {row['precision']}, {row['texts']}"
        if row["clients"] == 32:
            ratio = row["ours requests_per_second"] / row["peer requests_per_second"]
            goals.append(goal(f"{name}: requests/s at 32 clients, ratio", ratio, least=5.0))
            goals.append(goal(f"{name}: memory, ratio", row["ours memory"] / row["peer memory"], most=1.0))
        if row["clients"] == 1:
            goals.append(goal(f"{name}: p95 at 1 client, ratio", row["ours p95"] / row["peer p95"], most=0.5))
    return goals


def _show(rows: list[Result]) -> None:
    header = [
        "model",
        "precision",
        "texts",
        "clients",
        "ours req/s",
        "peer req/s",
        "ours p50/p95/p99 ms",
        "peer p50/p95/p99 ms",
    ]
    table = [
        [
            *(str(row[name]) for name in ("model", "precision", "texts", "clients")),
            *(f"{row[f'{side} requests_per_second']:.1f}" for side in ("ours", "peer")),
            *("/".join(f"{row[f'{side} {key}'] * 1e3:.0f}" for key in ("p50", "p95", "p99")) for side in ("ours", "peer")),
        ]
        for row in rows
    ]  # fmt: skip
    harness.table(header, table)
    harness.show_goals(_goals(rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        os.environ["HF_HUB_OFFLINE"] = "1"
        serve_peer(*sys.argv[2:])
    else:
        sys.exit(harness.main(work, options()))
