"""``unmask export``: write another form of a model, and keep it if it predicts held-out text as well."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unmask.data.batches import TextSource
from unmask.data.hub import offline_mode
from unmask.errors import ConfigError
from unmask.evaluation.evaluate import DEFAULTS, EvaluationSettings
from unmask.evaluation.text_cache import EvaluationText, TextInputs, sequence_length, split_as_in_training
from unmask.exporting.embeddings import EmbeddingParity, compare_embeddings
from unmask.exporting.formats import FORMATS, Format, format_named
from unmask.exporting.parity import (
    FILE,
    TOLERANCE,
    Parity,
    compare_forms,
    hashes_of,
    weight_files,
    weights_hash,
    why_refused,
)
from unmask.exporting.sentences import keep_modules
from unmask.exporting.web import write_web
from unmask.model.load import load_for_inference, load_torch, warn_of_new_head
from unmask.model.verify import verify
from unmask.progress import Progress
from unmask.reporting.card import hub_name
from unmask.reporting.export_card import exported_card
from unmask.reporting.results import Result, Rows
from unmask.run.heldout import heldout_of
from unmask.run_folder import is_model_folder, model_folder, run_of
from unmask.storage import new_folder, require_new, write_json

if TYPE_CHECKING:
    from unmask.model.base import LanguageModel
    from unmask.model.masked_lm import MaskedLM


@dataclass(frozen=True, repr=False)
class Export(Result):
    """An exported model.

    Attributes:
        folder: where it is.
        format: its name.
        megabytes: size of its weights, and of those it was made from in fp32.
        parity: the comparison of the two.
        refused: why it would have been refused, where it was kept by force.
    """

    folder: Path
    format: str
    megabytes: tuple[float, float]
    parity: Parity | EmbeddingParity
    refused: str | None = None

    def _title(self) -> str:
        return f"{self.format} in {self.folder}: {self.megabytes[0]:,.1f} MB of weights, {self.megabytes[1]:,.1f} MB in fp32"

    def to_rows(self) -> Rows:
        """Return the rows of the comparison: of accuracy and loss, or one of the embeddings."""
        return self.parity.to_rows()

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        size = dict(zip(("megabytes", "megabytes_fp32"), self.megabytes, strict=True))
        return {
            "folder": str(self.folder),
            "format": self.format,
            **size,
            "refused": self.refused,
            **self.parity.to_dict(),
        }


def export_model(
    model: str | Path | LanguageModel,
    out: str | Path,
    form: str,
    data: TextInputs = (),
    settings: EvaluationSettings = DEFAULTS,
    *,
    tolerance: float = TOLERANCE,
    force: bool = False,
    web_libraries: Path | None = None,
    progress: Progress = Progress(),
) -> Export:
    """Write a model in another form, with tokenizer, card and ``parity.json``; the folder appears complete or not at all.

    Args:
        model: Hub name, model folder, run folder or a model in memory.
        out: a folder, absent or empty.
        form: a name of :data:`~unmask.exporting.formats.FORMATS`.
        data: held-out text; by default that of the run.
        settings: masking, tokens to read and others of the comparison; with the run's own text the masks are the run's.
        tolerance: points of accuracy that a form in less than fp32 may cost.
        force: keep a form that is worse than that.
        web_libraries: for ``web``: a folder with the archives of the JavaScript libraries; by default they are downloaded.
        progress: gets progress and messages.

    Raises:
        ConfigError: the model cannot be exported so, ``out`` is not empty, there is no text, or the form is worse.
        DataError: the text cannot be used.
    """
    chosen, out = _with_libraries(format_named(form), web_libraries, settings.offline), Path(out)
    chosen.require_packages()
    require_new(out)
    if not 0 <= tolerance <= 100:
        raise ConfigError(f"the tolerance is {tolerance:g}; expected points of accuracy from 0 to 100")
    documents = split_as_in_training([model], settings.documents, progress)
    with EvaluationText(data, documents, progress) as text, new_folder(out) as folder:
        with offline_mode(settings.offline):
            original = load_torch(
                model,
                "only models in PyTorch are exported",
                device="cpu",
                offline=settings.offline,
                progress=progress,
            )
            warn_of_new_head(original.name, original.new_head, progress)
        source = _heldout(model, original, text, settings, progress)
        verify(original, progress)  # which finds how batches of it are computed
        own = _write(original, chosen, folder, _name(model, original), settings.offline, progress)
        progress.begin("compare")
        parity, refused = _compare(
            original, chosen, folder, own, source, settings.tokens, tolerance, progress
        )
        progress.end()
        if refused and not force:
            raise ConfigError(
                f"'{form}' is not written: {refused}. Use another format{'' if chosen.exact else ', a larger --tolerance'} "
                f"or --force to keep it"
            )
        if refused:
            progress.warning(f"kept because of --force: {refused}")
        sizes = _megabytes(folder), 4 * original.parameters / 1e6
        made = Export(out, form, sizes, parity, refused)
        hashes = {"model_sha256": weights_hash(model), "files": hashes_of(folder)}
        write_json(folder / FILE, _private(made) | hashes)
        base = None if isinstance(model, Path) else hub_name(model)
        card = _card(model)
        (folder / "README.md").write_text(
            exported_card(card, made.to_dict(), chosen.what, chosen.use, base, chosen.metadata),
            encoding="utf-8",
        )
    return made


def _with_libraries(form: Format, folder: Path | None, offline: bool) -> Format:
    if form is FORMATS["web"]:
        return form._replace(write=partial(write_web, libraries=folder, offline=offline))
    if folder is not None:
        raise ConfigError("web_libraries are only for the format 'web'; leave them out")
    return form


def _private(made: Export) -> dict[str, Any]:
    """Return what is written: without the place of the folder."""
    return {name: value for name, value in made.to_dict().items() if name != "folder"}


def _name(model: str | Path | LanguageModel, loaded: MaskedLM) -> str:
    """Return where a model comes from, or nothing."""
    return str(model) if isinstance(model, str | Path) else str(loaded.model.config.name_or_path)


def _write(model: MaskedLM, form: Format, folder: Path, name: str, offline: bool, progress: Progress) -> bool:
    """Write all files but the card; return whether the model's own modules for sentence-transformers are among them."""
    model.model.config.save_pretrained(folder)
    tokenizer = model.tokenizer
    before, tokenizer.model_max_length = tokenizer.model_max_length, model.max_length
    try:
        tokenizer.save_pretrained(folder)
    finally:
        tokenizer.model_max_length = before
    own = form.pooling is not None and keep_modules(
        name, form.pooling, folder, offline=offline, progress=progress
    )
    form.write(model, folder)
    return own


def _compare(
    model: MaskedLM,
    form: Format,
    folder: Path,
    own: bool,
    source: TextSource,
    most: int | None,
    tolerance: float,
    progress: Progress,
) -> tuple[Parity | EmbeddingParity, str | None]:
    """Return how the form differs, and why it is refused, if it is."""
    if form.pooling:
        embeddings = compare_embeddings(model, folder, form.pooling, own, source, most, progress)
        return embeddings, embeddings.why_refused()
    exported = load_for_inference(folder, device="cpu", offline=True)
    parity = compare_forms(model, exported, source, most, progress)
    return parity, why_refused(parity, form.exact, tolerance)


def _heldout(
    model: str | Path | LanguageModel,
    loaded: MaskedLM,
    text: EvaluationText,
    settings: EvaluationSettings,
    progress: Progress,
) -> TextSource:
    """Return the text that is given, or that of the run."""
    if text.inputs:
        corpus = text.corpus(loaded.tokenizer)
        length = sequence_length(settings.max_length, [loaded.max_length])
        return TextSource(corpus, np.arange(len(corpus)), loaded.vocabulary, settings.masking, length)
    run = run_of(str(model)) if isinstance(model, str | Path) else None
    own = heldout_of(run, loaded, progress) if run else None
    if own is None:
        raise ConfigError(
            "no held-out text to compare the exported model on; give text that the model was not trained on with --data"
        )
    return own


def _card(model: str | Path | LanguageModel) -> str | None:
    """Return the card of the model, if it has one on this machine."""
    if not is_model_folder(model):
        return None
    path = Path(model_folder(str(model)), "README.md")
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in weight_files(folder)) / 1e6
