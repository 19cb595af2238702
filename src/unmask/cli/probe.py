"""The verb ``probe``: does a model help a task? Labelled tasks are learned; of retrieval the vectors alone are tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Option

from unmask.cli import options
from unmask.cli import runtime as shell
from unmask.cli.terminal import Page
from unmask.errors import ConfigError, plural
from unmask.reporting.format import PROBE_METRICS, RETRIEVAL_METRICS, baseline_name, clock, interval, percent
from unmask.reporting.format import metric as metric_text
from unmask.storage import JsonDict

Task = Annotated[
    Path | None,
    Option(
        "--task",
        metavar="PATH",
        help="A folder with train, dev and test (files, or folders with a subfolder of texts per label), or the train "
        "file. JSONL, CSV or TSV with text (or text_a and text_b) and label, or CoNLL; or a task of GLUE as published. For "
        "retrieval, a folder in the layout of BEIR.",
        show_default=False,
    ),
]
Test = Annotated[
    Path | None,
    Option("--test", metavar="FILE", help="Test file, or qrels of BEIR, if the folder has none or several."),
]
_retrieval = partial(Option, rich_help_panel="Retrieval without labels")
Data = Annotated[
    list[str] | None,
    _retrieval(
        "--data",
        metavar="PATH",
        help="Text without labels, instead of --task, given as TEXT is elsewhere; may be repeated.",
    ),
]
Queries = Annotated[
    Literal["halves", "titles"],
    _retrieval(
        "--queries",
        help="A document's first half is to find its second half, or its first line the rest of it.",
    ),
]
Documents = Annotated[
    options.Documents | None,
    _retrieval("--documents", show_default="auto", help="What one document of plain text is: a file, a block between blank lines, or a line."),
]  # fmt: skip
Dev = Annotated[
    Path | None,
    Option(
        "--dev",
        metavar="FILE",
        help="File that chooses the regularisation of the linear probe, and with --patience the epoch of fine-tuning.",
        show_default="that of the folder, or a fifth of train",
    ),
]
Method = Annotated[
    Literal["frozen", "finetune", "both"],
    Option("--method", help="Linear probe on frozen features, fine-tuning of the whole model, or both."),
]
Seeds = Annotated[
    int,
    Option(
        "--seeds",
        help="Repetitions: each resamples the training examples (frozen), or changes head, order and dropout (finetune).",
        min=1,
    ),
]
Limit = Annotated[
    int | None,
    Option(
        "--limit", min=2, help="Training examples, or queries, at most; the same for every seed and model."
    ),
]
Pool = Annotated[
    Literal["mean", "cls"],
    Option(
        "--pool",
        help="Features of a text: mean over its tokens without special ones, or its first token ([CLS]).",
    ),
]
_tuning = partial(Option, rich_help_panel="Fine-tuning")
Epochs = Annotated[int, _tuning("--epochs", min=1, help="Passes over the training examples.")]
Keep = Annotated[
    Path | None,
    _tuning(
        "--keep",
        metavar="FOLDER",
        help="Keep checkpoints and finished seeds here: the same command goes on from there after an interruption.",
    ),
]
BatchSize = Annotated[
    int,
    _tuning(
        "--batch-size", min=1, help="Examples in a step, on average: steps have equal numbers of tokens."
    ),
]
Patience = Annotated[
    int | None,
    _tuning(
        "--patience",
        min=1,
        show_default="off",
        help="End after so many epochs without a better metric on dev, or on a fifth of train, and take the best epoch.",
    ),
]
LearningRate = Annotated[
    float | None,
    _tuning("--learning-rate", metavar="RATE", show_default="5e-5 at hidden size 768, higher below", min=0.0, help="Peak learning rate."),
]  # fmt: skip
TextColumn = Annotated[
    str | None,
    Option("--text-field", metavar="FIELD", show_default="text", help="Field of the text, or number of its column."),
]  # fmt: skip
LabelColumn = Annotated[
    str | None,
    Option("--label-field", metavar="FIELD", show_default="label", help="Field of the label, or number of its column."),
]  # fmt: skip
PairColumn = Annotated[
    str | None,
    Option("--pair-field", metavar="FIELD", show_default="text_b, sentence2, hypothesis or question2", help="Field of the second text of pairs, or number of its column."),
]  # fmt: skip
Kind = Annotated[
    Literal["classification", "multilabel", "regression"] | None,
    Option("--kind", show_default="by the labels", help="What is predicted of a text: a class, several (lists, or names separated by commas), or a number."),
]  # fmt: skip
Metric = Annotated[
    str | None,
    Option("--metric", metavar="METRIC", show_default="macro F1 of classes, F1 of entities, Pearson of numbers", help="Metric of intervals and verdicts: macro_f1, accuracy, matthews or f1; micro_f1; pearson or spearman."),
]  # fmt: skip
Allow = Annotated[bool, Option("--allow-overlap", help="Report even if test texts occur in train.")]
Drop = Annotated[bool, Option("--drop-overlap", help="Remove texts from train that occur in test.")]


def probe(
    models: options.ModelsArgument,
    task: Task = None,
    test: Test = None,
    dev: Dev = None,
    method: Method = "frozen",
    seeds: Seeds = 5,
    limit: Limit = None,
    pool: Pool = "mean",
    epochs: Epochs = 3,
    batch_size: BatchSize = 16,
    learning_rate: LearningRate = None,
    patience: Patience = None,
    keep: Keep = None,
    max_length: options.MaxLength = None,
    text_field: TextColumn = None,
    label_field: LabelColumn = None,
    pair_field: PairColumn = None,
    kind: Kind = None,
    metric: Metric = None,
    allow_overlap: Allow = False,
    drop_overlap: Drop = False,
    data: Data = None,
    queries: Queries = "halves",
    documents: Documents = None,
    device: options.DeviceOrAuto = "auto",
    precision: options.PrecisionOrFp32 = "fp32",
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """Probe models on labelled tasks or on retrieval.

    Labelled tasks are learned with several seeds, in retrieval nothing is learned. Every model is compared with the first, with a paired verdict.

    Examples:
        unmask probe bert-base-uncased runs/notes --task task/
        unmask probe runs/notes --task task/ --method finetune --seeds 3
        unmask probe bert-base-uncased runs/notes --data notes/ --queries titles
    """
    given = locals()
    with shell.working() as progress:
        from unmask.api import evaluation, texts
        from unmask.probing.retrieval_tasks import is_retrieval_folder

        if (task is None) == (data is None):
            raise ConfigError(
                "give either --task PATH, a task, or --data PATH, text without labels for retrieval"
            )
        retrieval = task is None or is_retrieval_folder(task)
        _refuse_unused(given, _LEARNING if retrieval else _OF_TEXT, retrieval)
        common: JsonDict = {
            "test": test, "limit": limit, "pool": pool, "max_length": max_length, "device": device, "precision": precision,
            "offline": offline, "progress": progress,
        }  # fmt: skip
        if retrieval:
            result = evaluation.probe_retrieval(
                models, task, data=data and texts.Paths(data), queries=queries, documents=documents, text_field=text_field, **common
            ).to_dict()  # fmt: skip
        else:
            result = evaluation.probe(
                models, task or "", dev=dev, method=method, seeds=seeds, epochs=epochs, batch_size=batch_size,
                learning_rate=learning_rate, patience=patience, keep=keep, text_field=text_field, label_field=label_field, pair_field=pair_field, kind=kind, metric=metric, allow_overlap=allow_overlap,
                drop_overlap=drop_overlap, **common,
            ).to_dict()  # fmt: skip
    shell.show(as_json, result, lambda page: (draw_retrieval if retrieval else draw_probe)(page, result))


_LEARNING = "dev method seeds epochs batch_size learning_rate patience keep label_field pair_field kind metric allow_overlap drop_overlap".split()
"""Parameters of :func:`probe` that retrieval does not have, since nothing is learned."""
_OF_TEXT = "queries documents".split()
"""Those of text without labels alone."""


def _refuse_unused(given: Mapping[str, Any], names: Sequence[str], retrieval: bool) -> None:
    """Refuse options that would have no effect."""
    usual = signature(probe).parameters
    for name in names:
        if given[name] != usual[name].default:
            why = "retrieval, in which nothing is learned" if retrieval else "a task with labels"
            raise ConfigError(f"--{name.replace('_', '-')} has no effect on {why}; leave it out")


def draw_retrieval(page: Page, found: JsonDict) -> None:
    """Draw what :meth:`unmask.probing.retrieval.RetrievalResult.to_dict` returns: a table, then verdicts."""
    first, *others = RETRIEVAL_METRICS
    header = [
        found["task"]["queries_from"],
        RETRIEVAL_METRICS[first],
        "95%",
        *map(RETRIEVAL_METRICS.get, others),
        "time",
    ]
    baselines = [
        {"label": baseline_name(name), "figures": figures} for name, figures in found["baselines"].items()
    ]
    rows: list[list[object]] = []
    for row in [*found["models"], *baselines]:
        figures = row["figures"]
        shown = [percent(figures[name]) for name in others]
        span = interval(first, figures["intervals"][first]) or None
        time = clock(row["seconds"]) if "seconds" in row else None
        rows.append([row["label"], percent(figures[first]), span, *shown, time])
    page.table(header, rows)
    page.say("")
    for verdict in found["verdicts"]:
        page.say(verdict["verdict"])
    task = found["task"]
    page.say(
        f"{plural(task['queries'], 'query', 'queries')} in {plural(task['passages'], 'passage')}, exact search by cosine; "
        f"{found['precision']}"
    )
    if any(row[2] for row in rows):  # the intervals
        page.say(f"95%: {found['interval']}", style="dim")
    for note in found["notes"]:
        page.say(note, style="dim")


_COLUMNS = {
    "classification": ("macro_f1", "accuracy"),
    "multilabel": ("macro_f1", "micro_f1", "accuracy"),
    "regression": ("pearson", "spearman"),
    "entities": ("f1", "precision", "recall", "macro_f1"),
    "tags": ("macro_f1", "accuracy"),
}
_METHODS = {"frozen": "linear probe, model frozen", "finetune": "fine-tuned"}


def draw_probe(page: Page, found: JsonDict) -> None:
    """Draw what :meth:`unmask.probing.results.ProbeResult.to_dict` returns: a table for each method, then verdicts."""
    columns = tuple(dict.fromkeys([found["metric"], *_COLUMNS[found["task"]["kind"]]]))
    first, *others = (PROBE_METRICS[name] for name in columns)
    for method, seeds in found["a_seed"].items():
        rows = [_row(row, columns) for row in found["models"] if row["method"] == method]
        rows += [_baseline(name, row, columns) for name, row in found["baselines"].items()]
        page.table([_METHODS[method], first, "95%", *others, "time"], rows)
        what = (
            f"mean ± standard deviation over {found['seeds']} seeds"
            if found["seeds"] > 1
            else "one seed has no spread"
        )
        page.say(f"{what}: {seeds}", style="dim")
        page.say("")
    for verdict in found["verdicts"]:
        page.say(verdict["verdict"])
    sizes = found["task"]["sizes"]
    page.say(
        f"{plural(sizes['train'], 'example')} to learn from, {sizes['test']:,} to be tested on; {found['precision']}"
    )
    if any(row["interval"] for row in [*found["models"], *found["verdicts"]]):
        page.say(f"95%: {found['interval']}", style="dim")
    for note in found["notes"]:
        page.say(note, style="dim")


def _row(row: JsonDict, columns: Sequence[str]) -> list[object]:
    figures = row["figures"]
    cells: list[object] = [_spread(name, figures[name]) for name in columns]
    cells.insert(1, interval(columns[0], row["interval"]) or None)
    return [row["label"], *cells, clock(row["seconds"])]


def _baseline(name: str, row: JsonDict, columns: Sequence[str]) -> list[object]:
    first, *others = (metric_text(figure, row[figure]) for figure in columns)
    return [baseline_name(name), first, None, *others, None]


def _spread(name: str, figure: JsonDict) -> str:
    sd = figure["sd"]
    found = metric_text(name, figure["mean"])
    if sd is None:
        return found
    return f"{found} ± {100 * sd:.1f}" if found.endswith("%") else f"{found} ± {sd:.3f}"
