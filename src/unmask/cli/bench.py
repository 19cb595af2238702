"""The verb ``bench``: what this machine can do."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from unmask.cli import options
from unmask.cli import runtime as shell

_DEFAULT_PRESET = "modernbert-mini"

TextToMeasure = Annotated[
    list[str] | None,
    Argument(metavar="DATA", help="Text to measure with [default: the documentation of this Python]."),
]
PresetToMeasure = Annotated[
    str | None, Option("--preset", help=f"Architecture to measure [default: {_DEFAULT_PRESET}].")
]
CheckpointToMeasure = Annotated[str | None, Option("--model", help="Measure this checkpoint instead.")]
Seconds = Annotated[float, Option(help="Seconds of training to measure.", min=0.1)]


def bench(
    data: TextToMeasure = None,
    preset: PresetToMeasure = None,
    model: CheckpointToMeasure = None,
    tokenizer: options.Tokenizer = None,
    seconds: Seconds = 20.0,
    device: options.DeviceOption = None,
    precision: options.PrecisionOption = None,
    batch_tokens: options.BatchTokens = None,
    max_length: options.MaxLength = None,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """Measure how fast this machine trains, masks and prepares text."""
    from unmask.config.load import load_config

    flags = {
        "data.inputs": data,
        "data.max_length": max_length,
        "model.name": model,
        "model.preset": preset or (None if model else _DEFAULT_PRESET),
        "model.tokenizer": tokenizer,
        "model.offline": offline or None,
        "train.device": device,
        "train.precision": precision,
        "train.batch_tokens": batch_tokens,
    }
    config = load_config(None, (), flags)
    with shell.working() as progress:
        from unmask.benchmark.bench import run_bench

        result = run_bench(config, seconds=seconds, progress=progress)
    if as_json:
        shell.emit(result)
        return
    from unmask.cli.draw_bench import draw_bench

    draw_bench(shell.page(), result)
