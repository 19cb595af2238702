"""Load for `serving.py`: a light client, and the mixed requests of `--soak`."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
from harness import Result, goal, middle

_PATIENCE = 60.0  # seconds for an answer


class Connection:
    """One client, as light as can be: what it takes is taken from the server on the same machine."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Connection:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def post(self, path: str, body: Any) -> int:
        """Send a request and read its answer; returns the status."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        self._writer.write(head.encode() + content)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = answer.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]
        await self._reader.readexactly(int(length))
        return int(answer.split(b" ", 2)[1])


def memory(process: int, what: str) -> int:
    """Return resident memory of a process in bytes, ``VmRSS`` now or ``VmHWM`` at its peak; only Linux says it."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) * 1024


def soak(port: int, process: int, texts: list[str], args: argparse.Namespace, document: Result) -> None:
    """Send mixed requests at a rate, 1% of them bad; the result is written every ten seconds."""
    found = asyncio.run(_soak(port, process, texts, args, document))
    harness.show_goals(found["goals"])
    sys.stdout.write(json.dumps(found["statuses"]) + "\n")


async def _soak(
    port: int, process: int, texts: list[str], args: argparse.Namespace, document: Result
) -> Result:
    draw, statuses, sizes = random.Random(1), Counter[str](), list[tuple[float, int]]()
    begin, seconds = time.perf_counter(), args.soak * 60
    running: set[asyncio.Future[None]] = set()

    async def one() -> None:
        kind, path, body = _request(draw, texts)
        try:
            async with asyncio.timeout(_PATIENCE), Connection(port) as connection:
                statuses[f"{kind} {await connection.post(path, body)}"] += 1
        except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            statuses[f"{kind} {type(error).__name__}"] += 1

    number, noted = 0, -10.0
    while (now := time.perf_counter() - begin) < seconds:
        running.add(asyncio.ensure_future(one()))
        running = {request for request in running if not request.done()}
        if now - noted >= 10:
            noted = now
            sizes.append((round(now), memory(process, "VmRSS")))
            result = document | {
                "statuses": dict(statuses),
                "memory": sizes,
                "goals": _soak_goals(statuses, sizes),
            }
            harness.write(args.json, result)
        number += 1
        await asyncio.sleep(max(0.0, number / args.rate - (time.perf_counter() - begin)))
    await asyncio.gather(*running)
    sizes.append((round(time.perf_counter() - begin), memory(process, "VmRSS")))
    result = document | {"statuses": dict(statuses), "memory": sizes, "goals": _soak_goals(statuses, sizes)}
    harness.write(args.json, result)
    return result


def _request(draw: random.Random, texts: Sequence[str]) -> tuple[str, str, Any]:
    """Return the kind, path and body of a request."""
    text = draw.choice(texts)
    plain = " ".join(text.replace("[MASK]", "one").split()[:12])
    if draw.random() < 0.01:
        bad: list[tuple[str, Any]] = [
            ("/", b'{"inputs": '),
            ("/", {"inputs": 5}),
            ("/", {"inputs": plain}),
            ("/fill", {"inputs": text, "parameters": {"top_k": 0}}),
            ("/score", {"inputs": plain, "model": "../none"}),
            ("/explain", {"inputs": ""}),
            ("/v1/embeddings", {"input": "one " * 3000}),
            ("/nowhere", {}),
        ]
        return "bad", *draw.choice(bad)
    good: list[tuple[str, Any]] = [
        ("/", {"inputs": text}),
        ("/", {"inputs": [text, draw.choice(texts)]}),
        ("/fill", {"inputs": f"{plain} ___ {plain}", "parameters": {"ranking": "joint"}}),
        (
            "/score",
            {"inputs": plain, "parameters": {"method": draw.choice(("original", "estimate", "whole_word"))}},
        ),
        ("/explain", {"inputs": plain, "parameters": {"seed": draw.randrange(1000)}}),
        ("/v1/embeddings", {"input": [plain, plain[:20]], "normalize": True}),
    ]
    return "good", *draw.choice(good)


def _soak_goals(statuses: Counter[str], memory: Sequence[tuple[float, int]]) -> list[Result]:
    wrong = sum(
        count for name, count in statuses.items() if not name.split()[1].isdigit() or name.split()[1] >= "500"
    )
    refused = sum(
        count for name, count in statuses.items() if name.startswith("good ") and name != "good 200"
    )
    goals = [
        goal("answers with 5xx, or none", wrong, most=0),
        goal("good requests refused", refused, most=0),
    ]
    # Memory after the first fifth is where it starts from: by then each kind of request was computed often.
    sizes = [size for _, size in memory]
    fifth = len(sizes) // 5
    if fifth:
        growth = middle([{"size": size} for size in sizes[-fifth:]], "size") / middle([{"size": size} for size in sizes[fifth : 2 * fifth]], "size")  # fmt: skip
        goals.append(goal("memory at the end / after warm-up", growth, most=1.05))
    return goals
