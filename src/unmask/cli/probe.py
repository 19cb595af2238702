"""The verb ``probe``: does a model help a task?"""

from __future__ import annotations

import os
from typing import Annotated, Literal

from typer import Argument, Option

from unmask.cli import options
from unmask.cli import runtime as shell

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
Allow = Annotated[bool, Option("--allow-overlap", help="Report although test texts stand in train.")]
Drop = Annotated[bool, Option("--drop-overlap", help="Take texts out of train that stand in test.")]


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
        from unmask.probing.learn import Tuning
        from unmask.probing.probe import ProbeSettings
        from unmask.probing.probe import probe as probe_models

        settings = ProbeSettings(
            method=method,
            seeds=seeds,
            limit=limit,
            pool=pool,
            max_length=max_length,
            tuning=Tuning(epochs, batch, learning_rate),
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
    from unmask.cli.draw_probe import draw_probe

    draw_probe(shell.page(), answer)
