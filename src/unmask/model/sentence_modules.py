"""The modules of a sentence-transformers model beside its encoder, such as pooling: find them, and keep them."""

from __future__ import annotations

import shutil
from pathlib import Path

from unmask.data.hub import offline_mode
from unmask.data.tokenizer import checkpoint_name
from unmask.progress import Progress
from unmask.storage import read_json, write_json

MODULES = "modules.json"
SETTINGS = ("config_sentence_transformers.json", "sentence_bert_config.json")
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


def module_folders(modules: Path) -> list[str]:
    """Return the folders of the modules but the encoder, whose files are written anew."""
    return [
        str(module["path"]) for module in read_json(modules) if module.get("path") and not _is_encoder(module)
    ]


def _is_encoder(module: dict[str, str]) -> bool:
    return str(module.get("type", "")).endswith(".Transformer")
