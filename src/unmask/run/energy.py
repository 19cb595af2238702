"""What the processors of a machine draw, as Linux counts it (RAPL): an estimate of a run's energy, where it is readable."""

from __future__ import annotations

from pathlib import Path

_POWERCAP = Path("/sys/class/powercap")


class Energy:
    """Adds up the energy of all processor packages of the machine, whatever else runs on it. GPUs are not in it.

    Counters begin anew after some minutes to hours, so :meth:`sample` has to be called more often than that.

    Args:
        root: where Linux shows the counters.

    Attributes:
        joules: so far, or ``None`` where nothing can be measured, or a part was not.
    """

    def __init__(self, root: Path = _POWERCAP) -> None:
        self.joules: float | None = None
        self._packages: list[tuple[Path, int]] = []
        self._last: list[int] = []
        try:
            # Names of two parts are packages (intel-rapl:0), of three a part of one (intel-rapl:0:1).
            folders = sorted(folder for folder in root.glob("*-rapl:*") if folder.name.count(":") == 1)
            self._packages = [
                (folder / "energy_uj", _read(folder / "max_energy_range_uj")) for folder in folders
            ]
            self._last = [_read(path) for path, _ in self._packages]
        except (OSError, ValueError):  # absent, or readable for root alone
            self._packages = []
        if self._packages:
            self.joules = 0.0

    def sample(self) -> None:
        """Add what was drawn since the last call."""
        if self.joules is None:
            return
        try:
            counts = [_read(path) for path, _ in self._packages]
        except (OSError, ValueError):
            self.joules = None
            return
        for (_, most), before, count in zip(self._packages, self._last, counts, strict=True):
            self.joules += ((count - before) % (most + 1)) / 1e6
        self._last = counts

    def add(self, joules: float | None) -> None:
        """Add what an earlier part of the run drew; if that is not known, the whole is not."""
        self.joules = None if joules is None or self.joules is None else self.joules + joules


def _read(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))
