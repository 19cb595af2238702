"""Tokenizer files: what a folder lacks, whether a vocabulary is cased, and entries that no text can produce."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.errors import ConfigError, MissingExtra, plural
from unmask.progress import Progress
from unmask.run_folder import run_of
from unmask.storage import LFS_POINTER, is_lfs_pointer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SHARE = 0.01
"""Share of the entries of a vocabulary that counts: as capitals of a cased one, as accents, as unreachable."""
_SAMPLE = 5000
_SPARE_ROWS = 1000
_ROWS_PER_ENTRY = 2, 1.1
"""Rows of embeddings per entry of a tokenizer above which it is refused, and warned of."""
_PATTERNS = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "*.model", "*.vocab", "tokenizer.*")


def not_loaded(name: str, path: str, error: Exception | str, offline: bool) -> ConfigError:
    """Return the error for a tokenizer that could not be loaded: what its folder lacks, where that is the cause."""
    folder = Path(path)
    # Transformers falls back to tiktoken where it lacks sentencepiece.
    if "`tiktoken` is required" in str(error) and not (
        find_spec("sentencepiece") and find_spec("google.protobuf")
    ):
        what = f"the tokenizer of '{name}' (a SentencePiece model without tokenizer.json)"
        return MissingExtra("sentencepiece", "sentencepiece", what)
    if folder.is_dir() and not any(found for pattern in _PATTERNS for found in folder.glob(pattern)):
        return ConfigError(
            f"'{name}' holds no tokenizer files (tokenizer.json, vocab.txt, vocab.json with merges.txt, or a "
            f"SentencePiece *.model). Copy those of its tokenizer to {folder}, or write them with "
            f"tokenizer.save_pretrained({str(folder)!r}){_written_again(name, ', or with ')}"
        )
    return cannot_load(
        "tokenizer",
        name,
        path,
        damaged_json(folder) or error,
        "a model folder, a run folder, a WordPiece vocab.txt",
        offline,
    )


def cannot_load(
    what: str, name: str, path: str, error: Exception | str, expected: str, offline: bool
) -> ConfigError:
    """Return the error for a tokenizer or model that transformers could not load, in its words where it looked for it at all.

    Args:
        what: is loaded.
        name: as it was given.
        path: the folder or Hub name that was tried.
        error: of transformers.
        expected: what can be given besides a Hub name.
        offline: whether no network call was to be made.
    """
    from huggingface_hub import constants, is_offline_mode
    from huggingface_hub.errors import LocalEntryNotFoundError

    advice = f"Give {expected}, or a Hub name that this machine can reach"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
    if Path(path).is_dir():
        advice = _written_again(name, "Write it again with ") or advice
    where = no_folder(path)
    if any(isinstance(each, LocalEntryNotFoundError) for each in (error, getattr(error, "__cause__", None))):
        if offline or is_offline_mode():
            where = f"there is no folder {path}; "
            reason = "it is not, or not whole, in the local cache, and the Hub was not asked, because --offline or HF_HUB_OFFLINE is set"
            advice = "Check the spelling, or have it fetched once without that"
        else:
            reason = f"{constants.ENDPOINT} cannot be reached, and it is not in the local cache"
    return ConfigError(f"no {what} could be loaded from '{name}': {where}{reason}. {advice}")


def damaged_json(folder: Path) -> str | None:
    """Say which JSON file of a model folder cannot be read, or return ``None``."""
    for file in sorted(folder.glob("*.json")):
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            return f"{file} is damaged or cut off: it is not valid JSON"
    return None


def _written_again(name: str, before: str) -> str:
    """Return how the model folder of a run is written again, ``before`` it, if that run has a checkpoint; else nothing."""
    run = run_of(name)
    if run is None or not any(run.checkpoints.glob("step-*")):
        return ""
    return f"{before}'unmask train -o {run} --resume', from the last checkpoint of the run"


def no_folder(name: str) -> str:
    """Say that a name with a slash, ``runs/notes`` or ``owner/name``, is no folder here; it was looked for on the Hub."""
    return f"there is no folder {name}; " if "/" in name and not Path(name).exists() else ""


def require_files(path: str) -> None:
    """Raise a :class:`ConfigError` if a tokenizer file, or one in a folder, is a Git LFS pointer."""
    for file in [Path(path), *(found for pattern in _PATTERNS for found in Path(path).glob(pattern))]:
        if is_lfs_pointer(file):
            raise ConfigError(f"{file}: {LFS_POINTER}")


def no_text(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Say that a tokenizer has no entries for text, or return ``None``.

    Transformers returns a tokenizer of special tokens alone for some folders without tokenizer files.
    """
    entries, special = tokenizer.get_vocab(), {str(token) for token in tokenizer.all_special_tokens}
    if any(entry not in special and any(map(str.isalnum, entry)) for entry in entries):
        return None
    return f"it has {plural(len(entries), 'special token')} and no entries for text"


def require_size(tokenizer: PreTrainedTokenizerBase, name: str, path: str, progress: Progress) -> None:
    """Compare a tokenizer with the model in its folder, as :func:`check_size` does.

    Raises:
        ConfigError: the model has fewer rows than the tokenizer entries, or far more.
    """
    entries = max(tokenizer.get_vocab().values()) + 1
    try:
        config = json.loads(Path(path, "config.json").read_text(encoding="utf-8"))
        rows = int(config["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return  # no folder, or a config that does not say
    if rows < entries and (cause := _fault_of_vocabulary(Path(path))):
        raise ConfigError(
            f"the tokenizer of '{name}' has {entries:,} entries, {entries - rows:,} too many: {cause}"
        )
    check_size(entries, rows, f"the tokenizer of '{name}'", progress)


def _fault_of_vocabulary(folder: Path) -> str | None:
    """Say why transformers finds more entries in a folder's ``vocab.txt`` than it should have."""
    file = folder / "vocab.txt"
    if not file.is_file() or (folder / "tokenizer.json").exists():
        return None
    text = file.read_text(encoding="utf-8", errors="replace")
    lines = text.removesuffix("\n").split("\n")
    entries = {line.rstrip() for line in lines}
    if text.startswith("\ufeff"):
        return f"{file} begins with a byte order mark, which makes its first entry another one; save it as UTF-8 without"
    if "" in entries:
        blank = next(number for number, line in enumerate(lines, 1) if not line.rstrip())
        return f"line {blank} of {file} is blank, and counts as an entry; remove it"
    if missing := [special for special in BERT_SPECIALS if special not in entries]:
        return f"{file} lacks {', '.join(missing)}, added behind its entries; use the vocabulary of the model"
    return None


def check_size(entries: int, rows: int, what: str, progress: Progress = Progress()) -> None:
    """Compare the entries of a tokenizer with the embeddings of a model; warn if there are more rows than usual.

    Raises:
        ConfigError: the model has fewer rows, or more than twice as many.
    """
    refused, warned = _ROWS_PER_ENTRY
    sizes = f"{what} has {entries:,} entries but the model {rows:,} rows of embeddings"
    if rows < entries:
        raise ConfigError(
            f"{what} has {entries:,} entries but the model only {rows:,} rows of embeddings; "
            f"use the model's own tokenizer, or a model whose embeddings were extended for this one"
        )
    if rows - entries <= _SPARE_ROWS:
        return
    if rows > refused * entries:
        raise ConfigError(
            f"{sizes}, so it is not the tokenizer "
            f"that the model was trained with, or part of it is missing; give the model's own. If the other rows "
            f"were never used, cut them off with model.resize_token_embeddings({entries})"
        )
    if rows > warned * entries:
        progress.warning(f"{sizes}: check that it is the tokenizer that the model was trained with")


def case_of(entries: Iterable[str]) -> dict[str, Any]:
    """Return the options of a BERT tokenizer that fit a vocabulary: cased if 1% of its entries have capitals."""
    words = [entry.removeprefix("##") for entry in entries if entry[:1] != "["]
    plain = [word for word in words if len(word) > 1] or words  # an alphabet has both cases
    few = SHARE * len(plain)
    cased = sum(entry != entry.lower() for entry in plain) > few
    accents = not cased and sum(_without_marks(entry) != entry for entry in plain) > few
    return {"do_lower_case": not cased, "strip_accents": False if accents else None}


def _without_marks(text: str) -> str:
    if text.isascii():
        return text
    return "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")


def unstated_case(
    tokenizer: PreTrainedTokenizerBase, path: str, hub: dict[str, Any]
) -> dict[str, Any] | None:
    """Return options for a BERT tokenizer whose ``tokenizer_config.json`` does not say whether it is cased.

    Transformers lower-cases then. ``tokenizer.json`` is followed where there is one, and the vocabulary elsewhere.

    Args:
        tokenizer: as transformers loads it.
        path: its folder or Hub name.
        hub: ``revision`` and ``local_files_only``.

    Returns:
        ``None`` if transformers' own choice stands.
    """
    from transformers.models.auto.tokenization_auto import get_tokenizer_config
    from transformers.utils.hub import cached_file

    if not getattr(tokenizer, "do_lower_case", False):
        return None
    stated = get_tokenizer_config(path, **hub)
    if "do_lower_case" in stated:
        return None
    wanted = case_of(tokenizer.get_vocab())
    file = cached_file(path, "tokenizer.json", _raise_exceptions_for_missing_entries=False, **hub)
    if file is not None:
        normalizer = json.loads(Path(file).read_text(encoding="utf-8")).get("normalizer") or {}
        if normalizer.get("type") != "BertNormalizer":
            return None
        wanted = {"do_lower_case": normalizer["lowercase"], "strip_accents": normalizer["strip_accents"]}
    wanted = {key: value for key, value in wanted.items() if key not in stated}
    return wanted if any(getattr(tokenizer, key, None) != value for key, value in wanted.items()) else None


def unreachable_entries(tokenizer: PreTrainedTokenizerBase) -> tuple[float, list[str]]:
    """Return which share of a vocabulary the normalizer makes unreachable, such as capitals, and a few entries.

    Entries of byte-level tokenizers are not text, so none is counted.
    """
    normalizer = tokenizer.backend_tokenizer.normalizer
    kind = type(tokenizer.backend_tokenizer.model).__name__
    if normalizer is None or kind not in ("WordPiece", "Unigram"):
        return 0.0, []
    special = {str(token) for token in tokenizer.all_special_tokens}
    mark = "##" if kind == "WordPiece" else "▁"
    entries = [entry.removeprefix(mark) for entry in sorted(tokenizer.get_vocab()) if entry not in special]
    entries = [
        entry for entry in entries if len(entry) > 1 and any(map(str.isalnum, entry)) and entry[0] not in "[<"
    ]
    entries = entries[:: max(1, len(entries) // _SAMPLE)]
    lost = [
        entry
        for entry in entries
        if not (entry.isascii() and entry == entry.lower())
        and "".join(normalizer.normalize_str(entry).split()).strip("▁") != entry
    ]
    return len(lost) / max(1, len(entries)), lost[:: max(1, len(lost) // 3)][:3]
