"""Add words to a tokenizer without changing how it tokenises other words.

- **WordPiece** matches the longest entry at the beginning of a word, so an entry ``heart`` would also change
  ``heartbeat``. Words are therefore added tokens that match only whole words of the normalised text (``single_word``,
  ``normalized``, not special). BERT's pre-tokenisation has no context beyond a word, so the text around them is
  tokenised as before, and decoding keeps the spaces.
- **BPE** gets an entry ``Ġheart`` without merges, and ``ignore_merges``: a pre-token that is an entry is one token, and
  merges apply to all others as before. Added tokens would match after the space and leave ``Ġ`` as a token, or with
  ``lstrip`` drop the space in decoded text.
- **Unigram** gets an entry ``▁heart`` with a score slightly above the sum of its subwords' scores, so it replaces exactly
  these subwords, also at the beginning of a longer word that has them. Added tokens would put a ``▁`` before what
  follows them, such as a full stop.
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

# Per subword replaced, so that the longer of two new words with the same beginning wins; far above rounding errors.
_SCORE_MARGIN = 1e-6


def check_extendable(tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that words can be added.

    Raises:
        ConfigError: the model is not WordPiece, BPE or Unigram, or words would change how it tokenises other text.
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
    """Check that every entry that can be a pre-token is the result of its merges."""
    for entry in vocab:
        if [token.value for token in core.model.tokenize(entry)] != [entry]:
            text = core.decoder.decode([entry]) if core.decoder is not None else entry
            if pre_tokens(core, text) == [entry]:
                raise ConfigError(
                    f"the merges of the tokenizer never give its entry '{entry}', so words cannot be added without "
                    f"changing how it tokenises that one"
                )


def write_extended(
    tokenizer: PreTrainedTokenizerBase, words: Sequence[AddedWord], folder: Path
) -> PreTrainedTokenizerBase:
    """Save a tokenizer with new words, whose ids follow the largest id, and load it.

    Raises:
        ConfigError: the tokenizer cannot be extended.
    """
    check_extendable(tokenizer)
    tokenizer.save_pretrained(folder)
    if _definition(tokenizer)["model"]["type"] == "WordPiece":
        _fill_gaps(folder / "tokenizer.json")
        _add_tokens(folder, words)
    else:
        _add_entries(folder, words, 1 + max(tokenizer.get_vocab().values()))
    extended = load_tokenizer(str(folder), offline=True)
    _verify(extended, tokenizer, words)
    return extended


def _fill_gaps(path: Path) -> None:
    """Name the unused ids of a WordPiece vocabulary: the library would give them to new words."""
    definition = json.loads(path.read_text(encoding="utf-8"))
    vocab = definition["model"]["vocab"]
    taken = {*vocab.values(), *(token["id"] for token in definition["added_tokens"])}
    unused = {f"<unused_{number}>": number for number in range(max(taken)) if number not in taken}
    if unused:
        definition["model"]["vocab"] = vocab | unused
        path.write_text(json.dumps(definition, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _add_tokens(folder: Path, words: Sequence[AddedWord]) -> None:
    from tokenizers import AddedToken

    loaded: Any = load_tokenizer(str(folder), offline=True)
    loaded.add_tokens(
        [AddedToken(word.entry, single_word=True, normalized=True, special=False) for word in words]
    )
    loaded.save_pretrained(folder)


def _add_entries(folder: Path, words: Sequence[AddedWord], first: int) -> None:
    """Edit the saved vocabulary, and for BPE the class: model-specific ones would drop ``ignore_merges``."""
    path, settings_path = folder / "tokenizer.json", folder / "tokenizer_config.json"
    definition = json.loads(path.read_text(encoding="utf-8"))
    settings = json.loads(settings_path.read_text(encoding="utf-8"))
    model = definition["model"]
    names = {token["id"]: token["content"] for token in definition["added_tokens"]}
    if model["type"] == "BPE":
        taken = set(model["vocab"].values())
        # The library refuses a vocabulary with unused ids.
        unused = {
            names.get(number, f"<unused_{number}>"): number for number in range(first) if number not in taken
        }
        new = {word.entry: first + place for place, word in enumerate(words)}
        model["vocab"] = model["vocab"] | unused | new
        model["ignore_merges"] = True
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    else:
        vocab = model["vocab"]
        least = min(score for _, score in vocab)
        vocab += [[names.get(number, f"<unused_{number}>"), least] for number in range(len(vocab), first)]
        vocab += [
            [
                word.entry,
                sum(vocab[subword][1] for subword in word.subwords)
                + _SCORE_MARGIN * (len(word.subwords) - 1),
            ]
            for word in words
        ]
    for file, content in ((path, definition), (settings_path, settings)):
        file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _verify(
    extended: PreTrainedTokenizerBase, old: PreTrainedTokenizerBase, words: Sequence[AddedWord]
) -> None:
    """Check that old entries have kept their ids and that every new word is one token."""
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
        what = f"moves its entry '{moved[0]}'" if moved else f"does not tokenise '{split[0]}' as one token"
        raise ConfigError(
            f"words cannot be added to a {type(old).__name__}: saved and loaded again, it {what}"
        )


def _definition(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    definition: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return definition
