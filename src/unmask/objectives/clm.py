"""The causal detour: next-token prediction for a share of a run, then masked language modelling.

Gisserot-Boukhlef et al. 2025 (arXiv 2507.00994) and arXiv 2605.12438. Attention looks back only in the first stage; nothing
of it is left in the weights' shapes or the configuration, so that the result is an ordinary encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from unmask.data.batches import Batch, batch_of
from unmask.data.masking.random_bits import MaskKey
from unmask.data.masking.units import MaskingPlan
from unmask.data.packing import Packed
from unmask.errors import ConfigError
from unmask.model.masked_lm import MaskedLM
from unmask.model.packed_layout import on_device
from unmask.model.shapes import pad_places
from unmask.model.softmax import row_blocks
from unmask.model.trial import UNABLE, close, trial_batch
from unmask.objectives.cross_entropy import loss_in_blocks, masked_cross_entropy
from unmask.objectives.mlm import MaskedLanguageModelling
from unmask.objectives.objective import Loss, Objective
from unmask.reporting.format import percent

SHARE = 0.6
"""Share of a run that is causal, where ``train.detour`` does not say otherwise."""

_BLOCK = 1 << 26  # logits computed at once: as many as masking has of 8,192 tokens and a large vocabulary


class CausalLanguageModelling(Objective):
    """Predict each token of the text from those before it."""

    name = "clm"
    loss_names = ("clm",)
    masks = False
    targets_in_place = False

    @property
    def title(self) -> str:
        return "causal language modelling"

    @torch.no_grad()
    def prepare(self, model: MaskedLM, seed: int) -> None:
        if not model.packed:
            raise ConfigError(
                f"--objective clm needs a model whose documents can be packed, since its attention is made causal there; "
                f"{model.architecture} is computed in {model.batching} batches. Use --objective mlm, or a model such as BERT, "
                f"RoBERTa or ModernBERT"
            )
        batch = trial_batch(model.vocabulary, model.shortest)
        last = int(batch.cu_seqlens[1]) - 1
        other = batch.input_ids.copy()
        other[last] = model.vocabulary.replacements[-1]
        try:
            with model.evaluating(), model.in_fp32():
                states = model.encode(batch, causal=True)
                changed = model.encode(replace(batch, input_ids=other), causal=True)
                works = close(model.predict(model.encode(batch)), model.target_logits(batch))
        except UNABLE:
            works = False
        if not works or not close(changed[:last], states[:last]) or close(changed[last], states[last]):
            raise ConfigError(
                f"--objective clm cannot be used with {model.architecture}: in a trial its attention could not be made causal, or "
                f"its LM head not be computed by itself. Use --objective mlm, or a model such as BERT, RoBERTa or ModernBERT"
            )

    def batch(self, packed: Packed, plan: MaskingPlan, key: MaskKey, rate: float) -> Batch:
        """Return the unmasked sequences; a target stands where the token before it is, and is never a special token."""
        following = np.roll(packed.input_ids, -1)
        has_next = ~plan.vocabulary.special[following]
        has_next[packed.cu_seqlens[1:][np.diff(packed.cu_seqlens) > 0] - 1] = False
        index = np.flatnonzero(has_next)
        return batch_of(packed, packed.input_ids, index, following[index])

    def losses(self, model: MaskedLM, batch: Batch, divisors: Sequence[int]) -> tuple[Loss, ...]:
        """Every token reaches the LM head, so its logits are computed in blocks, and the gradient of a block with them."""
        labels = on_device(batch.target_ids, model.device)
        index = pad_places(batch.target_index)
        states = model.encode(batch, causal=True).index_select(0, on_device(index, model.device))
        blocks = row_blocks(len(index), model.vocabulary.size, model.device, _BLOCK)

        def block_loss(states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            return masked_cross_entropy(model.predict(states), labels, divisors[0])

        if len(blocks) <= 1:
            return (Loss(*block_loss(states, labels)),)
        if not model.sharded:
            weights = [weight for weight in model.model.parameters() if weight.requires_grad]
            return (Loss(*loss_in_blocks(block_loss, states, labels, blocks, weights)),)
        # FSDP has a gradient in the backward pass alone, so the logits are computed a second time there.
        found = [
            checkpoint(block_loss, states[part], labels[part], use_reentrant=False, preserve_rng_state=False)
            for part in blocks
        ]
        values, correct = zip(*found, strict=True)
        return (Loss(torch.stack(values).sum(), torch.stack(correct).sum()),)


class CausalDetour(MaskedLanguageModelling):
    """Causal language modelling for a share of the run, then masked language modelling.

    Args:
        share: of the run that is causal.
    """

    name = "clm"

    def __init__(self, share: float = SHARE) -> None:
        self.share = share
        self._stages = CausalLanguageModelling(), MaskedLanguageModelling()

    @property
    def title(self) -> str:
        causal, masked = self._stages
        return f"{causal.title} for {percent(self.share, 0)} of the run, then {masked.title}"

    @property
    def stages(self) -> tuple[Objective, ...]:
        return self._stages

    def stage(self, progress: float) -> int:
        return int(progress >= self.share)
