"""`unmask serve`: starts that cannot work, each with one line."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
    shutil.copytree(model, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    bare = run("serve", str(tmp_path / "bare"), "--port", "0")
    assert (bare.code, "model.safetensors" in bare.complaint) == (2, True)


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    package: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("unmask.serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    refused = run("serve", "model", "--port", "0")
    assert (
        refused.complaint == f"error: the server needs the package '{package}': pip install 'unmask[serve]'"
    )
    assert refused.code == 2
