"""Training losses step by step, fast and plain, from the same start on the same batches and masks.

Fast: the training loop of unmask, with packed rows, micro-batches, the head at masked positions only, its own loss and
the fused optimizer. Plain: padded rows, the unchanged transformers model with labels and its own loss, one pass for the
whole step, the unfused optimizer. Equal losses show that the optimisations change no result.
"""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from unmask.data.batches import Batch
    from unmask.training.loop import Loop

Result = dict[str, Any]

_IGNORED = -100


def fast(**settings: Any) -> Result:
    """Return the losses of the training loop of unmask; see :func:`_loop` for the settings."""
    with tempfile.TemporaryDirectory(prefix="unmask-curve-") as place:
        loop = _loop(place, **settings)
        rows: list[Result] = []
        loop.on_row = rows.append
        loop.run()
    return {"losses": [row["loss"] for row in rows], "norms": [row["grad_norm"] for row in rows]}


def plain(**settings: Any) -> Result:
    """Return the losses of the same steps, computed plainly; see :func:`_loop` for the settings."""
    import torch
    from transformers import AutoModelForMaskedLM

    with tempfile.TemporaryDirectory(prefix="unmask-curve-") as place:
        loop = _loop(place, **settings)
        model = AutoModelForMaskedLM.from_pretrained(settings["start"], dtype=torch.float32).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        optimizer = _unfused(loop, model)
        losses, norms = [], []
        position = loop.position
        while (step := loop.plan(position.cursor, position.step)) is not None:
            with _precision(settings["precision"]):
                loss = model(**_padded(_whole(loop, position.cursor, step.mask_rate), loop)).loss
            loss.backward()
            norms.append(
                float(torch.nn.utils.clip_grad_norm_(model.parameters(), loop.clip_norm, foreach=False))
            )
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * loop.lr_factor_of(step)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
            position.cursor, position.step = step.following, position.step + 1
    return {"losses": losses, "norms": norms}


def _loop(
    place: str,
    start: str,
    text: str,
    steps: int,
    batch_tokens: int,
    length: int,
    learning_rate: float,
    precision: str,
) -> Loop:
    """Build the training loop of a run.

    Args:
        place: folder for its files.
        start: folder of a checkpoint and its tokenizer.
        text: a text file, or a folder of shards.
        steps: number of steps.
        batch_tokens: tokens per step, in two micro-batches.
        length: tokens per sequence.
        learning_rate: peak learning rate.
        precision: ``fp32`` or ``bf16``.
    """
    from unmask.benchmark.bench import training_loop
    from unmask.config.load import load_config
    from unmask.progress import Progress
    from unmask.run.components import build_components
    from unmask.run_folder import RunFolder

    flags = {
        "model.name": start,
        "model.offline": True,
        "data.inputs": [text],
        "data.max_length": length,
        "data.heldout_minimum": 1,  # nothing is evaluated
        "train.max_steps": steps,
        "train.batch_tokens": batch_tokens,
        "train.micro_batch_tokens": max(8, batch_tokens // 2),
        "train.precision": precision,
        "train.device": "cpu",
        "train.log_every": 1,
        "train.optimizer.name": "adamw",
        "train.optimizer.learning_rate": learning_rate,
    }
    config = load_config(None, flags=flags)
    return training_loop(config, build_components(config, RunFolder(Path(place)), Progress()))


def _unfused(loop: Loop, model: Any) -> torch.optim.Optimizer:
    """Return torch's unfused AdamW for the plain model, with the parameter groups and settings of the loop."""
    import torch

    names = {id(weight): name for name, weight in loop.model.model.named_parameters()}
    weights = dict(model.named_parameters())
    groups = [
        {key: group[key] for key in ("lr", "betas", "eps", "weight_decay", "peak_lr")}
        | {"params": [weights[names[id(weight)]] for weight in group["params"]]}
        for group in loop.optimizers[0].param_groups
    ]
    return torch.optim.AdamW(groups, foreach=False, fused=False)


def _whole(loop: Loop, cursor: Any, rate: float) -> Batch:
    """Return the batch of a whole step, not split into micro-batches."""
    from unmask.data.masking.random_bits import MaskKey

    numbers, _ = loop.stream.take(cursor)
    return loop.stream.source.batch(numbers, MaskKey(loop.stream.seed, cursor.epoch), rate)


def _padded(batch: Batch, loop: Loop) -> Result:
    """Convert a packed batch to padded rows: ``int64 [N, longest]`` ids, attention mask and labels."""
    import numpy as np
    import torch

    labels = np.full(len(batch.input_ids), _IGNORED, dtype=np.int64)
    labels[batch.target_index] = batch.target_ids
    lengths = np.diff(batch.cu_seqlens)
    real = np.arange(lengths.max()) < lengths[:, None]
    rows = {}
    for name, values, empty in (
        ("input_ids", batch.input_ids, loop.model.vocabulary.pad_id),
        ("labels", labels, _IGNORED),
        ("attention_mask", np.ones(len(labels), dtype=np.int64), 0),
    ):
        padded = np.full(real.shape, empty, dtype=np.int64)
        padded[real] = values
        rows[name] = torch.from_numpy(padded)
    return rows


def _precision(name: str) -> Any:
    import torch

    return torch.autocast("cpu", torch.bfloat16) if name == "bf16" else nullcontext()
