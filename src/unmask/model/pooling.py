"""How the tokens of a text become one embedding: the settings of a sentence-transformers folder, or the mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

from unmask.errors import ConfigError
from unmask.model.sentence_modules import MODULES, find_sentence_modules
from unmask.progress import Progress
from unmask.storage import read_json

Mode = Literal["mean", "cls", "max"]
_OLD_NAMES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}


class Pooling(NamedTuple):
    """How the tokens of a text, special ones included, become one embedding.

    Attributes:
        mode: their mean, the first of them, or the largest value of each number.
        normalize: whether it is scaled to length 1.
    """

    mode: Mode = "mean"
    normalize: bool = False


MEAN = Pooling()


def read_pooling(name: str, *, offline: bool = False, progress: Progress = Progress()) -> Pooling:
    """Return what a checkpoint says in its modules of sentence-transformers; the plain mean where it has none.

    Args:
        name: Hub name (``name@revision`` pins one), model folder or run folder.
        offline: make no network call.
        progress: warns where the modules hold what is not computed here.
    """
    folder = find_sentence_modules(name, offline=offline)
    if folder is None:
        return MEAN
    try:
        return stored_pooling(folder)
    except ConfigError as error:
        progress.warning(f"{error}. Embeddings are the mean over the tokens instead")
        return MEAN


def stored_pooling(folder: Path) -> Pooling:
    """Return what a folder with modules of sentence-transformers says.

    Raises:
        ConfigError: its modules hold what is not computed here.
    """
    modules = [dict(module) for module in read_json(folder / MODULES)]
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    modes = _modes(folder, modules, kinds)
    if kinds in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) and modes in (
        [mode] for mode in get_args(Mode)
    ):
        return Pooling(cast("Mode", modes[0]), kinds[-1] == "Normalize")
    raise ConfigError(
        f"{folder / MODULES}: expected Transformer, Pooling by {', '.join(get_args(Mode))}, and perhaps Normalize; got "
        f"{', '.join(kinds)} ({', '.join(modes) or 'no pooling'})"
    )


def _modes(folder: Path, modules: list[dict[str, Any]], kinds: list[str]) -> list[str]:
    if "Pooling" not in kinds:
        return []
    settings = read_json(folder / str(modules[kinds.index("Pooling")].get("path", "")) / "config.json") or {}
    if "pooling_mode" in settings:
        found = settings["pooling_mode"]
        return [found] if isinstance(found, str) else [*found]
    chosen = [key for key, value in settings.items() if key.startswith("pooling_mode_") and value is True]
    return [_OLD_NAMES.get(key, key) for key in chosen]
