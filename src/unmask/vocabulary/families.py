"""What sets the tokenizers of model families apart: their kind, their case, their special tokens, how they frame a pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unmask.data.tokenizer_files import BERT_SPECIALS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unmask.config.settings import ModelSettings


@dataclass(frozen=True)
class TokenizerFamily:
    """The tokenizer of a model family.

    Attributes:
        kind: of its vocabulary, where the settings name none.
        lower: whether it lower-cases text, where the settings name neither kind nor case.
        specials: its special tokens by the names that transformers has for them, in the order of their ids.
        between: separators between two passages.
    """

    kind: str
    lower: bool
    specials: Mapping[str, str]
    between: int = 1

    @property
    def entries(self) -> tuple[str, ...]:
        """The special tokens, each once; they are the first entries of the vocabulary."""
        return tuple(dict.fromkeys(self.specials.values()))

    def resolve(self, settings: ModelSettings) -> ModelSettings:
        """Fill in the kind and the case that settings leave open."""
        changes: dict[str, Any] = {"tokenizer_kind": settings.tokenizer_kind or self.kind}
        if settings.case == "auto":
            lower = settings.tokenizer_kind == "wordpiece" if settings.tokenizer_kind else self.lower
            changes["case"] = "lower" if lower else "keep"
        return settings.model_copy(update=changes)

    def framed(self) -> tuple[str, str]:
        """Return the templates of one and of two passages, with token types."""
        first, last = f"{self.specials['cls']}:0", self.specials["sep"]
        single = f"{first} $A:0 {last}:0"
        return single, f"{single}{f' {last}:0' * (self.between - 1)} $B:1 {last}:1"


_ENDS = {"bos": "[CLS]", "eos": "[SEP]"}
_BERT_NAMES = ("pad", "unk", "cls", "sep", "mask")
_ROBERTA = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
_ROBERTA |= {"bos": "<s>", "eos": "</s>"}
_ALBERT = {"pad": "<pad>", "unk": "<unk>", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"} | _ENDS
_DEBERTA = {"pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]", "mask": "[MASK]"} | _ENDS

BERT = TokenizerFamily("wordpiece", True, dict(zip(_BERT_NAMES, BERT_SPECIALS, strict=True)))
# By the class of transformers for the tokenizer of a model, since many models share one.
_OF_CLASS = {
    "BertTokenizer": BERT,
    "MobileBertTokenizer": BERT,
    "RobertaTokenizer": TokenizerFamily("byte-level-bpe", False, _ROBERTA, between=2),
    "XLMRobertaTokenizer": TokenizerFamily("unigram", False, _ROBERTA, between=2),
    "CamembertTokenizer": TokenizerFamily("unigram", False, _ROBERTA, between=2),
    "AlbertTokenizer": TokenizerFamily("unigram", True, _ALBERT),
    "DebertaV2Tokenizer": TokenizerFamily("unigram", False, _DEBERTA),
}
_ALSO = {"modernbert": "BertTokenizer"}  # WordPiece is a choice: its own has BERT's special tokens too


def tokenizer_family(model_type: str) -> TokenizerFamily | None:
    """Return the tokenizer of a model family of transformers, or ``None`` where it is not known here."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    return _OF_CLASS.get(_ALSO.get(model_type) or TOKENIZER_MAPPING_NAMES.get(model_type) or "")
