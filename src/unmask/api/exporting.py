"""``export`` and ``push``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.api.evaluation import named_or_loaded, settings_of
from unmask.api.progress import ProgressLike, shown
from unmask.api.texts import Text, text_files
from unmask.api.wording import without_files

if TYPE_CHECKING:
    from unmask.api.model import ModelLike
    from unmask.exporting.export import Export
    from unmask.exporting.push import Push


def export(
    model: ModelLike,
    out: str | Path,
    format: str,
    data: Text = None,
    *,
    tolerance: float = 0.5,
    force: bool = False,
    web_libraries: str | Path | None = None,
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
        format: a name of :data:`unmask.exporting.formats.FORMATS`, such as ``onnx``; ``unmask export --help`` lists them.
        data: held-out text: paths, a folder of :func:`unmask.prepare`, or texts in memory; by default that of the run.
        tolerance: points of accuracy that a form in less than fp32 may cost. In fp32 log-probabilities must agree
            within 1e-4.
        force: keep a form that is worse.
        web_libraries: for ``web``: a folder with the archives of the JavaScript libraries; by default they are downloaded.
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
                web_libraries=None if web_libraries is None else Path(web_libraries),
                progress=files.progress,
            )
        )


def push(
    model: str | Path,
    repository: str,
    export: str | Path | Sequence[str | Path] = (),
    *,
    private: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
    offline: bool = False,
    progress: ProgressLike = None,
) -> Push:
    """Upload a model to the Hugging Face Hub in one commit: weights, tokenizer, card, and exported forms of it.

    Args:
        model: a run folder or a model folder.
        repository: ``org/name``; it is made if there is none.
        export: a folder that :func:`unmask.export` wrote in ONNX or OpenVINO, or several.
        private: make a new repository private; one that is public is refused.
        revision: a branch, made if there is none; by default ``main``.
        dry_run: check everything and upload nothing, without a network call.
        offline: make no network call: only a dry run works.
        progress: as for :func:`unmask.load`.

    Raises:
        ConfigError: a name, folder or the card cannot be used, or the Hub refuses or cannot be reached.
        UnmaskError: the Hub lacks a file after the commit.
    """
    from unmask.exporting.push import push_model

    forms = [export] if isinstance(export, str | Path) else export
    with shown(progress, offline) as listener:
        return push_model(
            model, repository, forms, private=private, revision=revision, dry_run=dry_run, progress=listener
        )
