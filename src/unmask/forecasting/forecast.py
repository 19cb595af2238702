"""A forecast of an adaptation: a plan of probing runs from a measured speed, the runs, and what follows from them."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unmask.config.options import OPTIONS, arguments, flat_settings
from unmask.config.settings import RunConfig
from unmask.data.batches import TextSource
from unmask.data.heldout_size import FEWEST_UNITS, smaller_documents
from unmask.data.shards import TemporaryFolder
from unmask.data.unknown import require_measurable
from unmask.errors import ConfigError, DataError, plural
from unmask.evaluation.bootstrap import ratios
from unmask.forecasting.analysis import analyse
from unmask.forecasting.budget import FEWEST_STEPS_A_PASS, planned, prober_that_fits, with_batch
from unmask.forecasting.law import LEVEL
from unmask.forecasting.plan import (
    REPLAY_SHARES,
    ProbingRun,
    read_plan,
)
from unmask.forecasting.probing import Probe, Probed, Prober, Sums
from unmask.model.presets import check_trainable
from unmask.progress import Progress
from unmask.reporting.format import loss, no_interval
from unmask.reporting.results import Result, Rows
from unmask.run.components import RunComponents, build_components
from unmask.run_folder import RunFolder
from unmask.storage import read_json

_LENGTHS = {"train.max_steps", "train.epochs", "train.minutes"}
_OPTIONS = {
    OPTIONS[name]
    for name in ("model", "heldout", "documents", "text_field", "encoding", "delimiter", "markup", "max_length", "batch_tokens",
                 "learning_rate", "mask_rate", "strategy", "seed", "offline", "device", "precision")
}  # fmt: skip
"""Settings for which ``unmask forecast`` has an option."""


@dataclass(frozen=True, repr=False)
class Forecast(Result):
    """A forecast of an adaptation. The parts are plain values, the same as in ``unmask forecast --json``.

    Intervals are of 90%. A forecast that cannot be made is ``None``, with its reasons.

    Attributes:
        model: the base.
        text: documents and tokens of the training text, of the held-out text and of general text.
        settings: what the runs have in common: tokens of a step, learning rate, length of a sequence, precision.
        minutes: the limit of all probing runs, if any; ``seconds``: what they took.
        seconds_per_step: measured before the runs.
        plan: the probing runs, and the held-out tokens of an evaluation. It repeats them with ``plan``.
        base: loss of the base on each text, and its interval.
        probes: what the runs reached.
        domain: whether the law of the loss on the domain holds (``decision``: ``forecast`` or ``cannot tell``), why not, its
            parameters, its error and a forecast of the longest run from the shorter ones.
        forgetting: the same for the loss on general text; ``unknown`` without it.
        horizons: for 10 and 100 times the tokens of the longest run: loss and relative ``change`` from the base, forgetting in
            nats, the best replay share, and what more text would change.
        passes: after how many passes over the text another one lowers the loss by less than 0.1%.
        curve: the forecast over tokens.
        rates: other learning rates compared with the one of the plan.
        notes: what limits the forecast.
        commands: to run next.
    """

    model: str
    text: dict[str, Any]
    settings: dict[str, Any]
    minutes: float | None
    seconds: float
    seconds_per_step: float
    plan: dict[str, Any]
    base: dict[str, Any]
    probes: list[dict[str, Any]]
    domain: dict[str, Any]
    forgetting: dict[str, Any]
    horizons: list[dict[str, Any]]
    passes: dict[str, Any] | None
    curve: list[dict[str, Any]]
    rates: list[dict[str, Any]]
    notes: list[str]
    commands: list[str]

    def _title(self) -> str:
        held = "cannot tell" if self.domain["decision"] != "forecast" else "90% intervals"
        return f"forecast for {self.model}, domain loss {loss(self.base['domain']['value'])} before: {held}"

    def to_rows(self) -> Rows:
        """Return a row for each horizon: tokens, and the expected values with the ends of their intervals."""
        return [
            {"tokens": row["tokens"], "passes": row["passes"]}
            | _ends("domain_loss", row["domain"])
            | _ends("forgetting", row["forgetting"])
            | {"replay_share": (row["replay"] or {}).get("best")}
            for row in self.horizons
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return asdict(self)


def _ends(name: str, found: dict[str, Any] | None) -> dict[str, Any]:
    low, high = (found or {}).get("interval") or (None, None)
    return {name: found and found["value"], f"{name}_low": low, f"{name}_high": high}


def forecast(
    config: RunConfig,
    *,
    minutes: float = 5.0,
    plan: str | Path | None = None,
    replay_share: float | None = None,
    progress: Progress = Progress(),
) -> Forecast:
    """Forecast what adapting a model to a text would bring, from short probing runs.

    Args:
        config: settings of the run that is planned. Its general text (``data.replay``, or ``data.forgetting_eval``) is divided:
            a share is held out to measure forgetting, the rest is replayed.
        minutes: limit of all probing runs together; reading and preparing text is not counted.
        plan: the JSON of an earlier forecast, whose runs are repeated whatever time they take.
        replay_share: the share of general text of the run that is planned; by default the best is sought.
        progress: gets the plan, the runs and warnings.

    Raises:
        ConfigError: settings that cannot work, a model without an LM head, or too few minutes for any plan.
        DataError: the text cannot be used, or is too small.
        DivergedError: a run ended with a loss that is NaN or infinite.
    """
    config = _checked(config, replay_share)
    shares = sorted({*REPLAY_SHARES, *([replay_share] if replay_share else [])}) if config.data.replay else []
    given: Any = None if plan is None else read_json(Path(plan))
    repeated = None if plan is None else read_plan(given, str(plan))
    if repeated is not None:
        _require_general(repeated, config, str(plan))
    if repeated is not None and config.train.batch_tokens is None:
        config = with_batch(config, given.get("settings", {}).get("batch_tokens"))
    with (
        TemporaryFolder("unmask-forecast-") as place,
        torch.random.fork_rng(devices=[]),
    ):
        components = build_components(config, RunFolder(Path(place)), progress)
        _require_usable(components, config)
        prober = Prober(components, config, config.train.eval_tokens)
        if repeated is None:
            evaluation = prober.evaluation_seconds()
            if config.train.batch_tokens is None:
                prober = prober_that_fits(prober, evaluation, minutes, shares, progress)
                config = with_batch(config, prober.config.train.batch_tokens)
        _require_text(components, prober)
        step = prober.seconds()
        if repeated is None:
            runs = planned(prober, step, evaluation, minutes, shares)
        else:
            runs, minutes = repeated, np.inf
            prober.eval_tokens = int(given["plan"]["eval_tokens"])
        begin = time.perf_counter()
        prober.reset()
        base = prober.evaluate()
        _require_units(base, prober.eval_tokens)
        probes = _run_all(prober, runs, begin + 60 * minutes, progress)
        seconds = time.perf_counter() - begin
        return _result(config, prober, base, probes, runs, minutes, seconds, step, replay_share)


def _checked(config: RunConfig, replay_share: float | None) -> RunConfig:
    check_trainable(config)
    if config.model.preset:
        raise ConfigError("a forecast is of adapting a checkpoint; name one with --model instead of a preset")
    if config.train.objective != "mlm":
        raise ConfigError(
            f"a forecast is of masked language modelling, not of objective {config.train.objective}; leave it out"
        )
    data = config.data
    if data.forgetting_eval and not data.replay:  # given as in training, where it only measures
        data = data.model_copy(update={"replay": data.forgetting_eval, "forgetting_eval": []})
    if replay_share is not None and not data.replay:
        raise ConfigError("--replay-share is a share of general text; give it with --general")
    return config.model_copy(update={"data": data})


def _require_general(runs: Sequence[ProbingRun], config: RunConfig, plan: str) -> None:
    replayed = sum(run.replay_share > 0 for run in runs)
    if replayed and not config.data.replay:
        raise ConfigError(
            f"{plan}: {replayed} of the {plural(len(runs), 'probing run')} of this plan replay general text; give it with --general"
        )


def _require_usable(components: RunComponents, config: RunConfig) -> None:
    if components.new_head:
        raise ConfigError(
            f"{config.model.name} has no LM head, so there is no loss to start from; train one first, "
            f"for example 'unmask train TEXT --model {config.model.name} --head-warmup-steps 200'"
        )
    for text in _texts(components).values():
        require_measurable(text.corpus.unknown(components.model.tokenizer))
    held = components.heldout
    texts = 0 if held is None else len(np.unique(held.corpus.keys[held.documents]))
    if texts < FEWEST_UNITS:
        read = components.text.corpus.manifest.get("read", {})
        smaller = smaller_documents(read.get("splits", ()))
        raise DataError(
            f"the text is too small for a forecast: {no_interval(texts, 'held-out documents')}, which needs {FEWEST_UNITS}; give more text, "
            f"{f'{smaller}, ' if smaller else ''}or held-out text with --heldout"
        )


def _require_units(base: Sums, tokens: int) -> None:
    for name, what in (("domain", "held-out"), ("general", "general")):
        if name in base and len(base[name]) < FEWEST_UNITS:
            raise DataError(
                f"{no_interval(len(base[name]))} in {plural(tokens, 'token')} of {what} text, and a forecast needs {FEWEST_UNITS}; "
                f"evaluate more with --set train.eval_tokens=N, give more --minutes for it, or give text of shorter documents"
            )


def _require_text(components: RunComponents, prober: Prober) -> None:
    batch = prober.config.train.batch_tokens or 1
    if components.text.tokens < FEWEST_STEPS_A_PASS * batch:
        raise DataError(
            f"the text is too small for a forecast: one pass has {plural(components.text.tokens, 'token')}, less than "
            f"{FEWEST_STEPS_A_PASS} steps of {batch:,}; give more text, or a lower --batch-tokens"
        )


def _run_all(prober: Prober, runs: Sequence[ProbingRun], deadline: float, progress: Progress) -> list[Probe]:
    """Make the runs in turn until the deadline."""
    total, done = sum(run.steps for run in runs), 0
    longest = max(run.steps for run in runs)
    progress.log(
        f"{plural(len(runs), 'probing run')}, {plural(total, 'step')} in all, the longest of {longest:,}"
    )
    progress.begin("probe")
    probes: list[Probe] = []

    def advance() -> None:
        nonlocal done
        done += 1
        progress.advance(done / total, {"run": len(probes) + 1})

    for run in runs:
        probe = prober.probe(run, deadline, advance)
        if probe is None:
            break
        probes.append(probe)
    progress.end()
    if len(probes) < len(runs):
        progress.warning(
            f"the time is up: {plural(len(runs) - len(probes), 'probing run')} of {len(runs)} left out"
        )
    return probes


def _result(
    config: RunConfig,
    prober: Prober,
    base: Sums,
    probes: Sequence[Probe],
    runs: Sequence[ProbingRun],
    minutes: float,
    seconds: float,
    step: float,
    share: float | None,
) -> Forecast:
    text, train = prober.components.text, prober.config.train
    if not probes:
        raise ConfigError(f"no probing run ended within {minutes:g} minutes; give more --minutes")
    found = analyse(Probed(base, probes, text.tokens, train.seed), share)
    for row in found["horizons"]:
        row["steps"] = round(row["tokens"] / (train.batch_tokens or 1))
        row["seconds"] = row["steps"] * step
    losses = {
        name: ratios(sums[:, [1]], sums[:, [0]], level=LEVEL)[0].to_dict() for name, sums in base.items()
    }
    return Forecast(
        model=str(config.model.name),
        text=_sizes(prober.components),
        settings={
            "batch_tokens": train.batch_tokens,
            "learning_rate": train.optimizer.learning_rate,
            "schedule": train.schedule.name,
            "max_length": prober.config.data.max_length,
            "precision": train.precision,
            "seed": train.seed,
        },
        minutes=None if np.isinf(minutes) else minutes,
        seconds=seconds,
        seconds_per_step=step,
        plan={"runs": [run.to_dict() for run in runs], "eval_tokens": prober.eval_tokens},
        base=losses,
        probes=[_probe_row(probe) for probe in probes],
        notes=list(_notes(prober.components, runs, probes, found)),
        commands=_commands(config, found, minutes),
        **found,
    )


def _probe_row(probe: Probe) -> dict[str, Any]:
    sizes = {name: getattr(probe, name) for name in ("tokens", "domain_tokens", "text_tokens", "seconds")}
    return probe.run.to_dict() | sizes | {name: probe.loss(name) for name in probe.sums}


def _texts(components: RunComponents) -> dict[str, TextSource]:
    texts = {
        "": components.text,
        "heldout_": components.heldout,
        "replay_": components.replay,
        "general_": components.general,
    }
    return {name: text for name, text in texts.items() if text is not None}


def _sizes(components: RunComponents) -> dict[str, Any]:
    return {
        f"{name}{what}": size
        for name, text in _texts(components).items()
        for what, size in (("documents", len(text.documents)), ("tokens", text.tokens))
    }


def _notes(
    components: RunComponents, runs: Sequence[ProbingRun], probes: Sequence[Probe], found: dict[str, Any]
) -> list[str]:
    notes = []
    if len(probes) < len(runs):
        notes.append(f"{plural(len(runs) - len(probes), 'probing run')} of {len(runs)} did not end in time")
    for text in {id(each.corpus): each for each in _texts(components).values()}.values():
        if message := text.corpus.unknown(components.model.tokenizer).message():
            notes.append(f"unknown tokens are never targets: {message}")
    if components.general is None:
        notes.append("forgetting is not measured: no general text was given (--general)")
    for name, what in (("domain", "the loss on the domain"), ("forgetting", "forgetting")):
        if found[name]["decision"] == "cannot tell":
            notes += [f"{what} cannot be forecast: {reason}" for reason in found[name]["reasons"]]
    notes += [row["reason"] for row in found["horizons"] if row["reason"]]
    for row in found["rates"]:
        change = row["domain"]
        if change["interval"][1] < 0:
            notes.append(
                f"{row['factor']:.3g} times the learning rate has a domain loss {-100 * change['value']:.1f}% lower after {row['tokens']:,} "
                f"tokens; the forecast is for the rate of the plan, another one is forecast with --learning-rate"
            )
    return notes


def _commands(config: RunConfig, found: dict[str, Any], minutes: float) -> list[str]:
    """Return the command to run next: the adaptation, or a longer forecast; both with the settings that were given."""
    usual = flat_settings(RunConfig().model_dump())
    given = {key: value for key, value in flat_settings(config.model_dump()).items() if value != usual[key]}
    start = [*given.pop("data.inputs"), *arguments({"model.name": given.pop("model.name")})]
    general = given.pop("data.replay", [])
    row = found["horizons"][0]
    if row["domain"] is None:
        longer = f"{2 * minutes if np.isfinite(minutes) else 10:g}"
        words = ["unmask", "forecast", *start, *arguments(given, _OPTIONS), "--minutes", longer]
        return [shlex.join([*words, *(word for each in general for word in ("--general", each))])]
    share = (row["replay"] or {}).get("share")
    given = {key: value for key, value in given.items() if key not in _LENGTHS}
    given |= {"train.max_steps": row["steps"], ("data.replay" if share else "data.forgetting_eval"): general}
    if share:
        given["data.replay_share"] = share
    return [shlex.join(["unmask", "train", *start, *arguments(given), "-o", "runs/adapted"])]
