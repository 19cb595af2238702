"""The texts of a run: opened or prepared, and split into what is trained on and what is held out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unmask.config.settings import DataSettings
from unmask.data.batches import TextSource
from unmask.data.corpus import (
    Corpus,
    given_shards,
    is_corpus,
    open_corpus,
    require_made_by,
)
from unmask.data.document_set import DocumentSet
from unmask.data.heldout_size import PART, least_held_out
from unmask.data.masking.units import MaskingPlan
from unmask.data.preparation import prepare
from unmask.data.reading.errors import are_whole_files
from unmask.data.split import is_held_out, split_documents
from unmask.data.verification import Verification
from unmask.errors import plural
from unmask.model.masked_lm import MaskedLM
from unmask.progress import Progress
from unmask.run_folder import HELDOUT_SHARDS, RunFolder
from unmask.training.distributed import World


@dataclass(frozen=True)
class RunTexts:
    """The texts of a run.

    Attributes:
        text: the training text.
        heldout: the text of evaluations, or ``None`` where there is too little text.
        replay: general text that is mixed into training, if any.
        general: general text to measure forgetting on, if any.
    """

    text: TextSource
    heldout: TextSource | None
    replay: TextSource | None = None
    general: TextSource | None = None


def open_texts(
    data: DataSettings,
    masking: MaskingPlan,
    model: MaskedLM,
    length: int,
    folder: RunFolder,
    world: World,
    progress: Progress,
    verification: Verification | None = None,
) -> RunTexts:
    """Open or prepare all texts of a run, and set aside what is held out."""

    def source(corpus: Corpus, documents: DocumentSet | None = None) -> TextSource:
        return TextSource(corpus, documents, model.vocabulary, masking, length, data.overlap)

    def whole(inputs: list[str], name: str, data: DataSettings = data) -> TextSource:
        corpus = _open_corpus(inputs, data, folder.root / name, model, world, progress, verification)
        return source(corpus)

    def split(inputs: list[str], name: str, what: str) -> tuple[TextSource, TextSource | None]:
        corpus = _open_corpus(inputs, data, folder.root / name, model, world, progress, verification)
        train, heldout = split_documents(corpus, data.heldout_share, least_held_out(data))
        _log_split(corpus, heldout, data.heldout_share, what, progress)
        return source(corpus, train), None if heldout is None else source(corpus, heldout)

    replay = general = None
    if data.heldout:
        text: TextSource = whole(data.inputs, folder.shards.name)
        heldout: TextSource | None = whole(data.heldout, HELDOUT_SHARDS, _split_alike(data, text.corpus))
    else:
        text, heldout = split(data.inputs, folder.shards.name, "the text")
    if data.replay and data.forgetting_eval:
        replay = whole(data.replay, "shards-replay")
    elif data.replay:
        replay, general = split(data.replay, "shards-replay", "the general text")
    if data.forgetting_eval:
        general = whole(data.forgetting_eval, "shards-general")
    return RunTexts(text, heldout, replay, general)


def _split_alike(data: DataSettings, corpus: Corpus) -> DataSettings:
    """Return settings by which other text is split as this was, where a document is a file by ``auto``."""
    are_files = data.documents == "auto" and are_whole_files(corpus.manifest["read"])
    return data.model_copy(update={"documents": "file"}) if are_files else data


def _log_split(
    corpus: Corpus, heldout: DocumentSet | None, share: float, what: str, progress: Progress
) -> None:
    """Log what is held out where it is not simply the share."""
    if heldout is None:
        progress.log(
            f"{what} is a single document or copies of one, so nothing is held out and nothing can be evaluated"
        )
    elif len(heldout) > (by_share := len(corpus.where(lambda keys: is_held_out(keys, share)))):
        tokens = sum(int(corpus.lengths[block].sum()) for block in heldout.blocks())
        progress.log(
            f"{plural(len(heldout), 'document')} of the {len(corpus):,} of {what} are held out, with {tokens / max(1, corpus.tokens):.0%} "
            f"of its tokens: {share:.0%} of the documents would be {by_share:,}, too few for an interval; --set data.heldout_minimum=N sets how many, up to one in {PART}"
        )


def with_targets(text: TextSource | None, tokens: int, what: str, progress: Progress) -> TextSource | None:
    """Return a text if its first ``tokens`` have a target."""
    if text is None:
        return None
    if text.has_targets(tokens):
        return text
    progress.warning(f"nothing is evaluated: {text.why_no_target(what)}")
    return None


def _open_corpus(
    inputs: list[str],
    data: DataSettings,
    out: Path,
    model: MaskedLM,
    world: World,
    progress: Progress,
    verification: Verification | None,
) -> Corpus:
    """Open the shards that are given, or prepare the text in ``out``, in one process for all that see it."""

    def watched(corpus: Corpus, *, start: bool) -> Corpus:
        if verification is not None:
            verification.add(corpus.folder, corpus.manifest["files"], start=start)
        return corpus

    shards, at_once = given_shards(inputs, progress), verification is None
    if shards is not None:
        reads = world.size == 1 or world.first_of_host  # reading all of a large text takes long
        corpus = watched(open_corpus(shards, verify=reads and at_once, strict=data.strict), start=reads)
        require_made_by(model.tokenizer, corpus, allow_unknown=data.allow_unknown, progress=progress)
        return corpus

    def prepared() -> Corpus:
        before = is_corpus(out)
        corpus = prepare(inputs, data, model.tokenizer, out, verify=at_once, progress=progress)
        return watched(corpus, start=True) if before else corpus

    found = world.leader_first(prepared, f"preparing {out.name}")
    return found if found is not None else watched(open_corpus(out, verify=False), start=False)
