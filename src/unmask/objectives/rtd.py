"""Replaced token detection (Clark et al. 2020): which tokens of a text has a small masked-LM model replaced?

A generator fills the masked places with tokens drawn from its softmax, and learns by masked language modelling. The
discriminator, which is the model to keep, learns at every token of the text whether it is the original one. Their token embeddings
are shared as in DeBERTaV3 (He et al. 2021), see :mod:`unmask.model.discriminator`.

The model of the run is the generator, since it predicts masked tokens, with the discriminator attached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.data.batches import Batch, TextSource
from unmask.data.masking.random_bits import MaskKey, random_bits_at
from unmask.data.masking.units import MaskingPlan
from unmask.data.packing import Packed
from unmask.errors import plural
from unmask.model.discriminator import Discriminator
from unmask.model.generator import open_generator
from unmask.model.masked_lm import MaskedLM
from unmask.model.packed_layout import on_device
from unmask.model.save import save_checked
from unmask.model.shapes import pad_places
from unmask.model.verify import verify
from unmask.objectives.cross_entropy import masked_cross_entropy
from unmask.objectives.mlm import MaskedLanguageModelling
from unmask.objectives.objective import Loss, document_numbers
from unmask.objectives.sampling import sample
from unmask.run_folder import GENERATOR

WEIGHT = 50.0
"""Of the discriminator's loss (Clark et al. 2020)."""

_DOCUMENT, _CORRECT, _LOSS, _REPLACED, _LOGIT = range(5)  # columns of the answers


class ReplacedTokenDetection(MaskedLanguageModelling):
    """Train a generator by masked language modelling, and a discriminator to tell its tokens from the original ones.

    Args:
        generator: a checkpoint of a masked language model; by default that of the discriminator's folder, or a new one.
        offline: make no network call for it.
    """

    name = "rtd"
    loss_names = ("mlm", "rtd")
    loss_weights = (1.0, WEIGHT)
    uses_head = False
    has_answers = True
    answer_means = MappingProxyType(
        {"rtd_accuracy": _CORRECT, "rtd_loss": _LOSS, "replaced_share": _REPLACED}
    )

    def __init__(self, generator: str | None = None, *, offline: bool = False) -> None:
        self._generator, self._offline = generator, offline
        self._models = ""

    @property
    def title(self) -> str:
        return "replaced token detection, its generator by masked language modelling"

    def trained_model(self, given: MaskedLM, seed: int) -> MaskedLM:
        """Return the generator, with a discriminator attached that has the encoder of the model that is given."""
        raw, origin = open_generator(given, self._generator, seed, offline=self._offline)
        generator = MaskedLM(raw, given.tokenizer, autocast=given.autocast)
        verify(generator)
        size, depth = generator.parameters, plural(raw.config.num_hidden_layers, "layer")
        discriminator = Discriminator(given, generator, seed)
        generator.attach(discriminator=discriminator)
        self._models = (
            f"the generator, {generator.hidden_size} wide in {depth} with {size:,} weights "
            f"({f'from {origin}' if origin else 'new'}), fills the masked places, and its loss and accuracy are those at masked tokens; "
            f"the discriminator ({discriminator.architecture}, its head {'new' if discriminator.new_head else 'from the checkpoint'}) "
            f"is the model that is kept"
        )
        return generator

    def describe(self, text: TextSource) -> str:
        return self._models

    def saved_class(self, model: MaskedLM) -> str:
        return _discriminator(model).architecture

    def batch(self, packed: Packed, plan: MaskingPlan, key: MaskKey, rate: float) -> Batch:
        batch = super().batch(packed, plan, key, rate)
        return replace(
            batch,
            of_tokens={"judged": ~plan.vocabulary.special[packed.input_ids]},
            of_sequences={"documents": document_numbers(packed.keys)},
            of_targets={"bits": _drawing_bits(packed, batch.target_index, key)},
        )

    def counts(self, batch: Batch) -> tuple[int, ...]:
        return len(batch.target_ids), int(batch.of_tokens.get("judged", np.zeros(0)).sum())

    def losses(self, model: MaskedLM, batch: Batch, divisors: Sequence[int]) -> tuple[Loss, ...]:
        logits = _generator_logits(model, batch)
        labels = on_device(batch.target_ids, model.device)
        masked = Loss(*masked_cross_entropy(logits, labels, divisors[0]))
        found, replaced = self._detection(model, batch, logits)
        value = F.binary_cross_entropy_with_logits(found, replaced, reduction="sum") / divisors[1]
        return masked, Loss(value, ((found > 0) == (replaced > 0)).sum())

    def answers(self, model: MaskedLM, batch: Batch) -> np.ndarray:
        """Return rows of document, whether the discriminator is right, its loss, whether the token is another, and its logit."""
        found, replaced = self._detection(model, batch, _generator_logits(model, batch))
        loss = F.binary_cross_entropy_with_logits(found, replaced, reduction="none")
        right = (found > 0) == (replaced > 0)
        documents = np.repeat(batch.of_sequences["documents"], np.diff(batch.cu_seqlens))
        columns = [column.cpu().double().numpy() for column in (right, loss, replaced, found)]
        return np.stack([documents[batch.of_tokens["judged"]].astype(np.float64), *columns], axis=1)

    def metrics(self, answers: np.ndarray) -> dict[str, float]:
        """Return the means, and AUC and F1 of the replaced tokens where there are any, and others."""
        found = super().metrics(answers)
        replaced = answers[:, _REPLACED] > 0
        if 0 < replaced.sum() < len(replaced):
            found["rtd_auc"] = area_under_curve(answers[:, _LOGIT], replaced)
            chosen = answers[:, _LOGIT] > 0
            found["rtd_f1"] = 2 * float((chosen & replaced).sum()) / float(chosen.sum() + replaced.sum())
        return found

    def save(self, model: MaskedLM, folder: Path) -> None:
        """Write the discriminator, and the generator with its tokenizer into a folder below."""
        _discriminator(model).save(folder)
        with model.plain() as raw:
            save_checked(raw, model.vocabulary, folder / GENERATOR)
        model.tokenizer.save_pretrained(folder / GENERATOR)

    def _detection(self, model: MaskedLM, batch: Batch, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fp32 ``[J]`` logits of the discriminator at the tokens that are judged, and which were replaced, 0 or 1.

        Args:
            model: the generator with the discriminator.
            batch: with its masks.
            logits: of the generator, ``[M, V]`` or more rows.
        """
        discriminator, device = _discriminator(model), model.device
        original, index = on_device(batch.target_ids, device), on_device(batch.target_index, device)
        bits = on_device(batch.of_targets["bits"], device)
        drawn = sample(logits[: len(original)], bits, discriminator.replacements)
        shown = on_device(batch.input_ids, device).index_copy(0, index, drawn)
        replaced = torch.zeros(batch.tokens, device=device)
        replaced[index] = (drawn != original).float()
        places = np.flatnonzero(batch.of_tokens["judged"])
        found = discriminator.logits(batch, shown, on_device(pad_places(places, least=1), device))
        return found[: len(places)], replaced[on_device(places, device)]


def _drawing_bits(packed: Packed, index: np.ndarray, key: MaskKey) -> np.ndarray:
    """Return ``int64 [M]`` random bits, which the draws of the generator at some tokens are made of."""
    return random_bits_at(packed, index, key.stream("generator")).view(np.int64)


def draw_tokens(
    packed: Packed, index: np.ndarray, key: MaskKey, logits: Tensor, allowed: Tensor
) -> np.ndarray:
    """Return ``int64 [M]`` tokens that a generator draws for some places of a text, as in training.

    Args:
        packed: the text.
        index: ``int64 [M]`` places of its tokens.
        key: of the draw.
        logits: ``[M, V]`` of the generator.
        allowed: ``bool [V]``, entries that may replace a token.
    """
    bits = on_device(_drawing_bits(packed, index, key), logits.device)
    return sample(logits, bits, allowed).cpu().numpy()


def _generator_logits(model: MaskedLM, batch: Batch) -> Tensor:
    """Return the logits of the generator at the targets, with more rows behind them; there is one at least."""
    if not len(batch.target_index):
        batch = replace(batch, target_index=np.zeros(1, dtype=np.int64))
    return model.target_logits(batch, filled=True)


def _discriminator(model: MaskedLM) -> Discriminator:
    found = model.attached["discriminator"]
    assert isinstance(found, Discriminator)
    return found


def area_under_curve(scores: np.ndarray, positive: np.ndarray) -> float:
    """Return the area under the ROC curve: how often a positive has a higher score than a negative, ties counted half.

    Args:
        scores: ``float64 [n]``.
        positive: ``bool [n]``, some but not all true.
    """
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[place]  # the mean rank of equal scores, from 1
    some = int(positive.sum())
    above = rank[positive].sum() - some * (some + 1) / 2
    return float(above / (some * (len(scores) - some)))
