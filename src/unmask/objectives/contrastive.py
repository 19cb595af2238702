"""Masked language modelling jointly with contrast of passages: the two halves of a text find each other among all others.

Both losses come of the same forward pass, over halves that are masked as always (joint as in MOSAIC, arXiv 2510.16797). The
second is InfoNCE with in-batch negatives (SimCSE, Gao et al. 2021), whose batch is the whole step: its value does not depend
on micro-batches and processes.

Shapes: N sequences, S passages, P pairs of the micro-batch, Q pairs that are compared, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.data.batches import Batch, StepRows, TextSource, batch_of
from unmask.data.masking.random_bits import MaskKey
from unmask.data.masking.units import MaskingPlan
from unmask.data.packing import Packed
from unmask.data.pairs import SHORTEST, UNLABELLED, PackedPairs, PairSource
from unmask.data.sentences import SentenceEnds
from unmask.errors import ConfigError, DataError, plural
from unmask.model.masked_lm import MaskedLM
from unmask.model.packed_layout import on_device
from unmask.model.pooling import MEAN, Mode, stored_pooling
from unmask.model.sentence_modules import find_sentence_modules, write_mean_pooling
from unmask.model.shapes import pad_places
from unmask.model.trial import UNABLE, close, trial_batch
from unmask.objectives.cross_entropy import masked_cross_entropy
from unmask.objectives.mlm import MaskedLanguageModelling
from unmask.objectives.objective import Loss, document_numbers
from unmask.reporting.format import percent

TEMPERATURE = 0.05
"""What cosines are divided by (Gao et al. 2021)."""
WEIGHT = 1.0
"""Of the contrastive loss; that of masked tokens has 1."""

_WITHIN = 10  # recall at so many
_QUERIES = 1024  # ranked at once
_ALIKE = (
    1e-6  # cosines that differ less, as those of copies do by rounding, are equal; ties count against a pair
)


class ContrastiveLearning(MaskedLanguageModelling):
    """Predict masked tokens, and tell the other half of a text from all other passages of a step.

    Args:
        weight: of the contrastive loss.
        temperature: what cosines are divided by.

    Attributes:
        pooling: how the states of a passage become its embedding, once a model is prepared.
    """

    name = "contrastive"
    loss_names = ("mlm", "contrastive")
    compares = True
    has_answers = True
    answer_means = MappingProxyType({"retrieval_accuracy": 1, f"top{_WITHIN}_recall": 2, "retrieval_mrr": 3})
    pooling: Mode = MEAN.mode

    def __init__(self, weight: float = WEIGHT, temperature: float = TEMPERATURE) -> None:
        self.loss_weights = 1.0, weight
        self.temperature = temperature

    @property
    def title(self) -> str:
        return "contrastive learning of passages, and masked language modelling"

    @torch.no_grad()
    def prepare(self, model: MaskedLM, seed: int) -> None:
        modules = find_sentence_modules(model.name, offline=True)
        try:
            self.pooling = MEAN.mode if modules is None else stored_pooling(modules).mode
        except ConfigError as error:
            raise ConfigError(
                f"--objective contrastive cannot train the embeddings of this model; use --objective mlm, or remove its "
                f"modules.json to pool by the mean. {error}"
            ) from None
        batch = trial_batch(model.vocabulary, model.shortest)
        try:
            with model.evaluating(), model.in_fp32():
                works = close(model.predict(model.encode(batch)), model.target_logits(batch))
        except UNABLE:
            works = False
        if not works:
            raise ConfigError(
                f"--objective contrastive cannot be used with {model.architecture}: in a trial its LM head could not be "
                f"computed by itself. Use --objective mlm, or a model such as BERT, RoBERTa or ModernBERT"
            )
        self._middle = (*model.vocabulary.suffix, *model.vocabulary.prefix)
        self._sentence_ends = SentenceEnds(model.tokenizer, model.vocabulary.words, model.vocabulary.size)

    def source(self, text: TextSource) -> TextSource:
        return PairSource(text, self._middle, self._sentence_ends, "none")

    def describe(self, text: TextSource) -> str:
        assert isinstance(text, PairSource)
        if text.long_documents < 2:
            raise DataError(
                f"the contrastive loss tells passages of different documents apart, and {plural(text.long_documents, 'document')} of the "
                f"training text {'has' if text.long_documents == 1 else 'have'} the {SHORTEST} tokens that two passages need; give more "
                f"or longer documents, or use --objective mlm"
            )
        size = round(text.tokens / len(text.sequences))
        said = (
            f"{text.pairs:,} of {plural(len(text.sequences), 'sequence')} (of {plural(size, 'token')} on average) are two "
            f"passages that are read apart, and told from those of other documents in the same step; embeddings are by "
            f"{self.pooling} pooling"
        )
        if text.short_documents:
            share = percent(text.short_documents / len(text.documents))
            said += f"; {plural(text.short_documents, 'document')} ({share}) of fewer than {SHORTEST} tokens, only masked"
        return said

    def batch(self, packed: Packed, plan: MaskingPlan, key: MaskKey, rate: float) -> Batch:
        pairs = PackedPairs.of(packed)
        second = pairs.second - pairs.cu_seqlens[:-1] - len(plan.vocabulary.prefix)
        second[pairs.labels == UNLABELLED] = 0
        return replace(
            super().batch(pairs, plan, key, rate),
            of_sequences={"second": second, "documents": document_numbers(pairs.keys)},
        )

    def counts(self, batch: Batch) -> tuple[int, ...]:
        seconds = batch.of_sequences.get("second", np.zeros(0))
        return len(batch.target_ids), 2 * int(np.count_nonzero(seconds))

    def rows(self, model: MaskedLM, batch: Batch) -> tuple[Tensor, ...]:
        """Return ``[P, 2, H]`` embeddings of the halves of pairs, and ``int64 [P]`` their documents."""
        passages = Passages.of(batch)
        return self._rows(model, batch, passages, model.encode(passages.batch))

    def losses(self, model: MaskedLM, batch: Batch, divisors: Sequence[int]) -> tuple[Loss, ...]:
        passages, labels = Passages.of(batch), on_device(batch.target_ids, model.device)
        states = model.encode(passages.batch)
        index = pad_places(passages.batch.target_index, least=1)
        logits = model.predict(states.index_select(0, on_device(index, model.device)))
        masked = Loss(*masked_cross_entropy(logits, labels, divisors[0]))
        embeddings, documents = self._rows(model, batch, passages, states)
        own, correct = contrast(embeddings, documents, self.temperature, batch.of_step)
        return masked, Loss(own / divisors[1], correct)

    def answers(self, model: MaskedLM, batch: Batch) -> np.ndarray:
        """Return rows of document and embeddings of both halves, ``[P, 1 + 2 H]``, of the text without its masks."""
        ids = batch.input_ids.copy()
        ids[batch.target_index] = batch.target_ids
        embeddings, documents = self.rows(model, replace(batch, input_ids=ids))
        return np.column_stack([documents.cpu().numpy(), embeddings.flatten(1).cpu().double().numpy()])

    def scores(self, answers: np.ndarray) -> np.ndarray:
        """Return rows of document, whether the second half is the nearest to the first, whether it is among the ten nearest, and
        the reciprocal of its rank, of the second halves of all other documents and its own."""
        documents = answers[:, 0]
        first, second = np.split(answers[:, 1:], 2, axis=1)
        first, second = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (first, second))
        rank = np.empty(len(answers))
        for begin in range(0, len(answers), _QUERIES):
            part = slice(begin, begin + _QUERIES)
            similarity = first[part] @ second.T
            own = similarity[np.arange(len(similarity)), np.arange(begin, begin + len(similarity))]
            near = similarity > own[:, None] - _ALIKE
            rank[part] = 1 + (near & (documents[part, None] != documents)).sum(1)
        return np.column_stack([documents, rank == 1, rank <= _WITHIN, 1 / rank])

    def save(self, model: MaskedLM, folder: Path) -> None:
        super().save(model, folder)
        write_mean_pooling(folder, model.encoder, model.hidden_size, model.max_length)

    def _rows(
        self, model: MaskedLM, batch: Batch, passages: Passages, states: Tensor
    ) -> tuple[Tensor, Tensor]:
        pooled = _pooled(states.float(), passages.batch.cu_seqlens, self.pooling)
        halves = pooled.index_select(0, on_device(passages.halves.ravel(), model.device))
        pairs = np.flatnonzero(batch.of_sequences["second"])
        documents = on_device(batch.of_sequences["documents"][pairs], model.device)
        return halves.unflatten(0, (len(pairs), 2)), documents


class Passages(NamedTuple):
    """The passages of a batch as sequences of their own.

    Attributes:
        batch: of ``S`` sequences, longest first; its targets are in the order of those that it was made from.
        halves: ``int64 [P, 2]``, numbers of the two passages of each pair.
    """

    batch: Batch
    halves: np.ndarray

    @staticmethod
    def of(batch: Batch) -> Passages:
        """Split the sequences of :meth:`ContrastiveLearning.batch`."""
        begins, second = batch.cu_seqlens[:-1].astype(np.int64), batch.of_sequences["second"]
        pairs = np.flatnonzero(second)
        places = np.concatenate([begins, begins[pairs] + second[pairs]])
        numbers = np.argsort(places, kind="stable")
        lengths = np.diff(places[numbers], append=batch.tokens)
        order = np.argsort(-lengths, kind="stable")
        cu_seqlens = np.concatenate([[0], np.cumsum(lengths[order])])
        index = np.repeat(places[numbers[order]] - cu_seqlens[:-1], lengths[order]) + np.arange(batch.tokens)
        moved = np.empty_like(index)
        moved[index] = np.arange(len(index))
        to = np.empty_like(order)
        to[numbers[order]] = np.arange(len(order))
        packed = Packed(batch.input_ids, cu_seqlens, order, order)
        made = batch_of(packed, batch.input_ids[index], moved[batch.target_index], batch.target_ids)
        halves = np.stack([to[pairs], to[len(begins) :]], axis=1)
        return Passages(replace(made, sequence_ids=order), halves)


def contrast(
    embeddings: Tensor, documents: Tensor, temperature: float, step: StepRows | None = None
) -> tuple[Tensor, Tensor]:
    """Return the InfoNCE loss (van den Oord et al. 2018) summed over passages, and how many are nearest to their other half.

    Each passage is told its other half among all passages of other documents, by cosine.

    Args:
        embeddings: ``[P, 2, H]`` in fp32, of the halves of pairs.
        documents: ``int64 [P]``; passages of one document are no negatives.
        temperature: what cosines are divided by.
        step: the same of all pairs of the step, where they are more. The gradient is then that of the loss of the whole step
            with respect to these embeddings, the value the sum over their own passages.
    """
    first, count = 0, len(embeddings)
    if step is not None:
        first, (others, all_documents) = step.first, step.arrays
        embeddings = torch.cat([others[:first], embeddings, others[first + count :]])
        documents = all_documents
    if not len(embeddings):
        return embeddings.sum(), documents.sum()
    with torch.autocast(embeddings.device.type, enabled=False):
        both = F.normalize(embeddings.transpose(0, 1).flatten(0, 1), dim=-1)
        scores = both @ both.T / temperature
    pairs = len(embeddings)
    numbers = torch.arange(2 * pairs, device=scores.device)
    other_half = (numbers + pairs) % (2 * pairs)
    same = documents.repeat(2)
    closed = (same[:, None] == same) & (numbers != other_half[:, None])
    scores = scores.masked_fill(closed, -torch.inf)
    losses = F.cross_entropy(scores, other_half, reduction="none").view(2, pairs)
    right = (scores.argmax(-1) == other_half).view(2, pairs)[:, first : first + count]
    own, whole = losses[:, first : first + count].sum(), losses.sum()
    return own if step is None else own.detach() + (whole - whole.detach()), right.sum()


def _pooled(states: Tensor, cu_seqlens: np.ndarray, mode: Mode) -> Tensor:
    """Return the ``[S, H]`` embeddings of sequences from ``[T, H]`` states, in fp32."""
    lengths = on_device(np.diff(cu_seqlens).astype(np.int64), states.device)
    if mode == "cls":
        return states.index_select(0, on_device(cu_seqlens[:-1].astype(np.int64), states.device))
    if mode == "max":
        return torch.segment_reduce(states, "max", lengths=lengths, axis=0, unsafe=True)
    owner = torch.repeat_interleave(lengths, output_size=len(states))
    sums = states.new_zeros(len(lengths), states.shape[-1]).index_add_(0, owner, states)
    return sums / lengths[:, None]
