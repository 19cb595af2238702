"""Stream data sets of the Hugging Face Hub, and offline mode."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from unmask.data.reading.inputs import HubInput
from unmask.errors import DataError
from unmask.remote.systems import network

_VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
_OFFLINE_HINT = "offline (--offline or HF_HUB_OFFLINE is set), only data sets in the local cache can be read"
_HUB_HINT = "check the name, config, split and the network (private data sets need HF_TOKEN)"


class _Offline:
    """Number of open :func:`offline_mode` blocks in all threads, and what restores the state before the first."""

    lock = threading.Lock()
    blocks = 0
    undo: Callable[[], None]


@contextmanager
def offline_mode(offline: bool = True) -> Iterator[None]:
    """Prevent network calls of this process, and of the Hugging Face libraries in those it starts.

    The libraries read their environment variables on import, so the values they have read are set too.
    """
    if not offline:
        yield
        return
    with _Offline.lock:
        if _Offline.blocks == 0:
            _Offline.undo = _go_offline()
            network.forbidden = True
        _Offline.blocks += 1
    try:
        yield
    finally:
        with _Offline.lock:
            _Offline.blocks -= 1
            if _Offline.blocks == 0:
                _Offline.undo()
                network.forbidden = False


def _go_offline() -> Callable[[], None]:
    """Set the libraries offline; return a function that restores their state."""
    from huggingface_hub import constants  # transformers reads it too

    hub, data = constants.HF_HUB_OFFLINE, _datasets_state()
    environment = {name: os.environ.get(name) for name in _VARIABLES}

    def undo() -> None:
        for name, value in environment.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        _set(hub, hub if data is None else data)

    os.environ.update(dict.fromkeys(_VARIABLES, "1"))
    _set(True, True)
    return undo


def _set(hub: bool, data: bool) -> None:
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = hub
    if _datasets_state() is not None:
        sys.modules["datasets.config"].HF_HUB_OFFLINE = data  # type: ignore[attr-defined]


def _datasets_state() -> bool | None:
    """Return the offline flag of `datasets`; ``None`` if it is not imported, which takes a second."""
    return getattr(sys.modules.get("datasets.config"), "HF_HUB_OFFLINE", None)


def hub_records(
    item: HubInput, columns: Sequence[str], split: str, *, offline: bool
) -> Iterator[dict[str, Any]]:
    """Stream the records of a Hub data set, with those of ``columns`` that it has; :class:`DataError` if it cannot be read."""
    if os.path.isdir(item.name):
        what = f"the local folder {item.name} would be read instead; to read it, leave out hf://"
        raise DataError(what, path=item.address)
    with offline_mode(offline):
        try:
            from datasets import load_dataset

            data = load_dataset(item.name, item.config, split=split, streaming=True)
            if wanted := [column for column in columns if column in (data.column_names or ())]:
                data = data.select_columns(wanted)  # other columns of Parquet files are not downloaded
            yield from data
        except Exception as error:
            from huggingface_hub import is_offline_mode

            what = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            hint = _OFFLINE_HINT if is_offline_mode() else _HUB_HINT
            raise DataError(f"the data set cannot be read ({what}); {hint}", path=item.address) from None
