"""The machine that a process runs on, and how many processes it runs among."""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version


def cores() -> int:
    """Return the cores that this process may use."""
    available = getattr(os, "sched_getaffinity", None)
    return len(available(0)) if available else os.cpu_count() or 1


def on_windows() -> bool:
    """Return whether the system is Windows."""
    return sys.platform.startswith("win")


def processes() -> int:
    """Return how many processes ``torchrun`` started this one among; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def version_of(package: str) -> str:
    """Return the installed version of a package; ``not installed`` where it is used from a folder on PYTHONPATH."""
    try:
        return installed_version(package)
    except PackageNotFoundError:
        return "not installed"


def memory_bytes() -> int | None:
    """Return the memory of this machine, or ``None`` where the system does not say, as on Windows."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def peak_memory_bytes() -> int | None:
    """Return the most memory that this process has had, or ``None`` where the system does not say, as on Windows."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
