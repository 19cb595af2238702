"""``unmask push``: upload a model to the Hugging Face Hub, in one commit.

What is uploaded is a list of what belongs to a model. Checkpoints, shards, metrics and texts are not on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.errors import ConfigError, UnmaskError, on_one_line, plural
from unmask.exporting.parity import FILE, hashes_of, weights_hash
from unmask.model.sentence_modules import MODULES, SETTINGS, module_folders
from unmask.progress import Progress
from unmask.reporting.card import published_card
from unmask.reporting.results import Result, Rows
from unmask.run_folder import EXPORTED, model_folder
from unmask.storage import JsonDict, read_json

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    Content = Path | bytes

_WEIGHTS = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
)
_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "vocab.txt", "vocab.json", "merges.txt", "bpe.codes", "spiece.model", "spm.model", "sentencepiece.bpe.model",
    "tokenizer.model",
)  # fmt: skip
_CARD = "README.md"
_PARTS = (*_WEIGHTS, *_TOKENIZER, MODULES, *SETTINGS, FILE)
_MODULE = ("config.json", "*.safetensors")
_FORMS = tuple(f"{place}/" for place in EXPORTED.values())
# What the Hub refuses or git cannot take as the name of a branch, and what names a commit.
_NO_BRANCH = re.compile(
    r"[-/.].*|.*([/.]|\.lock)|.*(\.\.|//|/\.|@\{|[\s~^:?*\[\\\x00-\x1f]).*|refs/.*|[0-9a-f]{40}|"
)
_STATUS = {
    401: "the Hub does not take this token: log in with 'hf auth login', or set HF_TOKEN to a token that may write",
    403: "the token may not write there: check the name of the organisation, and the rights of the token",
    404: "no such organisation or repository, or the token may not see it",
    409: "somebody else changed the repository at the same time; push again",
    412: "somebody else changed the repository at the same time; push again",
    413: "the Hub refuses files of this size",
    429: "the Hub asks for fewer requests; push again later",
}


@dataclass(frozen=True, repr=False)
class Push(Result):
    """What was uploaded, or would be.

    Attributes:
        repository: ``org/name``.
        files: bytes of each file, by its path in the repository.
        left_out: what else is in the run or model folder, and is not uploaded.
        url: of the commit; ``None`` in a dry run.
    """

    repository: str
    files: dict[str, int]
    left_out: list[str]
    url: str | None

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(self.files.values())

    def _title(self) -> str:
        done = f"pushed to {self.url}" if self.url else f"dry run: nothing was uploaded to {self.repository}"
        return f"{plural(len(self.files), 'file')}, {self.bytes / 1e6:,.1f} MB; {done}"

    def to_rows(self) -> Rows:
        """Return a row for each file: ``file`` and ``bytes``."""
        return [{"file": name, "bytes": size} for name, size in self.files.items()]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "repository": self.repository,
            "url": self.url,
            "bytes": self.bytes,
            "files": list(self.to_rows()),
            "left_out": self.left_out,
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
        private: make a new repository private; one that is public is refused.
        revision: a branch, made if there is none; by default ``main``.
        dry_run: check everything and upload nothing, without a network call.
        progress: gets messages.

    Raises:
        ConfigError: a name, folder or the card cannot be used, or the Hub refuses or cannot be reached.
        UnmaskError: the Hub lacks a file after the commit.
    """
    _check_names(repository, revision)
    folder = _folder(Path(model))
    parts = dict(_parts(folder))
    forms: dict[str, JsonDict] = {}
    files: dict[str, Content] = {**parts}
    for export in exports:
        weights, parity, added = _form(Path(export), folder)
        if doubled := sorted(files.keys() & added):
            raise ConfigError(
                f"'{export}' has the place of another form, {doubled[0]}; give one of them, or push it to another --revision"
            )
        if parity.get("refused"):
            progress.warning(f"'{export}' was kept by --force: {parity['refused']}")
        forms[weights] = parity
        files |= added
    files[_CARD] = _card(parts.get(_CARD), repository, forms)
    found = {name: _size(content) for name, content in files.items()}
    left_out = list(_left_out(Path(model), folder, set(parts)))
    if dry_run:
        return Push(repository, found, left_out, None)
    api = _connection()
    progress.log(f"uploading {plural(len(files), 'file')} to {repository}")
    with _requests(repository):
        url = _upload(api, repository, files, private, revision, progress)
    return Push(repository, found, left_out, url)


def _connection() -> HfApi:
    from huggingface_hub import HfApi, get_token, is_offline_mode

    if is_offline_mode():
        raise ConfigError(
            "push needs the network, and --offline or HF_HUB_OFFLINE is set; use --dry-run to see what it would upload"
        )
    if get_token() is None:
        raise ConfigError(
            "not logged in to the Hub: log in with 'hf auth login', or set HF_TOKEN to a token that may write"
        )
    return HfApi()


@contextmanager
def _requests(repository: str) -> Iterator[None]:
    """Say in one line what went wrong at the Hub, or on the way to it."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

    try:
        yield
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        # RuntimeError: an upload of one file failed. ValueError: the Hub finds a fault in the card or in a file.
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        said = on_one_line("; ".join(filter(None, map(str.strip, str(cause).splitlines()))))
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            known = _STATUS.get(
                status, "the Hub failed; push again later" if status >= 500 else "the Hub refused"
            )
            said = f"{known} (status {status}: {on_one_line(cause.server_message or said)})"
        elif isinstance(cause, ValueError):
            said = f"the Hub refused: {said}"
        elif isinstance(cause, OSError) and cause.filename:
            said = f"{cause.filename} cannot be read: {cause.strerror}"
        else:
            said = f"the Hub cannot be reached ({said}); push again: files that it has are not sent twice"
        raise ConfigError(f"'{repository}': {said}") from error


def _upload(
    api: HfApi,
    repository: str,
    files: Mapping[str, Content],
    private: bool,
    revision: str | None,
    progress: Progress,
) -> str:
    """Commit the files, delete parts that an earlier model had and this one has not, and read back what is there."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api.create_repo(repository, private=private or None, exist_ok=True)
    if private and api.model_info(repository).private is False:
        raise ConfigError(
            f"'{repository}' is there already and is public; make it private on the Hub, or leave out --private"
        )
    if revision:
        api.create_branch(repository, branch=revision, exist_ok=True)
    head = api.model_info(repository, revision=revision)
    other = sorted({one.rfilename for one in head.siblings or ()} - files.keys())
    old = [name for name in other if any(fnmatchcase(name, part) for part in _PARTS) and "/" not in name]
    if old:
        progress.log(f"deleting {', '.join(old)}, which the model does not have any more")
    if forms := [name for name in other if name.startswith(_FORMS)]:
        progress.warning(
            f"{', '.join(forms)}: from an earlier push, and not of this model if its weights changed; push that form "
            f"again with --export, or delete it on the Hub"
        )
    done = api.create_commit(
        repository,
        [
            *(CommitOperationAdd(name, content) for name, content in files.items()),
            *map(CommitOperationDelete, old),
        ],
        commit_message="Upload with unmask",
        revision=revision,
        parent_commit=head.sha,
    )
    _read_back(api, repository, files, done.oid)
    return str(done.commit_url)


def _read_back(api: HfApi, repository: str, files: Mapping[str, Content], commit: str) -> None:
    """Check that a commit has all files, whole."""
    tree = api.list_repo_tree(repository, recursive=True, revision=commit)
    there = {one.path: getattr(one, "size", None) for one in tree}
    if wrong := sorted(name for name, content in files.items() if there.get(name) != _size(content)):
        raise UnmaskError(
            f"'{repository}': {wrong[0]} is not there, or not whole, after the commit {commit}; push again"
        )


def _size(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _check_names(repository: str, revision: str | None) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    if repository.count("/") != 1:
        raise ConfigError(
            f"'{repository}': expected the name of a repository, ORG/NAME, with your user name or that of an organisation"
        )
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ConfigError(f"no repository can have this name: {error}") from None
    if revision is not None and _NO_BRANCH.fullmatch(revision):
        raise ConfigError(f"'{revision}' is no name of a branch; give one such as main or v2 with --revision")


def _folder(model: Path) -> Path:
    """Return the folder of a model, which has weights."""
    if not model.is_dir():
        raise ConfigError(f"'{model}': no such folder; give a run folder or a model folder")
    folder = Path(model_folder(str(model)))
    if (folder / FILE).is_file() and not any(folder.glob("*.safetensors")):
        raise ConfigError(
            f"'{model}' is a form of a model; push the model that it was made from, with --export {model}"
        )
    if not (folder / "config.json").is_file() or not any(folder.glob("model*.safetensors")):
        raise ConfigError(f"'{folder}' is no model: expected config.json and model.safetensors")
    return folder


def _parts(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of a model: the path in the repository, and the file."""
    places: dict[str, tuple[str, ...]] = {"": (*_PARTS, _CARD)}
    if (folder / MODULES).is_file():
        places |= dict.fromkeys(module_folders(folder / MODULES), _MODULE)
    for place, patterns in places.items():
        if not (folder / place).resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"{folder / MODULES}: the module '{place}' is outside the model")
        for path in sorted(path for pattern in patterns for path in (folder / place).glob(pattern)):
            if path.is_file():
                yield path.relative_to(folder).as_posix(), path


def _left_out(model: Path, folder: Path, parts: set[str]) -> Iterator[str]:
    """Yield what is in the run and model folder besides the parts of the model."""
    kept = {folder / name for name in parts}
    kept |= {parent for path in kept for parent in path.parents}
    for place in dict.fromkeys((model, folder)):
        yield from sorted(path.relative_to(model).as_posix() for path in place.iterdir() if path not in kept)


def _form(form: Path, model: Path) -> tuple[str, JsonDict, dict[str, Path]]:
    """Return the main file of an exported form in the repository, its comparison, and all its files."""
    parity = read_json(form / FILE)
    if not isinstance(parity, dict) or "format" not in parity:
        raise ConfigError(f"'{form}' has no {FILE}; give a folder that 'unmask export' wrote")
    weights = sorted(path for suffix in EXPORTED for path in form.rglob(f"*{suffix}"))
    if not weights:
        raise ConfigError(
            f"'{form}' is a model by itself, not ONNX or OpenVINO; push it to a repository or a --revision of its own"
        )
    if parity.get("model_sha256") != weights_hash(model):
        raise ConfigError(f"'{form}' was not exported from the weights in '{model}'; export them again")
    if parity.get("files") != hashes_of(form):
        raise ConfigError(
            f"the weights in '{form}' are not those that were exported and compared; export the model again"
        )
    place = f"{EXPORTED[weights[0].suffix]}/"
    found = {f"{place}{Path(FILE).stem}-{parity['format']}.json": form / FILE}
    for path in weights:
        beside = (path, path.with_suffix(".bin"), path.with_name(f"{path.name}_data"))
        found |= {f"{place}{one.name}": one for one in beside if one.is_file()}
    return f"{place}{weights[0].name}", parity, found


def _card(path: Path | None, repository: str, forms: Mapping[str, JsonDict]) -> bytes:
    """Return the card for the Hub; its metadata are checked as the Hub reads them."""
    if path is None:
        raise ConfigError(
            "the model has no card (README.md); 'unmask report RUN' writes that of a run, for another model write one"
        )
    import yaml
    from huggingface_hub import ModelCard

    try:
        card = path.read_text(encoding="utf-8")
        known = ModelCard(card).data.to_dict()
    except (ValueError, yaml.YAMLError) as error:
        reason = on_one_line(" ".join(str(error).split()))
        raise ConfigError(
            f"{path}: its metadata, the YAML between the lines of ---, cannot be read: {reason}"
        ) from None
    if not known:
        raise ConfigError(f"{path}: it has no metadata; expected YAML between two lines of --- at the top")
    return published_card(card, repository, forms).encode()
