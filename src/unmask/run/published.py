"""A run folder at a URL: the run works in a folder of the cache, from where it is published while it goes on.

::

    URL/.unmask-incomplete            until all of a finished run is there
    URL/checkpoints/step-…/           the files, then manifest.json: without it a checkpoint is not there
    URL/shards/                       likewise
    URL/metrics.jsonl …               again when they have changed
    URL/model/                        at the end, config.json after the other files

A thread looks every two seconds for what is new, so that training waits for nothing but the end of the last upload.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from unmask.config.load import load_config
from unmask.config.settings import RunConfig
from unmask.errors import ConfigError, DataError, DiskError, Interrupted, UnmaskError
from unmask.evaluation.verdict import unmet
from unmask.progress import Progress
from unmask.remote.files import RemoteFile, listed
from unmask.remote.folders import INCOMPLETE, DamagedFile, fetch, host_lock, place_of, sums_of
from unmask.remote.systems import explained, is_url, open_system
from unmask.run.failures import write_exit_code
from unmask.run.fingerprint import given_otherwise
from unmask.run.training_run import FinishedRun
from unmask.run_folder import RunFolder
from unmask.storage import read_json, sha256
from unmask.training.checkpoint import list_checkpoints, load_checkpoint_state
from unmask.training.distributed import World
from unmask.training.position import Position

_MANIFEST = "manifest.json"
_PUBLISHED = ".published"  # in the folder of the cache, when all of it is at the URL
ENDED = ".unpublished"  # likewise, when the run came to its end and not all of it is at the URL
_STAGE = ".publishing"  # in the same folder, what is being uploaded
_PAUSE, _PAUSE_AFTER_ERROR = 2.0, 30.0
_WHOLE = re.compile(r"checkpoints/(step-\d+)/manifest\.json")


@contextmanager
def output_folder(out: str | Path, *, resume: bool, progress: Progress = Progress()) -> Iterator[Path]:
    """Yield the folder in which a run works: ``out``, or for a URL one of the cache that is published as it grows.

    To resume, its newest whole checkpoint and what belongs to it is fetched, unless this host is as far.

    Raises:
        ConfigError: there is another run at the URL, and none is resumed.
        DataError: the run there cannot be read.
        DiskError: at the beginning, nothing can be written there; at the end, something was not published.
    """
    if not is_url(out):
        yield Path(out)
        return
    url = str(out).rstrip("/")
    found = {str(file)[len(url) + 1 :]: file for file in listed(url, DiskError)}
    local = place_of(url, "runs")
    if resume:
        with host_lock(local, url, progress):
            _fetch_back(url, local, found, progress)
    if not World.will_be_main():
        yield local
        return
    if not resume:
        _require_new(url, local, found)
    mirror = _Mirror(local, url, found, progress)
    progress.log(f"the run works in {local} and is published at {url}")
    try:
        yield local
    except BaseException as error:
        mirror.close(finished=False, after=error)
        raise
    mirror.close(finished=True)


def unpublished(
    config: RunConfig, folder: RunFolder, resume: str | None, progress: Progress
) -> FinishedRun | None:
    """Return a run of which publishing alone is left, unless it is resumed with other settings, such as a higher limit."""
    if resume != "auto" or not (folder / ENDED).is_file():
        return None
    checkpoints = list_checkpoints(folder.checkpoints)
    if not checkpoints or given_otherwise(config, load_config(folder.config)):
        return None
    progress.log("the run is finished, only publishing is left; resume with a higher limit to train on")
    state = load_checkpoint_state(checkpoints[-1])
    position, evaluation = Position.from_dict(state), read_json(folder.evaluation)
    decided = (read_json(folder.adaptation) or {}).get("verdict")
    missed = unmet(decided) if decided else ""
    return FinishedRun(
        folder, position.step, position.tokens, position.seconds, state["last_loss"], evaluation, missed
    )


def _require_new(url: str, local: Path, found: dict[str, RemoteFile]) -> None:
    if set(found) - {INCOMPLETE}:
        raise ConfigError(
            f"{url} already holds files; choose another URL with -o, or resume its run with --resume"
        )
    left = [path.name for path in local.iterdir() if path.name[0] != "."] if local.is_dir() else []
    if left and not (local / _PUBLISHED).is_file():
        raise ConfigError(
            f"{url} is empty, but {local} holds a run that was not published there; continue it with --resume, or delete "
            f"that folder"
        )
    shutil.rmtree(local if left else local / _STAGE, ignore_errors=True)


def _fetch_back(url: str, local: Path, found: dict[str, RemoteFile], progress: Progress) -> None:
    """Fetch a run with its newest whole checkpoint into the folder of the cache, unless that is as far."""
    here = max((path.parent.name for path in local.glob(f"checkpoints/step-*/{_MANIFEST}")), default="")
    whole = sorted({match[1] for name in found if (match := _WHOLE.fullmatch(name))}, reverse=True)
    if not whole and (local.is_dir() or not found):
        return
    for step in whole or [""]:
        if here and step <= here:
            return
        keep = ("checkpoints/best/", f"checkpoints/{step}/")
        files = {
            name: file
            for name, file in found.items()
            if name != INCOMPLETE
            and (name.startswith(keep) or not name.startswith(("checkpoints/", "model/")))
        }
        sums = {
            f"{name.removesuffix(_MANIFEST)}{inner}": value
            for name, file in files.items()
            if name.endswith(f"/{_MANIFEST}")
            for inner, value in sums_of(file).items()
        }
        try:
            fetched = fetch(url, files, "fetched", sums=sums, progress=progress)
        except DamagedFile as error:
            progress.log(f"skipped a damaged checkpoint: {error}")
            continue
        shutil.rmtree(local, ignore_errors=True)
        fetched.rename(local)
        return
    raise DataError("every checkpoint here is damaged; start again at another URL", path=f"{url}/checkpoints")


def _link(source: str, target: str) -> None:
    """Give a file a second name, or copy it where the disk cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _late(path: Path) -> tuple[bool, bool, bool, Path]:
    """The model comes after the other results, its settings after its weights; how the run ended says that all is there."""
    return path.name == "exit_code", path.parent.name == "model", path.name == "config.json", path


def _is_result(name: str) -> bool:
    return not name.startswith((".", "aside-"))


class _Mirror:
    """Publishes a growing folder in a thread.

    Args:
        local: the folder.
        url: where it is published.
        found: what was there at the beginning.
        progress: warned of what could not be uploaded and is tried again.

    Raises:
        DiskError: nothing can be written there.
    """

    def __init__(self, local: Path, url: str, found: dict[str, RemoteFile], progress: Progress) -> None:
        self.local, self.url, self.progress = local, url, progress
        self.remote = found
        self.sent: dict[str, object] = {}  # the version of each file and manifest that is there
        (local / _PUBLISHED).unlink(missing_ok=True)
        self.system, self.path = open_system(url, writing=True)
        with explained(url, DiskError):
            self.system.pipe_file(
                f"{self.path}/{INCOMPLETE}",
                b"unmask writes this folder; see manifest.json in those below it\n",
            )
        self._ending = Event()
        self._thread = Thread(target=self._run, name="unmask-publish", daemon=True)
        self._thread.start()

    def close(self, *, finished: bool, after: BaseException | None = None) -> None:
        """Wait for the uploads, and publish what is left.

        Args:
            finished: whether the run came to its end.
            after: the error that ended it.

        Raises:
            DiskError: something could not be published.
        """
        self._ending.set()
        self._thread.join()
        if finished:
            (self.local / ENDED).touch()
        try:
            if self.local.is_dir():
                self._send(finished=finished)
            if finished or not self.local.is_dir():
                self._remove(INCOMPLETE)
            with suppress(OSError):  # that has other runs, or this one
                self.local.parent.rmdir()
        except UnmaskError as error:
            if after is not None and not isinstance(after, Interrupted):
                return  # that one is raised
            failure = DiskError(
                f"{error}; the run is whole in {self.local}, and the same command with --resume publishes it"
            )
            write_exit_code(RunFolder(self.local), failure)
            raise failure from None
        if finished:
            (self.local / _PUBLISHED).touch()
            (self.local / ENDED).unlink()
            self.progress.log(f"published at {self.url}")

    def _run(self) -> None:
        failed, pause = False, _PAUSE
        while not self._ending.wait(pause):
            try:
                self._send(finished=False)
                failed, pause = False, _PAUSE
            except Exception as error:  # also of a file here that was replaced meanwhile
                if isinstance(error, UnmaskError) and not failed:
                    self.progress.warning(f"not published yet, it is tried again: {error}")
                    failed = True
                pause = _PAUSE_AFTER_ERROR if failed else _PAUSE

    def _send(self, *, finished: bool) -> None:
        """Upload what has changed: shards, checkpoints from the newest on, other files, and of a finished run its model."""
        manifests, others = self._found()
        steps = sorted((path for path in manifests if _WHOLE.fullmatch(self._name(path))), reverse=True)
        rest = sorted(set(manifests) - set(steps), key=lambda path: ("shards" not in self._name(path), path))
        for manifest in [*rest, *steps[:1]]:
            self._send_whole(manifest)
        for manifest in steps[1:]:
            with suppress(FileNotFoundError):  # removed meanwhile
                self._send_whole(manifest)
        self._drop_removed()
        for path in sorted(others, key=_late):
            if finished or not self._name(path).startswith("model/"):
                status = path.stat()
                self._put(self._name(path), path, (status.st_size, status.st_mtime_ns))

    def _found(self) -> tuple[list[Path], list[Path]]:
        """Return the manifests, and the files that belong to none; what a manifest is of is not looked at, it may be much."""
        manifests, others = [], []
        for folder, below, names in os.walk(self.local):
            if _MANIFEST in names:
                below.clear()
                manifests.append(Path(folder, _MANIFEST))
                continue
            below[:] = [name for name in below if _is_result(name)]
            others += [Path(folder, name) for name in names if _is_result(name)]
        return manifests, others

    def _send_whole(self, manifest: Path) -> None:
        """Upload a folder with a manifest, and that last; it may be removed here meanwhile."""
        name, version = self._name(manifest), sha256(manifest)
        if name not in self.sent and name in self.remote:  # of an earlier process
            self.sent[name] = sha256(self.remote[name].read())
        if self.sent.get(name) == version:
            return
        if name in self.sent:
            self._remove(name)
        stage = self.local / _STAGE
        shutil.rmtree(stage, ignore_errors=True)
        shutil.copytree(manifest.parent, stage, copy_function=_link)
        files = sorted(path for path in stage.rglob("*") if path.is_file())
        for path in sorted(files, key=lambda path: path.name == _MANIFEST):
            self._put(f"{name.removesuffix(_MANIFEST)}{path.relative_to(stage).as_posix()}", path, version)
        shutil.rmtree(stage)

    def _put(self, name: str, path: Path, version: object) -> None:
        if self.sent.get(name) != version:
            with explained(f"{self.url}/{name}", DiskError):
                self.system.put_file(str(path), f"{self.path}/{name}")
            self.sent[name] = version

    def _drop_removed(self) -> None:
        """Remove checkpoints that the run has removed, their manifest first, once there is a newer one."""
        known = {*self.sent, *self.remote}
        gone = {
            name for name in known if name.startswith("checkpoints/") and not (self.local / name).exists()
        }
        if any(_WHOLE.fullmatch(name) for name in self.sent):
            for name in sorted(gone, key=lambda name: not name.endswith(_MANIFEST)):
                self._remove(name)

    def _remove(self, name: str) -> None:
        with explained(f"{self.url}/{name}", DiskError):
            if self.system.exists(f"{self.path}/{name}"):
                self.system.rm_file(f"{self.path}/{name}")
        self.sent.pop(name, None)
        self.remote.pop(name, None)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.local).as_posix()
