"""Tokenizers that the ``tokenizers`` library does not read as they are: converted exactly, or refused with the way out.

One-letter vocabularies (proteins, DNA, single Japanese characters) get a split into single letters, so that ``EVQL``
and ``E V Q L`` give the same ids. ESM's tokenizer, which runs in Python, becomes a split into its vocabulary entries.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from unmask.data.special_tokens import CONTROL_NAMES
from unmask.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACEHOLDER = re.compile(r"^(\[unused\d+\]|<unused_?\d+>|madeupword\d+|<extra_id_\d+>|<null_\d+>)$")
"""Entries that no text has."""
_FEWEST_LETTERS = 4
_ADVICE = {
    "BertJapaneseTokenizer": "split the text into words first (MeCab, SudachiPy), with spaces between them, and load the "
    "vocab.txt of the model with BertTokenizer(vocab=..., do_lower_case=False, tokenize_chinese_chars=False)",
    "PhobertTokenizer": "build a tokenizers.models.BPE from its bpe.codes and vocab.txt, with end_of_word_suffix='</w>'",
    "BertweetTokenizer": "build a tokenizers.models.BPE from its bpe.codes and vocab.txt, with end_of_word_suffix='</w>'",
}
_ANY_ADVICE = "build a tokenizers.Tokenizer of the same vocabulary"


def converted(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a tokenizer of the ``tokenizers`` library with the same ids; most are returned as they are.

    Raises:
        ConfigError: it runs in Python, and no conversion is known.
    """
    from tokenizers import normalizers

    letters = _letters(tokenizer)
    if getattr(tokenizer, "backend_tokenizer", None) is not None:
        if not _is_cut_off(tokenizer, letters):
            return tokenizer
        return _split(tokenizer, ".", normalizers.BertNormalizer(lowercase=_lowers(tokenizer, letters)))
    kind = type(tokenizer).__name__
    if kind == "EsmTokenizer":
        entries = sorted(_entries(tokenizer), key=len, reverse=True)
        return _split(tokenizer, "|".join(map(re.escape, entries)), None)
    if letters and getattr(tokenizer, "subword_tokenizer_type", None) == "character":
        lower = [normalizers.Lowercase()] if getattr(tokenizer, "do_lower_case", False) else []
        return _split(tokenizer, ".", normalizers.Sequence([normalizers.NFKC(), *lower]))
    raise ConfigError(
        f"the tokenizer of '{tokenizer.name_or_path}' is a {kind}, which is not backed by the tokenizers library. Convert "
        f"it once: {_ADVICE.get(kind, _ANY_ADVICE)}; then save it into the folder of the model with "
        f"save_pretrained (of a tokenizers.Tokenizer: PreTrainedTokenizerFast(tokenizer_object=...))"
    )


def _entries(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield the entries that stand for text."""
    special = {str(token) for token in tokenizer.all_special_tokens}
    return (entry for entry in tokenizer.get_vocab() if entry not in special and not PLACEHOLDER.match(entry))


def _letters(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the entries that stand for text if all are single characters, or nothing."""
    letters = []
    for entry in _entries(tokenizer):
        if len(entry) > 1:
            return []
        letters.append(entry)
    return letters if len(letters) >= _FEWEST_LETTERS else []


def _is_cut_off(tokenizer: PreTrainedTokenizerBase, letters: list[str]) -> bool:
    """Whether a tokenizer has no way to spell letters without spaces between them."""
    unknown = tokenizer.unk_token_id
    ids = tokenizer.backend_tokenizer.encode("".join(letters[-2:]), add_special_tokens=False).ids
    return bool(letters) and unknown is not None and unknown in ids


def _lowers(tokenizer: PreTrainedTokenizerBase, letters: list[str]) -> bool:
    """Whether text is lower-cased: as the tokenizer says, unless its vocabulary has capitals."""
    return bool(getattr(tokenizer, "do_lower_case", False)) and not any(a != a.lower() for a in letters)


def _split(tokenizer: PreTrainedTokenizerBase, pattern: str, normalizer: Any) -> PreTrainedTokenizerBase:
    """Return a tokenizer whose tokens are the matches of a pattern between white space, framed as before."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # Each piece is an entry or unknown: no entry has the mark of a continued word.
    core = Tokenizer(models.WordPiece(tokenizer.get_vocab(), unk_token=str(tokenizer.unk_token)))
    core.normalizer = normalizer
    single = pre_tokenizers.Split(Regex(pattern), "isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), single])
    backend = getattr(tokenizer, "backend_tokenizer", None)
    core.post_processor = _framing(tokenizer) if backend is None else backend.post_processor
    named = {f"{name}_token": getattr(tokenizer, f"{name}_token") for name in CONTROL_NAMES}
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        **{name: token for name, token in named.items() if token},
        extra_special_tokens=list(tokenizer.extra_special_tokens),
        model_max_length=tokenizer.model_max_length,
        model_input_names=list(tokenizer.model_input_names),
        name_or_path=tokenizer.name_or_path,
    )


def _framing(tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return the post-processor with the special tokens that a tokenizer in Python adds."""
    from tokenizers import processors

    first, last = tokenizer.cls_token, tokenizer.sep_token or tokenizer.eos_token
    begin, end = [first] if first else [], [last] if last else []
    return processors.TemplateProcessing(
        single=[*begin, "$A", *end],
        pair=[*begin, "$A", *end, "$B:1", *(f"{token}:1" for token in end)],
        special_tokens=[(token, tokenizer.convert_tokens_to_ids(token)) for token in {*begin, *end}],
    )
