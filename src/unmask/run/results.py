"""The results of a run: ``run.json``, and metrics on held-out text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from unmask.config.settings import RunConfig
from unmask.data.batches import Batch, TextSource
from unmask.errors import ConfigError
from unmask.evaluation.baselines import heldout_baselines
from unmask.evaluation.bootstrap import ratios, resampling_units
from unmask.evaluation.heldout import (
    MASKS,
    HeldoutMetrics,
    by_replacement,
    document_intervals,
    evaluate_batches,
    replaced_tokens,
)
from unmask.evaluation.predictions import TargetPredictions
from unmask.evaluation.strata import replaced_as
from unmask.model.masked_lm import MaskedLM
from unmask.objectives.objective import Objective, stand_in
from unmask.run.components import RunComponents
from unmask.run.fingerprint import machine_info, now
from unmask.training.distributed import World
from unmask.training.stability import unless_out_of_memory

Result = TypeVar("Result")

_EVALUATION_BUDGET = 8192
FINAL_EVALUATION = 4
_SHARES = ("accuracy", "share", "recall", "mrr")  # ends of the names of metrics that are at most 1


def metrics_on(components: RunComponents, text: TextSource, tokens: int) -> HeldoutMetrics:
    """Evaluate the model on so many tokens of a text, of which each process computes a share."""
    return _computed(components, text, tokens, evaluate_batches)


def _computed(
    components: RunComponents,
    text: TextSource,
    tokens: int,
    compute: Callable[[MaskedLM, Iterator[Batch], World], Result],
    *,
    hidden: bool = True,
) -> Result:
    """Return what ``compute`` makes of the batches of an evaluation.

    Raises:
        ConfigError: they take more memory than there is.
    """
    world = components.world
    world.doing("evaluating")
    batches = text.evaluation_batches(
        _EVALUATION_BUDGET, tokens, hidden=hidden, rank=world.rank, world=world.size
    )
    found = unless_out_of_memory(partial(compute, components.model, batches, world))
    if found is None:
        raise ConfigError(
            f"out of memory in an evaluation, which computes {_EVALUATION_BUDGET:,} tokens at once; continue with --resume on a "
            f"device with more memory, or start again with a lower --max-length or a smaller model"
        )
    return found


def answers_on(
    components: RunComponents, text: TextSource, tokens: int, *, intervals: bool = False
) -> dict[str, Any]:
    """Return the objective's own metrics on so many tokens of a text, if it has any.

    With ``intervals``, also ``intervals`` of those that are means, over documents, and ``answers``, how many they are of.
    """
    objective, model, world = components.objective, components.model, components.world
    if not objective.has_answers:
        return {}
    batches = objective.source(text).evaluation_batches(
        _EVALUATION_BUDGET, tokens, rank=world.rank, world=world.size, make=objective.batch
    )
    with model.evaluating(), torch.inference_mode():
        shares = [_answers(objective, model, batch) for batch in batches]
    found = objective.scores(
        np.concatenate([answers for answers in world.in_turn(shares) if answers is not None])
    )
    metrics: dict[str, Any] = dict(objective.metrics(found))
    if metrics and intervals and objective.answer_means:
        metrics |= {"answers": len(found), "intervals": _intervals(found, objective.answer_means)}
    return metrics


def _answers(objective: Objective, model: MaskedLM, batch: Batch) -> np.ndarray | None:
    """Return the answers on a batch, ``None`` for the empty one of a process that has no more."""
    if batch.tokens:
        return objective.answers(model, batch)
    if model.sharded:  # all processes make as many passes, since each sends messages
        objective.answers(model, stand_in(objective, model))
    return None


def _intervals(answers: np.ndarray, means: Mapping[str, int]) -> dict[str, list[float] | None]:
    """Return the intervals of means of columns over the documents that column 0 numbers."""
    unit = resampling_units(answers[:, 0].astype(np.uint64))
    sums = np.zeros((int(unit.max()) + 1, 1 + len(means)))
    np.add.at(sums, unit, np.column_stack([np.ones(len(answers)), answers[:, list(means.values())]]))
    shares = {name: 1.0 if name.endswith(_SHARES) else math.inf for name in means}
    return {
        name: found.within(0.0, shares[name]).interval
        for name, found in zip(means, ratios(sums[:, 1:], sums[:, :1]), strict=True)
    }


def final_texts(components: RunComponents) -> dict[str, TextSource]:
    """Return the held-out texts there are: ``heldout`` and ``general``."""
    texts = {"heldout": components.heldout, "general": components.general}
    return {name: text for name, text in texts.items() if text is not None}


def evaluation_batches_of(text: TextSource, tokens: int) -> Iterator[Batch]:
    """Yield the batches of :func:`metrics_on`, of all processes in turn."""
    return text.evaluation_batches(_EVALUATION_BUDGET, tokens)


def final_batches(text: TextSource, config: RunConfig) -> Iterator[Batch]:
    """Yield the batches of a final evaluation, the same ones every time."""
    return evaluation_batches_of(text, FINAL_EVALUATION * config.train.eval_tokens)


def final_metrics(
    components: RunComponents, config: RunConfig
) -> tuple[dict[str, dict[str, Any]], dict[str, TargetPredictions]]:
    """Evaluate in fp32 on each of the held-out texts.

    Returns:
        The metrics, of which the main process alone has the intervals, and the predictions that they are computed from.
    """
    metrics, predictions = {}, {}
    for name, text in final_texts(components).items():
        with components.model.in_fp32():
            found = metrics_on(components, text, FINAL_EVALUATION * config.train.eval_tokens)
        intervals = partial(document_intervals, text, final_batches(text, config), found.predictions)
        metrics[name] = found.to_dict() | (
            components.world.main_first(intervals, "computing intervals") or {}
        )
        predictions[name] = found.predictions
    return metrics, predictions


def evaluation_of(
    components: RunComponents,
    heldout: TextSource,
    config: RunConfig,
    metrics: dict[str, dict[str, Any]],
    before: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Return the metrics of a trained model, of the baselines (in the main process), and of the model before training."""
    baselines = partial(heldout_baselines, components.text, partial(final_batches, heldout, config))
    content = metrics["heldout"]
    content |= {
        "documents": len(heldout.documents),
        "masks": MASKS,
        "mask_rate": config.masking.rate,
        "baselines": components.world.main_first(baselines, "counting baselines"),
        "before": before.get("heldout"),
        "by_replacement": _by_replacement(components, heldout, content["tokens"]),
    }
    with components.model.in_fp32():
        if own := answers_on(
            components, heldout, FINAL_EVALUATION * config.train.eval_tokens, intervals=True
        ):
            content["objective"] = own
    if "general" in metrics:
        content["general"] = metrics["general"] | {"before": before.get("general")}
    return content


def _by_replacement(components: RunComponents, heldout: TextSource, tokens: int) -> dict[str, Any] | None:
    """Return the metrics at targets that are replaced as in training, on part of the text; ``None`` if all are masked."""
    if heldout.masking.mask_share == 1:
        return None
    with components.model.in_fp32():
        rows = _computed(components, heldout, replaced_tokens(tokens), by_replacement, hidden=False)
    return {"masks": replaced_as(heldout.masking), "rows": rows}


def run_info(components: RunComponents, config: RunConfig, command: list[str]) -> dict[str, Any]:
    """Return the content of ``run.json`` at the start of a run."""
    model = components.model
    weights = list(model.model.parameters())
    return machine_info() | {
        "command": command,
        "masks": MASKS,
        "started": now(),
        "finished": None,
        "precision": components.precision,
        "model_class": components.objective.saved_class(model),
        "base_model": config.model.name,
        "new_head": components.new_head,
        "parameters": model.parameters,
        "trained_parameters": sum(weight.numel() for weight in weights if weight.requires_grad),
        "vocabulary": model.vocabulary.size,
        "packed": model.packed,
        "corpus": _counts(components),
        "read": _read(components),
        "batch_tokens": config.train.batch_tokens,
        "tokens_per_epoch": components.text.tokens,
        "steps": 0,
    }


def _read(components: RunComponents) -> dict[str, Any]:
    """Return what was read and left out, for each text that was read."""
    texts = {name: getattr(components, name) for name in ("text", "heldout", "replay", "general")}
    found, known = {}, []
    for name, text in texts.items():
        if text is not None and text.corpus not in known:  # held-out text may be a part of the same
            known.append(text.corpus)
            found[name] = text.corpus.manifest["read"]
    return found


def _counts(components: RunComponents) -> dict[str, int | float]:
    """Return documents and text tokens of each text, and the share of unknown tokens in what it was split from."""
    counts: dict[str, int | float] = {}
    texts = {
        "": components.text,
        "heldout_": components.heldout,
        "selection_": components.selection,
        "replay_": components.replay,
        "general_": components.general,
        "general_selection_": components.general_selection,
    }
    for name, text in texts.items():
        if text or name == "heldout_":
            counts |= _count(name, text)
        if text:
            counts[f"{name}unknown_share"] = round(text.corpus.unknown(components.model.tokenizer).share, 6)
    return counts


def _count(prefix: str, text: TextSource | None) -> dict[str, int]:
    documents = 0 if text is None else len(text.documents)
    tokens = 0 if text is None else text.sequences.text_tokens
    return {f"{prefix}documents": documents, f"{prefix}tokens": tokens}
