"""Masked language modelling (Devlin et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

from unmask.data.batches import Batch, masked_batch
from unmask.data.masking.random_bits import MaskKey
from unmask.data.masking.units import MaskingPlan
from unmask.data.packing import Packed
from unmask.model.masked_lm import MaskedLM
from unmask.model.packed_layout import on_device
from unmask.objectives.cross_entropy import masked_cross_entropy
from unmask.objectives.objective import Loss, Objective


class MaskedLanguageModelling(Objective):
    """Predict the masked tokens from the text on both sides of them."""

    name = "mlm"
    loss_names: tuple[str, ...] = ("mlm",)

    @property
    def title(self) -> str:
        return "masked language modelling"

    def batch(self, packed: Packed, plan: MaskingPlan, key: MaskKey, rate: float) -> Batch:
        return masked_batch(packed, plan, key, rate)

    def losses(self, model: MaskedLM, batch: Batch, divisors: Sequence[int]) -> tuple[Loss, ...]:
        labels = on_device(batch.target_ids, model.device)
        logits = model.target_logits(batch, filled=True)
        return (Loss(*masked_cross_entropy(logits, labels, divisors[0])),)
