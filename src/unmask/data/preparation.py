"""Preparation: text is tokenised once, into the shards of a corpus."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unmask.config.settings import DocumentSettings
from unmask.data.corpus import Corpus, is_corpus, open_corpus
from unmask.data.parts import Plan, Stage, Written, join, make_plan, write_part
from unmask.data.reading.documents import DocumentReader
from unmask.data.reading.errors import ReadStats
from unmask.data.reading.inputs import StdinInput, as_list, describe_inputs
from unmask.data.special_tokens import unknown_id
from unmask.data.task import keeper, stages_of
from unmask.data.tokenizer import TextEncoder, tokenizer_hash
from unmask.data.unknown import UnknownTokens, require_known
from unmask.errors import ConfigError, DataError, plural, require_packages
from unmask.machine import cores
from unmask.progress import Progress
from unmask.storage import partial_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Executor = Literal["local", "slurm", "ray"]
Duplicates = Literal["exact", "near"]


def prepare(
    inputs: str | Path | Iterable[str | Path],
    settings: DocumentSettings,
    tokenizer: PreTrainedTokenizerBase,
    out: str | Path,
    *,
    described: list[dict[str, str | int]] | None = None,
    deduplicate: Duplicates | None = None,
    executor: Executor | None = None,
    tasks: int | None = None,
    verify: bool = True,
    progress: Progress = Progress(),
) -> Corpus:
    """Tokenise documents into shards, or open the shards that the same inputs gave before.

    Text is read while the last batch is tokenised; memory is bounded by a shard and a few batches of text. The folder
    ``out`` appears complete or not at all; of a large text, the parts that are whole are kept for the next call.

    Args:
        described: fingerprint of the inputs; by default their names, sizes and times.
        deduplicate: leave out the documents that occur before, as they are or nearly so; see
            :mod:`unmask.data.deduplication`.
        executor: what runs tasks that share the work: this machine (also where only ``tasks`` is given), Slurm or Ray.
            The shards are the same for any number of tasks.
        tasks: how many; on this machine by default one a core.
        verify: compare shards that there are with their checksums.

    Raises:
        ConfigError: the executor cannot be used.
        DataError: the text cannot be read or is empty, a fifth of its tokens are unknown (unless
            ``settings.allow_unknown``), or ``out`` is a folder of other files.
    """
    out = Path(out)
    tasks = _tasks(executor, tasks)
    names = [str(item) for item in as_list(inputs)]
    fingerprint = _fingerprint(described or describe_inputs(names), settings, tokenizer)
    require_task_packages(deduplicate, executor, tasks)
    if deduplicate:
        fingerprint["deduplicate"] = deduplicate
    what = ", ".join(names)[:200]
    work = partial_folder(out)
    if is_corpus(out):
        corpus = _reuse(out, fingerprint, settings.strict, verify, progress)
        require_known(corpus.unknown(tokenizer), what, settings.allow_unknown, progress)
        shutil.rmtree(work, ignore_errors=True)
        return corpus
    if out.exists() and any(out.iterdir()):
        raise DataError("the folder is not empty and holds no shards; choose another, or empty it", path=out)
    reader = DocumentReader(names, settings, progress=progress)
    if (tasks or deduplicate) and any(isinstance(item, StdinInput) for item in reader.inputs):
        raise ConfigError(
            "standard input is read once, by one process: save it to a file, or leave out --executor, --tasks and --deduplicate"
        )
    plan = make_plan(work, reader, fingerprint, len(tokenizer))
    with _kept_whole(plan, progress):
        plan.save(tokenizer)
        for stage in stages_of(plan, lambda part: None)[: None if tasks else -1]:
            _run(plan, stage, executor, tasks, progress)
        written = _write(plan, reader, tokenizer, progress)
        reader.finish(written.read)
        require_known(written.unknown, what, settings.allow_unknown, progress)
        join(plan, written, out)
    # Strict: parts that were kept may be of a call that was not.
    return open_corpus(out, verify=False, strict=settings.strict)


@contextmanager
def _kept_whole(plan: Plan, progress: Progress) -> Iterator[None]:
    """Where the block fails, keep what is whole of several parts, and what tasks said; remove the rest."""
    try:
        yield
    except BaseException as error:
        several = len(plan.parts) > 1
        whole = sum(1 for part in range(len(plan.parts)) if plan.record(part)) if several else 0
        if whole or (several and any(plan.folder.glob("duplicates/*.done"))):
            again = "the same command goes on"
            progress.log(
                f"what is whole ({whole:,} of {plural(len(plan.parts), 'part')}) is kept in {plan.folder}"
                + ("" if again in str(error) else f"; {again} from there")
            )
        elif isinstance(error, ConfigError) or not any(plan.folder.glob("logs/*")):
            shutil.rmtree(plan.folder, ignore_errors=True)
        raise


def _tasks(executor: Executor | None, tasks: int | None) -> int | None:
    """Return the number of tasks, ``None`` for this process alone.

    Raises:
        ConfigError: there is none.
    """
    if executor is None and tasks is None:
        return None
    executor = executor or "local"
    if tasks is None and executor != "local":
        raise ConfigError(
            f"the executor '{executor}' needs a number of tasks; give one with --tasks (in Python tasks)"
        )
    return cores() if tasks is None else tasks


def require_task_packages(
    deduplicate: Duplicates | None, executor: Executor | None, tasks: int | None
) -> None:
    """Refuse what needs a package that is not installed, before any work.

    Raises:
        MissingExtra: one is needed and not installed.
    """
    if deduplicate:
        require_packages(["datatrove"], "cluster", "'--deduplicate'")
    if executor or tasks is not None:
        needed = ["datatrove", "ray"] if executor == "ray" else ["datatrove"]
        require_packages(needed, "cluster", f"'--executor {executor or 'local'}'")


def _run(plan: Plan, stage: Stage, executor: Executor | None, tasks: int | None, progress: Progress) -> None:
    """Do a stage in tasks, or here."""
    if tasks:
        from unmask.data.cluster import run_tasks

        run_tasks(plan, stage, executor or "local", tasks, progress)
        return
    progress.begin(stage.phase)
    for number in stage.missing():
        stage.run(number)
        progress.advance((number + 1) / stage.count, {stage.unit: number + 1})
    progress.end()


def _write(
    plan: Plan, reader: DocumentReader, tokenizer: PreTrainedTokenizerBase, progress: Progress
) -> Written:
    """Write the parts that are missing, and return what all of them hold."""
    encode, kept = TextEncoder(tokenizer), keeper(plan)
    written = Written(UnknownTokens(unknown_id(tokenizer)), ReadStats(**deepcopy(plan.stats)))

    def tell(documents: int, tokens: int) -> None:
        done = written.counts
        progress.advance(
            None, {"documents": done["documents"] + documents, "tokens": done["tokens"] + tokens}
        )

    found = [plan.record(part) for part in range(len(plan.parts))]
    if all(found):  # by tasks, which have said so
        progress = Progress()
    progress.begin("prepare")
    for part, record in enumerate(found):
        written.add(record or write_part(plan, part, reader, encode, kept=kept, tell=tell))
    progress.end()
    return written


def _fingerprint(
    inputs: list[dict[str, str | int]], settings: DocumentSettings, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Return what determines the content of shards."""
    return {
        "inputs": inputs,
        "tokenizer_sha256": tokenizer_hash(tokenizer),
        "settings": _content_settings(settings),
    }


def _content_settings(settings: DocumentSettings) -> dict[str, Any]:
    """Return the settings that determine what is read; the others say what stops the reading."""
    known = set(DocumentSettings.model_fields) - {"strict", "skip_unreadable", "allow_unknown", "offline"}
    return settings.model_dump(include=known)


def _reuse(out: Path, fingerprint: dict[str, Any], strict: bool, verify: bool, progress: Progress) -> Corpus:
    corpus = open_corpus(out, verify=verify, strict=strict)
    made = corpus.manifest | {"settings": _content_settings(DocumentSettings(**corpus.manifest["settings"]))}
    for part in (*fingerprint, "deduplicate"):
        if made.get(part) != fingerprint.get(part):
            name = {"tokenizer_sha256": "tokenizer", "deduplicate": "settings"}.get(part, part)
            raise DataError(
                f"the folder holds shards made from other {name}; choose another folder, or delete this one",
                path=out,
            )
    progress.log(
        f"reusing {plural(corpus.tokens, 'token')} of {plural(len(corpus), 'document')} prepared before in {out}"
    )
    return corpus
