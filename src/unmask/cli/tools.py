"""The verbs ``bench``, ``conformance`` and ``init``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from unmask.cli import options
from unmask.cli import runtime as shell
from unmask.cli.terminal import Page
from unmask.errors import ConfigError

if TYPE_CHECKING:
    from unmask.benchmark.bench import Bench
    from unmask.promises.checks import Check

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
    draw_bench(shell.page(), result)


def draw_bench(page: Page, bench: Bench) -> None:
    """Draw what was measured, the machine first."""
    machine = bench.machine["machine"]
    where = machine["gpu"] if bench.device == "cuda" else f"{machine['cpu']}, {machine['cores']} cores"
    page.say(f"{bench.model}, {bench.parameters / 1e6:.1f} million weights, on {where}")
    page.say("")
    training, preparation = bench.training, bench.preparation
    page.table(
        ["", "rate", ""],
        [
            *(
                [f"matrix products, {rate.precision}", f"{rate.teraflops:.2f} TFLOP/s", _shape(rate.shape)]
                for rate in bench.ceilings.values()
            ),
            [f"training, {bench.precision}", _per_second(training.tokens_per_second), _step(bench)],
            ["packing and masking", _per_second(bench.masking_tokens_per_second), "one core"],
            [
                "preparing text",
                _per_second(preparation.tokens_per_second),
                f"{preparation.megabytes_per_second:.1f} MB/s, {preparation.share:.0%} of tokenising alone",
            ],
        ],
        left=(0, 2),
    )
    page.say(
        f"training reaches {training.share:.0%} of the {bench.precision} matrix products: "
        f"{training.flops_per_token / 1e6:.0f} million operations a token, {training.predicted:.1%} of the tokens "
        f"predicted, {training.wait_share:.1%} of the time waiting for data"
    )


def _per_second(rate: float) -> str:
    return f"{rate:,.0f} tok/s"


def _shape(shape: tuple[int, int, int]) -> str:
    return " x ".join(str(side) for side in shape)


def _step(bench: Bench) -> str:
    return f"{bench.training.seconds_per_step:.3f} s a step of {bench.batch_tokens:,} tokens"


def init(
    path: options.SettingsFileArgument = None,
    schema: options.Schema = False,
    force: options.Force = False,
    stdout: options.Stdout = False,
) -> None:
    """Write a complete, commented settings file to start from."""
    from unmask.config.load import json_schema, starter_yaml

    text = json.dumps(json_schema(), indent=2) + "\n" if schema else starter_yaml()
    if stdout or (schema and path is None):
        sys.stdout.write(text)
        return
    path = path or Path("run.yaml")
    if path.exists() and not force:
        raise ConfigError(f"{path}: exists already; choose another name, or replace it with --force")
    shell.write(path, text)
    shell.page().say(f"wrote {path}" + ("" if schema else f"; use it with: unmask train DATA... -c {path}"))


def conformance(
    model: options.ModelArgument,
    strategy: options.StrategyOption = None,
    seed: options.SeedOrZero = 0,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> int:
    """Hold a model to the promises: loss, gradients, packing, masks. Exit code 1 if one does not hold."""
    from unmask.config.load import load_config

    masking = load_config(None, (), {"masking.strategy": strategy}).masking
    with shell.working() as progress:
        from unmask.promises.checks import run_checks

        checks = run_checks(model, masking=masking, seed=seed, offline=offline, progress=progress)
    if as_json:
        shell.emit([asdict(check) for check in checks])
    else:
        draw_checks(shell.page(), checks)
    return 0 if all(check.passed for check in checks) else 1


def draw_checks(page: Page, checks: Sequence[Check]) -> None:
    """Draw a row for each promise, and what was compared where one does not hold."""
    page.table(
        ["promise", "measured", "allowed", "", "compared"],
        [
            [check.name, f"{check.measured:.1e}", f"{check.tolerance:.0e}", _verdict(check), check.detail]
            for check in checks
        ],
        left=(0, 3, 4),
    )
    failed = [check for check in checks if not check.passed]
    for check in failed:
        page.say(f"does not hold: {check.what}")
    page.say(f"{len(checks) - len(failed)} of {len(checks)} promises hold")


def _verdict(check: Check) -> str:
    return "holds" if check.passed else "FAILS"
