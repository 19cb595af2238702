"""What a server refuses, what it does under load, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from unmask.serving import Limits, listen

Serve = Callable[..., str]


def test_answers_do_not_depend_on_what_is_computed_together(client: httpx2.Client, url: str) -> None:
    bodies = [
        {"inputs": f"the [MASK] number {number} is quiet" + " in the harbour" * (number % 7)}
        for number in range(40)
    ]
    alone = [client.post("/", json=body).json() for body in bodies]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda body: httpx2.post(url, json=body, timeout=60).json(), bodies))
    for ours, theirs in zip(together, alone, strict=True):
        assert [one["token"] for one in ours] == [one["token"] for one in theirs]
        assert [one["score"] for one in ours] == pytest.approx([one["score"] for one in theirs], abs=1e-5)


def test_requests_that_wait_are_computed_together(serve: Serve) -> None:
    url = serve()
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda n: httpx2.post(url, json={"inputs": f"a [MASK] {n}"}, timeout=60), range(64)))
    metrics = httpx2.get(f"{url}/metrics").text
    counted = {
        name: float(re.search(rf"^unmask_{name} (.*)$", metrics, re.M)[1]) for name in ("texts", "batches")
    }  # type: ignore[index]
    assert counted["texts"] == 64
    assert counted["batches"] < 64


@pytest.mark.parametrize(
    ("path", "body", "field", "message"),
    [
        ("/", {}, "inputs", "Field required"),
        ("/", {"inputs": 5}, "inputs", "valid string"),
        ("/", {"inputs": ["a [MASK]", None]}, "inputs[1]", "valid string"),
        ("/", {"inputs": []}, "inputs", "expected 1 to 8 texts, got 0"),
        ("/", {"inputs": ["a [MASK]"] * 9}, "inputs", "expected 1 to 8 texts, got 9"),
        ("/", {"inputs": "a [MASK] " * 200}, "inputs", "expected at most 300 tokens in all, got"),
        ("/", {"inputs": "a [MASK] \0"}, "inputs", "NUL"),
        ("/", {"inputs": "a [MASK]", "parameters": {"top_k": 0}}, "parameters.top_k", "greater than or equal to 1"),
        ("/", {"inputs": "a [MASK]", "parameters": {"top_k": 1e30}}, "parameters.top_k", "valid integer"),
        ("/", {"inputs": "a [MASK]", "parameters": {"topk": 2}}, "parameters.topk", "not permitted"),
        ("/", {"inputs": "a [MASK]", "parameters": {"targets": []}}, "parameters.targets", "at least 1 item"),
        ("/score", {"inputs": "a", "parameters": {"method": "best"}}, "parameters.method", "'original'"),
        ("/explain", {"inputs": ""}, None, "the text is empty"),
        ("/explain", {"inputs": "a", "parameters": {"mask_positions": [99]}}, None, "99"),
        ("/v1/embeddings", {"input": [[1, 2]]}, "input[0]", "valid string"),
        ("/v1/embeddings", {"input": "a", "dimensions": 7}, "dimensions", "dimensions"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused_with_the_field_named(
    path: str, body: Any, field: str | None, message: str, strict_client: httpx2.Client
) -> None:
    answer = strict_client.post(path, json=body)
    assert answer.status_code == 422
    found = answer.json()
    if path.startswith("/v1"):
        found = {"error": found["error"]["message"], "field": found["error"]["param"]}
    assert found.get("field") == field
    assert message in found["error"]


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b'{"inputs": ', {"content-type": "application/json"}, 422),
        (b"[" * 100_000, {"content-type": "application/json"}, 400),
        (b'{"inputs": "a [MASK]", "parameters": {"top_k": ' + b"9" * 9000 + b"}}", {"content-type": "application/json"}, 400),
        (b'{"inputs": "\\ud800 [MASK]"}', {"content-type": "application/json"}, 422),
        (b'{"inputs": "\xff [MASK]"}', {"content-type": "application/json"}, 400),
        (b'{"inputs": "a [MASK]"}', {"content-type": "text/plain"}, 422),
        (b"x" * (2 << 20), {"content-type": "application/json"}, 413),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(
    content: bytes, headers: dict[str, str], status: int, client: httpx2.Client
) -> None:
    answer = client.post("/", content=content, headers=headers)
    assert answer.status_code == status
    assert set(answer.json()) <= {"error", "field"}
    assert status != 400 or "cannot be read as JSON" in answer.json()["error"]
    assert len(answer.content) < 500


def test_other_addresses_are_refused(client: httpx2.Client) -> None:
    for path in ("/models/none", "/models/../../etc/passwd", "/models/%2e%2e%2fetc", "/etc/passwd", "/fill/"):
        assert client.post(path, json={"inputs": "a [MASK]"}).status_code in (404, 405, 307), path
    assert client.get("/fill").status_code == 405


def test_a_key_is_asked_for_where_there_is_one(serve: Serve) -> None:
    url = serve(api_key="secret")
    body = {"inputs": "a [MASK]"}
    assert httpx2.post(url, json=body).status_code == 401
    assert httpx2.post(url, json=body, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert httpx2.get(f"{url}/metrics").status_code == 401
    below = httpx2.post(f"{url}/v1/embeddings", json={"input": "a"})
    assert (below.status_code, below.json()["error"]["type"]) == (401, "invalid_request_error")
    assert httpx2.get(f"{url}/health").status_code == 200
    good = httpx2.post(url, json=body, headers={"Authorization": "Bearer secret"}, timeout=60)
    assert good.status_code == 200


def test_another_host_name_is_refused_on_loopback(serve: Serve) -> None:
    url = serve(hosts=["localhost", "127.0.0.1", "[::1]"])
    assert httpx2.get(f"{url}/models").status_code == 200
    assert httpx2.get(f"{url}/models", headers={"Host": "evil.example"}).status_code == 400


def test_a_full_queue_and_a_deadline_say_so(serve: Serve) -> None:
    url = serve(Limits(waiting=1, seconds=0.5, tokens=100_000))
    long = {"inputs": ["the harbour is quiet in the morning " * 60] * 50}

    def ask() -> httpx2.Response:
        return httpx2.post(f"{url}/score", json=long, timeout=60)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(), range(8)))
    statuses = {answer.status_code for answer in answers}
    assert statuses == {429, 504}
    full = next(answer for answer in answers if answer.status_code == 429)
    assert int(full.headers["retry-after"]) >= 1
    # What nobody waits for is not computed to its end: the next request is answered at once.
    again = httpx2.post(url, json={"inputs": "a [MASK]"}, timeout=60)
    assert again.status_code == 200


def test_a_client_that_goes_away_frees_its_place(serve: Serve) -> None:
    url = serve(Limits(waiting=2, seconds=60, tokens=10_000_000, body=1 << 24))
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"inputs": ["the harbour is quiet in the morning " * 60] * 200}).encode()
    head = f"POST /score HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    gone = [socket.create_connection((host, int(port))) for _ in range(3)]
    for one in gone:
        one.sendall(head.encode() + body)
    time.sleep(0.5)
    for one in gone:
        one.close()
    began = time.monotonic()
    answer = httpx2.post(url, json={"inputs": "a [MASK]"}, timeout=60)
    while answer.status_code == 429 and time.monotonic() - began < 30:
        time.sleep(0.05)
        answer = httpx2.post(url, json={"inputs": "a [MASK]"}, timeout=60)
    assert answer.status_code == 200
    assert time.monotonic() - began < 30  # all three together take minutes


def test_a_body_that_never_comes_is_given_up(serve: Serve) -> None:
    url = serve(Limits(seconds=0.5))
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as slow:
        slow.sendall(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        slow.settimeout(30)
        assert b" 408 " in slow.recv(1000)


def test_headers_that_never_come_are_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.serving.server._HEADER_SECONDS", 0.5)
    host, port = serve().removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as slow:
        slow.sendall(b"POST / HTTP/1.1\r\nHost: a\r\n")
        slow.settimeout(30)
        assert slow.recv(1000) == b""


def test_small_answers_are_sent_at_once() -> None:
    """asyncio sets TCP_NODELAY on connections of a socket that names its protocol, and on no other."""
    with listen("127.0.0.1", 0) as found:
        assert found.proto == socket.IPPROTO_TCP


def test_the_log_has_no_text(client: httpx2.Client, log: Any) -> None:
    client.post("/", json={"inputs": "a secret [MASK]"})
    assert client.get("/page/draw.js").status_code == 200
    client.get("/secret?also=secret")
    for expected in (r"POST / 200 \d+ ms", r"GET page file 200 \d+ ms", r"GET unknown 404 \d+ ms"):
        end = time.monotonic() + 10
        while not any(re.fullmatch(expected, line) for line in log.lines):  # logged after the answer
            assert time.monotonic() < end, log.lines
            time.sleep(0.01)
    assert not any("secret" in line for line in log.lines)


def test_the_document_describes_every_route(client: httpx2.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/", "/models/{name}", "/fill", "/score", "/explain", "/v1/embeddings", "/models"} <= set(paths)
    page = client.get("/docs").text
    assert all(f"<h3>POST {path}</h3>" in page for path in ("/", "/fill", "/score", "/v1/embeddings"))
    assert "http" not in page.replace("http-equiv", "").replace("over HTTP", "").lower()
    assert client.get("/health/live").json() == client.get("/health/ready").json() == {"status": "ok"}
    assert [model["name"] for model in client.get("/models").json()] == ["bert", "roberta"]


@pytest.fixture
def process(checkpoint: Callable[[str], Path]) -> Any:
    command = [
        sys.executable,
        "-m",
        "unmask",
        "serve",
        f"tiny={checkpoint('bert')}",
        "--port",
        "0",
        "--json",
        "--timeout",
        "300",
        "--offline",
    ]
    found = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    yield found
    found.kill()
    found.communicate()


@pytest.mark.skipif(os.name == "nt", reason="no SIGTERM")
def test_sigterm_answers_what_was_asked_and_exits_0(process: Any) -> None:
    url = json.loads(process.stdout.readline())["url"]
    answers: list[httpx2.Response] = []
    body = {"inputs": ["the harbour is quiet in the morning " * 4] * 40}
    asking = threading.Thread(
        target=lambda: answers.append(httpx2.post(f"{url}/score", json=body, timeout=300))
    )
    asking.start()
    while "unmask_texts 0.0" in httpx2.get(f"{url}/metrics").text and not answers:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    asking.join()
    _, stderr = process.communicate(timeout=300)
    assert answers[0].status_code == 200
    assert process.returncode == 0
    assert "Traceback" not in stderr
