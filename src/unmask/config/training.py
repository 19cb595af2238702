"""Settings of training: how long, how fast, how often to look and to save."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from unmask.config.base import Settings


class OptimizerSettings(Settings):
    """The optimizer and its learning rate."""

    name: Literal["auto", "adamw", "muon"] = "auto"
    """``adamw``, or ``muon`` for the hidden matrices; ``auto``: muon from scratch, adamw to adapt."""
    learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate of AdamW; by default derived from the kind of run and the model family."""
    muon_learning_rate: float = Field(0.02, gt=0)
    """Peak learning rate of Muon."""
    layer_decay: float | None = Field(None, gt=0, lt=1)
    """Factor of the learning rate from each layer to the one below it, for example 0.9: the head moves at the full rate,
    the embeddings least."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay of matrices; vectors and embeddings get none."""
    clip_norm: float = Field(1.0, gt=0)
    """The gradient is scaled down to this global norm."""


class ScheduleSettings(Settings):
    """The learning rate over the run, as shares of it."""

    name: Literal["auto", "linear", "cosine", "trapezoid", "constant"] = "auto"
    """``linear`` and ``cosine`` decay after warm-up; ``trapezoid`` stays, then decays; ``auto``: trapezoid from
    scratch, linear to adapt."""
    warmup_share: float = Field(0.06, ge=0, le=1)
    """Share of the run in which the rate rises linearly from zero."""
    decay_share: float = Field(0.4, ge=0, le=1)
    """Share of the run in which a trapezoid falls to zero."""


class TrainSettings(Settings):
    """One training run."""

    max_steps: int | None = Field(None, ge=1)
    """Stop after so many optimizer steps."""
    epochs: float | None = Field(None, gt=0)
    """Stop after so many passes over the training text (1 when nothing else says when to stop)."""
    minutes: float | None = Field(None, gt=0)
    """Stop after so many minutes of training; the learning rate follows the clock."""
    recipe: Literal["auto", "adapt", "scratch"] = "auto"
    """What decides where settings are open. ``adapt``: AdamW at the family's rate, a constant mask rate, linear decay, early
    stop, the best weights kept. ``scratch``: Muon, a falling mask rate, a trapezoid. ``auto``: adapt a checkpoint,
    scratch for a preset."""
    batch_tokens: int | None = Field(None, ge=8)
    """Tokens in one optimizer step, over all processes; by default 16,384 to adapt, less for small models
    from scratch."""
    batch_ramp: float | None = Field(None, ge=0, le=1)
    """Share of the run in which steps are smaller: a quarter of ``batch_tokens``, then a half. By default none to adapt."""
    micro_batch_tokens: int | None = Field(None, ge=8)
    """Tokens computed at once on one device; by default what suits the device. Never changes the result."""
    seed: int = Field(0, ge=0)
    """The seed of order, masks and new weights."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``auto`` measures whether bf16 pays on this machine and says which it took."""
    save_every: int | None = Field(None, ge=1)
    """Steps between checkpoints; by default ten a run."""
    keep_last: int = Field(2, ge=1)
    """Checkpoints to keep."""
    eval_every: int | None = Field(None, ge=1)
    """Steps between evaluations on held-out text; by default ten a run."""
    eval_tokens: int = Field(50_000, ge=1)
    """Held-out tokens of an evaluation during training (the final one takes four times as many)."""
    patience: int | None = Field(None, ge=0)
    """Stop after so many evaluations in a row without a lower held-out loss; 0 never stops early. By default 3 to adapt
    and 0 from scratch."""
    keep_best: bool | None = None
    """Export the weights with the lowest held-out loss instead of the last ones; by default to adapt."""
    freeze: Literal["none", "embeddings"] = "none"
    """``embeddings`` leaves them as they are, and with them an output matrix that is tied to them."""
    lora_rank: int | None = Field(None, ge=1)
    """Train LoRA adapters of this rank on the linear layers of the encoder instead of its weights (and the LM head, if
    it is new); merged into the exported model. Needs the extra ``lora``."""
    init_head_steps: int = Field(0, ge=0)
    """For a checkpoint without an LM head: steps in which only the new head moves."""
    warm_new_rows: int = Field(0, ge=0)
    """For a model of ``unmask tokenizer extend``: steps in which only the rows of the added words move."""
    max_bad_steps: int = Field(5, ge=1)
    """A step whose loss or gradient is no finite number is not applied; so many in a row end the run."""
    skip_spikes: bool = False
    """Do not apply steps whose loss lies more than 6 sigma above its running mean. On CUDA, looking costs some speed."""
    log_every: int = Field(10, ge=1)
    """Steps between rows of ``metrics.jsonl``."""
    gradient_checkpointing: bool = False
    """Recompute activations to save memory."""
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()

    @model_validator(mode="after")
    def _micro_fits(self) -> TrainSettings:
        if self.micro_batch_tokens and self.batch_tokens and self.micro_batch_tokens > self.batch_tokens:
            raise ValueError(
                f"micro_batch_tokens ({self.micro_batch_tokens}) must not exceed batch_tokens ({self.batch_tokens})"
            )
        return self

    @model_validator(mode="after")
    def _parts_that_move_agree(self) -> TrainSettings:
        if self.lora_rank and (self.optimizer.name == "muon" or self.recipe == "scratch"):
            raise ValueError(
                "lora_rank adapts a checkpoint with AdamW; leave the optimizer and the recipe on auto"
            )
        if self.warm_new_rows and (self.lora_rank or self.freeze == "embeddings"):
            other = "lora_rank" if self.lora_rank else "freeze"
            raise ValueError(
                f"warm_new_rows moves rows of the embeddings, which {other} keeps as they are; set one of them"
            )
        if self.warm_new_rows and self.init_head_steps:
            raise ValueError(
                "init_head_steps and warm_new_rows both say what moves first; set one (a new head goes before new rows)"
            )
        return self
