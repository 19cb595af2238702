"""The files of a finished run: the model, its metrics, the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unmask.config.requirements import parse_requirements
from unmask.config.settings import RunConfig
from unmask.errors import DataError, UnmaskError
from unmask.evaluation.examples import fill_examples
from unmask.evaluation.predictions import TargetPredictions
from unmask.evaluation.verdict import unmet, verdict
from unmask.model.sentence_modules import copy_sentence_modules
from unmask.progress import Progress
from unmask.reporting.card import model_card
from unmask.reporting.page import write_report
from unmask.run.adaptation import TaskProbe, adaptation_of
from unmask.run.choices import advice_of
from unmask.run.components import RunComponents
from unmask.run.fingerprint import now
from unmask.run.interpolation import Interpolation
from unmask.run.overlap import overlaps
from unmask.run_folder import RunFolder
from unmask.storage import new_folder, read_json, read_rows, write_atomically, write_json
from unmask.training.loop import Loop

_EXAMPLES = 12
_NOT_JUDGED = (
    "what --require asks cannot be judged: base and adapted model were not compared on held-out text"
)


def write_results(
    components: RunComponents,
    config: RunConfig,
    folder: RunFolder,
    loop: Loop,
    evaluation: dict[str, Any] | None,
    predictions: dict[str, TargetPredictions],
    mixed: Interpolation,
    probe: TaskProbe | None,
    progress: Progress,
) -> str:
    """Write the model, its metrics and the report, and log what would help next.

    Returns:
        What of ``--require`` does not hold; nothing where all does.
    """
    write_model(components, folder, progress)
    info = read_json(folder.info)
    if "overlap" not in info:
        info["overlap"] = overlaps(components, progress)
    missed = ""
    if evaluation is not None:
        assert components.heldout is not None
        write_json(folder.evaluation, evaluation)
        write_json(folder.examples, fill_examples(components.model, components.heldout, _EXAMPLES))
        missed = _compare_with_base(
            components, config, folder, evaluation, predictions, mixed, probe, info["overlap"], progress
        )
    else:
        missed = _NOT_JUDGED if config.train.require else ""
    if config.train.task and not folder.adaptation.is_file():
        progress.warning(
            "--task has no effect: base and adapted model were not compared on held-out text, so there is no verdict"
        )
    advice = advice_of(
        read_rows(folder.metrics) if folder.metrics.is_file() else [],
        folder,
        config,
        epochs=loop.epochs,
        scratch=components.scratch,
        stopped_early=loop.ended,
        # One of the caller's own has no name on the command line.
        objective="mlm" if config.train.objective == "custom" else components.objective.stages[-1].name,
    )
    write_json(folder.info, info | {"finished": now(), "steps": loop.position.step, "advice": advice})
    write_atomically(folder.model / "README.md", model_card(folder))
    write_report(folder)
    if advice:
        progress.log(advice)
    return missed


def write_model(components: RunComponents, folder: RunFolder, progress: Progress = Progress()) -> None:
    """Write the Hugging Face checkpoint with its tokenizer, whole, loaded again and compared, or not at all."""
    with new_folder(folder.model) as partial:
        if components.sentence_modules is not None:
            copy_sentence_modules(components.sentence_modules, partial, progress)
        components.objective.save(components.model, partial)
        components.model.tokenizer.save_pretrained(partial)


def _compare_with_base(
    components: RunComponents,
    config: RunConfig,
    folder: RunFolder,
    evaluation: dict[str, Any],
    predictions: dict[str, TargetPredictions],
    mixed: Interpolation,
    probe: TaskProbe | None,
    overlap: dict[str, Any],
    progress: Progress,
) -> str:
    """Write ``adaptation.json`` with the verdict; return what of ``--require`` does not hold."""
    requirements = parse_requirements(config.train.require)
    if not components.has_base:
        return _NOT_JUDGED if requirements else ""
    try:
        content = adaptation_of(components, config, folder, predictions)
    except DataError as error:
        progress.log(f"the report does not compare base and adapted model: {error}")
        folder.adaptation.unlink(missing_ok=True)  # of an earlier end of this run
        return _NOT_JUDGED if requirements else ""
    content["interpolation"] = mixed.content
    content["probes"] = probe and _probed(probe, config, folder, progress)
    content["verdict"] = verdict(content, overlap, requirements, evaluation)
    write_json(folder.adaptation, content)
    return unmet(content["verdict"])


def _probed(probe: TaskProbe, config: RunConfig, folder: RunFolder, progress: Progress) -> dict[str, Any]:
    """Compare base and exported model on the task; what fails here ends no run, for its model is whole."""
    try:
        return probe(str(config.model.name), folder.model, progress)
    except UnmaskError as error:
        progress.warning(f"the task {config.train.task} was not probed: {error}")
        name = Path(str(config.train.task)).name
        return {"task": name, "failed": str(error), "change": {"value": None, "interval": None}}
