"""The verb ``probe``: does a model help a task?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from typer import Option

from unmask.cli import options
from unmask.cli import runtime as shell
from unmask.cli.terminal import Page
from unmask.errors import plural
from unmask.reporting.format import baseline_name, clock, interval, percent
from unmask.storage import JsonDict

Task = Annotated[
    Path,
    Option(
        "--task",
        metavar="PATH",
        help="A folder with train, dev and test (files, or folders with a subfolder of texts per label), or the train "
        "file. JSONL, CSV or TSV with text and label, or CoNLL.",
        show_default=False,
    ),
]
Test = Annotated[
    Path | None,
    Option("--test", metavar="FILE", help="Test file, if the folder has none or several."),
]
Dev = Annotated[
    Path | None,
    Option(
        "--dev",
        metavar="FILE",
        help="File that chooses the regularisation of the linear probe.",
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
    Option("--limit", min=2, help="Training examples at most, the same for every seed and model."),
]
Pool = Annotated[
    Literal["mean", "cls"],
    Option("--pool", help="Features of a text: mean over its tokens, or its first token."),
]
_tuning = partial(Option, rich_help_panel="Fine-tuning")
Epochs = Annotated[int, _tuning("--epochs", min=1, help="Passes over the training examples.")]
BatchSize = Annotated[int, _tuning("--batch-size", min=1, help="Examples in a step.")]
LearningRate = Annotated[
    float | None,
    _tuning("--learning-rate", show_default="5e-5 at hidden size 768, higher below", min=0.0, help="Peak learning rate."),
]  # fmt: skip
TextColumn = Annotated[
    str | None,
    Option("--text-field", metavar="FIELD", show_default="text", help="Field of the text, or number of its column."),
]  # fmt: skip
LabelColumn = Annotated[
    str | None,
    Option("--label-field", metavar="FIELD", show_default="label", help="Field of the label, or number of its column."),
]  # fmt: skip
Allow = Annotated[bool, Option("--allow-overlap", help="Report even if test texts occur in train.")]
Drop = Annotated[bool, Option("--drop-overlap", help="Remove texts from train that occur in test.")]


def probe(
    models: options.ModelsArgument,
    task: Task,
    test: Test = None,
    dev: Dev = None,
    method: Method = "frozen",
    seeds: Seeds = 5,
    limit: Limit = None,
    pool: Pool = "mean",
    epochs: Epochs = 3,
    batch_size: BatchSize = 16,
    learning_rate: LearningRate = None,
    max_length: options.MaxLength = None,
    text_field: TextColumn = None,
    label_field: LabelColumn = None,
    allow_overlap: Allow = False,
    drop_overlap: Drop = False,
    device: options.DeviceOrAuto = "auto",
    precision: options.PrecisionOrFp32 = "fp32",
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """Probe models on a labelled task, with several seeds.

    Every model is compared with the first, with a paired verdict.

    Examples:
        unmask probe bert-base-uncased runs/notes --task task/
        unmask probe runs/notes --task task/ --method finetune --seeds 3
    """
    with shell.working() as progress:
        from unmask.api import evaluation

        result = evaluation.probe(
            models, task, test=test, dev=dev, method=method, seeds=seeds, limit=limit, pool=pool, epochs=epochs,
            batch_size=batch_size, learning_rate=learning_rate, max_length=max_length, text_field=text_field,
            label_field=label_field, allow_overlap=allow_overlap, drop_overlap=drop_overlap, device=device,
            precision=precision, offline=offline, progress=progress,
        ).to_dict()  # fmt: skip
    shell.show(as_json, result, lambda page: draw_probe(page, result))


_FIGURES = {
    "classification": {"macro_f1": "macro F1", "accuracy": "accuracy"},
    "entities": {"f1": "entity F1", "precision": "precision", "recall": "recall", "macro_f1": "macro F1"},
    "tags": {"macro_f1": "macro F1", "accuracy": "accuracy"},
}
_METHODS = {"frozen": "linear probe, model frozen", "finetune": "fine-tuned"}


def draw_probe(page: Page, found: JsonDict) -> None:
    """Draw what :meth:`unmask.probing.results.ProbeResult.to_dict` returns: a table for each method, then verdicts."""
    columns = _FIGURES[found["task"]["kind"]]
    first, *others = columns.values()
    for method, seeds in found["a_seed"].items():
        rows = [_row(row, columns) for row in found["models"] if row["method"] == method]
        rows += [_baseline(name, row, columns) for name, row in found["baselines"].items()]
        page.table([_METHODS[method], first, "95%", *others, "time"], rows)
        page.say(f"mean ± standard deviation over {plural(found['seeds'], 'seed')}: {seeds}", style="dim")
        page.say("")
    for verdict in found["verdicts"]:
        page.say(verdict["verdict"])
    sizes = found["task"]["sizes"]
    page.say(
        f"{plural(sizes['train'], 'example')} to learn from, {sizes['test']:,} to be tested on; {found['precision']}"
    )
    page.say(f"95%: {found['interval']}", style="dim")
    for note in found["notes"]:
        page.say(note, style="dim")


def _row(row: JsonDict, columns: Mapping[str, str]) -> list[object]:
    figures = row["figures"]
    cells: list[object] = [_spread(figures[name]) for name in columns]
    cells.insert(1, interval("accuracy", row["interval"]) or None)
    return [row["label"], *cells, clock(row["seconds"])]


def _baseline(name: str, row: JsonDict, columns: Mapping[str, str]) -> list[object]:
    first, *others = (percent(row[figure]) for figure in columns)
    return [baseline_name(name), first, None, *others, None]


def _spread(figure: JsonDict) -> str:
    sd = "" if figure["sd"] is None else f" ± {100 * figure['sd']:.1f}"
    return percent(figure["mean"]) + sd
