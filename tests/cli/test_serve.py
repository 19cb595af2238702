"""`unmask serve`: starts that cannot work, each with one line."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., Any]


def test_starts_that_cannot_work(checkpoint: Callable[[str], Path], tmp_path: Path, run: Run) -> None:
    model = str(checkpoint("bert"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run("serve", model, "--port", str(port)).complaint == (
            f"error: cannot listen on 127.0.0.1:{port}: Address already in use; choose another with --host or --port"
        )
    assert "two models have the name" in run("serve", model, model, "--port", "0").complaint
    assert "--api-key" in run("serve", model, "--host", "0.0.0.0", "--port", "0").complaint
    (tmp_path / "empty").mkdir()
    assert run("serve", str(tmp_path / "empty"), "--port", "0").code == 2
