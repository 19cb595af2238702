"""``export``: other forms of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.api.evaluation import named_or_loaded, settings_of
from unmask.api.progress import ProgressLike
from unmask.api.texts import Text, text_files
from unmask.api.wording import without_files

if TYPE_CHECKING:
    from unmask.api.model import ModelLike
    from unmask.exporting.export import Export


def export(
    model: ModelLike,
    out: str | Path,
    format: str,
    data: Text = None,
    *,
    tolerance: float = 0.5,
    force: bool = False,
    tokens: int | None = None,
    max_length: int | None = None,
    offline: bool = False,
    progress: ProgressLike = None,
    **options: Any,
) -> Export:
    """Write a model in another form, with its tokenizer, a card and ``parity.json``, and compare the two on held-out text.

    Args:
        model: by name, folder, run folder or in memory.
        out: the folder to write, absent or empty; it appears complete or not at all.
        format: ``onnx``, ``onnx-int8``, ``fp16`` or ``bf16``.
        data: held-out text: paths, a folder of :func:`unmask.prepare`, or texts in memory; by default that of the run.
        tolerance: points of accuracy that a form in less than fp32 may cost. In fp32 log-probabilities must agree
            within 1e-4.
        force: keep a form that is worse.
        tokens: tokens to read at most; by default all.
        max_length: tokens of a sequence; by default 512, or what the model takes if that is less.
        offline, progress: as for :func:`unmask.load`.
        options: ``mask_rate``, ``strategy``, ``documents``, ``text_field``.

    Raises:
        ConfigError: the model cannot be exported so, the form is worse, or there is no text.
        DataError: the text cannot be used.
    """
    from unmask.exporting.export import export_model

    settings = settings_of(options, tokens=tokens, max_length=max_length, offline=offline)
    with text_files(progress, offline, settings.documents.text_field) as files:
        inputs = [] if data is None else files.inputs(data, "data")
        return without_files(
            export_model(
                named_or_loaded(model),
                out,
                format,
                inputs,
                settings,
                tolerance=tolerance,
                force=force,
                progress=files.progress,
            )
        )
