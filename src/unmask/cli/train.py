"""The verbs ``train``, ``demo`` and ``report``."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from unmask.cli import options
from unmask.cli import runtime as shell
from unmask.cli.broken_pipe import surviving_viewers
from unmask.cli.terminal import Page
from unmask.errors import ConfigError, RequirementError, UnmaskError, plural
from unmask.remote.systems import is_url
from unmask.reporting.format import (
    baseline_name,
    byte_size,
    clock,
    interval,
    loss,
    masks,
    own_metrics,
    percent,
)
from unmask.reporting.reading import left_out_of_run
from unmask.storage import JsonDict, read_json

if TYPE_CHECKING:
    from unmask.run.training_run import FinishedRun

Out = Annotated[
    str | None,
    options.output("-o", "--out", metavar="RUN", show_default="runs/train", help="Run folder, or its URL."),
]
DemoFolder = Annotated[Path, options.output("-o", "--out", metavar="RUN", help="Run folder.")]
DemoMinutes = Annotated[float, Option("--minutes", metavar="MINUTES", min=0.01, help="How long to train.")]
DEMO_MINUTES = 2.9
_SHORT_DEMO = 1.5
"""Minutes below which the demo says how little they are."""
_DEMO_SENTENCES = ("Return the [MASK] of the list.", "Raise an error if the file does not ___.")


@surviving_viewers()
def train(
    text: options.TextOrConfigArgument = None,
    model: options.ModelToAdapt = None,
    preset: options.Preset = None,
    tokenizer: options.Tokenizer = None,
    out: Out = None,
    config_file: options.ConfigFile = None,
    overrides: options.Overrides = None,
    documents: options.DocumentsOption = None,
    text_field: options.TextField = None,
    encoding: options.Encoding = None,
    delimiter: options.Delimiter = None,
    markup: options.MarkupOption = None,
    strict: options.Strict = False,
    allow_unknown: options.AllowUnknown = False,
    skip_unreadable: options.SkipUnreadable = False,
    max_length: options.MaxLength = None,
    heldout: options.Heldout = None,
    replay: options.Replay = None,
    replay_share: options.ReplayShare = None,
    general: options.General = None,
    mask_rate: options.MaskRate = None,
    strategy: options.StrategyOption = None,
    epochs: options.Epochs = None,
    max_steps: options.MaxSteps = None,
    minutes: options.Minutes = None,
    patience: options.Patience = None,
    save_every: options.SaveEvery = None,
    resume: options.Resume = False,
    checkpoint: options.CheckpointToResume = None,
    dry_run: options.DryRun = False,
    objective: options.ObjectiveOption = None,
    detour: options.Detour = None,
    generator: options.Generator = None,
    recipe: options.RecipeOption = None,
    learning_rate: options.LearningRate = None,
    batch_tokens: options.BatchTokens = None,
    layer_decay: options.LayerDecay = None,
    freeze: options.FreezeOption = None,
    lora_rank: options.LoraRank = None,
    head_warmup_steps: options.HeadWarmupSteps = None,
    new_embeddings_steps: options.NewEmbeddingsSteps = None,
    export_alpha: options.ExportAlpha = None,
    max_forgetting: options.MaxForgetting = None,
    require: options.Require = None,
    task: options.Task = None,
    parallel: options.ParallelOption = None,
    offload: options.OffloadOption = False,
    device: options.DeviceOption = None,
    precision: options.PrecisionOption = None,
    seed: options.Seed = None,
    offline: options.Offline = False,
    track: options.Track = None,
    as_json: options.Json = False,
) -> None:
    """Adapt a checkpoint to your text, or train from scratch.

    The text, a model (--model or --preset) and the folder of the run (-o) are all it needs. The folder gets the model,
    a report, metrics and checkpoints.

    Examples:
        unmask train notes/ --model bert-base-uncased -o runs/notes
        unmask train notes/*.txt --preset modernbert-mini --minutes 30
        unmask train -o runs/notes --resume
    """
    if resume and out is None and text and is_run(text):
        out, text = text[0], None
    if resume and text == ["auto"]:  # what other trainers call the last checkpoint
        text = None
    if resume and any(item == "auto" or Path(item).parent.name == "checkpoints" for item in text or ()):
        raise ConfigError(
            "--resume takes no value; name the run with -o, and another checkpoint with --checkpoint"
        )
    given = locals()
    continued = str(checkpoint) if checkpoint else "auto" if resume else None
    messages = [] if out or dry_run else ["run folder: runs/train (choose another with -o)"]
    with contextlib.ExitStack() as stack:
        if out and is_url(out) and not dry_run:
            from unmask.run.published import output_folder

            folder = stack.enter_context(output_folder(out, resume=bool(continued), progress=shell.Lines()))
        else:
            folder = Path(out or "runs/train")
        try:
            result = _train(given, folder, continued, messages)
        except UnmaskError as error:  # whose commands are to name the URL
            if out and is_url(out):
                said = str(error).replace(str(folder), out.rstrip("/"))
                error.args = (said, *error.args[1:])
            raise
    if result is not None:
        print_result(result, as_json, url=out if out and is_url(out) else None)
        if result.unmet:
            raise RequirementError(result.unmet)


def _train(
    given: dict[str, Any], folder: Path, continued: str | None, messages: list[str]
) -> FinishedRun | None:
    """Train in a folder with the parameters of the verb; a dry run prints what it measured instead."""
    text, dry_run, as_json = given["text"], given["dry_run"], given["as_json"]
    own = text and (given["model"] or given["preset"])  # the same command as before, which says everything
    if continued and not (given["config_file"] or own) and is_run([str(folder)]):
        given["config_file"] = folder / "config.yaml"
        messages.append(f"settings from {folder / 'config.yaml'}")
    elif continued and not (given["config_file"] or text):
        raise ConfigError(
            f"{folder}: no run to resume (it has no config.yaml); name the folder of a run with -o"
        )
    config = options.load_settings(given)
    from unmask.run.packages import require_run_packages

    require_run_packages(config.train)
    from unmask.model.presets import check_trainable

    check_trainable(config)
    if not continued:
        shell.check_texts(config.data)
    from unmask.probing.adaptation import task_probe

    probe = task_probe(config)
    if dry_run:
        with shell.working() as progress:
            from unmask.run.dry_run import dry_run as measure

            found = measure(config, progress=progress)
        from unmask.training.distributed import World

        if World.will_be_main():
            shell.show(as_json, found, lambda page: draw_dry_run(page, found))
        return None
    with shell.working() as progress:
        from unmask.run.train import train as run_training
        from unmask.training.distributed import World

        for message in messages if World.will_be_main() else ():
            progress.log(message)

        command = ["unmask", *sys.argv[1:]]
        return run_training(config, folder, resume=continued, command=command, probe=probe, progress=progress)


def is_run(paths: Sequence[str]) -> bool:
    return len(paths) == 1 and (Path(paths[0]) / "config.yaml").is_file()


def print_result(result: FinishedRun, as_json: bool, examples: bool = False, url: str | None = None) -> None:
    """Print the metrics of a finished run, and its paths or URLs; of several processes only the main one does."""
    from unmask.training.distributed import World

    if not World.will_be_main():
        return
    folder = result.folder
    places = {"run": str(folder.root), "model": str(folder.model), "report": str(folder.report)}
    if url:
        places = {name: path.replace(str(folder.root), url.rstrip("/"), 1) for name, path in places.items()}
    document: dict[str, Any] = dict(places)
    document |= {name: getattr(result, name) for name in ("steps", "tokens", "seconds", "loss", "evaluation")}
    document["verdict"] = (read_json(folder.adaptation) or {}).get("verdict")
    document["read"] = (read_json(folder.info) or {}).get("read")
    shell.show(as_json, document, lambda page: draw_result(page, result, examples, places))


def draw_result(page: Page, result: FinishedRun, examples: bool, places: Mapping[str, str]) -> None:
    """Draw the metrics of a finished run and where its files are; with ``examples``, passages with predictions."""
    folder = result.folder
    if result.evaluation is not None:
        draw_evaluation(page, result.evaluation)
    if decided := (read_json(folder.adaptation) or {}).get("verdict"):
        page.say("")
        from unmask.reporting.adaptation import verdict_text

        page.say(verdict_text(decided))
    if examples:
        draw_examples(page, read_json(folder.examples) or [])
    page.say("")
    for sentence in left_out_of_run(read_json(folder.info) or {}):
        page.say(sentence, style="yellow")
    page.say(
        f"{plural(result.steps, 'step')} over {plural(result.tokens, 'token')} in {clock(result.seconds)}, without evaluations"
    )
    page.command(f"model:  {places['model']}")
    page.command(f"report: {places['report']}")


@surviving_viewers()
def demo(
    out: DemoFolder = Path("runs/demo"),
    minutes: DemoMinutes = DEMO_MINUTES,
    seed: options.SeedOrZero = 0,
    as_json: options.Json = False,
) -> None:
    """Train a small encoder on the documentation of this Python.

    It needs no download: docstrings of the installed packages are the text.

    Examples:
        unmask demo
        unmask demo --minutes 10 -o runs/longer
    """
    with shell.working() as progress:
        from unmask.run.demo import run_demo

        result = run_demo(out, minutes=minutes, seed=seed, progress=progress)
    print_result(result, as_json, examples=True)
    if not as_json:
        shell.show(False, {}, lambda page: draw_next_steps(page, out, minutes, result))


def draw_next_steps(page: Page, run: Path, minutes: float, result: FinishedRun) -> None:
    """Draw what can be tried with the model of the demo."""
    page.say("")
    if minutes < _SHORT_DEMO:
        found = result.evaluation or {}
        baselines = found.get("baselines") or {}
        named = {"token frequencies alone": "most_frequent_token", "the bidirectional n-gram": "ngram"}
        compared = " and ".join(
            f"{loss(baselines[key].get('loss'))} for {name}"
            for name, key in named.items()
            if key in baselines
        )
        page.say(
            f"So short a run learns little: after {plural(result.steps, 'step')} the loss is {loss(found.get('loss'))}"
            f"{f', compared with {compared}' if compared else ''}. Expect frequent tokens at most masks. The default is "
            f"{DEMO_MINUTES:g} minutes."
        )
    page.say("Try it:")
    for sentence in _DEMO_SENTENCES:
        page.command(f'  unmask fill {run} "{sentence}"')
    if importlib.util.find_spec("uvicorn"):
        page.say("Try it in the browser, at http://127.0.0.1:8000:")
        page.command(f"  unmask serve {run}")
    page.say("Train on your own text (files or folders):")
    page.command("  unmask train notes/ --model bert-base-uncased -o runs/notes")


def report(run: options.RunArgument, as_json: options.Json = False) -> None:
    """Rebuild the report of a run from its files.

    Examples:
        unmask report runs/notes
    """
    with shell.working(models=False):
        from unmask.reporting.card import rebuild_report
        from unmask.run_folder import RunFolder

        folder = RunFolder(run)
        path = rebuild_report(folder)
        metrics = {"evaluation": read_json(folder.evaluation), "adaptation": read_json(folder.adaptation)}
    shell.show(as_json, {"report": path, **metrics}, lambda page: page.command(f"report: {path}"))


def draw_evaluation(page: Page, evaluation: JsonDict) -> None:
    """Draw the metrics on held-out text, with those of baselines and of the model before training."""
    rows = _model_rows(evaluation)
    for key, baseline in (evaluation.get("baselines") or {}).items():
        rows.append(_accuracy_row(baseline_name(key), baseline))
    page.table(["held-out text", "accuracy", "loss"], rows)
    masked = evaluation.get("masked_tokens")
    if masked is not None:
        documents = plural(evaluation.get("documents", 0), "document")
        page.say(f"over {plural(masked, 'masked token')} of {documents}, {masks(evaluation)}", style="dim")
    for note in evaluation.get("interval_notes", ()):
        page.say(note, style="dim")
    spans = evaluation.get("intervals") or {}
    if any(spans.values()):
        named = ", ".join(
            f"{name} {interval(name, spans[name])}" for name in ("accuracy", "loss") if spans[name]
        )
        page.say(f"95% intervals over documents: {named}", style="dim")
    if own := [list(row) for row in own_metrics(evaluation)]:
        page.table(["objective", "held-out", "95% interval"], own)
        if answers := evaluation["objective"].get("answers"):
            page.say(f"on {answers:,} frozen draws of the objective", style="dim")
    if (chosen := evaluation.get("selection")) and not chosen["is_reported"]:
        page.say(f"weights chosen on {plural(chosen['documents'], 'other held-out document')}", style="dim")
    if replaced := evaluation.get("by_replacement"):
        page.say("")
        rows = [[row["label"], row["masked_tokens"], *_accuracy_row("", row)[1:]] for row in replaced["rows"]]
        page.table(["the model sees", "masked", "accuracy", "loss"], rows)
        page.say(f"over part of the text, {replaced['masks']}", style="dim")
    if general := evaluation.get("general"):
        page.say("")
        page.table(["general text", "accuracy", "loss"], _model_rows(general))


def _model_rows(metrics: JsonDict) -> list[list[object]]:
    """Return a row for a model, and one for what it was before training."""
    rows = [_accuracy_row("this model", metrics)]
    if before := metrics.get("before"):
        rows.append(_accuracy_row("the same before training", before))
    return rows


def _accuracy_row(name: str, row: JsonDict) -> list[object]:
    return [name, percent(row.get("accuracy")), loss(row.get("loss"))]


def draw_examples(page: Page, examples: Sequence[JsonDict], most: int = 4) -> None:
    """Draw the first passages of ``examples.json`` with numbered gaps, and what the model put into each."""
    for example in examples[:most]:
        targets = {target["index"]: target for target in example["targets"]}
        if not targets:
            continue
        begin = max(0, min(targets) - 12)
        end = min(len(example["tokens"]), begin + 36)
        shown = [targets[index] for index in sorted(targets) if begin <= index < end]
        gaps = {target["index"]: f"[{number}]" for number, target in enumerate(shown, 1)}
        page.say("")
        page.say(_passage(example, begin, end, gaps))
        predictions = [f"{gaps[target['index']]} {_prediction(target)}" for target in shown]
        page.say("    " + "   ".join(predictions), style="dim")


def _passage(example: JsonDict, begin: int, end: int, gaps: Mapping[int, str]) -> str:
    """Return the tokens from ``begin`` to ``end`` as text, with gaps at the targets."""
    text = "… " if begin else ""
    for index in range(begin, end):
        space = " " if example["words_before"][index] and index > begin else ""
        text += space + (gaps.get(index) or example["tokens"][index])
    return text + (" …" if end < len(example["tokens"]) else "")


def _prediction(target: JsonDict) -> str:
    best = target["predictions"][0]
    prediction = f"{best['token']} {best['probability']:.0%}"
    return prediction if target["rank"] == 1 else f"{prediction} (was {target['original']})"


def draw_dry_run(page: Page, plan: Any) -> None:
    """Draw what a run would need (:class:`unmask.run.dry_run.DryRun`)."""
    several = plan.processes > 1
    page.pairs(
        {
            "parameters": plan.parameters,
            "tokens per epoch": plan.tokens_per_epoch,
            "steps": plan.steps,
            **({"processes": f"{plan.processes}: {plan.parallel}"} if several else {}),
            f"peak memory{' a process' if several else ''}": byte_size(plan.peak_memory_bytes)
            if plan.peak_memory_bytes
            else "unknown on this system",
            "disk needed": byte_size(plan.disk_bytes),
            "seconds per step": f"{plan.seconds_per_step:.3g}",
            "time in all": clock(plan.total_seconds),
        }
    )
