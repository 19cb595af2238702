"""Masked language modelling of pairs of passages, with a loss of the pair: next sentence, or sentence order.

Next sentence prediction is BERT's (Devlin et al. 2019), sentence order prediction ALBERT's (Lan et al. 2020).
:mod:`unmask.data.pairs` has how pairs are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from unmask.data.batches import Batch, TextSource
from unmask.data.masking.random_bits import MaskKey
from unmask.data.masking.units import MaskingPlan
from unmask.data.packing import Packed
from unmask.data.pairs import SHORTEST, UNLABELLED, Change, PackedPairs, PairSource
from unmask.data.sentences import SentenceEnds
from unmask.data.special_tokens import between_passages
from unmask.errors import ConfigError, DataError, plural
from unmask.model.masked_lm import MaskedLM
from unmask.model.packed_layout import on_device
from unmask.model.sentence_head import (
    SentenceHead,
    class_with_both_heads,
    load_sentence_head,
    save_with_sentence_head,
)
from unmask.model.shapes import pad_places
from unmask.objectives.cross_entropy import masked_cross_entropy
from unmask.objectives.mlm import MaskedLanguageModelling
from unmask.objectives.objective import Loss, document_numbers
from unmask.reporting.format import percent


class SentencePairs(MaskedLanguageModelling):
    """Predict masked tokens in pairs of passages, and which of two kinds a pair is of.

    Attributes:
        change: what is done to one half of the pairs.
        why_none: the refusal of a text whose pairs can have no label.
        why_some: what is said of pairs that have none.
    """

    loss_weights = (1.0, 1.0)
    has_answers = True
    change: Change
    why_none: str
    why_some: str
    _middle: tuple[int, ...]
    _sentence_ends: SentenceEnds
    _head_is_new: bool

    def prepare(self, model: MaskedLM, seed: int) -> None:
        with model.plain() as raw:
            head = load_sentence_head(raw, seed)
        if not model.packed:
            raise ConfigError(
                f"--objective {self.name} needs a model whose documents can be packed; {model.architecture} is computed in "
                f"{model.batching} batches. Use a BERT or ALBERT, or --objective mlm"
            )
        middle = between_passages(model.tokenizer)
        if middle is None or not model.takes_token_types:
            whose = "the tokenizer" if middle is None else model.architecture
            raise ConfigError(
                f"--objective {self.name} needs pairs whose passages have token types 0 and 1, and {whose} has no such pairs; "
                f"use a BERT or ALBERT with its own tokenizer, or --objective mlm"
            )
        self._middle, self._head_is_new = middle, head.new
        self._sentence_ends = SentenceEnds(model.tokenizer, model.vocabulary.words, model.vocabulary.size)
        model.attach(sentence=head)

    def source(self, text: TextSource) -> TextSource:
        return PairSource(text, self._middle, self._sentence_ends, self.change)

    def describe(self, text: TextSource) -> str:
        assert isinstance(text, PairSource)
        if not text.pairs:
            raise DataError(
                f"no document of the training text has the {SHORTEST} tokens that a pair of passages needs; give longer "
                f"documents, or use --objective mlm"
            )
        labelled = text.labelled_share
        if not labelled:
            raise DataError(self.why_none)
        what = "swapped" if self.change == "swapped" else "with a second passage of another document"
        said = f"{text.pairs:,} of {plural(len(text.sequences), 'sequence')} are pairs of passages, half of them {what}"
        if text.short_documents:
            share = percent(text.short_documents / len(text.documents))
            said += f"; {plural(text.short_documents, 'document')} ({share}) of fewer than {SHORTEST} tokens, only masked"
        if labelled < 1:
            said += f"; about {percent(1 - labelled, 0)} of the pairs, {self.why_some}, only masked"
        if unpunctuated := text.unpunctuated_share:
            said += f"; about {percent(unpunctuated, 0)} of the pairs have no end of a sentence and are split between words"
        return said + ("; the sentence head is new" if self._head_is_new else "")

    def batch(self, packed: Packed, plan: MaskingPlan, key: MaskKey, rate: float) -> Batch:
        pairs = PackedPairs.of(packed)
        return replace(
            super().batch(pairs, plan, key, rate),
            of_tokens={"token_type_ids": pairs.token_type_ids},
            of_sequences={"pair_labels": pairs.labels, "documents": document_numbers(pairs.keys)},
        )

    def counts(self, batch: Batch) -> tuple[int, ...]:
        labels = batch.of_sequences.get("pair_labels", np.zeros(0))
        return len(batch.target_ids), int((labels != UNLABELLED).sum())

    def losses(self, model: MaskedLM, batch: Batch, divisors: Sequence[int]) -> tuple[Loss, ...]:
        labels = on_device(batch.target_ids, model.device)
        index = pad_places(batch.target_index, least=1)
        states = model.encode(batch)
        logits = model.predict(states.index_select(0, on_device(index, model.device)))
        masked = Loss(*masked_cross_entropy(logits, labels, divisors[0]))
        sentence = self._sentence_logits(model, batch, states)
        kinds = on_device(batch.of_sequences["pair_labels"], model.device)
        value = F.cross_entropy(sentence, kinds, ignore_index=UNLABELLED, reduction="sum") / divisors[1]
        return masked, Loss(value, (sentence.argmax(-1) == kinds).sum())

    def answers(self, model: MaskedLM, batch: Batch) -> np.ndarray:
        """Return rows of document, whether the sentence head is right, its loss, and the label, of the pairs that have one."""
        sentence = self._sentence_logits(model, batch, model.encode(batch)).cpu().double()
        labels = batch.of_sequences["pair_labels"]
        known = np.flatnonzero(labels != UNLABELLED)
        labels = labels[known]
        losses = -sentence.log_softmax(-1).numpy()[known, labels]
        right = sentence.argmax(-1).numpy()[known] == labels
        columns = [batch.of_sequences["documents"][known], right, losses, labels]
        return np.stack(columns, axis=1).astype(np.float64)

    def scores(self, answers: np.ndarray) -> np.ndarray:
        """Return the answers with whether a label is the larger one in place of the label."""
        larger = 2 * answers[:, 3].sum() > len(answers)
        return np.column_stack([answers[:, :3], answers[:, 3] == larger])

    def saved_class(self, model: MaskedLM) -> str:
        return class_with_both_heads(model.model.config).__name__

    def save(self, model: MaskedLM, folder: Path) -> None:
        head = model.attached["sentence"]
        assert isinstance(head, SentenceHead)
        with model.plain() as raw:
            save_with_sentence_head(raw, head, model.vocabulary, folder)

    def _sentence_logits(self, model: MaskedLM, batch: Batch, states: Tensor) -> Tensor:
        """Return the fp32 ``[N, 2]`` logits of the sequences."""
        first = on_device(batch.cu_seqlens[:-1].astype(np.int64), model.device)
        with model.precision():
            logits: Tensor = model.attached["sentence"](states.index_select(0, first))
        return logits.float()


class NextSentencePrediction(SentencePairs):
    """Whether the second passage follows the first, or is of another document (Devlin et al. 2019)."""

    name = "nsp"
    loss_names = ("mlm", "nsp")
    answer_means = MappingProxyType({"nsp_accuracy": 1, "nsp_loss": 2, "larger_label_share": 3})
    change = "replaced"
    why_none = (
        "no passage of the training text can be replaced by one of another document; give several documents of about the same "
        "length, or use --objective sop or mlm"
    )
    why_some = "whose passages fit no other document"

    @property
    def title(self) -> str:
        return "next sentence prediction, and masked language modelling"


class SentenceOrderPrediction(SentencePairs):
    """Whether two passages of one document are in order, or swapped (Lan et al. 2020)."""

    name = "sop"
    loss_names = ("mlm", "sop")
    answer_means = MappingProxyType({"sop_accuracy": 1, "sop_loss": 2, "larger_label_share": 3})
    change = "swapped"
    why_none = (
        "no sequence of the training text has whole sentences that can be swapped; give longer documents, a higher --max-length, or "
        "use --objective nsp or mlm"
    )
    why_some = "which have no whole sentences on both sides of a split"

    @property
    def title(self) -> str:
        return "sentence order prediction, and masked language modelling"
