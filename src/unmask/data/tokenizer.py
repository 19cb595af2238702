"""Load tokenizers, encode text, and read the special tokens and words of a vocabulary.

Control tokens in a text are encoded as plain text: ``[SEP]`` in a document gives its characters, not the token. Packing
adds those of a sequence, from :class:`Vocabulary`. Other special tokens, such as ``[ANON]``, are read as themselves
(:mod:`unmask.data.special_tokens`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unmask.data.conversion import PLACEHOLDER, converted
from unmask.data.hub import offline_mode
from unmask.data.special_tokens import control_ids, frame, special_flags, text_specials, unknown_id
from unmask.data.tokenizer_files import (
    BERT_SPECIALS,
    SHARE,
    case_of,
    no_folder,
    no_text,
    not_loaded,
    require_files,
    require_size,
    unreachable_entries,
    unstated_case,
)
from unmask.data.words import SegmentedWords, Segmenter, WordTables, word_tables
from unmask.errors import ConfigError, did_you_mean
from unmask.progress import Progress
from unmask.remote.systems import is_url
from unmask.run_folder import model_folder
from unmask.storage import sha256

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

_WHITE_SPACE = " \t\r\x0b\x0c\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"


@dataclass(frozen=True)
class Vocabulary:
    """What masking and packing need of a tokenizer, as plain arrays.

    Attributes:
        size: the largest token id plus one.
        mask_id: id of the mask token.
        pad_id: id of the padding token.
        prefix: special tokens before a sequence, for example ``([CLS],)``.
        suffix: special tokens after it, for example ``([SEP],)``.
        special: ``bool [size]``, ids that are never targets nor replacements.
        replacements: ``int64 [R]``, the ids from which random replacements are drawn.
        words: how tokens form words, or ``None`` if the tokenizer does not mark words.
    """

    size: int
    mask_id: int
    pad_id: int
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    special: np.ndarray
    replacements: np.ndarray
    words: WordTables | None

    @cached_property
    def overhead(self) -> int:
        """Special tokens of every sequence."""
        return len(self.prefix) + len(self.suffix)

    def framed(self, body: np.ndarray | Sequence[int]) -> np.ndarray:
        """Return ``int64 [n + overhead]``: the token ids of a text with the special tokens of a sequence."""
        return np.concatenate([self.prefix, body, self.suffix]).astype(np.int64)


def load_tokenizer(
    name: str, *, offline: bool = False, progress: Progress = Progress()
) -> PreTrainedTokenizerBase:
    """Load a tokenizer by Hub name (``name@revision`` pins one), model folder, run folder, or WordPiece ``vocab.txt``.

    Whether a ``vocab.txt`` is cased is taken from its entries, where no ``tokenizer_config.json`` says it.

    Args:
        name: what to load.
        offline: make no network call.
        progress: warned of a vocabulary with entries that no text can produce, or fewer than the model in its folder.

    Raises:
        ConfigError: it cannot be loaded, is not backed by the ``tokenizers`` library, has no entries for text or no
            mask token, or is far smaller than the model in its folder.
    """
    path, revision = checkpoint_name(name, progress)
    require_files(path)
    try:
        with offline_mode(offline):
            if not (offline or Path(path).exists()):
                _find_on_hub(path, revision, progress)
            tokenizer = _read(path, {"revision": revision, "local_files_only": offline}, progress)
    except Exception as error:
        raise not_loaded(name, path, error, offline) from error
    _require_mask(tokenizer, name)
    tokenizer = converted(tokenizer)
    if is_url(name):
        tokenizer.name_or_path = name  # not its place in the cache
    if what := no_text(tokenizer):
        raise not_loaded(name, path, what, offline)
    require_size(tokenizer, name, path, progress)
    share, lost = unreachable_entries(tokenizer)
    if share > SHARE:
        progress.warning(
            f"{share:.0%} of the vocabulary of '{name}' can never occur in text, for example {', '.join(lost)}: the "
            f"tokenizer changes case or accents before it looks words up. If that is wrong, set do_lower_case and "
            f"strip_accents to false in tokenizer_config.json"
        )
    return tokenizer


def _read(path: str, hub: dict[str, Any], progress: Progress) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    if Path(path).is_file():
        return _from_vocabulary_file(Path(path))
    tokenizer: PreTrainedTokenizerBase
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, **hub)
    except ImportError:  # of BertJapanese's word splitter, which its conversion does without
        tokenizer = AutoTokenizer.from_pretrained(
            path, trust_remote_code=False, word_tokenizer_type="basic", **hub
        )
    if case := unstated_case(tokenizer, path, hub):
        does = "is lower-cased" if case.get("do_lower_case") else "keeps its case"
        progress.log(f"'{path}' has no tokenizer_config.json that says so; by its vocabulary, text {does}")
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, **hub, **case)
    return tokenizer


def _find_on_hub(name: str, revision: str | None, progress: Progress) -> None:
    """Ask for a model that is not in the cache; transformers would ask, and wait for, a Hub out of reach several times.

    Raises:
        LocalEntryNotFoundError: the Hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download, is_offline_mode, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        if is_offline_mode() or try_to_load_from_cache(name, "config.json", revision=revision) is not None:
            return
        progress.log(f"{no_folder(name)}looking for '{name}' on the Hub")
        hf_hub_download(name, "config.json", revision=revision)
    except LocalEntryNotFoundError:
        raise
    except (HfHubHTTPError, HFValidationError):
        return  # transformers says what is wrong, or does without this file


def checkpoint_name(name: str, progress: Progress = Progress()) -> tuple[str, str | None]:
    """Return the path or Hub name of a model or tokenizer, and its revision or ``None``; resolve run folders.

    Raises:
        ConfigError: a path does not exist, or a run folder has no model.
    """
    if is_url(name) or Path(name).exists():
        return model_folder(name, progress), None
    path, _, revision = name.partition("@")
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise ConfigError(f"'{name}': no such file or folder; give the folder of a checkpoint, or a Hub name")
    if not revision:
        _refuse_misspelt(path)
    return path, revision or None


def _refuse_misspelt(name: str) -> None:
    """Refuse the name of a folder that does not exist inside one that does; the Hub would be asked for it, again and again."""
    parent, _, last = name.rpartition("/")
    if not parent or not Path(parent).is_dir():
        return
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    folders = sorted(path.name for path in Path(parent).iterdir() if path.is_dir())
    near = did_you_mean(name, [f"{parent}/{each}" for each in folders if did_you_mean(last, [each])])
    raise ConfigError(
        f"'{name}': no such folder{near}; make it with 'unmask train', or give another one. For a model of this "
        f"name on the Hub, write {name}@main"
    )


def _from_vocabulary_file(path: Path) -> PreTrainedTokenizerBase:
    """Load a ``vocab.txt``, one WordPiece entry per line."""
    from transformers import BertTokenizer

    if path.suffix != ".txt":
        raise ValueError(
            f"only a vocab.txt is loaded by itself; give the folder {path.parent} of {path.name}"
        )
    lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    # As transformers reads them: other line separators do not end an entry.
    entries = [line.rstrip(_WHITE_SPACE) for line in lines]
    missing = [special for special in BERT_SPECIALS if special not in entries]
    if missing:
        raise ValueError(f"the vocabulary lacks {', '.join(missing)}")
    return BertTokenizer(vocab={entry: number for number, entry in enumerate(entries)}, **case_of(entries))


def _require_mask(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    if tokenizer.mask_token_id is None:
        raise ConfigError(
            f"the tokenizer of '{name}' has no mask token; masked language modelling needs one "
            f"(a BERT-family tokenizer with its tokenizer_config.json, or one made by 'unmask tokenizer train')"
        )


class TextEncoder:
    """Encodes texts without special tokens and truncation.

    Attributes:
        core: the copy of the tokenizer that encodes, see :func:`plain_copy`.
        unknown: the id of the unknown token, or ``None``.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.core = plain_copy(tokenizer)
        self.unknown = unknown_id(tokenizer)

    @classmethod
    def restore(cls, definition: str, unknown: int | None) -> TextEncoder:
        """Return the encoder whose ``core.to_str()`` is given, without the library that loads tokenizers."""
        from tokenizers import Tokenizer

        made = cls.__new__(cls)
        made.core, made.unknown = Tokenizer.from_str(definition), unknown
        made.core.encode_special_tokens = True  # which is not in the definition
        return made

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the token ids of each text, ``int64 [n]``."""
        encodings = self.core.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def unknown_parts(self, text: str) -> list[str]:
        """Return the parts of a text that become unknown tokens, each once."""
        encoding = self.core.encode(text, add_special_tokens=False)
        parts = zip(encoding.ids, encoding.offsets, strict=True)
        return list(dict.fromkeys(text[begin:end] for token, (begin, end) in parts if token == self.unknown))


def plain_copy(tokenizer: PreTrainedTokenizerBase, *, read_mask: bool = False) -> Tokenizer:
    """Return a copy of the backing tokenizer that does not truncate, pad or parse control tokens in text.

    Args:
        tokenizer: the tokenizer to copy; it is not changed.
        read_mask: parse the mask token in text, and no other control token.
    """
    from tokenizers import Tokenizer

    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    model = definition["model"]
    control = control_ids(tokenizer) - ({tokenizer.mask_token_id} if read_mask else set())
    hidden = _hide_control_tokens(definition["added_tokens"], control, model.get("unk_token"))
    # A Unigram model would find "</s>" in a text like any other entry: rename it to what no text holds. Ids stay.
    if isinstance(model["vocab"], dict):
        model["vocab"] = {hidden.get(token, token): number for token, number in model["vocab"].items()}
    else:
        model["vocab"] = [[hidden.get(token, token), score] for token, score in model["vocab"]]
    core = Tokenizer.from_str(json.dumps(definition))
    core.no_truncation()
    core.no_padding()
    core.encode_special_tokens = True
    return core


def _hide_control_tokens(
    added: list[dict[str, Any]], control: set[int], unknown: str | None
) -> dict[str, str]:
    """Rename control tokens in place, except the unknown token; return new names by old."""
    hidden = {}
    for token in added:
        if not token["special"] or token["content"] == unknown:
            continue
        if token["id"] in control:
            hidden[token["content"]] = token["content"] = f"\0{token['id']}"
        else:
            # An added token that is not special is parsed in text although special ones are not.
            token["special"] = False
    return hidden


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a SHA-256 of everything that determines the ids of a text."""
    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    for key in ("truncation", "padding"):
        definition.pop(key, None)
    if read := text_specials(tokenizer):
        definition["read_in_text"] = read
    return sha256(json.dumps(definition, sort_keys=True).encode())


def vocabulary_of(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """Return the vocabulary of a tokenizer.

    Raises:
        ConfigError: it has no mask token or no entries for text, or runs in Python.
    """
    name = str(tokenizer.name_or_path or type(tokenizer).__name__)
    _require_mask(tokenizer, name)
    if what := no_text(tokenizer):
        raise ConfigError(f"the tokenizer '{name}' cannot read text: {what}; train it, or load a trained one")
    tokenizer = converted(tokenizer)
    tokens = tokenizer.get_vocab()
    size = max(tokens.values()) + 1
    special = special_flags(tokenizer, size)
    prefix, suffix = frame(tokenizer)
    pad = tokenizer.pad_token_id
    return Vocabulary(
        size=size,
        mask_id=int(tokenizer.mask_token_id),
        pad_id=int(pad if pad is not None else tokenizer.mask_token_id),
        prefix=prefix,
        suffix=suffix,
        special=special,
        replacements=np.flatnonzero(~special & _real(tokens, size)),
        words=word_tables(tokenizer.backend_tokenizer.to_str(), tokens, special),
    )


def token_names(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, ids: Sequence[int]) -> list[str]:
    """Return the entries of token ids for display: bytes of a byte-level vocabulary as text, ``[id N]`` for no entry."""
    names = tokenizer.convert_ids_to_tokens(list(ids))
    words = vocabulary.words
    found = [name or f"[id {number}]" for name, number in zip(names, ids, strict=True)]
    return found if words is None else [words.name(*pair) for pair in zip(ids, found, strict=True)]


def with_segmenter(vocabulary: Vocabulary, segment: Segmenter) -> Vocabulary:
    """Return a vocabulary in which Chinese characters form the words of a segmenter, for example ``jieba.lcut``.

    Raises:
        ConfigError: the tokenizer does not mark words.
    """
    if vocabulary.words is None:
        raise ConfigError(
            "a word segmenter needs a tokenizer that marks where words begin; this one does not"
        )
    words = SegmentedWords(vocabulary.words.flags, vocabulary.words.spelling, segment)
    return replace(vocabulary, words=words)


def _real(tokens: dict[str, int], size: int) -> np.ndarray:
    real = np.zeros(size, dtype=bool)
    real[[number for token, number in tokens.items() if not PLACEHOLDER.match(token)]] = True
    return real
