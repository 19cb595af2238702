"""``forecast``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.api.options import MASKING, READING, sections
from unmask.api.progress import ProgressLike
from unmask.api.texts import Text, text_files

if TYPE_CHECKING:
    from unmask.forecasting.forecast import Forecast

_OPTIONS = (
    *READING, *MASKING, "allow_unknown", "max_length", "batch_tokens", "learning_rate", "device", "precision", "seed",
)  # fmt: skip


def forecast(
    text: Text,
    *,
    model: str | Path,
    minutes: float = 5.0,
    general: Text = None,
    heldout: Text = None,
    replay_share: float | None = None,
    plan: str | Path | None = None,
    offline: bool = False,
    progress: ProgressLike = None,
    **options: Any,
) -> Forecast:
    """Forecast what adapting a model to a text would bring with 10 and 100 times the tokens of short probing runs.

    Args:
        text: paths, or texts in memory.
        model: the checkpoint to adapt: Hub name, model folder or run folder.
        minutes: limit of all probing runs together.
        general: general text: a share measures forgetting, the rest is replayed; without it forgetting is unknown.
        heldout: text to evaluate on; by default 5% of the documents.
        replay_share: share of general text in the run that is planned; by default the best is sought.
        plan: the JSON of an earlier forecast, whose probing runs are repeated.
        offline, progress: as for :func:`unmask.load`.
        options: ``batch_tokens``, ``learning_rate``, ``max_length``, ``mask_rate``, ``strategy``, ``seed``, ``device``, ``precision``,
            ``documents``, ``text_field`` and others that say how text is read; ``config``.

    Raises:
        ConfigError: settings that cannot work, a model without an LM head, or too few minutes.
        DataError: the text cannot be used, or is too small.
        DivergedError: the loss became NaN or infinite.
    """
    from unmask.forecasting.forecast import forecast as make_forecast

    config = sections(options, _OPTIONS, offline)
    with text_files(progress, offline, config.data.text_field) as files:
        texts = {"inputs": files.inputs(text)}
        if general is not None:
            texts["replay"] = files.inputs(general, "general")
        if heldout is not None:
            texts["heldout"] = files.inputs(heldout, "heldout")
        data = config.data.model_copy(update=texts)
        named = config.model.model_copy(update={"name": str(model)})
        return make_forecast(
            config.model_copy(update={"data": data, "model": named}),
            minutes=minutes,
            plan=plan,
            replay_share=replay_share,
            progress=files.progress,
        )
