"""Give a tokenizer words of its own, and change nothing else.

What a new word may change is the cut of that word alone. Each kind of model has its own way to that:

- **WordPiece** takes the longest entry that a word begins with, so an entry ``heart`` would also change
  ``heartbeat`` and all that follows in it. An added token that matches whole words of the normalised text only
  (``single_word``, ``normalized``, not special) does not; BERT's pre-tokenisation knows no context beyond a word, so
  the text around it is cut as before, and decoding puts the spaces where they belong.
- **BPE** gets an entry ``Ġheart`` without merges, and ``ignore_merges``: a pre-token that is an entry is taken whole,
  every other goes through the merges as before. Added tokens are no way here: they stand behind the space, so ``Ġ``
  is left over as a token, and with ``lstrip`` the space is gone from decoded text.
- **Unigram** gets a piece ``▁heart`` that scores by a hair more than its pieces together. It is taken where these were
  and nowhere else, which includes the front of a longer word that was cut there; the rest of that word stays as it
  was. Added tokens put a ``▁`` before whatever follows them, a full stop for example.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.data.tokenizer import load_tokenizer, plain_copy
from unmask.errors import ConfigError
from unmask.vocabulary.choose import AddedWord, pre_tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

# For each piece less, so that of two new words that begin alike the longer one is taken; far above rounding.
_HAIR = 1e-6
_GENERIC = "PreTrainedTokenizerFast"


def check_extendable(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make sure that words can be added.

    Raises:
        ConfigError: the model is none of WordPiece, BPE and Unigram, or it would cut old text in another way.
    """
    definition = _definition(tokenizer)
    model = definition["model"]
    if model["type"] not in ("WordPiece", "BPE", "Unigram") or model.get("end_of_word_suffix"):
        kind = f"{model['type']} with ends of words marked" if model["type"] == "BPE" else model["type"]
        raise ConfigError(
            f"words can be added to WordPiece, BPE and Unigram tokenizers, but this one is a {kind}"
        )
    if model["type"] == "BPE" and not model.get("ignore_merges"):
        _check_merges(plain_copy(tokenizer), model["vocab"])


def _check_merges(core: Tokenizer, vocab: dict[str, int]) -> None:
    """Make sure that every entry that can be a pre-token is what its merges give."""
    for entry in vocab:
        if [token.value for token in core.model.tokenize(entry)] != [entry]:
            text = core.decoder.decode([entry]) if core.decoder is not None else entry
            if pre_tokens(core, text) == [entry]:
                raise ConfigError(
                    f"the merges of the tokenizer never give its entry '{entry}', so words cannot be added without "
                    f"changing how it cuts that one"
                )


def write_extended(
    tokenizer: PreTrainedTokenizerBase, words: Sequence[AddedWord], folder: Path
) -> PreTrainedTokenizerBase:
    """Write a tokenizer with new words into a folder, as plain transformers loads it.

    Args:
        tokenizer: the old one; it is left as it is.
        words: the new words; their ids follow on the largest id there is.
        folder: where to write.

    Returns:
        The tokenizer, loaded from the folder.

    Raises:
        ConfigError: the tokenizer cannot be extended.
    """
    check_extendable(tokenizer)
    tokenizer.save_pretrained(folder)
    if _definition(tokenizer)["model"]["type"] == "WordPiece":
        _add_tokens(folder, words)
    else:
        _add_entries(folder, words, 1 + max(tokenizer.get_vocab().values()))
    extended = load_tokenizer(str(folder), offline=True)
    _verify(extended, tokenizer, words)
    return extended


def _add_tokens(folder: Path, words: Sequence[AddedWord]) -> None:
    from tokenizers import AddedToken

    loaded: Any = load_tokenizer(str(folder), offline=True)
    loaded.add_tokens(
        [AddedToken(word.entry, single_word=True, normalized=True, special=False) for word in words]
    )
    loaded.save_pretrained(folder)


def _add_entries(folder: Path, words: Sequence[AddedWord], first: int) -> None:
    """Edit the files: the vocabulary, and for BPE the class, as those of single models would drop the switch."""
    path, settings_path = folder / "tokenizer.json", folder / "tokenizer_config.json"
    definition = json.loads(path.read_text(encoding="utf-8"))
    settings = json.loads(settings_path.read_text(encoding="utf-8"))
    model = definition["model"]
    names = {token["id"]: token["content"] for token in definition["added_tokens"]}
    if model["type"] == "BPE":
        taken = set(model["vocab"].values())
        # A vocabulary with holes is called corrupt by the library.
        holes = {
            names.get(number, f"<unused_{number}>"): number for number in range(first) if number not in taken
        }
        new = {word.entry: first + place for place, word in enumerate(words)}
        model["vocab"] = model["vocab"] | holes | new
        model["ignore_merges"] = True
        settings["tokenizer_class"] = _GENERIC
    else:
        vocab = model["vocab"]
        least = min(score for _, score in vocab)
        vocab += [[names.get(number, f"<unused_{number}>"), least] for number in range(len(vocab), first)]
        vocab += [
            [word.entry, sum(vocab[piece][1] for piece in word.pieces) + _HAIR * (len(word.pieces) - 1)]
            for word in words
        ]
    for file, content in ((path, definition), (settings_path, settings)):
        file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _verify(
    extended: PreTrainedTokenizerBase, old: PreTrainedTokenizerBase, words: Sequence[AddedWord]
) -> None:
    """Make sure that old entries have kept their ids and that every new word is one token."""
    before, after = old.get_vocab(), extended.get_vocab()
    moved = [token for token, number in before.items() if after.get(token) != number]
    first = 1 + max(before.values())
    core = plain_copy(extended)
    split = [
        word.word
        for place, word in enumerate(words)
        if core.encode(f" {word.word}", add_special_tokens=False).ids != [first + place]
    ]
    if moved or split:
        what = f"moves its entry '{moved[0]}'" if moved else f"does not take '{split[0]}' for one token"
        raise ConfigError(
            f"words cannot be added to a {type(old).__name__}: written out and read again, it {what}"
        )


def _definition(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    definition: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return definition
