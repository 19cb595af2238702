"""``unmask push``: upload a model to the Hugging Face Hub, in one commit.

What is uploaded is a list of what belongs to a model. Checkpoints, shards, metrics and texts are not on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.errors import ConfigError, UnmaskError, plural
from unmask.exporting.parity import FILE
from unmask.model.sentence_modules import MODULES, SETTINGS, module_folders
from unmask.progress import Progress
from unmask.reporting.results import Result, Rows
from unmask.run_folder import ADDED_WORDS, EXPORTED, model_folder

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_MODEL = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
)
_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "vocab.txt", "vocab.json", "merges.txt", "*.model",
)  # fmt: skip
_CARD = "README.md"
_MODULE = ("config.json", "*.safetensors")
_STATUS = {
    401: "the Hub does not know this token: log in with 'hf auth login', or set HF_TOKEN to a token that may write",
    403: "the token may not write there: check the organisation and the rights of the token",
    404: "no such organisation or repository, or the token may not see it",
    409: "somebody else changed the repository at the same time; push again",
    413: "the Hub refuses files of this size",
    429: "the Hub asks for fewer requests; push again later",
}


@dataclass(frozen=True, repr=False)
class Push(Result):
    """What was uploaded, or would be.

    Attributes:
        repository: ``org/name``.
        files: where each file comes from, by its path in the repository.
        url: of the commit; ``None`` in a dry run.
    """

    repository: str
    files: dict[str, Path]
    url: str | None

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(path.stat().st_size for path in self.files.values())

    def _title(self) -> str:
        done = f"pushed to {self.url}" if self.url else f"dry run: nothing was uploaded to {self.repository}"
        return f"{plural(len(self.files), 'file')}, {self.bytes / 1e6:,.1f} MB; {done}"

    def to_rows(self) -> Rows:
        """Return a row for each file: ``file`` and ``bytes``."""
        return [{"file": name, "bytes": path.stat().st_size} for name, path in self.files.items()]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "repository": self.repository,
            "url": self.url,
            "bytes": self.bytes,
            "files": list(self.to_rows()),
        }


def push_model(
    model: str | Path,
    repository: str,
    exports: Sequence[str | Path] = (),
    *,
    private: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
    progress: Progress = Progress(),
) -> Push:
    """Upload a model, its tokenizer and its card, and exported forms of it, in one commit.

    Args:
        model: a run folder or a model folder.
        repository: ``org/name``; it is made if there is none.
        exports: folders that ``unmask export`` wrote, in ONNX or OpenVINO.
        private: make a new repository private; one that is there stays as it is.
        revision: a branch, made if there is none; by default ``main``.
        dry_run: check everything and upload nothing, without a network call.
        progress: gets messages.

    Raises:
        ConfigError: a name, folder or the card cannot be used, or the Hub refuses.
        UnmaskError: the Hub lacks a file after the commit.
    """
    _check_names(repository, revision)
    files = dict(_files(Path(model), exports))
    _check_card(files.get(_CARD))
    if dry_run:
        return Push(repository, files, None)
    from httpx2 import TransportError
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise ConfigError(
            "push needs the network, and HF_HUB_OFFLINE is set; use --dry-run to see what it would upload"
        )
    progress.log(f"uploading {plural(len(files), 'file')} to {repository}")
    try:
        url = _upload(HfApi(), repository, files, private, revision)
    except LocalTokenNotFoundError:
        raise ConfigError(f"'{repository}': {_STATUS[401]}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        said = (error.server_message or str(error)).strip().splitlines()[0]
        raise ConfigError(
            f"'{repository}': {_STATUS.get(status, 'the Hub refused')} (status {status}: {said})"
        ) from error
    except (OSError, TransportError) as error:
        raise ConfigError(
            f"'{repository}': the Hub cannot be reached ({error}); nothing was committed"
        ) from error
    return Push(repository, files, url)


def _upload(api: HfApi, repository: str, files: dict[str, Path], private: bool, revision: str | None) -> str:
    from huggingface_hub import CommitOperationAdd

    api.create_repo(repository, private=private or None, exist_ok=True)
    if revision:
        api.create_branch(repository, branch=revision, exist_ok=True)
    additions = [CommitOperationAdd(name, path) for name, path in files.items()]
    done = api.create_commit(repository, additions, commit_message="Upload with unmask", revision=revision)
    there = set(api.list_repo_files(repository, revision=done.oid))
    if missing := sorted(files.keys() - there):
        raise UnmaskError(
            f"'{repository}': {missing[0]} is not there after the commit {done.oid}; push again"
        )
    return str(done.commit_url)


def _check_names(repository: str, revision: str | None) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ConfigError(f"'{repository}' is no name of a repository: {error}") from None
    if repository.count("/") != 1:
        raise ConfigError(f"'{repository}': expected ORGANISATION/NAME, or your user name before the slash")
    if revision is not None and (
        not revision or revision.startswith(("-", "/")) or any(c in revision for c in " ~^:?*[\\")
    ):
        raise ConfigError(f"'{revision}' is no name of a branch")


def _files(model: Path, exports: Sequence[str | Path]) -> Iterator[tuple[str, Path]]:
    """Yield what belongs to the model and its forms: the path in the repository, and the file."""
    if not model.is_dir():
        raise ConfigError(f"'{model}': no such folder; give a run folder or a model folder")
    folder = Path(model_folder(str(model)))
    if not (folder / "config.json").is_file() or not any(folder.glob("model*.safetensors")):
        raise ConfigError(f"'{folder}' is no model: expected config.json and model.safetensors")
    modules = [ADDED_WORDS, *((MODULES, *SETTINGS) if (folder / MODULES).is_file() else ())]
    for pattern in (*_MODEL, *_TOKENIZER, _CARD, *modules):
        yield from ((path.name, path) for path in sorted(folder.glob(pattern)))
    for name in module_folders(folder / MODULES) if (folder / MODULES).is_file() else ():
        for pattern in _MODULE:
            yield from ((f"{name}/{path.name}", path) for path in sorted((folder / name).glob(pattern)))
    for form in map(Path, exports):
        yield from _form(form, folder)


def _form(form: Path, model: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of an exported form: ONNX and OpenVINO have folders of their own in a repository."""
    if not (form / FILE).is_file():
        raise ConfigError(f"'{form}' has no {FILE}; give a folder that 'unmask export' wrote")
    weights = sorted(path for suffix in EXPORTED for path in form.rglob(f"*{suffix}"))
    if not weights:
        raise ConfigError(
            f"'{form}' is a model by itself, not ONNX or OpenVINO; push it to a repository or a --revision of its own"
        )
    if (form / "tokenizer.json").read_bytes() != (model / "tokenizer.json").read_bytes():
        raise ConfigError(f"'{form}' was exported from another model: its tokenizer is not that of '{model}'")
    name = json.loads((form / FILE).read_text(encoding="utf-8"))["format"]
    place = "onnx" if weights[0].suffix == ".onnx" else "openvino"
    for path in weights:
        beside = (path, path.with_suffix(".bin"), path.with_name(f"{path.name}_data"))
        yield from ((f"{place}/{one.name}", one) for one in beside if one.is_file())
    yield f"{place}/{Path(FILE).stem}-{name}.json", form / FILE


def _check_card(card: Path | None) -> None:
    """Check the card's metadata as the Hub reads them."""
    if card is None:
        raise ConfigError("the model has no card (README.md); 'unmask report RUN' writes it")
    import yaml
    from huggingface_hub import ModelCard

    try:
        data = ModelCard(card.read_text(encoding="utf-8")).data
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{card}: its metadata, the YAML between the lines of ---, cannot be read: {error}"
        ) from None
    if not data.to_dict():
        raise ConfigError(f"{card}: it has no metadata; expected YAML between two lines of --- at the top")
