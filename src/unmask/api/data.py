"""``check``, ``prepare``, the tokenizers and ``bench``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from unmask.api.options import READING, sections
from unmask.api.progress import ProgressLike
from unmask.api.texts import Text, text_files
from unmask.api.wording import in_python, without_files
from unmask.config.options import TOKENIZER_OPTIONS
from unmask.errors import ConfigError
from unmask.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from unmask.api.model import ModelLike
    from unmask.benchmark.bench import Bench
    from unmask.benchmark.uses import ModelSpeeds
    from unmask.checking.results import DataCheck
    from unmask.data.corpus import Corpus
    from unmask.data.preparation import Duplicates, Executor
    from unmask.vocabulary.extend import ExtendedVocabulary
    from unmask.vocabulary.trim import TrimmedVocabulary

    TokenizerLike = str | Path | PreTrainedTokenizerBase


def check(
    text: Text,
    *,
    model: ModelLike | None = None,
    test: Text = None,
    max_length: int | None = None,
    offline: bool = False,
    progress: ProgressLike = None,
    **options: Any,
) -> DataCheck:
    """Check text before training: errors, duplicates, test text in it, length, vocabulary, and what to do next.

    Args:
        text: paths, or texts in memory.
        model: the model to be adapted, whose tokenizer and speed are measured.
        test: test text that must not occur in ``text``.
        max_length: tokens of a sequence; by default 512, or what the model takes if that is less.
        offline, progress: as for :func:`unmask.load`.
        options: ``documents``, ``text_field``.

    Raises:
        DataError: nothing could be read.
        ConfigError: the model cannot be loaded, or an option does not work.
    """
    from unmask.checking.check import check_data
    from unmask.checking.findings import findings_of

    settings = sections(options, READING, offline).data
    with text_files(progress, offline, settings.text_field) as files:
        found = without_files(
            check_data(
                files.inputs(text),
                settings,
                model=None if model is None else _name_of(model),
                test=[] if test is None else files.inputs(test, "test"),
                max_length=max_length,
                offline=offline,
                progress=files.progress,
            )
        )
    findings = findings_of(found.to_dict())  # without the names of temporary files
    found.findings = [replace(finding, text=in_python(finding.text)) for finding in findings]
    found.plan["time_from"] = in_python(found.plan["time_from"])
    found.plan["commands"] = [command.replace("<text>", "TEXT") for command in found.plan["commands"]]
    return found


def prepare(
    text: Text,
    out: str | Path,
    *,
    model: ModelLike | None = None,
    tokenizer: TokenizerLike | None = None,
    deduplicate: Duplicates | None = None,
    executor: Executor | None = None,
    tasks: int | None = None,
    offline: bool = False,
    progress: ProgressLike = None,
    **options: Any,
) -> Corpus:
    """Tokenise text once, into shards in the folder ``out`` that :func:`unmask.train` and others take as text.

    Args:
        text: paths, or texts in memory.
        out: the folder or URL to write; shards of the same text that are there already are opened.
        model, tokenizer: whose tokenizer is used; one of them.
        deduplicate: leave out documents that are an ``exact`` or a ``near`` duplicate of one that is kept; they are
            counted in ``manifest["duplicates"]`` (extra ``cluster``).
        executor: ``local``, ``slurm`` or ``ray``: what runs tasks that share the work (extra ``cluster``); the shards
            are the same.
        tasks: how many tasks; on this machine by default one a core.
        offline, progress: as for :func:`unmask.load`.
        options: ``documents``, ``text_field``, ``strict``, ``allow_unknown``.

    Raises:
        DataError: the text cannot be used, or ``out`` holds something else.
        ConfigError: there is no tokenizer, or it cannot be loaded; or the executor cannot be used.
        Interrupted: a task was killed; the same call goes on with the parts that are missing.
    """
    from unmask.data.preparation import prepare as write_shards
    from unmask.data.preparation import require_task_packages
    from unmask.data.published import prepare_at
    from unmask.remote.systems import is_url
    from unmask.storage import sha256

    require_task_packages(deduplicate, executor, tasks)
    settings = sections(options, (*READING, "allow_unknown"), offline).data
    with text_files(progress, offline, settings.text_field) as files:
        loaded = tokenizer_of(tokenizer if tokenizer is not None else model, offline, files.progress)
        inputs = files.inputs(text)
        described: list[dict[str, str | int]] | None = None
        if files.written:  # a temporary file has another name each time
            described = [{"input": "<text>", "sha256": sha256(Path(inputs[0]))}]
        shared: dict[str, Any] = {"executor": executor, "tasks": tasks, "deduplicate": deduplicate}
        write: Callable[[Path], Corpus] = partial(
            write_shards, inputs, settings, loaded, described=described, progress=files.progress, **shared
        )
        return prepare_at(str(out), write, files.progress) if is_url(out) else write(Path(out))


def train_tokenizer(
    text: Text,
    *,
    vocab_size: int,
    out: str | Path | None = None,
    offline: bool = False,
    progress: ProgressLike = None,
    **options: Any,
) -> PreTrainedTokenizerBase:
    """Train a tokenizer on text; what it loses of the text is logged.

    Args:
        text: paths, or texts in memory.
        vocab_size: entries of the vocabulary.
        out: a folder to save it in.
        offline, progress: as for :func:`unmask.load`.
        options: ``kind`` (``wordpiece``, ``byte-level-bpe`` or ``unigram``), ``case``, ``accents`` and ``normal_form``
            (see :class:`unmask.ModelSettings`); ``documents``, ``text_field``, ``strict``.

    Raises:
        DataError: there is no text.
        ConfigError: an option does not work.
    """
    from unmask.data.reading.documents import DocumentReader
    from unmask.remote.systems import refuse_url
    from unmask.vocabulary.new_tokenizer import train_tokenizer as train_on

    refuse_url(out, "out")
    config = sections(options | {"vocab_size": vocab_size}, (*READING, *TOKENIZER_OPTIONS), offline)
    with text_files(progress, offline, config.data.text_field) as files:
        reader = DocumentReader(files.inputs(text), config.data, progress=files.progress)
        trained = train_on((document.text for document in reader), config.model)
        trained.log(files.progress)
    if out is not None:
        trained.tokenizer.save_pretrained(Path(out))
    return trained.tokenizer


def extend_tokenizer(
    text: Text = None,
    *,
    model: ModelLike,
    out: str | Path,
    words: Text = None,
    general: Text = None,
    add: int = 1000,
    min_count: int = 5,
    offline: bool = False,
    progress: ProgressLike = None,
    **options: Any,
) -> ExtendedVocabulary:
    """Add listed words, and the words of a text that save the most tokens, to a model and its tokenizer.

    Both are written to ``out``.

    Args:
        text: paths, or texts in memory; may be left out where ``words`` is given.
        model: Hub name or folder, or what :func:`unmask.load` made of one.
        out: the folder to write, absent or empty.
        words: words to add in any case: a list, or the path of a text file with one on each line. The result says which
            cannot be added (``left_out``).
        general: general text; words count the more, the likelier they are in ``text`` than there.
        add: words of ``text`` to add, at most; 0 where only ``words`` are wanted.
        min_count: occurrences of a chosen word in the text, at least.
        offline, progress: as for :func:`unmask.load`.
        options: ``documents``, ``text_field``, ``strict``.

    Raises:
        ConfigError, DataError: the model, the folder or the text cannot be used.
    """
    from unmask.vocabulary.extend import extend_vocabulary

    settings = sections(options, READING, offline).data
    with text_files(progress, offline, settings.text_field) as files:
        return extend_vocabulary(
            _name_of(model),
            [] if text is None else files.inputs(text),
            Path(out),
            words=[] if words is None else files.inputs(words, "words"),
            general=[] if general is None else files.inputs(general, "general"),
            add=add,
            min_count=min_count,
            settings=settings,
            offline=offline,
            progress=files.progress,
        )


def trim_tokenizer(
    model: ModelLike,
    data: Text,
    *,
    out: str | Path,
    keep: float = 0.999,
    offline: bool = False,
    progress: ProgressLike = None,
    **options: Any,
) -> TrimmedVocabulary:
    """Write a model without the vocabulary entries that a text uses least, and its tokenizer, to ``out``.

    Text whose tokens are all kept has the same tokens and logits as before.

    Args:
        model: Hub name or folder, or what :func:`unmask.load` made of one.
        data: paths, or texts in memory, of the kind that the model is for.
        out: the folder to write, absent or empty.
        keep: share of the tokens of ``data`` whose entries are kept at least; 1 keeps all that occur.
        offline, progress: as for :func:`unmask.load`.
        options: ``documents``, ``text_field``, ``strict``.

    Raises:
        ConfigError, DataError: the model, the folder or the text cannot be used, or nothing can be dropped.
    """
    from unmask.vocabulary.trim import trim_vocabulary

    settings = sections(options, READING, offline).data
    with text_files(progress, offline, settings.text_field) as files:
        return trim_vocabulary(
            _name_of(model),
            files.inputs(data),
            Path(out),
            keep=keep,
            settings=settings,
            offline=offline,
            progress=files.progress,
        )


@overload
def bench(text: Text = None, *, models: None = None, **options: Any) -> Bench: ...
@overload
def bench(text: Text = None, *, models: ModelLike | Sequence[ModelLike], **options: Any) -> ModelSpeeds: ...
def bench(
    text: Text = None,
    *,
    models: ModelLike | Sequence[ModelLike] | None = None,
    model: ModelLike | None = None,
    preset: str | None = None,
    seconds: float = 20.0,
    offline: bool = False,
    progress: ProgressLike = None,
    **options: Any,
) -> Bench | ModelSpeeds:
    """Measure how fast this machine trains, masks and prepares text; or with ``models``, how fast these are.

    Args:
        text: text to measure with; by default the documentation of this Python installation.
        models: models, or forms of one, to compare with the first of them: texts filled, embedded and scored a second.
        model, preset: what to train; by default the preset ``modernbert-mini``.
        seconds: seconds of training to measure, or of each of ``models``.
        offline, progress: as for :func:`unmask.load`.
        options: ``tokenizer``, ``device``, ``precision``, ``batch_tokens``, ``max_length``; with ``models``
            ``device`` and ``precision``.

    Raises:
        ConfigError, DataError: a model or the text cannot be used.
    """
    known = ("tokenizer", "device", "precision", "batch_tokens", "max_length")
    if models is not None:
        if model is not None or preset is not None:
            raise ConfigError("models= are compared, model= or preset= is trained; give one of the two")
        return _bench_models(models, text, seconds, offline, progress, options)
    from unmask.benchmark.bench import run_bench

    sections(options, known)
    with text_files(progress, offline) as files:
        values = options | {
            "text": None if text is None else files.inputs(text),
            "model": None if model is None else _name_of(model),
            "preset": preset or (None if model else "modernbert-mini"),
        }
        return run_bench(sections(values, values, offline), seconds=seconds, progress=files.progress)


def _bench_models(
    models: ModelLike | Sequence[ModelLike],
    text: Text,
    seconds: float,
    offline: bool,
    progress: ProgressLike,
    options: dict[str, Any],
) -> ModelSpeeds:
    from unmask.api.evaluation import named_or_loaded
    from unmask.api.model import as_list
    from unmask.benchmark.uses import measure_models

    settings = sections(options, (*READING, "device", "precision"), offline)
    with text_files(progress, offline, settings.data.text_field) as files:
        return measure_models(
            [named_or_loaded(model) for model in as_list(models)[0]],
            settings.data,
            [] if text is None else files.inputs(text),
            seconds=seconds,
            progress=files.progress,
            device=settings.train.device,
            precision=options.get("precision", "fp32"),
            offline=offline,
        )


def tokenizer_of(given: Any, offline: bool, progress: Progress) -> PreTrainedTokenizerBase:
    if given is None:
        raise ConfigError(
            "no tokenizer: name one (--tokenizer or tokenizer=), or give a folder of 'unmask prepare'"
        )
    from unmask.data.conversion import converted
    from unmask.data.tokenizer import load_tokenizer

    if not isinstance(given, str | PathLike):
        return converted(getattr(given, "tokenizer", given))
    return load_tokenizer(str(given), offline=offline, progress=progress)


def _name_of(model: ModelLike) -> str:
    if isinstance(model, str | PathLike):
        return str(model)
    name = getattr(model, "name", None)
    if not isinstance(name, str):
        raise ConfigError(
            f"model: expected a Hub name, a folder or unmask.load(...), not a {type(model).__name__}"
        )
    return name
