"""The report of a run: one offline HTML page from the files of the run, without loading a model.

It can be written during a run, after one that was killed, and repeatedly: the same files give the same bytes.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unmask.data.unknown import MANY
from unmask.errors import DiskError, plural
from unmask.reporting import adaptation, plots
from unmask.reporting.format import (
    METRICS,
    as_float,
    count,
    duration,
    masks,
    metric,
    metric_change,
    number,
    own_metric,
    own_metrics,
    percent,
)
from unmask.reporting.headline import accuracy_levels, standing, verdict
from unmask.reporting.overlap import overlap_text
from unmask.reporting.plots import not_finite_steps
from unmask.reporting.reading import left_out_of_run
from unmask.reporting.record import RunRecord, passage_of, read_record
from unmask.reporting.render import environment
from unmask.run_folder import GENERATOR, RunFolder
from unmask.storage import JsonDict, write_atomically


def write_report(folder: RunFolder) -> Path:
    """Write ``report.html`` from the other files of the run, and return its path.

    Raises:
        DataError: the folder holds none of a run's files, or one of them is not in its format.
        DiskError: the page cannot be written.
    """
    page = render_report(read_record(folder))
    try:
        write_atomically(folder.report, page)
    except OSError as error:
        raise DiskError(f"{folder.report}: the report cannot be written: {error.strerror}") from None
    return folder.report


def render_report(record: RunRecord) -> str:
    """Return the page: one HTML document that needs no other file, no script and no network."""
    levels = accuracy_levels(record)
    passages = [passage_of(example) for example in record.examples or []]
    spots = [piece.spot for passage in passages for piece in passage if piece.spot]
    template = environment().get_template("page.html.j2")
    return template.render(
        kind="Run report",
        name=record.name,
        record=record,
        verdict=verdict(record),
        standing=standing(record),
        course=course_of(record),
        warnings=warnings(record),
        comparison=comparison(record),
        before_after=list(before_after(record)),
        adaptation=adaptation.section(record),
        ngram=ngram_note(record),
        masks=masks(record.evaluation or record.info),
        replaced=(record.evaluation or {}).get("by_replacement"),
        own_metrics=list(own_metrics(record.evaluation or {})),
        own_columns=own_columns(record),
        own_metric=own_metric,
        charts=plots.main_charts(record.training, record.heldout, levels),
        small=plots.small_charts(record.training),
        passages=passages,
        spots=spots,
        right=sum(spot.right for spot in spots),
        facts=list(facts(record)),
        command=shlex.join(map(str, record.info.get("command") or [])),
    )


def render_curves(record: RunRecord) -> str:
    """Return the two main curves of a run as a page of its own, or nothing where there are no rows of metrics."""
    charts = plots.main_charts(record.training, record.heldout, accuracy_levels(record))
    return environment().get_template("charts.html.j2").render(charts=charts) if charts else ""


# ---- sentences


def ngram_note(record: RunRecord) -> str:
    """What the n-gram baseline is fitted on, as the evaluation describes it."""
    baselines = (record.evaluation or {}).get("baselines") or {}
    return str((baselines.get("ngram") or {}).get("what") or "").rstrip(".")


def course_of(record: RunRecord) -> str | None:
    """The course of the held-out loss of an adapted model, in a sentence or two."""
    course = adaptation.course(record) if record.adaptation else None
    return course.sentence if course else None


def warnings(record: RunRecord) -> list[str]:
    """What is unfinished, left out, trained on though held out, unknown to the tokenizer or NaN, one sentence each."""
    found = list(record.remarks)
    if not record.finished:
        found.append(
            "This run had not finished when this page was written: it was still running, or it was stopped."
        )
    return [*found, *limits(record)]


def limits(record: RunRecord, *, examples: bool = True) -> Iterator[str]:
    """Yield what limits the metrics, one sentence each; ``examples`` quote what was left out, with its file."""
    if record.detects:
        yield (
            f"Accuracy and loss at masked tokens are those of the generator ({GENERATOR}/ in the folder of the model); the model itself "
            f"says which tokens were replaced, and has the metrics of the objective alone."
        )
    yield from left_out_of_run(record.info, examples=examples)
    yield from overlapping(record)
    yield from unknown_tokens(record)
    yield from not_finite(record)


def overlapping(record: RunRecord) -> Iterator[str]:
    """Say which held-out text occurs in the training text."""
    for name, found in (record.info.get("overlap") or {}).items():
        if said := overlap_text(name, found):
            yield f"{said}."


def unknown_tokens(record: RunRecord) -> Iterator[str]:
    """Say which texts have many tokens that are unknown to the tokenizer, and that there was no LM head."""
    if record.info.get("new_head"):
        yield (
            "The base model came without an LM head, and a new one was trained: there are no metrics before training, so "
            "what the model gained or forgot cannot be told."
        )
    corpus = record.info.get("corpus") or {}
    for key, name in (
        ("", "training text"),
        ("heldout_", "held-out text"),
        ("replay_", "replayed text"),
        ("general_", "general text"),
    ):
        if as_float(share := corpus.get(f"{key}unknown_share")) > MANY:
            yield f"{percent(share)} of the tokens of the {name} are unknown to the tokenizer."


def not_finite(record: RunRecord) -> Iterator[str]:
    """Say which metrics are NaN or infinite, and at which steps."""
    for rows, key, name in (
        (record.training, "loss", "Training loss"),
        (record.training, "grad_norm", "The gradient norm"),
        (record.heldout, "eval_loss", "Held-out loss"),
        (record.heldout, "eval_accuracy", "Held-out accuracy"),
    ):
        if steps := not_finite_steps(rows, key):
            yield f"{name} was NaN or infinite at {_steps(steps)}."
    final = record.evaluation or {}
    if wrong := [
        key for key in ("accuracy", "loss", "perplexity") if key in final and math.isnan(as_float(final[key]))
    ]:
        yield f"NaN or infinite in the final evaluation: {', '.join(wrong)}."


def _steps(steps: Sequence[int], most: int = 8) -> str:
    named = ", ".join(map(count, steps[:most]))
    rest = (
        f" and {plural(len(steps) - most, 'more logged step')}, the last {count(steps[-1])}"
        if len(steps) > most
        else ""
    )
    return f"step {named}" if len(steps) == 1 else f"steps {named}{rest}"


def comparison(record: RunRecord) -> list[tuple[str, JsonDict]]:
    """The rows of the table of metrics, this model last: name, and accuracy, loss and perplexity."""
    if not record.evaluation:
        return []
    rows = [
        *accuracy_levels(record).items(),
        ("its generator" if record.detects else "this model", record.evaluation),
    ]
    return [
        (name, {**row, "perplexity": row.get("perplexity", _perplexity(row.get("loss")))})
        for name, row in rows
    ]


def own_columns(record: RunRecord) -> list[str]:
    """The keys of the metrics of the objective in the rows of evaluations during training."""
    found = {key for row in record.heldout for key in row if key.startswith("eval_")}
    return sorted(found - {"eval_loss", "eval_accuracy"})


def before_after(record: RunRecord) -> Iterator[tuple[str, str, str, str]]:
    """Yield accuracy, loss and perplexity before and after training with their change, unless there is an adaptation.json."""
    after = record.evaluation or {}
    before = after.get("before")
    if not before or record.adaptation:
        return
    for key in ("accuracy", "loss", "perplexity"):
        sides = before.get(key), after.get(key)
        gap = as_float(sides[1]) - as_float(sides[0])
        change = "–" if None in sides else metric_change(key, gap)
        yield METRICS[key], metric(key, sides[0]), metric(key, sides[1]), change


def _perplexity(loss: object) -> float | None:
    """exp(loss): a baseline has only its loss."""
    return None if loss is None else math.exp(min(as_float(loss), 700.0))


def facts(record: RunRecord) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """What was trained, on what and where: groups of names and values; what is not recorded is left out."""
    for title, group in (
        ("Model", _model_facts(record)),
        ("Text", _text_facts(record)),
        ("Training", _training_facts(record)),
        ("Machine and versions", _machine_facts(record)),
        ("Hashes (SHA-256)", _hash_facts(record)),
    ):
        known = [(name, value) for name, value in group if value]
        if known:
            yield title, known


def _model_facts(record: RunRecord) -> list[tuple[str, str | None]]:
    info, model = record.info, record.config.get("model") or {}
    name, preset = model.get("name"), model.get("preset")
    trained = info.get("trained_parameters")
    trainable = f"{count(trained)} of them" if trained and trained != info.get("parameters") else None
    start = f"adapted from {name}" if name else f"from scratch, preset {preset}" if preset else None
    return [
        ("Starting point", start),
        ("Class", info.get("model_class")),
        ("Parameters", _counted(info, "parameters")),
        ("Trained", trainable),
        ("Vocabulary", _counted(info, "vocabulary", "entries")),
    ]


def _text_facts(record: RunRecord) -> list[tuple[str, str | None]]:
    corpus = record.info.get("corpus") or {}
    trained = _counted(corpus, "documents", "documents"), _counted(corpus, "tokens", "tokens")
    held_out = {
        name: corpus.get(f"heldout_{name}", 0) + corpus.get(f"selection_{name}", 0)
        for name in ("documents", "tokens")
    }
    kept = [_counted(held_out, name, name) for name in held_out]
    return [
        ("Trained on", ", ".join(filter(None, trained))),
        ("Held out", ", ".join(filter(None, kept))),
        ("Replayed", _text_of(corpus, "replay")),
        ("General text", _text_of(corpus, "general")),
        ("One epoch", _counted(record.info, "tokens_per_epoch", "tokens")),
        ("Sequences", (record.info.get("choices") or {}).get("sequences")),
        ("Weights chosen on", adaptation.chosen_on(record.evaluation or {})),
        ("Evaluated", _counted(record.evaluation or {}, "documents", "held-out documents")),
    ]


def _text_of(corpus: Mapping[str, Any], name: str) -> str | None:
    """Documents and tokens of a text that not every run has."""
    found = _counted(corpus, f"{name}_documents", "documents"), _counted(corpus, f"{name}_tokens", "tokens")
    return ", ".join(filter(None, found)) or None


def _hash_facts(record: RunRecord) -> list[tuple[str, str | None]]:
    hashes = (record.adaptation or {}).get("hashes") or {}
    texts = {
        "text": "Training text",
        "heldout": "Held-out text",
        "selection": "Text that chose the weights",
        "replay": "Replayed text",
        "general": "General text",
        "general_selection": "General text that chose the weights",
    }
    found = [(name, (hashes.get("texts") or {}).get(key)) for key, name in texts.items()]
    return [("Tokenizer", hashes.get("tokenizer")), *found, *(hashes.get("weights") or {}).items()]


def _epochs(record: RunRecord, tokens: float) -> float:
    """Return the passes over the training text that so many tokens are, of which those of replayed text are none; NaN if unknown."""
    row = next((row for row in reversed(record.training) if "epoch" in row), None)
    if row is None:
        return tokens / (as_float(record.info.get("tokens_per_epoch")) or math.nan)
    return as_float(row["epoch"]) * tokens / (as_float(row["tokens"]) or math.nan)


def _training_facts(record: RunRecord) -> list[tuple[str, str | None]]:
    info, last = record.info, record.last or {}
    tokens, seconds = as_float(last.get("tokens")), as_float(last.get("seconds"))
    epochs = _epochs(record, tokens)
    share = f" ({number(epochs)} epochs)" if epochs > 0 else ""
    planned = f" of {count(info['steps'])}" if info.get("steps") and not record.finished else ""
    return [
        ("Objective", (info.get("choices") or {}).get("objective")),
        ("Steps", f"{count(last['step'])}{planned}" if last else None),
        ("Tokens", f"{count(tokens)}{share}" if tokens > 0 else None),
        ("Time of the steps", f"{duration(seconds)}, without evaluations" if seconds > 0 else None),
        ("Speed", f"{count(tokens / seconds)} tokens/s" if seconds > 0 else None),
        ("One step", _counted(info, "batch_tokens", "tokens")),
        ("Exported", _exported(record)),
        ("Precision", info.get("precision")),
        ("Started", _moment(info.get("started"))),
        ("Finished", _moment(info.get("finished"))),
    ]


def _exported(record: RunRecord) -> str | None:
    found = record.evaluation or {}
    if found.get("step") is None:
        return None
    return f"step {count(found['step'])}{', stopped early' if found.get('stopped_early') else ''}"


def _machine_facts(record: RunRecord) -> list[tuple[str, str | None]]:
    info = record.info
    machine = info.get("machine") or {}
    memory = as_float(machine.get("memory_gb"))
    known = [f"{name} {info[name]}" for name in ("unmask", "torch", "transformers") if info.get(name)]
    python = f"Python {info['python']}" if info.get("python") else None
    return [
        ("Processor", machine.get("cpu")),
        ("Cores", _counted(machine, "cores")),
        ("Memory", f"{memory:.3g} GB" if memory > 0 else None),
        ("GPU", machine.get("gpu") or ("none" if machine else None)),
        ("Versions", ", ".join(filter(None, [*known, python]))),
    ]


def _counted(mapping: Mapping[str, Any], key: str, unit: str = "") -> str | None:
    value = mapping.get(key)
    return None if value is None else f"{count(value)} {unit}".rstrip()


def _moment(text: Any) -> str | None:
    """An ISO time without its fractions of a second."""
    return re.sub(r"\.\d+", "", str(text)).replace("T", " ") if text else None
