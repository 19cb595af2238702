"""An S3 server on loopback (moto), with a proxy in front that injects the faults of networks and servers."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import unmask.remote.files
from unmask.data.hub import network

SECRET, KEY = "wJalrXUtnFEMI-secret-of-the-tests", "AKIATESTKEYOFUNMASK0"

ERRORS = {
    "SlowDown": (503, "Please reduce your request rate."),
    "ServiceUnavailable": (503, "Service is unable to handle request."),
    "ExpiredToken": (400, "The provided token has expired."),
    "AccessDenied": (403, "Access Denied"),
    "InvalidAccessKeyId": (403, f"The AWS Access Key Id {KEY} you provided does not exist in our records."),
    "SignatureDoesNotMatch": (403, f"The signature of {KEY} with {SECRET} does not match."),
}


@dataclass
class Fault:
    """What happens to requests instead of, or after, their answer.

    Attributes:
        error: an S3 error code that is answered.
        cut: bytes of the answer's body after which the connection is closed.
        delay: seconds before the answer.
        method: of the requests that it applies to.
        path: what their path contains.
        times: how many of them.
        after: how many of them are let through first.
    """

    error: str = ""
    cut: int | None = None
    delay: float = 0.0
    method: str = ""
    path: str = ""
    times: int = 1_000_000
    after: int = 0

    def applies(self, method: str, path: str) -> bool:
        if not method.startswith(self.method) or self.path not in path or not self.times:
            return False
        if self.after:
            self.after -= 1
            return False
        self.times -= 1
        return True


@dataclass
class Store:
    """The server as a test sees it.

    Attributes:
        bucket: the URL of an empty bucket.
        faults: that are injected.
        requests: method, path and ``Range`` of every request so far.
    """

    endpoint: str
    bucket: str = ""
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    client: Any = None

    def fault(self, **options: Any) -> Fault:
        self.faults.append(Fault(**options))
        return self.faults[-1]

    def put(self, name: str, content: bytes | str) -> str:
        """Put an object without passing the proxy, and return its URL."""
        data = content.encode() if isinstance(content, str) else content
        self.client.put_object(Bucket=self.bucket.removeprefix("s3://"), Key=name, Body=data)
        return f"{self.bucket}/{name}"

    def put_folder(self, folder: Path, name: str) -> str:
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return f"{self.bucket}/{name}"

    def get(self, name: str) -> bytes:
        return self.client.get_object(Bucket=self.bucket.removeprefix("s3://"), Key=name)["Body"].read()

    def names(self, prefix: str = "") -> list[str]:
        found = self.client.list_objects_v2(Bucket=self.bucket.removeprefix("s3://"), Prefix=prefix)
        return [item["Key"] for item in found.get("Contents", [])]

    def listings(self) -> int:
        return sum("list-type" in path for _, path, _ in self.requests)


def _handler(store: Store, server: tuple[str, int]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self._body()
            store.requests.append((self.command, self.path, self.headers.get("Range", "")))
            fault = next((found for found in store.faults if found.applies(self.command, self.path)), Fault())
            time.sleep(fault.delay)
            if fault.error:
                status, message = ERRORS[fault.error]
                content = f"<Error><Code>{fault.error}</Code><Message>{message}</Message></Error>".encode()
                self._answer(status, [("Content-Type", "application/xml")], content, None)
                return
            connection = http.client.HTTPConnection(*server)
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            wanted = self.headers.get("If-Match")
            if wanted not in (None, answer.headers.get("ETag")):  # moto does not look at it
                self._answer(412, [], b"<Error><Code>PreconditionFailed</Code></Error>", None)
                return
            headers = [
                pair
                for pair in answer.getheaders()
                if pair[0].lower() not in ("content-length", "connection")
            ]
            size = answer.headers.get("Content-Length")
            self._answer(answer.status, headers, answer.read(), fault.cut, size)

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            del self.headers["Transfer-Encoding"]
            return b"".join(parts)

        def _answer(
            self,
            status: int,
            headers: list[tuple[str, str]],
            content: bytes,
            cut: int | None,
            size: str | None = None,
        ) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", size if self.command == "HEAD" and size else str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[:cut])
            if cut is not None:
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any

        def log_message(self, *_: object) -> None: ...

    return Handler


@pytest.fixture(scope="session")
def server() -> Iterator[tuple[Store, Any]]:
    from logging import ERROR, getLogger

    from moto.server import ThreadedMotoServer

    getLogger("werkzeug").setLevel(ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    store = Store("")
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler(store, moto.get_host_and_port()))
    proxy.daemon_threads = True
    Thread(target=proxy.serve_forever, daemon=True).start()
    store.endpoint = f"http://127.0.0.1:{proxy.server_address[1]}"
    import boto3

    host, port = moto.get_host_and_port()
    keys = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    store.client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys)
    yield store, moto
    proxy.shutdown()
    proxy.server_close()
    moto.stop()


_buckets = iter(range(1_000_000))


@pytest.fixture(autouse=True)
def no_cached_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test has a cache of its own, and sees what is there now."""
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(network, "forbidden", False)
    unmask.remote.files.list_files.cache_clear()


@pytest.fixture
def store(server: tuple[Store, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An empty bucket of the S3 server, which the environment names; few and quick retries."""
    from s3fs import S3FileSystem

    found = server[0]
    environment = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": found.endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(S3FileSystem, "retries", 3)
    name = f"bucket-{next(_buckets)}"
    found.client.create_bucket(Bucket=name)
    found.bucket = f"s3://{name}"
    found.faults.clear()
    found.requests.clear()
    yield found
    found.faults.clear()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line; return its exit code, stdout and stderr, neither of which may hold a secret."""
    from unmask.cli.main import main

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        found = capsys.readouterr()
        for text in found:
            assert SECRET not in text
            assert KEY not in text
        return code, found.out, found.err

    return call
