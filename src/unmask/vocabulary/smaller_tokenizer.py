"""Drop entries of a tokenizer so that text which needs only the others is tokenised as before.

- **WordPiece** takes the longest entry at each place of a word. If that one is kept, it is still the longest.
- **BPE** merges the pair of lowest rank first. An entry keeps the entries that it is merged from, and a merge is kept
  where its two parts and its result are. What the tokenizer merged in a text whose tokens are kept is then possible
  still, and nothing else is that was not before, so it makes the same choices.
- **Unigram** takes the likeliest segmentation. If its pieces are kept, it is still the likeliest, as nothing is added. The
  score of unknown characters depends on the lowest score of all pieces, so the piece that has it is kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.data.conversion import PLACEHOLDER
from unmask.data.special_tokens import special_flags
from unmask.data.tokenizer import load_tokenizer
from unmask.errors import ConfigError, UnmaskError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_KINDS = ("WordPiece", "BPE", "Unigram", "WordLevel")


class Entries:
    """The entries of a tokenizer, and which of them need others.

    Attributes:
        required: ids of special and added tokens, single characters, bytes, and what the others are spelled by.
        ids: the id of each entry of the model of the tokenizer; added tokens may not be among them.

    Raises:
        ConfigError: the model is not WordPiece, BPE, Unigram or WordLevel.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._definition = json.loads(tokenizer.backend_tokenizer.to_str())
        self._model: dict[str, Any] = self._definition["model"]
        if self._model["type"] not in _KINDS:
            raise ConfigError(
                f"entries can be dropped from {', '.join(_KINDS[:-1])} and {_KINDS[-1]} tokenizers, but this one is a "
                f"{self._model['type']}"
            )
        vocab = self._model["vocab"]
        self.ids: dict[str, int] = (
            vocab if isinstance(vocab, dict) else {entry: number for number, (entry, _) in enumerate(vocab)}
        )
        self._names = {number: entry for entry, number in self.ids.items()}
        self._ranks = {tuple(merge): rank for rank, merge in enumerate(_merges(self._model))}
        self._suffix = self._model.get("end_of_word_suffix") or ""
        self._prefix = self._model.get("continuing_subword_prefix") or ""
        added = {int(token["id"]) for token in self._definition["added_tokens"]}
        special = special_flags(tokenizer, 1 + max(tokenizer.get_vocab().values())).nonzero()[0].tolist()
        self.required = added.union(special, self._characters())
        if self._model["type"] == "Unigram":
            self.required.add(min(range(len(vocab)), key=lambda number: vocab[number][1]))

    def closed(self, ids: Iterable[int]) -> set[int]:
        """Return ids and the ids of the entries that they are merged from."""
        kept = set(ids)
        if not self._ranks:
            return kept
        parts = self._all_parts() if self._prefix or self._suffix else None
        waiting = list(kept)
        while waiting:
            entry = self._names.get(waiting.pop(), "")
            needed = self._steps(entry) if parts is None else parts.get(entry, ())
            new = {self.ids[part] for part in needed} - kept
            kept |= new
            if parts is not None:
                waiting += new
        return kept

    def _characters(self) -> set[int]:
        """Return the entries of one character, and those with a character that has no entry of its own."""
        if self._model["type"] == "WordLevel":
            return set()
        prefix = self._model.get("continuing_subword_prefix") or ""
        found = set()
        for entry, number in self.ids.items():
            inside = bool(prefix) and entry.startswith(prefix) and entry != prefix
            text = entry.removeprefix(prefix) if inside else entry
            alone = [
                character if not place and not inside else prefix + character
                for place, character in enumerate(text)
            ]
            if len(text) == 1 or _BYTE.fullmatch(entry):
                found.add(number)
                continue
            spelled = self._model["type"] == "BPE" or all(character in self.ids for character in alone)
            if not spelled and not PLACEHOLDER.match(entry):
                found.add(number)
        return found

    def _steps(self, entry: str) -> set[str]:
        """Return what the merges of an entry give one after the other; nothing where they do not end in it."""
        parts, found, never = list(entry), set(entry), len(self._ranks)
        while len(parts) > 1:
            ranks = [self._ranks.get(pair, never) for pair in pairwise(parts)]
            rank = min(ranks)
            place = ranks.index(rank)
            if rank == never:
                return set()
            parts[place : place + 2] = ["".join(parts[place : place + 2])]
            found.add(parts[place])
        return found & self.ids.keys()

    def _all_parts(self) -> dict[str, set[str]]:
        """Return the parts of all merges that give an entry; where ends of words are marked, its steps are not plain."""
        found: dict[str, set[str]] = {}
        for first, second in self._ranks:
            found.setdefault(first + second.removeprefix(self._prefix), set()).update((first, second))
        return found

    def in_order(self, kept: set[int], pad: int | None) -> list[int]:
        """Return the old id of each new one: entries of the model in their order, then added tokens that are not among them.

        Args:
            kept: old ids.
            pad: the padding id of the model, which stays where it can: RoBERTa's positions begin behind it.
        """
        core = sorted(self.ids[entry] for entry in self.ids if self.ids[entry] in kept)
        if pad in kept and pad in self._names and pad < len(core):
            core.remove(pad)
            core.insert(pad, pad)
        return core + sorted(kept.difference(core))

    def write(
        self, tokenizer: PreTrainedTokenizerBase, order: Sequence[int], folder: Path
    ) -> PreTrainedTokenizerBase:
        """Save a tokenizer with some of its entries, and load it.

        Raises:
            UnmaskError: saved and loaded again, it has other entries.
        """
        new = {old: number for number, old in enumerate(order)}
        tokenizer.save_pretrained(folder)
        path, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
        definition = json.loads(path.read_text(encoding="utf-8"))
        _drop(definition, new)
        _write(path, definition)
        content = json.loads(settings.read_text(encoding="utf-8"))
        if decoder := content.get("added_tokens_decoder"):
            content["added_tokens_decoder"] = {str(new[int(old)]): token for old, token in decoder.items()}
            _write(settings, content)
        again = load_tokenizer(str(folder), offline=True)
        wanted = {entry: new[old] for entry, old in tokenizer.get_vocab().items() if old in new}
        found = again.get_vocab()
        if found != wanted:
            moved = next(entry for entry in {**wanted, **found} if wanted.get(entry) != found.get(entry))
            raise UnmaskError(
                f"entries cannot be dropped from a {type(tokenizer).__name__}: saved and loaded again, its entry '{moved}' "
                f"has the id {found.get(moved)}, not {wanted.get(moved)}"
            )
        return again


def _merges(model: Mapping[str, Any]) -> list[list[str]]:
    """Return the merges of a BPE model as pairs; older files join the two by a space."""
    return [merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges") or ()]


def _drop(definition: dict[str, Any], new: Mapping[int, int]) -> None:
    """Drop entries from the content of a ``tokenizer.json`` in place, and renumber the others."""
    model = definition["model"]
    if isinstance(model["vocab"], dict):
        kept = {entry: new[old] for entry, old in model["vocab"].items() if old in new}
        model["vocab"] = dict(sorted(kept.items(), key=lambda item: item[1]))
    else:
        first = sorted((new[old], piece) for old, piece in enumerate(model["vocab"]) if old in new)
        model["vocab"] = [piece for _, piece in first]
    if model["type"] == "BPE":
        prefix = model.get("continuing_subword_prefix") or ""
        model["merges"] = [
            [first, second]
            for first, second in _merges(model)
            if {first, second, first + second.removeprefix(prefix)} <= model["vocab"].keys()
        ]
    if model.get("unk_id") is not None:
        model["unk_id"] = new[model["unk_id"]]
    for token in definition["added_tokens"]:
        token["id"] = new[token["id"]]
    definition["added_tokens"].sort(key=lambda token: token["id"])
    if definition.get("padding"):
        definition["padding"]["pad_id"] = new[definition["padding"]["pad_id"]]
    _renumber(definition.get("post_processor"), new)


def _renumber(processor: dict[str, Any] | None, new: Mapping[int, int]) -> None:
    """Renumber the special tokens that a post-processor adds."""
    if processor is None:
        return
    for part in processor.get("processors", ()):
        _renumber(part, new)
    if processor["type"] == "TemplateProcessing":
        for token in processor["special_tokens"].values():
            token["ids"] = [new[old] for old in token["ids"]]
    for name in ("sep", "cls"):
        if name in processor:
            entry, old = processor[name]
            processor[name] = [entry, new[old]]


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
