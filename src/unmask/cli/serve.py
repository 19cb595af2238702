"""The verb ``serve``."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from unmask.cli import options
from unmask.cli import runtime as shell
from unmask.errors import ConfigError
from unmask.remote.systems import is_url

_KEY = "UNMASK_API_KEY"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

ServedModels = Annotated[
    list[str],
    Argument(metavar="MODEL", help="Models to serve: Hub names, model folders or run folders; NAME=MODEL names one."),
]  # fmt: skip
Host = Annotated[str, Option("--host", metavar="ADDRESS", help="Address to listen on.")]
Port = Annotated[
    int,
    Option(
        "--port",
        metavar="PORT",
        show_default="8000",
        min=0,
        max=65535,
        help="Port to listen on; 0 takes a free one.",
    ),
]
ApiKey = Annotated[
    str | None,
    Option("--api-key", metavar="KEY", help=f"Key that requests must bring; by default that of {_KEY}, if set.", show_default=False),
]  # fmt: skip
NoApiKey = Annotated[bool, Option("--no-api-key", help="Listen on any address without a key.")]
MaxTexts = Annotated[int, Option("--max-texts", min=1, help="Most texts of a request.")]
MaxTokens = Annotated[int, Option("--max-tokens", min=1, help="Most tokens of a request.")]
MaxWaiting = Annotated[int, Option("--max-waiting", min=1, help="Most requests that wait; others get status 429.")]  # fmt: skip
Timeout = Annotated[
    float, Option("--timeout", metavar="SECONDS", min=0.1, help="Seconds a request may take.")
]
BatchTokens = Annotated[int, Option("--batch-tokens", min=1, help="Tokens computed together.")]


def serve(
    models: ServedModels,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key: ApiKey = None,
    no_api_key: NoApiKey = False,
    max_texts: MaxTexts = 256,
    max_tokens: MaxTokens = 16_384,
    max_waiting: MaxWaiting = 256,
    timeout: Timeout = 30.0,
    batch_tokens: BatchTokens = 4096,
    device: options.DeviceOrAuto = "auto",
    precision: options.PrecisionOrFp32 = "fp32",
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """Serve models over HTTP: fill masks, score, explain, embed.

    Requests that wait for the same computation are computed together. The server speaks the fill-mask task of Hugging
    Face (InferenceClient) and the embeddings of OpenAI; its routes are described at /docs. It stops at Ctrl-C or SIGTERM,
    when it has answered what it was asked.

    Examples:
        unmask serve runs/notes
        unmask serve base=bert-base-uncased runs/notes --port 9000
    """
    from unmask.serving import create_app, listen, run

    named = _named(models)
    key = api_key or os.environ.get(_KEY) or None
    loopback = host in _LOOPBACK
    if not loopback and key is None and not no_api_key:
        raise ConfigError(
            f"--host {host} lets other machines use this server: set --api-key or {_KEY}, or allow it with --no-api-key"
        )
    # The address first: a port in use is then found before the models are loaded.
    stdout, listening = sys.stdout, listen(host, port)
    address, port = listening.getsockname()[:2]
    url = f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
    with shell.working() as progress:
        from unmask.api.model import load
        from unmask.model.load import warn_of_new_head
        from unmask.model.pooling import read_pooling
        from unmask.serving import Limits

        loaded = {
            name: load(model, device=device, precision=precision, offline=offline, progress=progress).lm
            for name, model in named.items()
        }
        for name, lm in loaded.items():
            warn_of_new_head(named[name], lm.new_head, progress)
        poolings = {
            name: read_pooling(model, offline=offline, progress=progress) for name, model in named.items()
        }
        limits = Limits(
            texts=max_texts,
            tokens=max_tokens,
            waiting=max_waiting,
            seconds=timeout,
            batch_tokens=batch_tokens,
        )
        hosts = [*_LOOPBACK, "[::1]"] if loopback else ["*"]
        app = create_app(loaded, limits, poolings=poolings, api_key=key, hosts=hosts, progress=progress)
        # What is loaded stays: a full garbage collection would look at all of it, for a tenth of a second.
        gc.collect()
        gc.freeze()
        progress.log(f"serving {', '.join(named)} at {url} (its routes: {url}/docs); stop with Ctrl-C")
        if as_json:
            shell.emit({"url": url, "models": list(named)}, stdout)
            stdout.flush()
        run(app, listening)


def _named(models: Sequence[str]) -> dict[str, str]:
    """Return models by the names that requests use.

    Raises:
        ConfigError: two have the same name.
    """
    named: dict[str, str] = {}
    for given in models:
        name, equals, model = given.partition("=")
        if not equals or is_url(given) or Path(given).exists():
            name, model = _name(given), given
        if not name or not model:
            raise ConfigError(f"expected MODEL or NAME=MODEL, got '{given}'")
        if name in named:
            raise ConfigError(
                f"two models have the name '{name}'; give one another name, as in OTHER={model}"
            )
        named[name] = model
    return named


def _name(model: str) -> str:
    path = Path(model)
    if not is_url(model):
        if not path.exists():
            return model
        path = path.resolve()
    return path.parent.name if path.name == "model" else path.name
