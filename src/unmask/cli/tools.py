"""The verbs ``bench``, ``conformance``, ``convert`` and ``init``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from unmask.cli import options
from unmask.cli import runtime as shell
from unmask.cli.terminal import Page
from unmask.errors import ConfigError, plural
from unmask.storage import JsonDict

if TYPE_CHECKING:
    from unmask.benchmark.bench import Bench
    from unmask.benchmark.uses import ModelSpeeds

_DEFAULT_PRESET = "modernbert-mini"

ModelsToCompare = Annotated[
    list[str] | None,
    Argument(metavar="MODEL", help="Models, or exported forms of one, whose speed in use is compared."),
]
TextToMeasure = Annotated[
    list[str] | None,
    options.text("--data", metavar="PATH", show_default="the documentation of this Python", help="Text to measure with; may be repeated."),
]  # fmt: skip
PresetToMeasure = Annotated[
    str | None,
    Option("--preset", metavar="PRESET", show_default=_DEFAULT_PRESET, help="Architecture to train."),
]
ModelToMeasure = Annotated[
    str | None,
    Option("--model", metavar="MODEL", help="Train this model instead of a preset."),
]
Seconds = Annotated[
    float, Option("--seconds", metavar="SECONDS", min=0.1, help="Seconds to measure training, or each MODEL.")
]
SettingsFile = Annotated[Path | None, Argument(metavar="FILE", help="File to write [default: run.yaml].")]
Schema = Annotated[
    bool,
    Option("--schema", help="Write the JSON Schema of the file; without FILE, print it."),
]
ModelFolder = Annotated[Path, Argument(metavar="FOLDER", help="Model folder with a pytorch_model.bin.")]
Stdout = Annotated[bool, Option("--stdout", help="Print the settings instead of writing a file.")]


def bench(
    models: ModelsToCompare = None,
    data: TextToMeasure = None,
    preset: PresetToMeasure = None,
    model: ModelToMeasure = None,
    tokenizer: options.Tokenizer = None,
    seconds: Seconds = 20.0,
    device: options.DeviceOption = None,
    precision: options.PrecisionOption = None,
    parallel: options.ParallelOption = None,
    batch_tokens: options.BatchTokens = None,
    max_length: options.MaxLength = None,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """Measure the speed of training, or of the models given.

    Models fill, embed and score short texts in turns; their speed is compared with that of the first.

    Examples:
        unmask bench --data notes/ --model bert-base-uncased --seconds 60
        unmask bench runs/notes notes-onnx notes-int8
    """
    if not models:
        chosen = preset or (None if model else _DEFAULT_PRESET)
        config = options.load_settings({**locals(), "text": data, "preset": chosen})
        with shell.working() as progress:
            from unmask.benchmark.bench import run_bench

            result = run_bench(config, seconds=seconds, progress=progress)
        from unmask.training.distributed import World

        if World.will_be_main():
            shell.show(as_json, result, lambda page: draw_bench(page, result))
        return
    if any((preset, model, tokenizer, batch_tokens, max_length)):
        raise ConfigError(
            "MODEL compares models in use; --preset, --model, --tokenizer, --batch-tokens and --max-length are for training. "
            "Give one or the other; text is given with --data"
        )
    with shell.working() as progress:
        from unmask.api import data as api
        from unmask.api import texts

        speeds = api.bench(
            texts.Paths(data) if data else None, models=models, seconds=seconds, offline=offline, progress=progress,
            device=device or "auto", precision=precision or "fp32",
        )  # fmt: skip
    shell.show(as_json, speeds, lambda page: draw_speeds(page, speeds))


def draw_speeds(page: Page, speeds: ModelSpeeds) -> None:
    """Draw a row for each model, the machine first."""
    page.say(
        f"texts a second on {speeds.machine['machine']['cpu']}, {plural(speeds.threads, 'thread')}; "
        f"{plural(speeds.texts, 'text')} of {speeds.tokens:.0f} tokens"
    )
    page.say("")
    first = speeds.models[0]
    page.table(
        ["", "precision", "weights", *first.texts_per_second],
        [
            [
                found.model,
                found.precision,
                f"{found.megabytes:,.1f} MB",
                *(
                    _speed(found.texts_per_second[use], found.ratio[use], found is first)
                    for use in found.ratio
                ),
            ]
            for found in speeds.models
        ],
        left=(0, 1),
    )


def _speed(rate: float | None, ratio: float | None, first: bool) -> str:
    if rate is None:
        return "-"
    shown = f"{rate:,.1f}" if rate < 100 else f"{rate:,.0f}"
    return shown if first or ratio is None else f"{shown} ({ratio:.2f}x)"


def draw_bench(page: Page, bench: Bench) -> None:
    """Draw what was measured, the machine first."""
    machine = bench.machine["machine"]
    where = (
        machine["gpu"] if bench.device == "cuda" else f"{machine['cpu']}, {plural(machine['cores'], 'core')}"
    )
    page.say(f"{bench.model}, {bench.parameters / 1e6:.1f} million parameters, on {where}")
    if bench.processes > 1:
        page.say(
            f"training by {bench.processes} processes together, {bench.parallel}; the other rates are of one of them"
        )
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
    path: SettingsFile = None,
    schema: Schema = False,
    force: options.Force = False,
    stdout: Stdout = False,
    as_json: options.Json = False,
) -> None:
    """Write a settings file with every setting and its comment.

    Examples:
        unmask init run.yaml
        unmask train notes/ --model bert-base-uncased -c run.yaml
        unmask init --schema > schema.json
    """
    from unmask.config.load import json_schema, starter_yaml
    from unmask.config.settings import RunConfig

    if stdout or (schema and path is None):
        if as_json:
            shell.emit(json_schema() if schema else RunConfig().model_dump())
        else:
            sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n" if schema else starter_yaml())
        return
    path = path or Path("run.yaml")
    if path.exists() and not force:
        raise ConfigError(f"{path}: exists already; choose another name, or replace it with --force")
    shell.write(path, json.dumps(json_schema(), indent=2) + "\n" if schema else starter_yaml())
    use = "" if schema else f"; use it with: unmask train TEXT... -c {path}"
    shell.show(as_json, {"file": path, "schema": schema}, lambda page: page.say(f"wrote {path}{use}"))


def convert(folder: ModelFolder, out: options.NewFolder, as_json: options.Json = False) -> None:
    """Convert a model's pytorch_model.bin to safetensors.

    The weights are read in a process of their own that takes tensors only, and runs no code that came with them.

    Examples:
        unmask convert downloads/biobert -o biobert
    """
    with shell.working() as progress:
        from unmask.api.model import convert as convert_folder

        made = convert_folder(folder, out, progress=progress)
    shell.show(as_json, {"folder": made}, lambda page: page.command(f"converted model: {made}"))


def conformance(
    model: options.ModelArgument,
    strategy: options.StrategyOption = None,
    seed: options.SeedOrZero = 0,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> int:
    """Check a model's loss, gradients, packing and masks.

    These are the promises of the documentation. The exit code is 1 if one does not hold.

    Examples:
        unmask conformance runs/notes
    """
    with shell.working() as progress:
        from unmask.api import evaluation

        checks = evaluation.conformance(
            model, seed=seed, offline=offline, progress=progress, strategy=strategy
        ).to_dict()
    shell.show(as_json, checks, lambda page: draw_checks(page, checks))
    return 0 if all(check["passed"] for check in checks) else 1


def draw_checks(page: Page, checks: Sequence[JsonDict]) -> None:
    """Draw a row for each promise, and what was compared where one does not hold."""
    page.table(
        ["promise", "measured", "allowed", "", "compared"],
        [
            [
                check["name"],
                f"{check['measured']:.1e}",
                f"{check['tolerance']:.0e}",
                "holds" if check["passed"] else "FAILS",
                check["detail"],
            ]
            for check in checks
        ],
        left=(0, 3, 4),
    )
    failed = [check for check in checks if not check["passed"]]
    for check in failed:
        page.say(f"does not hold: {check['what']}")
    page.say(f"{len(checks) - len(failed)} of {plural(len(checks), 'promise')} hold")
