"""The modules of a sentence-transformers model beside its encoder, such as pooling: find them, and keep them."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.data.hub import offline_mode
from unmask.data.tokenizer import checkpoint_name
from unmask.progress import Progress
from unmask.storage import read_json, write_json

if TYPE_CHECKING:
    from torch import nn

MODULES = "modules.json"
SETTINGS = ("config_sentence_transformers.json", "sentence_bert_config.json")
_DENSE = "sentence_transformers.models"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.h5")


def find_sentence_modules(name: str, *, offline: bool = False) -> Path | None:
    """Return the folder that holds the modules of a sentence-transformers checkpoint; ``None`` for another checkpoint.

    Args:
        name: Hub name (``name@revision`` pins one), model folder or run folder. Modules on the Hub are downloaded.
        offline: make no network call.
    """
    path, revision = checkpoint_name(name)
    if Path(path).is_dir():
        return Path(path) if (Path(path) / MODULES).is_file() else None
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        with offline_mode(offline):
            listed = hf_hub_download(path, MODULES, revision=revision, local_files_only=offline)
            files = [MODULES, *SETTINGS, *(f"{folder}/*" for folder in module_folders(Path(listed)))]
            found = snapshot_download(
                path,
                revision=revision,
                allow_patterns=files,
                ignore_patterns=[*_PICKLES],
                local_files_only=offline,
            )
    except (HfHubHTTPError, HFValidationError, OSError):
        return None
    return Path(found)


def copy_sentence_modules(source: Path, target: Path, progress: Progress = Progress()) -> None:
    """Copy the modules of :func:`find_sentence_modules` to a folder whose root holds the new encoder.

    Weights that are pickles are left out, with a warning.
    """
    modules = [dict(module) for module in read_json(source / MODULES)]
    for folder in module_folders(source / MODULES):
        path = (source / folder).resolve()
        if not path.is_relative_to(source.resolve()):
            progress.warning(
                f"{source / MODULES}: the module '{folder}' is outside the model; it is not kept"
            )
            continue
        if not path.is_dir():  # a module without settings, such as Normalize
            continue
        shutil.copytree(path, target / folder, ignore=shutil.ignore_patterns(*_PICKLES), dirs_exist_ok=True)
        pickled = sorted({file.name for pattern in _PICKLES for file in path.glob(pattern)})
        if pickled and not any(path.glob("*.safetensors")):
            progress.warning(
                f"{path / pickled[0]} is not kept, as loading it could run code; convert it to safetensors"
            )
    for module in modules:
        if _is_encoder(module):
            module["path"] = ""
    write_json(target / MODULES, modules)
    for name in SETTINGS:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    progress.log(
        f"the pooling and other modules of {MODULES} are kept: sentence-transformers loads the model too"
    )


def write_mean_pooling(folder: Path, encoder: nn.Module, hidden_size: int, max_length: int) -> None:
    """Make a folder with an encoder one of sentence-transformers, with the mean over the tokens as embedding.

    Modules that are there already stay.

    Args:
        folder: of the encoder.
        encoder: which is there.
        hidden_size: numbers in a hidden state.
        max_length: most tokens of a text.
    """
    pooling = {"word_embedding_dimension": hidden_size, "pooling_mode_mean_tokens": True}
    settings: dict[str, Any] = {"max_seq_length": max_length, "do_lower_case": False}
    if "add_pooling_layer" in inspect.signature(type(encoder)).parameters:
        settings["model_args"] = {"add_pooling_layer": False}  # it has no weights
    modules = f"{_DENSE}.Transformer", f"{_DENSE}.Pooling"
    write_modules(folder, modules, pooling, settings, {"similarity_fn_name": "cosine"})


def write_modules(
    folder: Path,
    types: tuple[str, str],
    pooling: dict[str, Any],
    settings: dict[str, Any],
    kind: dict[str, Any],
) -> None:
    """Write what the folder lacks: settings of the encoder, pooling, and what all of it is."""
    if not (folder / "sentence_bert_config.json").is_file():
        write_json(folder / "sentence_bert_config.json", settings)
    if (folder / MODULES).is_file():
        return
    place = f"1_{types[1].rpartition('.')[2]}"
    (folder / place).mkdir()
    write_json(folder / place / "config.json", pooling)
    places = enumerate(zip(types, ("", place), strict=True))
    write_json(
        folder / MODULES,
        [{"idx": n, "name": str(n), "path": path, "type": type_} for n, (type_, path) in places],
    )
    write_json(
        folder / "config_sentence_transformers.json", {"prompts": {}, "default_prompt_name": None, **kind}
    )


def module_folders(modules: Path) -> list[str]:
    """Return the folders of the modules but the encoder, whose files are written anew."""
    return [
        str(module["path"]) for module in read_json(modules) if module.get("path") and not _is_encoder(module)
    ]


def _is_encoder(module: dict[str, str]) -> bool:
    return str(module.get("type", "")).endswith(".Transformer")
