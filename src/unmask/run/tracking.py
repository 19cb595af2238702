"""Experiment trackers as callbacks of a run that neither delay nor end it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from queue import Full, Queue
from threading import Lock, Thread
from time import monotonic
from typing import Any

from unmask.errors import UnmaskError, on_one_line, plural, require_packages
from unmask.progress import Progress
from unmask.run.callbacks import Callback, RunEnd, RunStart
from unmask.run.trackers import TRACKERS, Tracker
from unmask.run_folder import RunFolder
from unmask.storage import read_json, write_json

_QUEUE = 1000  # events
_SECONDS_AT_THE_END = 60.0
_LOCK = Lock()  # of tracking.json


def require_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker whose library is not installed, before any work.

    Raises:
        MissingExtra: it is not.
    """
    for name in names:
        require_packages([name], "track", f"--track {name}")


def make_trackers(names: Sequence[str], folder: RunFolder, progress: Progress) -> list[Callback]:
    """Return the callbacks that report a run to these trackers."""
    return [InBackground(name, folder, progress) for name in dict.fromkeys(names)]


class InBackground(Callback):
    """Passes events on to a tracker in a thread, through a queue of limited length.

    What the tracker did not take is counted, and logged once when it begins and once at the end.

    Args:
        name: of the tracker.
        folder: of the run; ``tracking.json`` there has the id by which a resumed run is continued in the tracker.
        progress: gets the address of the tracked run, and warnings.
        make: makes the tracker from the id of the run to continue, if there is one.
        seconds: how long the end of a run waits for the tracker.
    """

    def __init__(
        self,
        name: str,
        folder: RunFolder,
        progress: Progress = Progress(),
        make: Callable[[str | None], Tracker] | None = None,
        seconds: float = _SECONDS_AT_THE_END,
    ) -> None:
        self._name, self._folder, self._progress, self._seconds = name, folder, progress, seconds
        self._make = make or TRACKERS[name]
        self._queue: Queue[tuple[str, Any]] = Queue(_QUEUE)
        self._thread = Thread(target=self._work, name=f"unmask-track-{name}", daemon=True)
        self._missed, self._warned = 0, False

    def start(self, run: RunStart) -> None:
        self._queue.put(("start", run))
        self._thread.start()

    def row(self, row: Mapping[str, Any]) -> None:
        self._put("row", row)

    def evaluation(self, row: Mapping[str, Any]) -> None:
        self._put("evaluation", row)

    def end(self, run: RunEnd) -> None:
        if self._thread.ident is None:  # the run ended before this could start
            return
        until = monotonic() + self._seconds
        with suppress(Full):
            self._queue.put(("end", run), timeout=self._seconds)
        self._thread.join(max(0.0, until - monotonic()))
        if self._thread.is_alive():
            self._warn(
                f"has not finished after {self._seconds:g} seconds",
                "may lack the end of the run and the report",
            )
        elif self._missed and self._warned:
            self._progress.warning(
                f"{self._name}: {plural(self._missed, 'event')} of this run could not be reported"
            )

    def _put(self, event: str, content: Any) -> None:
        try:
            self._queue.put_nowait((event, content))
        except Full:
            self._missed += 1
            self._warn(f"takes no more than {_QUEUE:,} waiting rows", "lacks some")

    def _work(self) -> None:
        """Pass events on until the end of the run; what fails is left out, and without a start everything is."""
        tracker: Tracker | None = None
        while True:
            event, content = self._queue.get()
            try:
                if event == "start":
                    tracker = self._started(content)
                elif tracker is not None:
                    getattr(tracker, event)(content)
                else:
                    self._missed += 1
            except BaseException as error:  # a library may raise anything, also SystemExit
                self._missed += 1
                kind = "" if isinstance(error, UnmaskError) else f"{type(error).__name__}: "
                what = on_one_line(f"{kind}{error}".strip())[:300]
                self._warn(
                    f"failed ({what})", "lacks the run" if event == "start" else "lacks some of the run"
                )
            if event == "end":
                return

    def _started(self, run: RunStart) -> Tracker:
        with _LOCK:
            known = read_json(self._folder.tracking) or {}
        tracker = self._make(known.get(self._name, {}).get("id"))
        tracker.start(run)
        with _LOCK:
            known = read_json(self._folder.tracking) or {}
            known[self._name] = {"id": tracker.id, "address": tracker.address}
            write_json(self._folder.tracking, known)
        self._progress.log(f"tracked by {self._name}: {tracker.address}")
        return tracker

    def _warn(self, what: str, lacks: str) -> None:
        if not self._warned:
            self._warned = True
            self._progress.warning(
                f"{self._name} {what}: it {lacks}; training goes on, and the run folder has everything"
            )
