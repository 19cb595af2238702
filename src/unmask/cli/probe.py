"""The verb ``probe``: does a model help a task?"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from typer import Argument, Option

from unmask.cli import options
from unmask.cli import runtime as shell
from unmask.cli.terminal import Page
from unmask.reporting.format import baseline_name, clock, interval, percent, plural

Models = Annotated[
    list[str],
    Argument(
        metavar="MODEL...",
        help="Checkpoints: Hub names, name@revision, or folders; each is compared with the first.",
        show_default=False,
    ),
]
Task = Annotated[
    str,
    Option(
        metavar="PATH",
        help="A folder with train, dev and test (files, or folders with a subfolder of texts per label), or the train "
        "file. JSONL, CSV or TSV with text and label, or CoNLL.",
        show_default=False,
    ),
]
Test = Annotated[str | None, Option(metavar="FILE", help="The test file, if the folder has none or several.")]
Dev = Annotated[
    str | None,
    Option(
        metavar="FILE",
        help="The file that chooses the regularisation of the frozen probe [default: that of the folder, or a fifth "
        "of train].",
    ),
]
Method = Annotated[
    Literal["frozen", "finetune", "both"],
    Option(
        help="A linear probe on frozen features (seconds), fine-tuning of the whole model (minutes), or both."
    ),
]
Seeds = Annotated[
    int,
    Option(
        help="Repetitions. A seed random_bits the training examples with replacement (frozen), or changes new head, order "
        "and dropout (finetune).",
        min=1,
    ),
]
Limit = Annotated[
    int | None, Option(help="Training examples at most, the same ones for every seed and model.", min=2)
]
Pool = Annotated[
    Literal["mean", "cls"], Option(help="A text as the mean over its tokens, or as its first token.")
]
ProbeEpochs = Annotated[int, Option("--epochs", help="Passes over the training examples (finetune).", min=1)]
Batch = Annotated[int, Option(help="Examples of a step (finetune).", min=1)]
Rate = Annotated[
    float | None,
    Option(
        "--learning-rate",
        help="Peak learning rate (finetune) [default: 5e-5 at hidden size 768, more for a narrower model].",
        min=0.0,
    ),
]
TextColumn = Annotated[
    str | None,
    Option("--text-field", help="Field of the text, or number of its column in a table without names."),
]
LabelColumn = Annotated[
    str | None, Option("--label-field", help="Field or number of the column of the label.")
]
Allow = Annotated[bool, Option("--allow-overlap", help="Report although test texts occur in train.")]
Drop = Annotated[bool, Option("--drop-overlap", help="Remove texts from train that occur in test.")]


def probe(
    models: Models,
    task: Task,
    test: Test = None,
    dev: Dev = None,
    method: Method = "frozen",
    seeds: Seeds = 5,
    limit: Limit = None,
    pool: Pool = "mean",
    epochs: ProbeEpochs = 3,
    batch: Batch = 16,
    learning_rate: Rate = None,
    max_length: options.MaxLength = None,
    text_field: TextColumn = None,
    label_field: LabelColumn = None,
    allow_overlap: Allow = False,
    drop_overlap: Drop = False,
    device: options.DeviceOrAuto = "auto",
    precision: options.PrecisionOrFp32 = "auto",
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """Learn a labelled task from models, with several seeds, and say which helps it more."""
    if offline:  # read once, when the libraries that go to the Hub are imported
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    with shell.working() as progress:
        from unmask.probing.learn import FineTuningSettings
        from unmask.probing.probe import ProbeSettings
        from unmask.probing.probe import probe as probe_models

        settings = ProbeSettings(
            method=method,
            seeds=seeds,
            limit=limit,
            pool=pool,
            max_length=max_length,
            tuning=FineTuningSettings(epochs=epochs, batch=batch, learning_rate=learning_rate),
            allow_overlap=allow_overlap,
            drop_overlap=drop_overlap,
            device=device,
            precision=precision,
            offline=offline,
        )
        found = probe_models(
            models,
            task,
            settings,
            test=test,
            dev=dev,
            text_field=text_field,
            label_field=label_field,
            progress=progress,
        )
    answer = found.to_dict()
    if as_json:
        shell.emit(answer)
        return
    draw_probe(shell.page(), answer)


Found = Mapping[str, Any]

_FIGURES = {
    "classification": {"macro_f1": "macro F1", "accuracy": "accuracy"},
    "entities": {"f1": "entity F1", "precision": "precision", "recall": "recall", "macro_f1": "macro F1"},
    "tags": {"macro_f1": "macro F1", "accuracy": "accuracy"},
}
_METHODS = {"frozen": "linear probe, model frozen", "finetune": "fine-tuned"}


def draw_probe(page: Page, found: Found) -> None:
    """Draw a table for each method, verdicts, and what a reader has to know.

    Args:
        page: where to draw.
        found: :meth:`unmask.probing.probe.ProbeResult.to_dict`.
    """
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
        f"{sizes['train']:,} examples to learn from, {sizes['test']:,} to be tested on; {found['precision']}"
    )
    page.say(f"95%: {found['interval']}", style="dim")
    for note in found["notes"]:
        page.say(note, style="dim")


def _row(row: Found, columns: Mapping[str, str]) -> list[object]:
    figures = row["figures"]
    cells: list[object] = [_spread(figures[name]) for name in columns]
    cells.insert(1, interval("accuracy", row["interval"]) or None)
    return [row["label"], *cells, clock(row["seconds"])]


def _baseline(name: str, row: Found, columns: Mapping[str, str]) -> list[object]:
    first, *others = (percent(row[figure]) for figure in columns)
    return [baseline_name(name), first, None, *others, None]


def _spread(figure: Found) -> str:
    sd = "" if figure["sd"] is None else f" ± {100 * figure['sd']:.1f}"
    return percent(figure["mean"]) + sd
