"""Run files → one offline HTML page. Nothing here loads a model: the page is a function of the files of the run.

The page shows what is there and says what is not there yet, so it can be written while a run goes on, after one that
was killed, and as often as wanted: the same files give the same bytes.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.errors import DiskError
from unmask.report import plots
from unmask.report.plots import Row, as_float, not_finite_steps
from unmask.report.record import RunRecord, passage_of, read_record
from unmask.run_folder import RunFolder, write_atomically

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"
_BASELINES = {
    "most_frequent_token": "most frequent token",
    "ngram": "bidirectional n-gram",
    "ngram_true_neighbours": "n-gram shown every neighbour",
}


def write_report(folder: RunFolder) -> Path:
    """Write ``report.html`` from the other files of the run, and return its path.

    Raises:
        DataError: the folder holds none of a run's files, or one of them is not in its format.
        DiskError: the page cannot be written.
    """
    page = render_report(read_record(folder))
    try:
        write_atomically(folder.report, page)
    except OSError as fault:
        raise DiskError(f"{folder.report}: the report cannot be written: {fault.strerror}") from None
    return folder.report


def render_report(record: RunRecord) -> str:
    """Return the page: one HTML document that needs no other file, no script and no network."""
    levels = accuracy_levels(record)
    passages = [passage_of(example) for example in record.examples or []]
    spots = [piece.spot for passage in passages for piece in passage if piece.spot]
    template = environment().get_template("page.html.j2")
    return template.render(
        record=record,
        verdict=verdict(record),
        standing=standing(record),
        warnings=warnings(record),
        comparison=comparison(record),
        before=(record.evaluation or {}).get("before"),
        ngram=ngram_note(record),
        charts=plots.main_charts(record.training, record.heldout, levels),
        small=plots.small_charts(record.training),
        passages=passages,
        spots=spots,
        right=sum(spot.right for spot in spots),
        facts=list(facts(record)),
        command=shlex.join(map(str, record.info.get("command") or [])),
    )


def environment() -> Environment:
    """Return the templates' environment. HTML is escaped; only the Markdown of the model card is not HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    escaping = select_autoescape(enabled_extensions=(), disabled_extensions=("md.j2",), default=True)
    found = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=escaping,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters.update(percent=percent, count=count, figure=figure, change=change, bar=bar)
    return found


# ---- what it says


def ngram_note(record: RunRecord) -> str:
    """What the n-gram baseline counts and sees, in the words of the evaluation."""
    baselines = (record.evaluation or {}).get("baselines") or {}
    return str((baselines.get("ngram") or {}).get("what") or "").rstrip(".")


def accuracy_levels(record: RunRecord) -> dict[str, Row]:
    """What the model is measured against, by name: the baselines, then the starting checkpoint where there is one."""
    evaluation = record.evaluation or {}
    baselines = evaluation.get("baselines") or {}
    levels = {_BASELINES.get(key, key.replace("_", " ")): row for key, row in baselines.items() if row}
    if evaluation.get("before"):
        levels["before training"] = evaluation["before"]
    return levels


def verdict(record: RunRecord) -> str:
    """The one sentence of the page, with its figures."""
    if record.evaluation:
        return _final_verdict(record.evaluation, accuracy_levels(record))
    if record.heldout:
        row = record.heldout[-1]
        step, accuracy = count(row["step"]), row.get("eval_accuracy")
        if math.isnan(as_float(accuracy)):
            return f"At step {step} the model's accuracy on held-out text is not a finite number."
        return f"At step {step} the model fills in {percent(accuracy)} of the masked tokens in held-out text exactly."
    if record.training:
        row = record.training[-1]
        return f"At step {count(row['step'])} the training loss is {figure(row['loss'])}; nothing is evaluated yet."
    return "Nothing is recorded yet."


def _final_verdict(found: Row, levels: Mapping[str, Row]) -> str:
    masked = count(found["masked_tokens"])
    beside = ", ".join(f"{name}: {percent(row.get('accuracy'))}" for name, row in levels.items())
    beside = f"; {'the ' * beside.startswith('most')}{beside}." if beside else "."
    if math.isnan(as_float(found["accuracy"])):
        return (
            f"On {masked} masked tokens in held-out text the model's accuracy is not a finite number{beside}"
        )
    return f"Of {masked} masked tokens in held-out text the model fills in {percent(found['accuracy'])} exactly{beside}"


def standing(record: RunRecord) -> str | None:
    """How the accuracy stands to what it is measured against, by name and in points."""
    evaluation = record.evaluation
    accuracy = as_float(evaluation["accuracy"]) if evaluation else math.nan
    gaps = {name: accuracy - as_float(row.get("accuracy")) for name, row in accuracy_levels(record).items()}
    gaps = {name: gap for name, gap in gaps.items() if not math.isnan(gap)}
    if evaluation is None or not gaps:
        return None
    name, gap = min(gaps.items(), key=lambda item: item[1])
    if abs(gap) <= _sampling_error(accuracy, evaluation["masked_tokens"]):
        return f"That is level with the strongest of these ({name}): the difference is within the sampling error."
    if gap < 0:
        return f"That is {points(-gap)} below the strongest of these ({name})."
    return f"That is {points(gap)} above the strongest of these ({name})."


def _sampling_error(accuracy: float, masked_tokens: object) -> float:
    """Half the 95% interval of a share, as if the masked tokens were independent."""
    return 1.96 * math.sqrt(max(0.0, accuracy * (1 - accuracy)) / max(1.0, as_float(masked_tokens)))


def warnings(record: RunRecord) -> list[str]:
    """What went wrong or is unfinished, one sentence each."""
    found = list(record.remarks)
    if not record.finished:
        found.append(
            "This run had not finished when this page was written: it was still going, or it was stopped."
        )
    return [*found, *not_finite(record)]


def not_finite(record: RunRecord) -> Iterator[str]:
    """Say which figures are not finite numbers, and where."""
    for rows, key, name in (
        (record.training, "loss", "Training loss"),
        (record.training, "grad_norm", "The gradient norm"),
        (record.heldout, "eval_loss", "Held-out loss"),
        (record.heldout, "eval_accuracy", "Held-out accuracy"),
    ):
        if steps := not_finite_steps(rows, key):
            yield f"{name} was not finite at {_steps(steps)}."
    final = record.evaluation or {}
    if wrong := [
        key for key in ("accuracy", "loss", "perplexity") if key in final and math.isnan(as_float(final[key]))
    ]:
        yield f"Not a finite number in the final evaluation: {', '.join(wrong)}."


def _steps(steps: Sequence[int], most: int = 8) -> str:
    named = ", ".join(map(count, steps[:most]))
    rest = (
        f" and {count(len(steps) - most)} more logged steps, the last {count(steps[-1])}"
        if len(steps) > most
        else ""
    )
    return f"step {named}" if len(steps) == 1 else f"steps {named}{rest}"


def comparison(record: RunRecord) -> list[tuple[str, Row]]:
    """The rows of the table of figures, this model last: name, and accuracy, loss and perplexity."""
    if not record.evaluation:
        return []
    rows = [*accuracy_levels(record).items(), ("this model", record.evaluation)]
    return [
        (name, {**row, "perplexity": row.get("perplexity", _perplexity(row.get("loss")))})
        for name, row in rows
    ]


def _perplexity(loss: object) -> float | None:
    """e to the loss; a baseline brings its loss alone."""
    return None if loss is None else math.exp(min(as_float(loss), 700.0))


def facts(record: RunRecord) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """What was trained, on what and where: groups of names and values; what is not recorded is left out."""
    for title, group in (
        ("Model", _model_facts(record)),
        ("Text", _text_facts(record)),
        ("Training", _training_facts(record)),
        ("Machine and versions", _machine_facts(record)),
    ):
        known = [(name, value) for name, value in group if value]
        if known:
            yield title, known


def _model_facts(record: RunRecord) -> list[tuple[str, str | None]]:
    info, model = record.info, record.config.get("model") or {}
    name, preset = model.get("name"), model.get("preset")
    begun = f"adapted from {name}" if name else f"from scratch, preset {preset}" if preset else None
    return [
        ("Begun", begun),
        ("Class", info.get("model_class")),
        ("Parameters", _counted(info, "parameters")),
        ("Vocabulary", _counted(info, "vocabulary", "entries")),
    ]


def _text_facts(record: RunRecord) -> list[tuple[str, str | None]]:
    corpus = record.info.get("corpus") or {}
    trained = _counted(corpus, "documents", "documents"), _counted(corpus, "tokens", "tokens")
    kept = _counted(corpus, "heldout_documents", "documents"), _counted(corpus, "heldout_tokens", "tokens")
    return [
        ("Trained on", ", ".join(filter(None, trained))),
        ("Held out", ", ".join(filter(None, kept))),
        ("One epoch", _counted(record.info, "tokens_per_epoch", "tokens")),
        ("Evaluated", _counted(record.evaluation or {}, "documents", "held-out documents")),
    ]


def _training_facts(record: RunRecord) -> list[tuple[str, str | None]]:
    info, last = record.info, record.last or {}
    tokens, seconds = as_float(last.get("tokens")), as_float(last.get("seconds"))
    epoch = as_float(info.get("tokens_per_epoch"))
    share = f" ({figure(tokens / epoch)} epochs)" if epoch > 0 and tokens > 0 else ""
    planned = f" of {count(info['steps'])}" if info.get("steps") and not record.finished else ""
    return [
        ("Steps", f"{count(last['step'])}{planned}" if last else None),
        ("Tokens", f"{count(tokens)}{share}" if tokens > 0 else None),
        ("Time", duration(seconds) if seconds > 0 else None),
        ("Speed", f"{count(tokens / seconds)} tokens/s" if seconds > 0 else None),
        ("One step", _counted(info, "batch_tokens", "tokens")),
        ("Precision", info.get("precision")),
        ("Started", _moment(info.get("started"))),
        ("Finished", _moment(info.get("finished"))),
    ]


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


# ---- figures as text


def percent(value: object) -> str:
    """A share as ``36.4%``; tiny ones as ``<0.1%``."""
    share = as_float(value)
    if math.isnan(share):
        return "not finite" if value is not None else "–"
    return "<0.1%" if 0 < share < 0.0005 else f"{100 * share:.1f}%"


def points(gap: float, signed: bool = False) -> str:
    """A difference of two shares as ``4.4 points``."""
    if math.isnan(gap):
        return "not finite"
    return f"{100 * gap:{'+' if signed else ''}.1f} points".replace("-", "−")


def count(value: object) -> str:
    """A whole number with separators."""
    number = as_float(value)
    return "not finite" if math.isnan(number) else f"{round(number):,}"


def figure(value: object, signed: bool = False) -> str:
    """A number in about four digits."""
    number = as_float(value)
    if math.isnan(number):
        return "not finite" if value is not None else "–"
    size = abs(number)
    style = (
        ",.0f"
        if 1000 <= size < 1e6
        else ".2f"
        if 0.1 <= size < 100
        else ".1f"
        if 100 <= size < 1000
        else ".3g"
    )
    return format(number, ("+" if signed else "") + style).replace("-", "−")


def change(pair: tuple[Row, Row], key: str) -> str:
    """How a figure changed: points for a share, otherwise a signed number."""
    if any(row.get(key) is None for row in pair):
        return "–"
    before, after = (as_float(row[key]) for row in pair)
    return points(after - before, signed=True) if key == "accuracy" else figure(after - before, signed=True)


def bar(value: object) -> str:
    """A share as the width of a bar, a CSS percentage of bare digits."""
    share = as_float(value)
    return "0%" if math.isnan(share) else f"{100 * min(1.0, max(0.0, share)):.1f}%"


def duration(seconds: float) -> str:
    """Seconds as ``3 min 20 s`` or ``2 h 5 min``."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
