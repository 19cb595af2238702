"""Load masked language models: a checkpoint to train, or any model for inference; or make a new one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from unmask.data.conversion import converted
from unmask.data.hub import offline_mode
from unmask.data.tokenizer import checkpoint_name, load_tokenizer, vocabulary_of
from unmask.data.tokenizer_files import cannot_load, damaged_json
from unmask.errors import ConfigError, plural
from unmask.model.base import LanguageModel
from unmask.model.config_file import make_model
from unmask.model.cpu.linear import use_onednn_linear
from unmask.model.exported import exported_file, exported_files, load_exported
from unmask.model.head import require_encoder
from unmask.model.masked_lm import MaskedLM
from unmask.model.mps import require_mps, use_mps
from unmask.model.precision import pick_precision
from unmask.model.presets import find_preset
from unmask.progress import Progress
from unmask.remote.systems import is_url
from unmask.run_folder import is_model_folder, model_folder, saved_generator
from unmask.storage import LFS_POINTER, is_lfs_pointer, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_TOKEN_KEYS = ("pad_token_id", "cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id")


def pick_device(wanted: str) -> torch.device:
    """Return the torch device that a model is loaded to, for ``auto``, ``cpu``, ``cuda`` or ``mps``.

    For ``mps`` it is the CPU, from which :func:`~unmask.model.mps.use_mps` moves the model.

    Raises:
        ConfigError: there is no such device.
    """
    if wanted not in ("auto", "cpu", "cuda", "mps"):
        raise ConfigError(f"no device '{wanted}'; there are auto, cpu, cuda, mps")
    if wanted == "mps":
        require_mps()
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device cuda was asked for, but torch finds no CUDA device; use --device=cpu or auto"
        )
    return torch.device("cuda" if wanted in ("auto", "cuda") and torch.cuda.is_available() else "cpu")


def load_for_inference(
    model: str | Path | PreTrainedModel | LanguageModel,
    tokenizer: str | Path | PreTrainedTokenizerBase | None = None,
    *,
    device: str = "auto",
    precision: str = "fp32",
    offline: bool = False,
    progress: Progress = Progress(),
) -> LanguageModel:
    """Load a masked language model with its tokenizer, in evaluation mode.

    On a CPU its linear layers keep a second copy of their weights, in the layout that oneDNN computes two to three
    times as fast with (:mod:`unmask.model.cpu.linear`).

    Args:
        model: Hub name (``name@revision`` pins one), model folder, run folder, exported model (a folder or file), a
            transformers model in memory (it is used as it is, not copied), or a :class:`LanguageModel`, which is returned
            unchanged.
        tokenizer: Hub name, folder or object; by default that of the model. Required with a transformers model.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``; with ``auto`` a model in memory stays on its device.
        precision: ``fp32``, ``bf16``, or ``auto`` for the faster of the two on this machine.
        offline: make no network call.
        progress: logs what ``auto`` chose. A missing LM head is an error where it is needed
            (:meth:`~unmask.model.base.LanguageModel.require_head`); :func:`warn_of_new_head` warns where the rest is used.

    Raises:
        ConfigError: model or tokenizer cannot be loaded, or do not fit each other.
    """
    if isinstance(model, LanguageModel):
        return model
    new_head: list[str] = []
    if isinstance(model, (str, Path)):
        if exported := exported_file(
            model_folder(str(model), progress) if is_model_folder(model) else str(model)
        ):
            return load_exported(exported, tokenizer, device=device, precision=precision, progress=progress)
        # The tokenizer first: a wrong name is then found before the weights are read.
        tokenizer = str(model) if tokenizer is None else tokenizer
        loaded_tokenizer = _tokenizer(tokenizer, offline, progress)
        loaded, new_head = _read(str(model), offline, 0, progress)
        loaded.to(pick_device(device))  # type: ignore[arg-type]
    else:
        if not isinstance(model, torch.nn.Module):
            raise ConfigError(
                f"model: expected a Hub name, a folder or a transformers model, not {type(model).__name__}"
            )
        if tokenizer is None:
            raise ConfigError(
                f"a {type(model).__name__} in memory has no tokenizer; give it too, as tokenizer=..."
            )
        loaded_tokenizer, loaded = _tokenizer(tokenizer, offline, progress), model
        if device == "auto":
            device = loaded.device.type
        else:
            loaded.to(pick_device(device))  # type: ignore[arg-type]
    use_onednn_linear(loaded)
    wrapped = MaskedLM(loaded.eval(), loaded_tokenizer, autocast=precision == "bf16")
    use_mps(wrapped, device, progress)
    choose_precision(wrapped, precision, progress)
    wrapped.new_head = new_head
    return wrapped


def load_torch(model: str | Path | PreTrainedModel | LanguageModel, purpose: str, **loading: Any) -> MaskedLM:
    """Load a model as :func:`load_for_inference`, where it must be one of PyTorch.

    Raises:
        ConfigError: it is an exported one, or cannot be loaded.
    """
    loaded = load_for_inference(model, **loading)
    if not isinstance(loaded, MaskedLM):
        raise ConfigError(
            f"'{loaded.name}' is an exported model; {purpose}. Give the model that it was exported from"
        )
    return loaded


def choose_precision(model: MaskedLM, wanted: str, progress: Progress) -> None:
    """With ``auto``, compute in bf16 where that is faster on this machine and the model can; else leave it as it is.

    Raises:
        ConfigError: there is no such precision.
    """
    chosen, why = pick_precision(wanted, model.device)
    if wanted == "auto":
        reason = model.use_bf16() if chosen == "bf16" else ""
        progress.log(f"{reason}; computing in fp32" if reason else why)


def _tokenizer(
    given: str | Path | PreTrainedTokenizerBase, offline: bool, progress: Progress
) -> PreTrainedTokenizerBase:
    if isinstance(given, (str, Path)):
        return load_tokenizer(str(given), offline=offline, progress=progress)
    return converted(given)


class Checkpoint(NamedTuple):
    """A checkpoint in memory.

    Attributes:
        model: in fp32.
        new_head: names of the LM-head weights that the checkpoint lacked and that were initialised.
    """

    model: PreTrainedModel
    new_head: list[str]


def read_checkpoint(
    name: str, *, offline: bool = False, seed: int = 0, progress: Progress = Progress()
) -> Checkpoint:
    """Load the weights of a checkpoint in fp32, from safetensors only, running no remote code.

    Args:
        name: Hub name (``name@revision`` pins one), model folder or run folder.
        offline: make no network call.
        seed: initialises the weights of an LM head that the checkpoint lacks.
        progress: logs such a head.

    Raises:
        ConfigError: it cannot be loaded as a masked language model.
    """
    found = _read(name, offline, seed, progress)
    warn_of_new_head(name, found.new_head, progress, str(found.model.config.name_or_path or ""))
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the warnings of transformers about weights that a class lacks or leaves out to itself: ours say what matters."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _read(name: str, offline: bool, seed: int, progress: Progress) -> Checkpoint:
    from transformers import AutoModelForMaskedLM

    path, revision = checkpoint_name(name, progress)
    options: dict[str, Any] = {"revision": revision, "local_files_only": offline, "trust_remote_code": False}
    options |= {"dtype": torch.float32, "output_loading_info": True}
    try:
        with torch.random.fork_rng(devices=[]), offline_mode(offline), _quiet():
            torch.manual_seed(seed)
            model, info = AutoModelForMaskedLM.from_pretrained(path, use_safetensors=True, **options)
            if any(key.startswith("lm_predictions.lm_head.") for key in info["unexpected_keys"]):
                # DeBERTa's own name of its LM head, which transformers reads with this setting only.
                model, info = AutoModelForMaskedLM.from_pretrained(
                    path, use_safetensors=True, legacy=False, **options
                )
    except Exception as error:
        raise _not_loaded(name, path, error, offline) from error
    if is_url(name):
        model.config.name_or_path = name  # not its place in the cache
    require_encoder(model, name)
    return Checkpoint(model, _new_head(name, model, info))


def read_as(kind: Any, model: PreTrainedModel) -> tuple[PreTrainedModel, set[str]]:
    """Return the checkpoint of a model in another class of transformers, and the names of weights that it lacks."""
    name = str(model.config.name_or_path or "")
    if not name:
        found = kind(deepcopy(model.config))
        return found, set(found.state_dict())
    path, revision = checkpoint_name(name)
    # It was just read, so it is on this machine.
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32}
    options |= {"revision": revision or getattr(model.config, "_commit_hash", None) or "main"}
    try:
        found, info = kind.from_pretrained(path, output_loading_info=True, **options)
    except OSError:  # a model in memory may have come from anywhere
        found = kind(deepcopy(model.config))
        return found, set(found.state_dict())
    return found, set(info["missing_keys"])


def _not_loaded(name: str, path: str, error: Exception, offline: bool) -> ConfigError:
    if exported := exported_files(Path(path)):
        return ConfigError(
            f"'{name}' is an exported model ({exported[0].name}), and the model in PyTorch is needed here. Give the one "
            f"that it was exported from"
        )
    weights = [*Path(path).glob("*.safetensors*"), *Path(path).glob("pytorch_model*.bin")]
    if pointers := list(filter(is_lfs_pointer, weights)):
        return ConfigError(f"{pointers[0]}: {LFS_POINTER}")
    pickled = sorted(file.name for file in Path(path).glob("pytorch_model*.bin"))
    if pickled and not list(Path(path).glob("*.safetensors*")):
        return ConfigError(
            f"'{name}' has its weights in {pickled[0]}, which is read by pickle and can run code that came with it. "
            f"Convert them once with 'unmask convert {path} -o NEW', which reads tensors only, and give NEW"
        )
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    if kind := re.match(r"Unrecognized configuration class <class '[\w.]*?(\w+?)(?:Config)?'>", reason):
        return ConfigError(
            f"'{name}' is no masked language model: transformers has none of its architecture ({kind[1]}); give an encoder of the "
            f"BERT family, such as BERT, RoBERTa, ModernBERT or DeBERTa"
        )
    damage = damaged_json(Path(path)) or _damaged_weights(Path(path))
    return cannot_load(
        "masked language model",
        name,
        path,
        damage or error,
        "a folder with config.json and a whole model.safetensors",
        offline,
    )


def _damaged_weights(folder: Path) -> str | None:
    """Say which file of a model folder is missing, or holds no whole weights."""
    if not (folder / "config.json").is_file():
        return None
    shards = read_json(folder / "model.safetensors.index.json")
    for name in sorted({*shards["weight_map"].values()}) if shards else ["model.safetensors"]:
        file = folder / name
        try:
            with safe_open(file, "pt"):
                pass
        except FileNotFoundError:
            return f"{file} is missing"
        except SafetensorError as error:
            return f"{file} is damaged or cut off ({error})"
        except OSError as error:
            return f"{file} cannot be read ({error.strerror or error})"
    return None


def _new_head(name: str, model: PreTrainedModel, info: dict[str, Any]) -> list[str]:
    missing = sorted(info["missing_keys"])
    body = [key for key in missing if key.startswith(f"{model.base_model_prefix}.") and "pooler" not in key]
    if body:
        raise ConfigError(
            f"'{name}' lacks {plural(len(body), 'weight')} of the encoder itself, for example {body[0]}; "
            f"it does not fit the class {type(model).__name__} that its config names"
        )
    return [key for key in missing if "pooler" not in key]


def warn_of_new_head(name: str, head: Sequence[str], progress: Progress, path: str | None = None) -> None:
    """Warn that weights of the LM head are new, where the model is used all the same; ``path`` is where it was read."""
    if head and (generator := saved_generator(name if path is None else path)):
        progress.warning(
            f"'{name}' says which tokens were replaced and has no LM head; the generator that was trained with it predicts masked "
            f"tokens: {generator}"
        )
    elif head:
        progress.warning(
            f"'{name}' has no LM head: {plural(len(head), 'new weight')} initialised ({', '.join(head[:3])}"
            f"{', …' if len(head) > 3 else ''}). Until it is trained, its predictions say nothing"
        )


def new_model(
    preset: str, tokenizer: PreTrainedTokenizerBase, seed: int, near_layers: int | None = None
) -> PreTrainedModel:
    """Make a model with new weights, the same for the same seed.

    Args:
        preset: its architecture, the name of a preset or the path of a ``config.json``.
        tokenizer: its vocabulary.
        seed: of the weights.
        near_layers: so many first layers see direct neighbours alone; by default as many as the preset has.

    Raises:
        ConfigError: there is no such preset, or it cannot have so many ``near_layers``.
    """
    chosen = find_preset(preset)
    vocabulary = vocabulary_of(tokenizer)
    # A multiple of 64 rows suits matrix hardware; the surplus rows are never a target.
    rows = -(-vocabulary.size // 64) * 64
    keys = [*_TOKEN_KEYS, *(["mask_token_id"] if hasattr(chosen.config(), "mask_token_id") else [])]
    config = chosen.config(rows, {key: getattr(tokenizer, key) for key in keys}, near_layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make_model(config, preset)


def set_dropout(model: nn.Module, rate: float) -> None:
    """Set every dropout of a model, leaving its config as it was."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        for name in ("attention_dropout", "dropout", "dropout_prob", "drop_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, rate)
