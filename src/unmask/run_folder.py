"""The names of the files that a run writes.

::

    RUN/model/            the result, a Hugging Face checkpoint with tokenizer and model card
    RUN/checkpoints/      what a stopped run is resumed from
    RUN/in_memory_text/   text that was given in memory, not as files
    RUN/shards/           the tokenised text, when the run prepared it itself; shards-heldout, shards-replay and
                          shards-general of the other texts
    RUN/tokenizer/        the tokenizer that was trained on the text, with a preset
    RUN/config.yaml       every setting, resolved
    RUN/run.json          versions, machine, command, parameter count, tokens of the corpus
    RUN/exit_code         how the last call ended, for schedulers
    RUN/metrics.jsonl     one object a line, appended
    RUN/heldout.jsonl     the held-out documents (field ``text``), of the demo alone
    RUN/evaluation.json   final metrics on the held-out text, with the baselines
    RUN/tracking.json     where experiment trackers have the run (--track)
    RUN/tensorboard/      event files (--track tensorboard)
    RUN/wandb/            files of Weights & Biases (--track wandb)
    RUN/examples.json     masked examples with what the model filled in
    RUN/base.npz          predictions of the checkpoint before training, on the held-out text
    RUN/adaptation.json   that checkpoint and the result, compared (see unmask.run.adaptation)
    RUN/report.html       the report, built from the files above

All but weights and arrays are JSON or YAML, so a report can be built again without the model. A model folder with
added words holds :data:`ADDED_WORDS` as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from unmask.errors import ConfigError
from unmask.progress import Progress
from unmask.remote.folders import fetch, files_below
from unmask.remote.systems import is_url, refuse_url

HELDOUT_SHARDS = "shards-heldout"
"""In a run folder: the tokenised held-out text, where it was given by itself."""
EXPORTED = {".onnx": "onnx", ".xml": "openvino"}
"""Endings of the files of exported models, and the folder below ``config.json`` and tokenizer in which they may lie."""
ADDED_WORDS = "added_words.json"
"""In a model folder: the words by which its vocabulary was extended."""
GENERATOR = "generator"
"""In the model folder of a discriminator: the masked language model that was trained with it."""


_MODEL_FILE = re.compile(r"config\.json|tokenizer\.json|vocab\.(txt|json)|[^/]*\.model")
_NO_MODEL = re.compile(
    r"^checkpoint[^/]*/|^shards[^/]*/|^runs/|(^|/)\.|"
    r"(^|/)(pytorch_model|training_args)[^/]*\.bin|\.(pt|pth|h5|msgpack|ot|ckpt|pkl)$"
)


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run, and itself the path of its folder. Creating the object touches nothing on disk."""

    root: Path

    def __post_init__(self) -> None:
        refuse_url(self.root)
        object.__setattr__(self, "root", Path(self.root))

    def __fspath__(self) -> str:
        return str(self.root)

    def __str__(self) -> str:
        return str(self.root)

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def in_memory_text(self) -> Path:
        return self.root / "in_memory_text"

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def info(self) -> Path:
        return self.root / "run.json"

    @property
    def exit_code(self) -> Path:
        return self.root / "exit_code"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def heldout(self) -> Path:
        return self.root / "heldout.jsonl"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation.json"

    @property
    def examples(self) -> Path:
        return self.root / "examples.json"

    @property
    def base(self) -> Path:
        return self.root / "base.npz"

    @property
    def adaptation(self) -> Path:
        return self.root / "adaptation.json"

    @property
    def tracking(self) -> Path:
        return self.root / "tracking.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"


def is_model_folder(model: object) -> bool:
    """Return whether a model is given as a folder, here or by URL, not by its Hub name or as an object."""
    return isinstance(model, str | Path) and (is_url(model) or Path(model).is_dir())


def run_of(model: str) -> RunFolder | None:
    """Return the run of a run folder or of its model folder; ``None`` for any other model, also one by URL."""
    if is_url(model):
        return None
    path = Path(model)
    for folder in (RunFolder(path), RunFolder(path.resolve().parent)):
        if (
            folder.info.is_file()
            and folder.config.is_file()
            and path.resolve() in (folder.root.resolve(), folder.model.resolve())
        ):
            return folder
    return None


def model_folder(name: str, progress: Progress = Progress()) -> str:
    """Return the model folder of a run folder, or of an exported model file; any other name of a model unchanged.

    A model by URL is fetched into the cache of this host.

    Raises:
        ConfigError: the run has no model yet, or the model is in a folder below.
        DataError: a URL cannot be read.
    """
    if is_url(name):
        return str(_fetched(name, progress))
    path = Path(name)
    if path.suffix in EXPORTED and path.is_file():
        here = path.parent
        below = here.name == EXPORTED[path.suffix] and not (here / "config.json").is_file()
        return str(here.parent if below else here)
    run = RunFolder(path)
    if not run.root.is_dir() or (run.root / "config.json").is_file():
        return name
    if not run.info.is_file():
        _refuse_other_folder(run.root)
        return name
    if not (run.model / "config.json").is_file():
        raise ConfigError(
            f"'{name}' is the folder of a run that has no model yet; finish it with "
            f"'unmask train -o {name} --resume', or give the folder of a model"
        )
    return str(run.model)


def _fetched(url: str, progress: Progress) -> Path:
    """Fetch a model, or that of a run: weights in safetensors or exported, tokenizer and settings."""
    if url.startswith("hf://"):
        hub = url.removeprefix("hf://")
        raise ConfigError(f"'{url}': a model of the Hub is given by its name alone; give {hub}")
    found = files_below(url)
    where = "model/" if RunFolder(Path()).info.name in found else ""
    if where and "model/config.json" not in found:
        raise ConfigError(
            f"'{url}' is a run that has no model yet; finish it with 'unmask train -o {url} --resume'"
        )
    below = {name.removeprefix(where): file for name, file in found.items() if name.startswith(where)}
    files = {name: file for name, file in below.items() if not _NO_MODEL.search(name)}
    if not any(_MODEL_FILE.fullmatch(name) for name in files):
        folders = sorted({name.split("/")[0] for name in found if name.endswith("/config.json")})
        hint = (
            f"; there are models in folders below it, for example {url.rstrip('/')}/{folders[-1]}"
            if folders
            else ""
        )
        raise ConfigError(f"'{url}' is no model: config.json is missing{hint}")
    return fetch(url, files, "models", progress=progress)


def _refuse_other_folder(folder: Path) -> None:
    """Refuse a folder in which only folders below it can be a model, or that is something else by its files."""
    found = [
        path for path in folder.glob("*/config.json") if '"model_type"' in path.read_text("utf-8", "replace")
    ]
    below = sorted(
        (path.parent for path in [*found, *folder.glob("*/run.json")]),
        key=lambda path: (int(number) if (number := path.name.rpartition("-")[2]).isdecimal() else 0, path),
    )
    if below:
        listed = ", ".join(path.name for path in below[:5]) + (", …" if len(below) > 5 else "")
        raise ConfigError(
            f"'{folder}' is no model: config.json is missing. There are models in folders below it ({listed}); give "
            f"one of them, for example {below[-1]}"
        )
    if (folder / "adapter_config.json").is_file():
        raise ConfigError(
            f"'{folder}' holds an adapter without its model; merge it into the model first (merge_and_unload of peft)"
        )
    if (folder / "dataset_info.json").is_file() or (folder / "dataset_dict.json").is_file():
        raise ConfigError(f"'{folder}' holds a data set of the datasets library, not a model")


def saved_generator(model: str) -> Path | None:
    """Return the folder of the generator that was saved with a discriminator, if ``model`` is the folder of one."""
    folder = Path(model) / GENERATOR
    return folder if model and (folder / "config.json").is_file() else None
