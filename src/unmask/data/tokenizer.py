"""Tokenizers: load one, train one, and know its vocabulary.

Text is always tokenised with literal special tokens taken as text: a document that says ``[SEP]`` holds the
characters, not the control token. The control tokens of a sequence are added by packing, from
:class:`Vocabulary`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from unmask.data.words import WordTables, word_tables
from unmask.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

_PLACEHOLDER = re.compile(r"^(\[unused\d+\]|<unused_?\d+>|madeupword\d+|<extra_id_\d+>)$")
BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class Vocabulary:
    """What masking and packing need to know of a tokenizer; plain arrays, no tokenizer inside.

    Attributes:
        size: number of token ids, the largest id plus one.
        mask_id: id of the mask token.
        pad_id: id that fills padded batches.
        prefix: ids that open a sequence, for example ``([CLS],)``.
        suffix: ids that close a sequence, for example ``([SEP],)``.
        special: ``bool [size]``, true for ids that are never a target nor a replacement.
        replacements: ``int64 [R]``, the real vocabulary from which random replacements are drawn.
        words: how tokens join to words, or ``None`` where the tokenizer does not say.
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
        """Tokens that every sequence spends on its prefix and suffix."""
        return len(self.prefix) + len(self.suffix)


def load_tokenizer(name: str, *, offline: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a Hub name (``name@revision`` pins one) or of a local folder.

    Raises:
        ConfigError: it cannot be loaded, is not backed by the ``tokenizers`` library, or has no mask token.
    """
    from transformers import AutoTokenizer

    path, _, revision = name.partition("@")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, revision=revision or None, local_files_only=offline, trust_remote_code=False
        )
    except Exception as fault:
        raise ConfigError(
            f"no tokenizer could be loaded from '{name}': {_first_line(fault)}. Give a folder with tokenizer.json "
            f"or vocab.txt, or a Hub name that this machine can reach"
        ) from fault
    _require_usable(tokenizer, name)
    return tokenizer


def _require_usable(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ConfigError(f"the tokenizer of '{name}' is not backed by the tokenizers library (no tokenizer.json)")
    if tokenizer.mask_token_id is None:
        raise ConfigError(
            f"the tokenizer of '{name}' has no mask token; masked language modelling needs one "
            f"(a BERT-family tokenizer, or one made by 'unmask tokenizer train')"
        )


def _first_line(fault: Exception) -> str:
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0].rstrip(".")


def train_tokenizer(texts: Iterator[str], vocab_size: int, *, token_types: bool = True) -> PreTrainedTokenizerBase:
    """Train a lower-casing WordPiece tokenizer (Devlin et al. 2019) with BERT's special tokens.

    Args:
        texts: the training text, read once.
        vocab_size: entries wanted; a small text may give fewer.
        token_types: whether calls of the tokenizer return ``token_type_ids``.

    Raises:
        DataError: the text gave no entries beside the special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    pad, unk, cls, sep, mask = BERT_SPECIALS
    core = Tokenizer(models.WordPiece(unk_token=unk, max_input_chars_per_word=100))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece(prefix="##")
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=list(BERT_SPECIALS), show_progress=False, min_frequency=2
    )
    core.train_from_iterator(texts, trainer)
    if core.get_vocab_size() <= len(BERT_SPECIALS):
        raise DataError("the text is too small to train a tokenizer on: it gave no vocabulary")
    core.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, core.token_to_id(cls)), (sep, core.token_to_id(sep))],
    )
    names = ["input_ids", "token_type_ids", "attention_mask"] if token_types else ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=pad,
        unk_token=unk,
        cls_token=cls,
        sep_token=sep,
        mask_token=mask,
        model_input_names=names,
    )


class TextEncoder:
    """Turns text into token ids, without control tokens and without a limit of length.

    It works on a copy of the tokenizer, so that neither its truncation nor its handling of special tokens
    depends on who used it before.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._core = plain_copy(tokenizer)

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return one ``int64 [n]`` array of token ids per text."""
        encodings = self._core.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]


def plain_copy(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """Return a copy of the backing tokenizer that neither cuts, nor pads, nor reads special tokens in text."""
    from tokenizers import Tokenizer

    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())  # type: ignore[attr-defined]
    core.no_truncation()
    core.no_padding()
    core.encode_special_tokens = True
    return core


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a SHA-256 over everything that decides which ids a text gets."""
    definition = json.loads(tokenizer.backend_tokenizer.to_str())  # type: ignore[attr-defined]
    for passing in ("truncation", "padding"):
        definition.pop(passing, None)
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()


def vocabulary_of(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """Read off a tokenizer what masking and packing need.

    Raises:
        ConfigError: there is no mask token.
    """
    _require_usable(tokenizer, str(tokenizer.name_or_path or type(tokenizer).__name__))
    tokens = tokenizer.get_vocab()
    size = max(tokens.values()) + 1
    special = _special_flags(tokenizer, tokens, size)
    prefix, suffix = _frame(tokenizer)
    pad = tokenizer.pad_token_id
    return Vocabulary(
        size=size,
        mask_id=int(tokenizer.mask_token_id),
        pad_id=int(pad if pad is not None else tokenizer.mask_token_id),
        prefix=prefix,
        suffix=suffix,
        special=special,
        replacements=np.flatnonzero(~special & _real(tokens, size)),
        words=word_tables(tokenizer.backend_tokenizer.to_str(), tokens, size),  # type: ignore[attr-defined]
    )


def _special_flags(tokenizer: PreTrainedTokenizerBase, tokens: dict[str, int], size: int) -> np.ndarray:
    flags = np.zeros(size, dtype=bool)
    flags[list(tokenizer.all_special_ids)] = True
    added: dict[int, Any] = tokenizer.added_tokens_decoder
    flags[[number for number, token in added.items() if token.special]] = True
    return flags


def _real(tokens: dict[str, int], size: int) -> np.ndarray:
    real = np.zeros(size, dtype=bool)
    real[[number for token, number in tokens.items() if not _PLACEHOLDER.match(token)]] = True
    return real


def _frame(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return what the tokenizer puts before and after a text."""
    empty = tokenizer.build_inputs_with_special_tokens([]) if hasattr(tokenizer, "build_inputs_with_special_tokens") else None
    encoded = tokenizer.backend_tokenizer.encode("a", add_special_tokens=True)  # type: ignore[attr-defined]
    body = [position for position, special in enumerate(encoded.special_tokens_mask) if not special]
    if not body:
        return (tuple(empty or ()), ())
    return tuple(encoded.ids[: body[0]]), tuple(encoded.ids[body[-1] + 1 :])
