"""Requests per second and their times: `unmask serve` compared with the fill-mask pipeline of transformers behind FastAPI.

Both serve the same model (BERT of two sizes with BERT's vocabulary, new weights) on loopback, each in its own process, and
get the same requests (the fill-mask task of Hugging Face, one masked word in a text) from 1, 8, 32 and 128 clients, each of
which sends its next request when it has an answer. The sides take turns. Memory is the peak of the server's process.

A part is one model, precision, kind of text and number of clients. Its result is kept under build/benchmarks/serving: a
call with the same settings goes on where an earlier one was ended.

`--soak MINUTES` instead sends one server every kind of request, 1% of them bad, and counts answers and memory; `--identity`
instead compares the answers of texts that are computed alone and together.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import harness
from fill import masked
from harness import Result, goal, middle, say
from serving_load import Connection, memory, soak
from throughput import sentences

CLIENTS = (1, 8, 32, 128)
SIZES = {"6x384": (6, 384), "BERT-base": (12, 768)}
PATIENCE = 60.0  # seconds for what is being answered when a measurement ends


def options() -> argparse.ArgumentParser:
    made = harness.parser(__doc__ or "", rounds=3)
    add = made.add_argument
    add("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="models")
    add("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"], help="number formats")
    add("--clients", nargs="+", type=int, default=list(CLIENTS), help="clients at once")
    add(
        "--texts",
        nargs="+",
        choices=("short", "long"),
        default=["short", "long"],
        help="sentences, or 200 words",
    )
    add("--form", choices=harness.FORMS, help="serve what 'unmask export' makes of the model")
    add("--seconds", type=float, default=5.0, help="seconds of a measurement")
    add(
        "--soak",
        type=float,
        metavar="MINUTES",
        help="mixed load for so long instead, with the first of --sizes",
    )
    add("--rate", type=float, default=20.0, help="requests per second of --soak")
    add("--identity", action="store_true", help="compare answers alone and together instead")
    return made  # fmt: skip


def work(args: argparse.Namespace) -> None:
    source = sentences(harness.texts(args.text, 1))
    document = harness.report("serving", args, source=source)
    models = {size: harness.start(args.vocabulary, *SIZES[size]) for size in args.sizes}
    served = {
        size: harness.exported(model, args.form, source) if args.form else model
        for size, model in models.items()
    }
    if args.soak:
        texts = masked(source, 256, "[MASK]") + _long(source)[:20]
        with _serving("ours", served[args.sizes[0]], args.precisions[0]) as (port, process):
            soak(port, process, texts, args, document)
        return
    if args.identity:
        rows = [{"model": size} | harness.run("serving", "identity", {"model": model, "source": source}) for size, model in models.items()]  # fmt: skip
        harness.write(args.json, document | {"rows": rows})
        for row in rows:
            sys.stdout.write(
                "".join(
                    f"{key}: {value}\n"
                    for key, value in row.items()
                    if key != "peak_rss_bytes" and not key.endswith("_seconds")
                )
            )
        return
    rows = []
    for size, model in models.items():
        for precision in args.precisions:
            for kind in args.texts:
                for clients in args.clients:
                    about = {"precision": precision, "kind": kind, "clients": clients}
                    settings = {
                        "model": model,
                        "ours": served[size],
                        "source": source,
                        "rounds": args.rounds,
                        "seconds": args.seconds,
                    } | about
                    folder = harness.WORK / "serving"
                    name = f"{size}-{args.form or precision}-{kind}-{clients}"
                    rows.append(
                        {"model": f"{size} in {args.form}" if args.form else size}
                        | about
                        | harness.part(folder, name, "serving", "measure", settings)
                    )
                    harness.write(args.json, document | {"rows": rows, "goals": _goals(rows)})
    _show(rows)


# ---------------------------------------------------------------- one part, in its own process


def measure(
    model: str, ours: str, source: str, precision: str, kind: str, clients: int, rounds: int, seconds: float
) -> Result:
    """Send the same requests to both servers in turns; ``ours`` is the model or what was exported of it."""
    texts = masked(source, 256, "[MASK]") if kind == "short" else _long(source)
    with _serving("ours", ours, precision) as first, _serving("peer", model, precision) as second:
        servers = {"ours": first, "peer": second}
        sides: dict[str, Callable[[], Result]] = {
            name: partial(_measured, port, texts, clients, seconds) for name, (port, _) in servers.items()
        }
        for name, (port, _) in servers.items():  # the first requests are slower on both sides
            _measured(port, texts, min(clients, 4), min(2.0, seconds))
            say(f"{name} is warm")
        found = harness.take_turns(sides, rounds, lambda name, result: say(f"{name}: {result}"))
        values = {
            f"{name} {key}": middle(results, key)
            for name, results in found.items()
            for key in ("requests_per_second", "p50", "p95", "p99", "unanswered")
        }
        return values | {f"{name} memory": memory(process, "VmHWM") for name, (_, process) in servers.items()}


def _measured(port: int, texts: list[str], clients: int, seconds: float) -> Result:
    return asyncio.run(_load(port, texts, clients, seconds))


async def _load(port: int, texts: list[str], clients: int, seconds: float) -> Result:
    """Send requests from so many clients for so many seconds; return the rate and the times in seconds."""
    times: list[float] = []
    begin = time.perf_counter()

    async def client(number: int) -> None:
        draw = random.Random(number)
        async with Connection(port) as connection:
            while time.perf_counter() - begin < seconds:
                sent = time.perf_counter()
                status = await connection.post("/", {"inputs": draw.choice(texts)})
                if status != 200:
                    raise harness.Failure(f"a request was answered with status {status}")
                times.append(time.perf_counter() - sent)

    asked = [asyncio.ensure_future(client(number)) for number in range(clients)]
    _, waiting = await asyncio.wait(asked, timeout=seconds + PATIENCE)
    took = time.perf_counter() - begin
    for one in waiting:
        one.cancel()
    for done in await asyncio.gather(*asked, return_exceptions=True):
        if isinstance(done, Exception):
            raise done
    times.sort()
    rates = {"requests_per_second": len(times) / took, "unanswered": len(waiting)}
    return rates | {
        f"p{share}": times[min(len(times) - 1, len(times) * share // 100)] for share in (50, 95, 99)
    }


@contextmanager
def _serving(side: str, model: str, precision: str) -> Iterator[tuple[int, int]]:
    """Start a server; yields its port and process id."""
    command = {
        "ours": ["-m", "unmask", "serve", f"m={model}", "--port", "0", "--json", "--offline", "-q", "--precision", precision],
        "peer": [str(Path(__file__).resolve()), "--peer", model, precision],
    }[side]  # fmt: skip
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        line = process.stdout.readline()
        if not line:
            raise harness.Failure(f"the server '{side}' did not start")
        yield int(json.loads(line)["url"].rsplit(":", 1)[1]), process.pid
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
    listening.listen()
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


# ---------------------------------------------------------------- alone or together


def identity(model: str, source: str) -> Result:
    """Compare what 128 texts give alone, in batches of 2 to 64 with others, and in another order, in fp32."""
    import numpy as np

    from unmask.model.load import load_for_inference
    from unmask.serving.engine import ServedModel
    from unmask.serving.schemas import FillMaskParameters

    served = ServedModel("m", load_for_inference(model, device="cpu"), lambda: None)
    texts = masked(source, 128, "[MASK]")
    fill, embed = served.fill_mask(FillMaskParameters(top_k=50)).compute, served.embed(False).compute

    def values(task: Any, found: Any) -> Any:
        if task is embed:
            return found
        return np.log([one["score"] for one in sorted(found, key=lambda one: one["token"])])

    draw = random.Random(1)
    result: Result = {"texts": len(texts)}
    for name, task in (("log-probabilities", fill), ("embeddings", embed)):
        alone = [values(task, task([text])[0]) for text in texts]
        gaps = []
        for size in (2, 8, 32, 64):
            order = draw.sample(range(len(texts)), len(texts))
            for begin in range(0, len(order), size):
                group = order[begin : begin + size]
                together = task([texts[number] for number in group])
                gaps += [np.abs(values(task, found) - alone[number]).max() for number, found in zip(group, together, strict=True)]  # fmt: skip
        again = [
            np.array_equal(values(task, task([text])[0]), one) for text, one in zip(texts, alone, strict=True)
        ]
        result |= {
            f"{name}, alone twice: bit for bit": f"{np.mean(again):.1%}",
            f"{name}, alone and together: bit for bit": f"{np.mean(np.array(gaps) == 0):.1%}",
            f"{name}, alone and together: largest difference": f"{max(gaps):.2g}",
        }
    return result


# ---------------------------------------------------------------- results


def _goals(rows: list[Result]) -> list[Result]:
    goals = []
    for row in rows:
        name = f"{row['model']}, {row['precision']}, {row['kind']}"
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
            *(str(row[name]) for name in ("model", "precision", "kind", "clients")),
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
