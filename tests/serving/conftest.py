"""A real server on loopback, in a thread of this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from unmask.api.model import load
from unmask.progress import Progress
from unmask.serving import Limits, create_app, listen, make_server


class Log(Progress):
    """Collects what was logged."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)


@contextmanager
def serving(models: dict[str, Any], limits: Limits | None = None, **options: Any) -> Iterator[str]:
    """Serve models for the time being; yields the URL."""
    listening = listen("127.0.0.1", 0)
    server = make_server(create_app(models, limits or Limits(), **options))
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
            assert thread.is_alive()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def models(checkpoint: Callable[[str], Path]) -> dict[str, Any]:
    """Two models of different families."""
    return {name: load(checkpoint(name)).lm for name in ("bert", "roberta")}


@pytest.fixture(scope="session")
def log() -> Log:
    """What the server of :func:`url` logged."""
    return Log()


@pytest.fixture(scope="session")
def url(models: dict[str, Any], log: Log) -> Iterator[str]:
    """A server of both models."""
    with serving(models, progress=log) as found:
        yield found


@pytest.fixture(scope="session")
def client(url: str) -> Iterator[httpx2.Client]:
    """Talks to the server."""
    with httpx2.Client(base_url=url, timeout=60) as found:
        yield found


@pytest.fixture
def serve(models: dict[str, Any]) -> Iterator[Callable[..., str]]:
    """Start another server of the same models with other limits or options; returns its URL."""
    with ExitStack() as stack:
        yield lambda limits=None, **options: stack.enter_context(serving(models, limits, **options))


@pytest.fixture(scope="session")
def strict_client(models: dict[str, Any]) -> Iterator[httpx2.Client]:
    """Talks to a server that takes 8 texts and 300 tokens."""
    with (
        serving(models, Limits(texts=8, tokens=300)) as url,
        httpx2.Client(base_url=url, timeout=60) as found,
    ):
        yield found
