"""``evaluate``, ``compare``, ``pairs``, ``probe`` and ``conformance``."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.api.model import as_list, load
from unmask.api.options import MASKING, READING, sections, validated
from unmask.api.progress import ProgressLike, shown
from unmask.api.texts import Text, is_missing, text_files
from unmask.api.wording import TEMPORARY, without_files
from unmask.errors import ConfigError, DataError
from unmask.evaluation.compare import Comparison
from unmask.evaluation.compare import compare as compare_models
from unmask.evaluation.evaluate import Evaluation, EvaluationSettings
from unmask.evaluation.evaluate import evaluate as evaluate_models
from unmask.reporting.results import ResultList, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unmask.api.model import ModelLike
    from unmask.model.base import LanguageModel
    from unmask.probing.results import ProbeResult
    from unmask.probing.retrieval import RetrievalResult
    from unmask.scoring.pairs import PairMetrics


def evaluate(
    model: ModelLike | Sequence[ModelLike],
    data: Text,
    *,
    train_data: Text = None,
    tokens: int | None = None,
    max_length: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
    offline: bool = False,
    progress: ProgressLike = None,
    **options: Any,
) -> Evaluation | ResultList[Evaluation]:
    """Evaluate a model, or several, on the masked tokens of a text; the masks never change.

    Args:
        model: one model, or a list; by name, folder or in memory. Models with one tokenizer predict the same tokens.
        data: paths, a folder of :func:`unmask.prepare`, or texts in memory.
        train_data: text that token frequencies and baselines are counted on; by default the evaluated text itself.
        tokens: tokens to read at most; by default all.
        max_length: tokens of a sequence; by default 512, or what the models take if that is less.
        device, precision, offline, progress: as for :func:`unmask.load`; a model in memory stays where it is.
        options: ``mask_rate``, ``strategy``, ``documents``, ``text_field``, ``strict``.

    Returns:
        The evaluation of one model, or a list of those of several.

    Raises:
        ConfigError: a model cannot be loaded, or options do not fit it.
        DataError: the text cannot be read, is empty, or has no masked token.
        DivergedError: a model's probabilities are NaN or infinite.
    """
    models, alone = as_list(model)
    settings = settings_of(options, tokens=tokens, max_length=max_length, device=device, precision=precision, offline=offline)  # fmt: skip
    with text_files(progress, offline, settings.documents.text_field) as files:
        found = without_files(
            evaluate_models(
                [named_or_loaded(one) for one in models],
                files.inputs(data, "data"),
                settings,
                train_data=[] if train_data is None else files.inputs(train_data, "train_data"),
                progress=files.progress,
            )
        )
    return found[0] if alone else ResultList(found)


def compare(
    first: ModelLike,
    second: ModelLike,
    data: Text,
    *,
    train_data: Text = None,
    tokens: int | None = None,
    max_length: int | None = None,
    pll_bytes: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
    offline: bool = False,
    progress: ProgressLike = None,
    **options: Any,
) -> Comparison:
    """Compare two models on a text: which predicts masked tokens better, by how much, and how sure that is.

    Args:
        first, second: the models, by name, folder or in memory. With different tokenizers whole words are predicted.
        pll_bytes: with different tokenizers, bytes of text that are scored for bits per byte.
        data, train_data, tokens, max_length, device, precision, offline, progress, options: as for
            :func:`unmask.evaluate`.

    Raises:
        ConfigError, DataError, DivergedError: as :func:`unmask.evaluate`.
    """
    settings = settings_of(options, tokens=tokens, max_length=max_length, device=device, precision=precision, offline=offline)  # fmt: skip
    with text_files(progress, offline, settings.documents.text_field) as files:
        return without_files(
            compare_models(
                named_or_loaded(first),
                named_or_loaded(second),
                files.inputs(data, "data"),
                settings,
                train_data=[] if train_data is None else files.inputs(train_data, "train_data"),
                pll_bytes=pll_bytes,
                progress=files.progress,
            )
        )


def pairs(
    model: ModelLike | Sequence[ModelLike],
    data: Text,
    *,
    good: str | None = None,
    bad: str | None = None,
    by: str | None = None,
    method: str = "original",
    max_length: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
    offline: bool = False,
    progress: ProgressLike = None,
) -> PairMetrics | ResultList[PairMetrics]:
    """Count how often a model finds the good side of minimal pairs more probable than the bad one.

    Args:
        model: one model, or a list; by name, folder or in memory.
        data: the pairs: ``(good, bad)`` tuples, records, a pandas DataFrame or ``datasets.Dataset``, or a path of JSONL,
            TSV or CSV.
        good, bad: the columns of the sides; by default known names such as ``sentence_good``, or the only two.
        by: the column that groups pairs; by default ``UID``, or the name of the file.
        method, max_length: as for :meth:`unmask.Model.score`.
        device, precision, offline, progress: as for :func:`unmask.load`; a model in memory stays where it is.

    Returns:
        The metrics of one model, or a list of those of several; pairs that cannot be scored are counted as skipped.

    Raises:
        ConfigError, DataError, DivergedError: an option, the pairs or the model's output cannot be used.
    """
    from unmask.scoring.pair_files import PairReader
    from unmask.scoring.pairs import Pair, compare_pairs

    models, alone = as_list(model)
    with shown(progress, offline) as listener, _pair_file(data) as path:
        read = list(PairReader(path, good, bad, by, progress=listener))
        in_memory = path != str(data)
        errors = [pair for pair in read if isinstance(pair, DataError)]
        if len(errors) == len(read):
            raise errors[0] if errors else DataError("no pairs")
        for error in errors[:5]:
            listener.warning(str(error).replace(f"{path}:", "pair ", 1) if in_memory else str(error))
        found = []
        for one in models:
            loaded = load(one, device=device, precision=precision, offline=offline, progress=listener)
            usable = (
                replace(pair, source="" if in_memory else pair.source)
                for pair in read
                if isinstance(pair, Pair)
            )
            found.append(
                compare_pairs(usable, loaded.lm, method=method, max_length=max_length, progress=listener)
            )
            found[-1].skipped += len(errors)
    return found[0] if alone else ResultList(found)


def probe(
    model: ModelLike | Sequence[ModelLike],
    task: str | Path,
    *,
    test: str | Path | None = None,
    dev: str | Path | None = None,
    epochs: int = 3,
    batch_size: int = 16,
    learning_rate: float | None = None,
    patience: int | None = None,
    keep: str | Path | None = None,
    text_field: str | None = None,
    label_field: str | None = None,
    pair_field: str | None = None,
    kind: str | None = None,
    offline: bool = False,
    progress: ProgressLike = None,
    **options: Any,
) -> ProbeResult:
    """Learn a labelled task from a model, or several, with several seeds, and compare them with the first.

    Args:
        model: one model, or a list; by name, folder or in memory.
        task: a folder with train, dev and test (files, or folders with a subfolder of texts per label), or the train
            file: JSONL, CSV or TSV with text (or text_a and text_b) and label, or CoNLL; or a task of GLUE as published.
        test, dev: files of their own.
        epochs, batch_size, learning_rate, patience: of fine-tuning; ``patience`` is how many epochs without a better metric on
            dev, or on a fifth of train, end it; the best epoch is taken then.
        keep: a folder for checkpoints and finished seeds of fine-tuning; the same call goes on from there.
        text_field, label_field, pair_field: fields or columns; the last of the second text of pairs.
        kind: what is predicted of a text: ``classification``, ``multilabel`` or ``regression``; by default from the labels.
        offline, progress: as for :func:`unmask.load`.
        options: ``method`` (``frozen``, ``finetune`` or ``both``), ``metric``, ``seeds``, ``limit``, ``pool``, ``max_length``,
            ``allow_overlap``, ``drop_overlap``, ``device``, ``precision``.

    Raises:
        ConfigError, DataError, DivergedError: a model, the task or the fine-tuning does not work.
    """
    from unmask.probing.probe import probe as probe_models
    from unmask.probing.settings import FineTuningSettings, ProbeSettings

    models, _ = as_list(model)
    tuning = validated(
        FineTuningSettings, epochs=epochs, batch=batch_size, learning_rate=learning_rate, patience=patience
    )
    with shown(progress, offline) as listener:
        return probe_models(
            [named_or_loaded(one) for one in models],
            task,
            validated(ProbeSettings, tuning=tuning, offline=offline, **options),
            test=test,
            dev=dev,
            text_field=text_field,
            label_field=label_field,
            pair_field=pair_field,
            kind=kind,
            keep=keep,
            progress=listener,
        )


def probe_retrieval(
    model: ModelLike | Sequence[ModelLike],
    task: str | Path | None = None,
    *,
    test: str | Path | None = None,
    data: Text = None,
    queries: str = "halves",
    offline: bool = False,
    progress: ProgressLike = None,
    **options: Any,
) -> RetrievalResult:
    """Rank passages for queries by the vectors of a model, or of several, and compare them with the first.

    Args:
        model: one model, or a list; by name, folder or in memory.
        task: a folder in the layout of BEIR: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/test.tsv``.
        test: another file of judgements.
        data: instead of ``task``, paths or texts in memory without labels, from which queries and passages are made.
        queries: of ``data``: ``halves`` (the first half of a document finds the second) or ``titles`` (its first line
            finds the rest).
        offline, progress: as for :func:`unmask.load`.
        options: ``limit`` (queries at most), ``pool``, ``max_length``, ``device``, ``precision``; of ``data``
            ``documents``, ``text_field``, ``strict``.

    Raises:
        ConfigError, DataError, DivergedError: a model, the task or the text does not work.
    """
    from unmask.probing.retrieval import probe_retrieval as probe_models
    from unmask.probing.retrieval_tasks import read_beir, task_of_text
    from unmask.probing.settings import EncoderSettings

    if (task is None) == (data is None):
        raise ConfigError("give either task, a folder in the layout of BEIR, or data, text without labels")
    models, _ = as_list(model)
    reading = {name: options.pop(name) for name in READING if name in options}
    settings = validated(EncoderSettings, **({"precision": "fp32"} | options), offline=offline)
    documents = _documents(sections(reading, READING, offline).data)
    with text_files(progress, offline, documents.text_field) as files:
        if task is not None:
            found = read_beir(task, test, progress=files.progress)
        else:
            found = task_of_text(files.inputs(data, "data"), queries, documents, progress=files.progress)
            found = replace(found, name=without_files(found.name))
        return probe_models(
            [named_or_loaded(one) for one in models], found, settings, progress=files.progress
        )


def conformance(
    model: ModelLike,
    *,
    seed: int = 0,
    processes: bool = True,
    offline: bool = False,
    progress: ProgressLike = None,
    **options: Any,
) -> Table:
    """Measure on a model what unmask promises of the loss, of packing and of masks; a row for each promise.

    The loss of each training objective that the model can be trained by is compared with plain transformers, too.

    Args:
        model: by name, folder or in memory.
        seed: of texts and masks.
        processes: whether to compare with several processes too.
        offline, progress: as for :func:`unmask.load`.
        options: ``mask_rate`` and ``strategy``.

    Raises:
        ConfigError: the model cannot be loaded, or the strategy does not fit it.
    """
    from unmask.promises.checks import conformance as measure

    masking = sections(options, MASKING).masking
    with shown(progress, offline) as listener:
        found = measure(
            named_or_loaded(model),
            masking=masking,
            seed=seed,
            offline=offline,
            processes=processes,
            progress=listener,
        )
    passed = sum(check.passed for check in found)
    return Table(f"{passed} of {len(found)} promises hold", [asdict(check) for check in found])


def named_or_loaded(model: ModelLike) -> str | LanguageModel:
    """Return a model as the functions below take it: one in memory, or a name to be loaded when its turn comes."""
    return str(model) if isinstance(model, str | PathLike) else load(model, progress=False).lm


def settings_of(options: Mapping[str, Any], **own: Any) -> EvaluationSettings:
    config = sections(options, (*MASKING, *READING), own["offline"])
    return validated(EvaluationSettings, documents=_documents(config.data), masking=config.masking, **own)


def _documents(settings: Any) -> Any:
    from unmask.config.settings import DocumentSettings

    return DocumentSettings(**settings.model_dump(include=set(DocumentSettings.model_fields)))


@contextmanager
def _pair_file(data: Text) -> Iterator[str]:
    """Yield a file of pairs for the reader; pairs in memory are written to a temporary one."""
    if isinstance(data, str | PathLike):
        yield str(data)
        return
    with tempfile.TemporaryDirectory(prefix=TEMPORARY) as folder:
        path = Path(folder) / "pairs.jsonl"
        records = (_pair_record(row, number) for number, row in enumerate(_pair_rows(data), 1))
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        yield str(path)


def _pair_rows(data: Text) -> Iterable[object]:
    if type(data).__module__.partition(".")[0] == "pandas":
        return list(data.to_dict("records"))
    if isinstance(data, Mapping) or not isinstance(data, Iterable):
        raise ConfigError(f"data: expected pairs or a path, not an object of type {type(data).__name__}")
    return data


def _pair_record(row: object, number: int) -> dict[str, object]:
    if isinstance(row, Mapping):
        record = dict(row)
    elif isinstance(row, Sequence) and not isinstance(row, str) and len(row) == 2:
        record = {"good": row[0], "bad": row[1]}
    else:
        raise ConfigError(f"data: pair {number} must be (good, bad) or a record, not {row!r:.80}")
    return {str(name): None if is_missing(value) else value for name, value in record.items()}
