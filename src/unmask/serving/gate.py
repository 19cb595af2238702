"""What every request passes: the key, the time it may take to arrive, the log and the metrics."""

from __future__ import annotations

import asyncio
import hmac
import re
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unmask.progress import Progress
from unmask.serving.answers import error_answer, refuse
from unmask.serving.metrics import Metrics

_OPEN = re.compile(r"/|/page/[\w.]+|/health(/live|/ready)?")  # answered without a key, to GET


class Gate:
    """Middleware around the application.

    Args:
        app: the application.
        api_key: what requests must bring as a bearer token, if anything.
        most_bytes: of the body of a request.
        seconds: in which it must arrive.
        metrics: counts the requests.
        progress: logs them.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        api_key: str | None,
        most_bytes: int,
        seconds: float,
        metrics: Metrics,
        progress: Progress,
    ) -> None:
        self.app, self.metrics, self.progress = app, metrics, progress
        self._most_bytes, self._seconds = most_bytes, seconds
        self._expected = None if api_key is None else f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if self._allowed(scope):
                await self.app(scope, self._checked(receive), noting)
            else:
                error = "this server wants its key: the header 'Authorization: Bearer KEY'"
                answer = error_answer(scope["path"], 401, error, headers={"WWW-Authenticate": "Bearer"})
                await answer(scope, receive, noting)
        finally:
            seconds = time.perf_counter() - began
            path = getattr(scope.get("route"), "path", "unknown")  # a path of the client could hold text
            if scope["path"].startswith("/page/"):  # its files have no routes of their own
                path = "page file"
            self.metrics.count(path, status, seconds)
            if not path.startswith(("/health", "/metrics")):
                self.progress.log(f"{scope['method']} {path} {status} {seconds * 1e3:.0f} ms")

    def _allowed(self, scope: Scope) -> bool:
        if self._expected is None or (scope["method"] == "GET" and _OPEN.fullmatch(scope["path"])):
            return True
        given = Headers(scope=scope).get("authorization", "")
        return hmac.compare_digest(given.encode("latin-1"), self._expected)

    def _checked(self, receive: Receive) -> Receive:
        """Return what receives a request and ends it, with status 413 or 408, when it is too large or too slow."""
        deadline = asyncio.get_running_loop().time() + self._seconds
        size, complete = 0, False

        async def receive_checked() -> Message:
            nonlocal size, complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                refuse(408, f"the request did not arrive in full within {self._seconds:g} seconds")
            size += len(message.get("body", b""))
            if size > self._most_bytes:
                refuse(413, f"expected a body of at most {self._most_bytes:,} bytes")
            complete = not message.get("more_body", False)
            return message

        return receive_checked
