"""The choices of a run, logged before its first step, and advice after its last."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.config.options import arguments, flat_settings
from unmask.config.settings import RunConfig
from unmask.data.batches import Batch, TextSource
from unmask.data.heldout_size import MINIMUM
from unmask.errors import plural
from unmask.evaluation.examples import readable
from unmask.remote.systems import is_url
from unmask.reporting.format import loss, percent
from unmask.run.components import RunComponents
from unmask.run_folder import RunFolder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_KEPT = ("masking.rate", "masking.strategy", "model.offline")
_EXCERPT = 200
_STILL_FALLING = 0.005  # of the loss, over the last two evaluations
_FEWEST_STEPS = 100  # below which the learning rate, not the text, makes the loss rise and fall


def planned_steps(config: RunConfig, components: RunComponents) -> int | None:
    """Return the optimizer steps until ``max_steps`` or ``epochs`` ends the run; ``None`` where only the clock does."""
    train = config.train
    limits = [float(train.max_steps)] if train.max_steps else []
    if train.epochs:
        limits.append(train.epochs * _steps_per_epoch(config, components))
    return max(1, round(min(limits))) if limits else None


def _steps_per_epoch(config: RunConfig, components: RunComponents) -> int:
    """Return the steps of one pass over the text; the last one is smaller where the text does not fill it."""
    share = config.data.replay_share if components.replay else 0.0
    return math.ceil(components.text.tokens / (config.train.batch_tokens * (1 - share)))  # type: ignore[operator]


def choices_of(config: RunConfig, components: RunComponents, *, default_length: bool) -> dict[str, Any]:
    """Return what a run is going to do, for ``run.json``.

    Args:
        config: its settings, resolved.
        components: its model and texts.
        default_length: whether the number of epochs follows from the size of the text.
    """
    train, masking = config.train, config.masking
    return {
        "objective": components.objective.title,
        "sequences": components.objective.describe(components.text),
        "mask_rate": masking.rate,
        "initial_mask_rate": masking.initial_rate,
        "strategy": masking.strategy,
        "replacements": [masking.mask_share, masking.random_share],
        "epochs": train.epochs,
        "max_steps": train.max_steps,
        "minutes": train.minutes,
        "steps": planned_steps(config, components),
        "steps_per_epoch": _steps_per_epoch(config, components),
        "default_length": default_length,
        "tokens_per_epoch": components.text.tokens,
        "optimizer": train.optimizer.name,
        "learning_rate": train.optimizer.learning_rate,
        "schedule": train.schedule.name,
        "warmup_share": train.schedule.warmup_share,
        "batch_tokens": train.batch_tokens,
        "heldout": _size(components.heldout),
        "selection": _size(components.selection),
        "patience": train.patience,
        "precision": components.precision,
        "device": components.model.device.type,
        "compiled": train.compile if components.model.packed else None,  # others cannot be
        "processes": components.world.size,
        "parallel": components.parallel[1]
        or ("--parallel fsdp needs several, and has no effect" if train.parallel == "fsdp" else ""),
    }


def _size(text: TextSource | None) -> dict[str, int] | None:
    return None if text is None else {"documents": len(text.documents), "tokens": text.tokens}


def choices_text(choices: Mapping[str, Any]) -> str:
    """Return the choices as one block of lines."""
    masked, random = choices["replacements"]
    split = [(masked, "mask token"), (random, "random token"), (1 - masked - random, "unchanged")]
    kinds = ", ".join(f"{percent(share, 0)} {kind}" for share, kind in split if share > 1e-9)
    rate, first = choices["mask_rate"], choices["initial_mask_rate"]
    falling = f", from {percent(first, 0)} at first" if first not in (None, rate) else ""
    heldout, other = choices["heldout"], choices.get("selection")
    rows = {
        "objective": f"{choices['objective']} of {percent(rate, 0)} of the tokens{falling}",
        "masking": f"strategy {choices['strategy']} ({kinds})",
        **({"sequences": choices["sequences"]} if choices.get("sequences") else {}),
        "length": _length(choices),
        "learning rate": f"{choices['learning_rate']:g} ({choices['optimizer']}), {choices['schedule']} schedule, "
        f"{percent(choices['warmup_share'], 0)} warm-up",
        "batch": f"{plural(choices['batch_tokens'], 'token')} a step",
        "held-out text": f"{plural(heldout['documents'], 'document')}, {plural(heldout['tokens'], 'token')}"
        + (f"; {plural(other['documents'], 'other document')} to choose the weights on" if other else "")
        if heldout
        else "none",
        "early stop": f"after {plural(choices['patience'], 'evaluation')} without a lower held-out loss"
        if choices["patience"] and heldout
        else "off",
        "computing": f"{choices['precision']} on {choices['device']}"
        + _compiled(choices)
        + (
            f", {plural(choices['processes'], 'process', 'processes')}: {choices['parallel']}"
            if choices["parallel"]
            else ""
        ),
    }
    return "\n".join(f"{name:<14}{value}" for name, value in rows.items())


def _compiled(choices: Mapping[str, Any]) -> str:
    if choices["device"] != "cuda" or choices.get("compiled") is None:
        return ""
    if choices["compiled"]:
        return ", layers compiled"
    return ", layers not compiled (train.compile=true makes long runs faster, most with ModernBERT)"


def _length(choices: Mapping[str, Any]) -> str:
    """Return how long the run is going to be, and why."""
    limits = [
        f"{plural(choices['epochs'], 'epoch')} of {plural(choices['tokens_per_epoch'], 'token')}"
        if choices["epochs"]
        else "",
        plural(choices["max_steps"], "step") if choices["max_steps"] else "",
        plural(choices["minutes"], "minute") if choices["minutes"] else "",
    ]
    text = " or ".join(filter(None, limits))
    if choices["epochs"]:
        text += f", about {plural(choices['steps'], 'step')}"
    elif choices["steps"]:
        passes = choices["steps"] / choices["steps_per_epoch"]
        about = f"{passes:,.0f}" if passes >= 10 else f"{passes:.2g}"
        text += f", about {about} {'pass' if about == '1' else 'passes'} over {plural(choices['tokens_per_epoch'], 'token')}"
    return text + (
        " (chosen by the size of the text; --epochs or --minutes sets it)"
        if choices["default_length"]
        else ""
    )


def masked_excerpt(batch: Batch, tokenizer: PreTrainedTokenizerBase, *, originals: bool = True) -> str:
    """Return the beginning of a batch as the model sees it, ``originals`` behind the targets: ``[MASK](river)``."""
    ids = batch.input_ids[: int(batch.cu_seqlens[1])].tolist()
    pairs = zip(batch.target_index.tolist(), batch.target_ids.tolist(), strict=True)
    targets = dict(pairs) if originals else {}
    pieces = (_decoded if '"ByteLevel"' in tokenizer.backend_tokenizer.to_str() else _spelled)(
        ids, targets, tokenizer
    )
    text = ""
    for piece in pieces:
        room = _EXCERPT - len(text)
        if len(piece) > room:
            return f"{text or piece[:room]} …"
        text += piece
    return text


def _spelled(ids: list[int], targets: Mapping[int, int], tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield each token with the space before it."""
    for index, name in enumerate(tokenizer.convert_ids_to_tokens(ids)):
        space, shown = readable(str(name))
        if index in targets:
            shown += f"({readable(str(tokenizer.convert_ids_to_tokens(targets[index])))[1]})"
        yield (" " if space and index else "") + shown


def _decoded(ids: list[int], targets: Mapping[int, int], tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield targets, and the text between them decoded as a whole: a byte-level token may be a part of a character."""
    begin = 0
    for index in [*sorted(place for place in targets if place < len(ids)), len(ids)]:
        if index > begin:
            yield str(tokenizer.decode(ids[begin:index]))
        if index < len(ids):
            original = str(tokenizer.decode([targets[index]]))
            space = " " if original.startswith(" ") else ""
            yield f"{space}{str(tokenizer.decode([ids[index]])).strip()}({original.strip() or original})"
        begin = index + 1


def advice_of(
    rows: Sequence[Mapping[str, Any]],
    folder: RunFolder,
    config: RunConfig,
    *,
    epochs: float,
    scratch: bool,
    stopped_early: bool,
    objective: str = "mlm",
) -> str | None:
    """Return what would improve the model further, going by the held-out losses of a finished run.

    Args:
        rows: of ``metrics.jsonl``.
        folder: of the run.
        config: its settings; the proposed command has those of its text and masks.
        epochs: passes over the text that the run made.
        scratch: whether its weights were new.
        stopped_early: whether the loss had stopped falling.
        objective: of the end of the run.
    """
    losses = [row["eval_loss"] for row in rows if "eval_loss" in row]
    if len(losses) < 3:
        return None
    if stopped_early or losses[-1] > min(losses):
        if rows[-1]["step"] < _FEWEST_STEPS:
            return None
        return (
            "the held-out loss had stopped falling: more text would help, more passes over this one would not"
        )
    if losses[-3] - losses[-1] < _STILL_FALLING * losses[-3]:
        return None
    usual = flat_settings(RunConfig().model_dump()) | {"data.heldout_minimum": MINIMUM}
    given = {key: value for key, value in flat_settings(config.model_dump()).items() if value != usual[key]}
    for key in ("data.heldout", "data.replay", "data.forgetting_eval"):
        if not _can_be_read_again(given.get(key, [])):
            del given[key]
    inputs = given.pop("data.inputs", [])
    inputs = inputs if inputs and _can_be_read_again(inputs) else ["TEXT..."]
    kept = {key: value for key, value in given.items() if key.startswith("data.") or key in _KEPT}
    kept |= {"train.objective": objective} if objective != "mlm" else {}
    kept |= {"train.recipe": "scratch"} if scratch else {}
    kept["train.epochs"] = math.ceil(max(1, epochs, config.train.epochs or 0))
    start = ["unmask", "train", *inputs, *arguments({"model.name": str(folder.model)})]
    command = shlex.join([*start, *arguments(kept), "-o", f"{folder.root}-2"]).replace("'TEXT...'", "TEXT...")
    return (
        f"the held-out loss was still falling at the end ({loss(losses[-3])} → {loss(losses[-1])}): train longer with\n"
        f"{command}"
    )


def _can_be_read_again(inputs: Sequence[str]) -> bool:
    """Return whether inputs are still there: standard input and the text of the demo are not."""
    return all(is_url(each) or glob(each, recursive=True) or Path(each).exists() for each in inputs)
