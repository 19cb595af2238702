"""Measure how fast this machine computes matrix products, trains, masks and prepares text.

The share of the matrix products that training reaches is the model FLOPs utilisation (:mod:`unmask.benchmark.flops`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unmask.benchmark.flops import PRECISIONS, MatmulRate, flops_per_token, matmul_rate, settle
from unmask.benchmark.stopwatch import Stopwatch
from unmask.config.settings import DocumentSettings, RunConfig
from unmask.data.batches import TextSource
from unmask.data.batching import first_characters, in_batches
from unmask.data.corpus import is_corpus
from unmask.data.masking.random_bits import MaskKey
from unmask.data.packing import split_by_tokens
from unmask.data.preparation import prepare
from unmask.data.reading.documents import DocumentReader
from unmask.data.shards import TemporaryFolder
from unmask.data.tokenizer import plain_copy
from unmask.data.training_stream import Cursor, TrainingStream
from unmask.errors import DataError, plural
from unmask.model.load import pick_device
from unmask.model.presets import check_model
from unmask.progress import Progress
from unmask.reporting.results import Result, Rows
from unmask.run.assemble import make_loop, recipe_of, with_recipe
from unmask.run.components import RunComponents, build_components
from unmask.run.docstrings import collect_docstrings
from unmask.run.fingerprint import machine_info
from unmask.run_folder import RunFolder
from unmask.training.distributed import World, joined
from unmask.training.loop import Loop
from unmask.training.window import Row

SECONDS = 20.0
"""Seconds of training that are measured by default."""

_CHARACTERS = 8_000_000
_MASKED_AT_ONCE = 4096
_SAMPLED_STEPS = 8
_PRODUCT_SECONDS = 0.3
_MASKING_SECONDS = 1.0
_ENDLESS = 10**9


@dataclass(frozen=True)
class TrainingRate:
    """The speed of training steps, data loading and optimizer included.

    Attributes:
        tokens_per_second: tokens, special tokens included; there is no padding.
        seconds_per_step: the median.
        steps: how many were measured, after warm-up.
        wait_share: share of the time in which the step waited for data.
        attended: tokens that a token attends to, on average.
        predicted: share of the tokens that are targets, the only ones that reach the LM head.
        flops_per_token: see :func:`unmask.benchmark.flops.flops_per_token`.
        teraflops: 10^12 such operations a second.
        share: of the matmul rate in the same precision.
    """

    tokens_per_second: float
    seconds_per_step: float
    steps: int
    wait_share: float
    attended: float
    predicted: float
    flops_per_token: float
    teraflops: float
    share: float


@dataclass(frozen=True)
class PreparationRate:
    """The speed of preparing text: reading, splitting, tokenising, hashing, writing shards.

    Attributes:
        tokens_per_second: of all of it.
        megabytes_per_second: 10^6 bytes of UTF-8 text.
        encode_tokens_per_second: of the tokenizers library alone, with texts in memory.
        share: the first over the last.
    """

    tokens_per_second: float
    megabytes_per_second: float
    encode_tokens_per_second: float
    share: float


@dataclass(frozen=True, repr=False)
class Bench(Result):
    """What ``unmask bench`` measured.

    Attributes:
        machine: versions and machine, as ``run.json`` has them.
        model: preset or checkpoint.
        device: ``cpu`` or ``cuda``.
        parameters: weights, tied ones once.
        precision: of training.
        batch_tokens: tokens of a step.
        ceilings: the rates of matrix products in fp32 and bf16.
        training: of this model on this text.
        masking_tokens_per_second: packing and masking, on one core.
        preparation: of the text.
        processes: that train together, as ``torchrun`` starts them; the other rates are of one of them.
        parallel: how they share the work.
    """

    machine: dict[str, Any]
    model: str
    device: str
    parameters: int
    precision: str
    batch_tokens: int
    ceilings: dict[str, MatmulRate]
    training: TrainingRate
    masking_tokens_per_second: float
    preparation: PreparationRate
    processes: int = 1
    parallel: str = ""

    def _title(self) -> str:
        processes = f", {self.processes} processes" if self.processes > 1 else ""
        return f"bench of {self.model}, {self.parameters / 1e6:,.1f}M parameters, on {self.device}{processes}"

    def to_rows(self) -> Rows:
        """Return a row for each rate: ``measure``, ``rate`` and its ``unit``."""
        products = [
            {"measure": f"matrix products, {name}", "rate": found.teraflops, "unit": "TFLOP/s"}
            for name, found in self.ceilings.items()
        ]
        rates = {
            f"training, {self.precision}": self.training.tokens_per_second,
            "packing and masking": self.masking_tokens_per_second,
            "preparing text": self.preparation.tokens_per_second,
        }
        return [
            *products,
            *({"measure": name, "rate": rate, "unit": "tokens/s"} for name, rate in rates.items()),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return what ``unmask bench --json`` prints."""
        return asdict(self)


def run_bench(config: RunConfig, *, seconds: float = SECONDS, progress: Progress = Progress()) -> Bench:
    """Measure this machine with a model and a text.

    Args:
        config: model, precision, sequence length and batch, as for training; without inputs the documentation of this
            Python is the text. No more than some millions of characters are read.
        seconds: how long training is measured.
        progress: told of the phases.

    Raises:
        ConfigError: settings that cannot work.
        DataError: the text cannot be used.
    """
    check_model(config)  # without a text there is one
    place = TemporaryFolder("unmask-bench-")
    with joined(pick_device(config.train.device), config.train.timeout_minutes) as world, place as folder:
        world.leader = world.rank  # each has a temporary folder of its own
        return _measure(config, Path(folder), seconds, progress if world.is_main else Progress(), world)


def _measure(config: RunConfig, folder: Path, seconds: float, progress: Progress, world: World) -> Bench:
    text = folder / "text.jsonl"
    _write_texts(config, text, progress)
    config = _to_measure(config, text)
    components = build_components(config, RunFolder(folder / "run"), progress, world)
    progress.begin("measure")
    model = components.model
    ceilings = {name: matmul_rate(name, model.device, _PRODUCT_SECONDS) for name in PRECISIONS}
    loop = training_loop(config, components)
    training = measure_training(loop, ceilings[components.precision], seconds, progress)
    result = Bench(
        machine=machine_info(),
        model=config.model.preset or str(config.model.name),
        device=model.device.type,
        parameters=model.parameters,
        precision=components.precision,
        batch_tokens=loop.stream.batch_tokens,
        ceilings=ceilings,
        training=training,
        masking_tokens_per_second=masking_rate(components.text, _MASKING_SECONDS),
        processes=world.size,
        parallel=components.parallel[1],
        preparation=_preparation_rate(config, components, text, folder / "shards"),
    )
    progress.end()
    return result


def training_loop(config: RunConfig, components: RunComponents) -> Loop:
    """Put together the loop that ``train`` would run."""
    recipe = recipe_of(config, components)
    config = with_recipe(config, recipe, components)
    stream = TrainingStream(components.text, recipe.batch_tokens, config.train.seed)
    return make_loop(config, recipe, components, stream)


def run_measured(loop: Loop, watch: Stopwatch) -> None:
    """Run a loop until the watch has measured long enough."""
    before = 0

    def after_step(loop: Loop) -> None:
        nonlocal before
        tokens, before = loop.position.tokens - before, loop.position.tokens
        loop.ended = loop.world.any(watch.tick(tokens))

    loop.after_step = after_step
    loop.run()


def measure_training(loop: Loop, ceiling: MatmulRate, seconds: float, progress: Progress) -> TrainingRate:
    """Run a loop for some seconds and return its speed.

    Args:
        loop: as :func:`training_loop` makes it, of a length that is not reached.
        ceiling: in the precision of the loop.
        seconds: how long to measure.
        progress: told of the phases.
    """
    attended, predicted = shape_of_steps(loop)
    flops = flops_per_token(loop.model, attended, predicted)
    rows: list[Row] = []
    # Writing a row waits for the device, which costs nothing on a CPU and shows the waiting of every step.
    loop.log_every = 1 if loop.model.device.type == "cpu" else loop.log_every
    loop.on_row = rows.append
    watch = Stopwatch(seconds, settle=lambda: settle(loop.model.device))
    progress.log(f"training for {plural(seconds, 'second')}")
    run_measured(loop, watch)
    rate = watch.tokens_per_second
    return TrainingRate(
        tokens_per_second=rate,
        seconds_per_step=watch.seconds_per_step,
        steps=len(watch.step_seconds),
        wait_share=float(np.mean([row["wait_share"] for row in rows[watch.warm_up :] or rows] or [0.0])),
        attended=attended,
        predicted=predicted,
        flops_per_token=flops,
        teraflops=flops * rate / 1e12,
        share=flops * rate / 1e12 / ceiling.teraflops / loop.world.size,
    )


def shape_of_steps(loop: Loop) -> tuple[float, float]:
    """Return how many tokens a token attends to and the share of tokens to predict, in the first steps."""
    squares, tokens, targets = 0, 0, 0
    cursor = Cursor()
    for step in range(_SAMPLED_STEPS):
        plan = loop.plan(cursor, step)
        if plan is None:
            break
        cursor = plan.following
        for batch in plan.batches:
            squares += int((np.diff(batch.cu_seqlens).astype(np.int64) ** 2).sum())
            tokens += batch.tokens
            targets += len(batch.target_ids)
    return squares / tokens, targets / tokens


def masking_rate(source: TextSource, seconds: float) -> float:
    """Return the tokens a second that are packed and masked on one core, measured for some seconds."""
    numbers = np.arange(len(source.sequences))
    parts = list(split_by_tokens(source.sizes(numbers), _MASKED_AT_ONCE))
    key = MaskKey(0, 0)
    tokens, done, begin = 0, 0, time.perf_counter()
    while (passed := time.perf_counter() - begin) < seconds:
        tokens += source.batch(numbers[parts[done % len(parts)]], key, source.masking.rate).tokens
        done += 1
    return tokens / passed


def _preparation_rate(config: RunConfig, components: RunComponents, text: Path, out: Path) -> PreparationRate:
    begin = time.perf_counter()
    corpus = prepare([text], config.data, components.model.tokenizer, out)
    seconds = time.perf_counter() - begin
    texts = [document.text for document in DocumentReader([text], config.data)]
    bare = encode_rate(components.model.tokenizer, texts)
    rate = corpus.tokens / seconds
    return PreparationRate(rate, corpus.manifest["bytes"] / 1e6 / seconds, bare, rate / bare)


def encode_rate(tokenizer: Any, texts: list[str]) -> float:
    """Return the tokens a second of the tokenizers library alone, on all cores it takes, texts being in memory."""
    core = plain_copy(tokenizer)
    tokens, begin = 0, time.perf_counter()
    for part in in_batches(texts):
        tokens += sum(len(encoding) for encoding in core.encode_batch(part, add_special_tokens=False))
    return tokens / (time.perf_counter() - begin)


def read_texts(
    data: DocumentSettings, inputs: Sequence[str], limit: int, progress: Progress = Progress()
) -> Iterator[str]:
    """Yield what is measured with: the beginning of the inputs, or else of the documentation of this Python.

    Raises:
        DataError: the text cannot be read, or is prepared shards.
    """
    for given in inputs:
        if is_corpus(given):
            raise DataError(
                "prepared shards hold no text, and preparing it is measured too; give the text itself",
                path=given,
            )
    if inputs:
        texts: Iterator[str] = (document.text for document in DocumentReader(inputs, data, progress=progress))
    else:
        progress.log("no text given: taking the documentation of this Python")
        found = collect_docstrings(max_characters=limit, progress=progress)
        texts = (docstring.text for docstring in found.train)
    return first_characters(texts, limit)


def _write_texts(config: RunConfig, path: Path, progress: Progress) -> None:
    """Write the text as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for text in read_texts(config.data, config.data.inputs, _CHARACTERS, progress):
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


def _to_measure(config: RunConfig, text: Path) -> RunConfig:
    """Return the settings to measure with: those given, this text, the final mask rate, and an endless run."""
    data = {"inputs": [str(text)], "heldout": [], "text_field": "text"}
    ends = {"max_steps": _ENDLESS, "epochs": None, "minutes": None}
    return config.model_copy(
        update={
            "data": config.data.model_copy(update=data),
            "masking": config.masking.model_copy(update={"initial_rate": config.masking.rate}),
            "train": config.train.model_copy(update=ends),
        }
    )
