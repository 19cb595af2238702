"""Special tokens of a tokenizer: which frame a text, and which a text may hold.

Control tokens frame, separate, pad and mask sequences, or stand for the unknown: a text cannot write them. All others
(``additional_special_tokens`` such as ``[ANON]``) are read in text as themselves. Neither are targets or replacements.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONTROL_NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def control_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the ids of the control tokens."""
    named = (getattr(tokenizer, f"{name}_token_id", None) for name in CONTROL_NAMES)
    return {int(number) for number in named if number is not None}.union(*frame(tokenizer))


def text_specials(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the special tokens that are read in text as themselves."""
    control = control_ids(tokenizer)
    added: dict[int, Any] = tokenizer.added_tokens_decoder
    return [str(token) for number, token in added.items() if token.special and number not in control]


def special_flags(tokenizer: PreTrainedTokenizerBase, size: int) -> np.ndarray:
    """Return ``bool [size]``: all special tokens, and the unknown token."""
    flags = np.zeros(size, dtype=bool)
    flags[list(tokenizer.all_special_ids)] = True
    added: dict[int, Any] = tokenizer.added_tokens_decoder
    flags[[number for number, token in added.items() if token.special]] = True
    unknown = unknown_id(tokenizer)
    if unknown is not None:
        # Not a special token of some tokenizers, but never a useful target.
        flags[unknown] = True
    return flags


def unknown_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the id that text outside the vocabulary gets, or ``None`` where all text is in it (byte-level BPE).

    Unigram defines it by id, other models by name; some tokenizers do not list it as a special token.
    """
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    found: int | None = tokenizer.backend_tokenizer.token_to_id(model.get("unk_token") or "")
    return found


def frame(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the special tokens that the tokenizer adds before and after a text."""
    encoded = tokenizer.backend_tokenizer.encode("a", add_special_tokens=True)
    # Some tokenizers are saved with padding enabled.
    real = [position for position, attended in enumerate(encoded.attention_mask) if attended]
    ids = [encoded.ids[position] for position in real]
    special = [encoded.special_tokens_mask[position] for position in real]
    body = [position for position, is_special in enumerate(special) if not is_special]
    if not body:
        # "a" has no token and there is no unknown token: assume a prefix of one special token.
        return tuple(ids[:1]), tuple(ids[1:])
    return tuple(ids[: body[0]]), tuple(ids[body[-1] + 1 :])


def between_passages(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...] | None:
    """Return the special tokens between two passages; ``None`` where the tokenizer does not tell them apart by token types.

    A pair must be framed like a single text, and have type 0 up to the tokens between the passages, and 1 behind them.
    """
    middle, typed = _pair(tokenizer)
    return middle if middle and typed and "token_type_ids" in tokenizer.model_input_names else None


def between_texts(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], bool]:
    """Return the special tokens between two texts of one sequence, and whether those from the second text on have type 1.

    A tokenizer that frames a pair in another way than a single text gets the tokens that end a text, and no types.
    """
    middle, typed = _pair(tokenizer)
    return (frame(tokenizer)[1], False) if middle is None else (middle, typed)


def _pair(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...] | None, bool]:
    """Return the special tokens between two texts, and whether those from the second text on have type 1.

    ``None`` where a pair is not framed like a single text.
    """
    pair = tokenizer.backend_tokenizer.encode("a", "a", add_special_tokens=True)
    real = [place for place, attended in enumerate(pair.attention_mask) if attended]
    owners = [pair.sequence_ids[place] for place in real]
    if 0 not in owners or 1 not in owners:
        return None, False
    first, second = len(owners) - 1 - owners[::-1].index(0), owners.index(1)
    last = len(owners) - 1 - owners[::-1].index(1)
    ids, types = [pair.ids[place] for place in real], [pair.type_ids[place] for place in real]
    if (tuple(ids[: owners.index(0)]), tuple(ids[last + 1 :])) != frame(tokenizer):
        return None, False
    return tuple(ids[first + 1 : second]), types == [0] * second + [1] * (len(types) - second)
