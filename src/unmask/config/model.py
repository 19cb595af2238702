"""Settings of the model: which checkpoint or preset, and how it is loaded."""

from __future__ import annotations

from pydantic import Field

from unmask.config.base import Settings


class ModelSettings(Settings):
    """Which model is trained, and with which tokenizer."""

    name: str | None = None
    """Checkpoint to adapt: a Hub name (``name@revision`` pins one) or a local folder."""
    preset: str | None = None
    """Architecture to train from scratch, for example ``bert-mini`` or ``modernbert-tiny``."""
    tokenizer: str | None = None
    """Hub name or folder of the tokenizer; by default the checkpoint's, or one trained on the data."""
    vocab_size: int = Field(8192, ge=100)
    """Entries of a tokenizer that is trained on the data (only used with a preset)."""
    dropout: float | None = Field(0.0, ge=0.0, lt=1.0)
    """Dropout while training; ``null`` keeps the checkpoint's own. The saved config is left as it was."""
    offline: bool = False
    """Make no network call; everything must be on this machine already."""
