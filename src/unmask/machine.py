"""The machine that a process runs on."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version


def cores() -> int:
    """Return the cores that this process may use."""
    available = getattr(os, "sched_getaffinity", None)
    return len(available(0)) if available else os.cpu_count() or 1


def version_of(package: str) -> str:
    """Return the installed version of a package; ``not installed`` where it is used from a folder on PYTHONPATH."""
    try:
        return installed_version(package)
    except PackageNotFoundError:
        return "not installed"
