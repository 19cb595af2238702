"""Recipes: defaults that depend on the kind of run, the model family and the text.

From scratch: the head starts at the frequencies of the tokens; Muon for the hidden matrices, a mask rate that falls to
``masking.rate``, a trapezoid. To adapt: AdamW at the family's learning rate, a constant mask rate, a linear decay.
"""

from __future__ import annotations

from dataclasses import dataclass

from unmask.config.settings import MaskingSettings, TrainSettings

# Peak AdamW rates for adapting a checkpoint, by model_type; other families take the first.
_ADAPT_RATES = {
    "default": 5e-5,  # BioBERT and ClinicalBERT (Lee, Alsentzer et al. 2019)
    "roberta": 5e-5,  # 5e-4 at 1 M tokens a step (Gururangan et al. 2020), by the square root of the batch
    "xlm-roberta": 5e-5,  # RoBERTa with another vocabulary
    "albert": 2e-5,  # all layers share weights, so that their gradient is the sum over all
    "deberta-v2": 3e-5,  # the middle of its authors' range for fine-tuning (He et al. 2021)
    "modernbert": 2e-4,  # pre-norm, which tolerates more: its authors trained at 8e-4
    "eurobert": 1e-4,  # as ModernBERT, its authors trained at 1e-4
}
_LORA_FACTOR = 10.0  # low-rank factors want about ten times the rate of full weights (Schulman et al. 2025)
_PATIENCE = 3
_TOKENS_SEEN = 30_000_000  # in all by a run on a small text; beyond a hundred passes little is left to learn
_EPOCHS = (1, 2, 3, 5, 10, 20, 30, 50, 100)
_SCRATCH_RATE = 3e-3
_SCRATCH_BASE_RATE = 5e-4


@dataclass(frozen=True)
class Recipe:
    """The resolved choices of a run.

    Attributes:
        name: ``adapt`` or ``scratch``.
        optimizer: ``adamw`` or ``muon``.
        learning_rate: peak rate of AdamW.
        schedule: name of the learning-rate schedule.
        batch_tokens: tokens of a step.
        micro_batch_tokens: tokens computed at once.
        initial_rate: the mask rate at the first step.
        epochs: passes over the text, when nothing else ends the run.
        patience: evaluations without a better one that end the run; 0 for never.
        export_best: whether the best weights are exported, not the last.
    """

    name: str
    optimizer: str
    learning_rate: float
    schedule: str
    batch_tokens: int
    micro_batch_tokens: int
    initial_rate: float
    epochs: float | None
    patience: int
    export_best: bool


def default_epochs(tokens: int) -> int:
    """Return the passes over a text of so many tokens: 100 over a few thousand sentences, 1 over a large text.

    Gururangan et al. (2020) train for 100 passes over the texts of one task, and for one over 2 to 8 billion tokens.
    """
    return next((epochs for epochs in _EPOCHS if epochs * tokens >= _TOKENS_SEEN), _EPOCHS[-1])


def resolve(
    train: TrainSettings,
    masking: MaskingSettings,
    *,
    scratch: bool,
    family: str,
    hidden: int,
    device: str,
    tokens: int,
) -> Recipe:
    """Choose the settings that are left open.

    Args:
        train: settings of training.
        masking: settings of masking.
        scratch: whether the weights are new, which decides where the recipe is ``auto``.
        family: ``model_type`` of the model.
        hidden: width of its residual stream.
        device: ``cpu`` or ``cuda``.
        tokens: of one pass over the training text.
    """
    scratch = scratch if train.recipe == "auto" else train.recipe == "scratch"
    optimizer = train.optimizer.name
    if optimizer == "auto":
        optimizer = "muon" if scratch else "adamw"
    batch = train.batch_tokens or (_scratch_batch(hidden, device) if scratch else 16_384)
    micro = train.micro_batch_tokens or (65_536 if device == "cuda" else 8_192)
    ends = train.max_steps or train.minutes
    rate = _learning_rate(scratch, optimizer, family, hidden) * (_LORA_FACTOR if train.lora_rank else 1.0)
    return Recipe(
        name="scratch" if scratch else "adapt",
        optimizer=optimizer,
        learning_rate=train.optimizer.learning_rate or rate,
        schedule=_schedule(train.schedule.name, scratch),
        batch_tokens=batch,
        micro_batch_tokens=min(micro, batch),
        initial_rate=masking.initial_rate
        or (max(masking.rate, min(0.5, 2 * masking.rate)) if scratch else masking.rate),
        epochs=train.epochs if train.epochs or ends else float(default_epochs(tokens)),
        patience=train.patience if train.patience is not None else 0 if scratch else _PATIENCE,
        export_best=train.export_best if train.export_best is not None else not scratch,
    )


def _schedule(name: str, scratch: bool) -> str:
    return name if name != "auto" else "trapezoid" if scratch else "linear"


def _scratch_batch(hidden: int, device: str) -> int:
    if device == "cuda":
        return 65_536
    return 4_096 if hidden <= 384 else 8_192


def _learning_rate(scratch: bool, optimizer: str, family: str, hidden: int) -> float:
    if not scratch:
        return _ADAPT_RATES.get(family, _ADAPT_RATES["default"])
    # With Muon, AdamW trains only embeddings, head and vectors, which tolerate a higher rate.
    return _SCRATCH_RATE if optimizer == "muon" else _SCRATCH_BASE_RATE * (256 / hidden) ** 0.5
