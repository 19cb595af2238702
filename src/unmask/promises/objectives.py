"""The loss of each training objective, compared with plain transformers and torch on the same sequences.

What a model sees is taken from the batch of the objective; everything behind that is computed again, a sequence at a time, by
classes of transformers: attention, heads, draws of the generator, and losses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.data.batches import Batch
from unmask.data.pairs import UNLABELLED
from unmask.errors import ConfigError
from unmask.model.masked_lm import MaskedLM
from unmask.model.sentence_head import SentenceHead, class_with_both_heads
from unmask.objectives.clm import CausalLanguageModelling
from unmask.objectives.contrastive import ContrastiveLearning
from unmask.objectives.objective import Objective
from unmask.objectives.pairs import NextSentencePrediction, SentenceOrderPrediction
from unmask.objectives.rtd import ReplacedTokenDetection
from unmask.objectives.sampling import sample
from unmask.promises.case import Case, Measurement, spread

_EXACT = 1e-6
_CLOSE = 1e-5
_SEED = 0  # of new heads and generators


class Comparison(NamedTuple):
    """How the losses of an objective are checked.

    Attributes:
        make: makes the objective.
        plain: returns its losses by transformers alone, as many as it has names.
        tolerance: the largest relative difference that passes.
    """

    make: Callable[[], Objective]
    plain: Callable[[MaskedLM, Objective, Batch], list[Tensor]]
    tolerance: float = _EXACT


def why_not(case: Case, name: str) -> str:
    """Say why the model of a case cannot be trained by an objective; nothing where it can."""
    try:
        _prepared(case, name)
    except ConfigError as error:
        return str(error)
    return ""


@torch.no_grad()
def compare(name: str, case: Case) -> Measurement:
    """Compare the losses of a few sequences with those of transformers."""
    objective, model = _prepared(case, name)
    source = objective.source(case.source)
    numbers = source.by_length(np.arange(len(source.sequences)))
    batch = source.batch(spread(numbers, len(case.few)), case.key, case.rate, make=objective.batch)
    counts = objective.counts(batch)
    ours = [float(loss.value) for loss in objective.losses(model, batch, [max(1, count) for count in counts])]
    theirs = [float(loss) for loss in COMPARISONS[name].plain(model, objective, batch)]
    found = list(zip(objective.loss_names, ours, theirs, counts, strict=True))
    measured = max(abs(own - other) / max(abs(other), 1e-30) for _, own, other, _ in found)
    detail = "; ".join(
        f"{loss} {own:.7f} and {other:.7f}, {count} targets" for loss, own, other, count in found
    )
    return Measurement(measured if all(counts) else math.inf, COMPARISONS[name].tolerance, detail)


def _prepared(case: Case, name: str) -> tuple[Objective, MaskedLM]:
    """Prepare a copy of the model for an objective.

    Raises:
        ConfigError: it lacks what the objective needs.
    """
    objective = COMPARISONS[name].make()
    model = objective.trained_model(deepcopy(case.model), _SEED)
    objective.prepare(model, _SEED)
    model.model.eval()
    return objective, model


class _Sequence(NamedTuple):
    """A sequence of a batch.

    Attributes:
        length: its tokens.
        inputs: of the model of transformers, in one row, which is longer where the model needs more tokens.
        targets: ``int64 [m]``, places of the targets in it.
        labels: ``int64 [m]``.
        own: which of the batch's targets these are.
    """

    length: int
    inputs: dict[str, Tensor]
    targets: Tensor
    labels: Tensor
    own: np.ndarray


def _sequences(model: MaskedLM, batch: Batch) -> Iterator[_Sequence]:
    for begin, end in zip(batch.cu_seqlens[:-1].tolist(), batch.cu_seqlens[1:].tolist(), strict=True):
        own = np.flatnonzero((batch.target_index >= begin) & (batch.target_index < end))
        inputs = _alone(model, batch.input_ids[begin:end])
        if "token_type_ids" in batch.of_tokens:
            types = torch.from_numpy(batch.of_tokens["token_type_ids"][begin:end])
            inputs["token_type_ids"] = types[None].to(model.device)
        targets = torch.from_numpy(batch.target_index[own] - begin).to(model.device)
        labels = torch.from_numpy(batch.target_ids[own]).to(model.device)
        yield _Sequence(end - begin, inputs, targets, labels, own)


def _alone(model: MaskedLM, input_ids: np.ndarray) -> dict[str, Tensor]:
    return model.padded(input_ids, np.array([len(input_ids)]))[0]


def _mean(losses: list[Tensor]) -> Tensor:
    return torch.cat(losses).mean()


def _masked(logits: Tensor, sequence: _Sequence) -> Tensor:
    """Return the ``[m]`` losses of the targets of a sequence."""
    return F.cross_entropy(logits[0, sequence.targets].float(), sequence.labels, reduction="none")


def _sentence_pairs(model: MaskedLM, _: Objective, batch: Batch) -> list[Tensor]:
    """By the class with both heads, such as ``BertForPreTraining``."""
    head = model.attached["sentence"]
    assert isinstance(head, SentenceHead)
    with model.plain() as raw:
        both: Any = class_with_both_heads(raw.config)(deepcopy(raw.config)).eval().to(model.device)
        both.load_state_dict(raw.state_dict() | head.weights())
    masked, sentence = [], []
    kinds = torch.from_numpy(batch.of_sequences["pair_labels"]).to(model.device)
    for kind, sequence in zip(kinds, _sequences(model, batch), strict=True):
        found = both(**sequence.inputs)
        masked.append(_masked(found[0], sequence))
        if kind != UNLABELLED:
            sentence.append(F.cross_entropy(found[1], kind[None], reduction="none"))
    return [_mean(masked), _mean(sentence)]


def _causal(model: MaskedLM, _: Objective, batch: Batch) -> list[Tensor]:
    """By a mask of ``[1, 1, L, L]`` that hides what is behind each token, and what is outside of a window."""
    losses = []
    with model.plain() as raw:
        window = getattr(raw.config, "sliding_window", None)
        raw.set_attn_implementation("eager")
        for sequence in _sequences(model, batch):
            length = sequence.inputs["input_ids"].shape[1]
            place = torch.arange(length, device=model.device)
            back = place[:, None] - place[None, :]
            lowest = torch.finfo(torch.float32).min
            full = torch.where(back >= 0, 0.0, lowest)[None, None]
            mask: Any = full
            if window is not None and "sliding_attention" in getattr(raw.config, "layer_types", ()):
                near = torch.where((back >= 0) & (back <= window), 0.0, lowest)[None, None]
                mask = {"full_attention": full, "sliding_attention": near}
            losses.append(_masked(raw(**sequence.inputs, attention_mask=mask).logits, sequence))
    return [_mean(losses)]


def _replaced_tokens(model: MaskedLM, _: Objective, batch: Batch) -> list[Tensor]:
    """By a masked-LM model and the class of the discriminator, such as ``ElectraForPreTraining``."""
    discriminator: Any = model.attached["discriminator"]
    network = discriminator.network
    detector = type(network)(deepcopy(network.config)).eval().to(model.device)
    detector.load_state_dict(network.state_dict())
    detector.get_input_embeddings().weight += model.model.get_input_embeddings().weight
    masked, found = [], []
    bits = torch.from_numpy(batch.of_targets["bits"]).to(model.device)
    judged = np.split(batch.of_tokens["judged"], batch.cu_seqlens[1:-1])
    with model.plain() as raw:
        for where, sequence in zip(judged, _sequences(model, batch), strict=True):
            logits = raw(**sequence.inputs).logits
            masked.append(_masked(logits, sequence))
            shown, replaced = (
                sequence.inputs["input_ids"].clone(),
                torch.zeros(sequence.length, device=model.device),
            )
            if len(sequence.own):
                drawn = sample(logits[0, sequence.targets], bits[sequence.own], discriminator.replacements)
                shown[0, sequence.targets] = drawn
                replaced[sequence.targets] = (drawn != sequence.labels).float()
            said = detector(**(sequence.inputs | {"input_ids": shown})).logits[0, : sequence.length].float()
            said = said if said.ndim == 1 else said[:, 1] - said[:, 0]
            losses = F.binary_cross_entropy_with_logits(said, replaced, reduction="none")
            found.append(losses[torch.from_numpy(where).to(model.device)])
    return [_mean(masked), _mean(found)]


def _contrast(model: MaskedLM, objective: Objective, batch: Batch) -> list[Tensor]:
    """By each passage alone, and InfoNCE one passage at a time."""
    assert isinstance(objective, ContrastiveLearning)
    masked, halves, owners = [], [], []
    documents, seconds = batch.of_sequences["documents"], batch.of_sequences["second"].tolist()
    with model.plain() as raw:
        for document, second, sequence in zip(documents, seconds, _sequences(model, batch), strict=True):
            ids = sequence.inputs["input_ids"][0, : sequence.length].cpu().numpy()
            parts = np.split(ids, [second] if second else [])
            logits = [raw(**_alone(model, part)).logits[:, : len(part)] for part in parts]
            masked.append(_masked(torch.cat(logits, dim=1), sequence))
            if second:
                halves.append([_pooled(model, part, objective) for part in parts])
                owners.append(document)
    losses = []
    for row, pair in enumerate(halves):
        others = [half for at, both in enumerate(halves) if owners[at] != owners[row] for half in both]
        for own, other in (pair, pair[::-1]):
            scores = torch.stack([F.cosine_similarity(own, half, dim=0) for half in [other, *others]])
            losses.append(-(scores / objective.temperature).log_softmax(0)[:1])
    return [_mean(masked), _mean(losses)]


def _pooled(model: MaskedLM, input_ids: np.ndarray, objective: ContrastiveLearning) -> Tensor:
    states = model.encoder(**_alone(model, input_ids)).last_hidden_state[0, : len(input_ids)]
    pooled: dict[str, Tensor] = {"cls": states[0], "max": states.amax(0), "mean": states.mean(0)}
    return pooled[objective.pooling]


COMPARISONS: dict[str, Comparison] = {
    "nsp": Comparison(NextSentencePrediction, _sentence_pairs),
    "sop": Comparison(SentenceOrderPrediction, _sentence_pairs),
    "rtd": Comparison(ReplacedTokenDetection, _replaced_tokens),
    "clm": Comparison(CausalLanguageModelling, _causal),
    # Cosines divided by 0.05 have twenty times their rounding.
    "contrastive": Comparison(ContrastiveLearning, _contrast, _CLOSE),
}
"""How the losses of every objective but ``mlm`` are checked, by its name."""
