"""unmask runs from its source folder, where no package of its name is installed."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import pytest

from unmask import machine
from unmask.run.fingerprint import machine_info


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> Any:
        if name == "unmask":
            raise importlib.metadata.PackageNotFoundError(name)
        return importlib.metadata.version(name)

    monkeypatch.setattr(machine, "installed_version", version)
    assert machine_info()["unmask"] == "not installed"
    assert machine_info()["transformers"] == importlib.metadata.version("transformers")
