"""Settings of the probe and of fine-tuning."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import model_validator

from unmask.config.settings import Settings
from unmask.errors import ConfigError

Method = Literal["frozen", "finetune", "both"]
Pool = Literal["mean", "cls"]


class FineTuningSettings(Settings):
    """How an encoder is fine-tuned."""

    epochs: int = 3
    """Passes over the training examples."""
    batch: int = 16
    """Examples per step, on average: steps have equal numbers of tokens."""
    patience: int | None = None
    """End after so many epochs in a row without a better metric on dev examples, or on a fifth of train, and take the weights
    of the best epoch. By default all epochs are trained on all of train, and the last weights are taken."""
    learning_rate: float | None = None
    """Peak learning rate of the encoder; that of the new head is ten times as high. By default 5e-5 for hidden size 768,
    and more for a narrower model."""


class EncoderSettings(Settings):
    """How texts become vectors, and how many are used.

    Raises:
        ConfigError: a value that cannot work.
    """

    limit: int | None = None
    """Training examples at most, or queries of a retrieval task, the same ones for every seed and model."""
    pool: Pool = "mean"
    """A text as the ``mean`` over its tokens, or the vector of its first one (``cls``)."""
    max_length: int | None = None
    """Tokens of a sequence; by default what the model takes."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; of a model in memory its own device."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the computation; of a model in memory its own."""
    offline: bool = False
    """Make no network call."""

    @model_validator(mode="before")
    @classmethod
    def _known_choices(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name, choices in (("method", get_args(Method)), ("pool", get_args(Pool))):
            if values.get(name, choices[0]) not in choices:
                raise ConfigError(f"{name} is '{values[name]}', expected one of {', '.join(choices)}")
        if values.get("limit") is not None and values["limit"] < 1:
            raise ConfigError(f"limit is {values['limit']}, expected 1 or more")
        return values


class ProbeSettings(EncoderSettings):
    """How models are probed.

    Raises:
        ConfigError: a value that cannot work.
    """

    method: Method = "frozen"
    """``frozen`` (logistic regression on the features of the frozen encoder), ``finetune``, or ``both``."""
    seeds: int = 5
    """Repetitions, with seeds 0 to ``seeds - 1``. A seed resamples the training examples with replacement for the frozen
    probe; in fine-tuning it changes the new head, the order of examples and dropout."""
    metric: str | None = None
    """The metric of intervals and verdicts, and by which the regularisation is chosen; by default that of the task."""
    tuning: FineTuningSettings = FineTuningSettings()
    """Epochs, batch size and learning rate of fine-tuning."""
    allow_overlap: bool = False
    """Report although test texts occur in train."""
    drop_overlap: bool = False
    """Remove such texts from train."""

    @model_validator(mode="after")
    def _enough(self) -> ProbeSettings:
        if self.seeds < 1 or (self.limit is not None and self.limit < 2):
            raise ConfigError("a probe needs at least one seed and two training examples")
        if self.tuning.epochs < 1 or self.tuning.batch < 1:
            raise ConfigError("fine-tuning needs at least one epoch and one example per step")
        if self.tuning.patience is not None and self.tuning.patience < 1:
            raise ConfigError(f"patience is {self.tuning.patience}, expected 1 epoch or more")
        return self

    @property
    def methods(self) -> tuple[str, ...]:
        return ("frozen", "finetune") if self.method == "both" else (self.method,)
