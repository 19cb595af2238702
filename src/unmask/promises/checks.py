"""The conformance suite: what unmask promises of loss, packing and masks, measured on any checkpoint.

Everything is computed in fp32 with dropout off; nothing is trained and no weight is changed.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unmask.config.settings import MaskingSettings
from unmask.data.batches import Batch, Cursor, TrainingStream
from unmask.data.masking.mask import MaskKey
from unmask.data.tokenizer import TextEncoder
from unmask.evaluation.heldout import evaluate_batches
from unmask.model.load import load_for_inference
from unmask.model.masked_lm import MaskedLM
from unmask.progress import Progress
from unmask.promises.case import PROCESSES, Case, Distance, padded
from unmask.training.loop import Position

_EXACT = 1e-6
_CLOSE = 1e-5
_SIGMAS = 5.0


@dataclass(frozen=True)
class Check:
    """One promise, measured.

    Attributes:
        name: a few words to call it by.
        what: the promise, in one sentence.
        measured: how far from it this model is: a difference, or a number of violations.
        tolerance: the largest value that passes.
        passed: whether ``measured`` is within it.
        detail: what was compared, or what went wrong.
    """

    name: str
    what: str
    measured: float
    tolerance: float
    passed: bool
    detail: str = ""


class Finding(NamedTuple):
    """What a measurement gives: the value, the largest that passes, and what was compared."""

    measured: float
    tolerance: float
    detail: str


class Promise(NamedTuple):
    """One sentence, and how it is measured."""

    what: str
    measure: Callable[[Case], Finding]


def run_checks(
    model: str | MaskedLM,
    *,
    masking: MaskingSettings = MaskingSettings(),
    seed: int = 0,
    offline: bool = False,
    processes: bool = True,
    progress: Progress = Progress(),
) -> list[Check]:
    """Measure every promise on one model.

    Args:
        model: Hub name or folder, loaded on the CPU; or a model in memory, whose gradients are dropped.
        masking: strategy and rate to mask by.
        seed: of the text and the masks.
        offline: make no network call to load it.
        processes: start two further processes, to compare their sum with one; only on the CPU.
        progress: hears which check is at work.

    Returns:
        The checks in the order of :data:`CHECKS`. One that fails to run at all has not passed.

    Raises:
        ConfigError: the model cannot be loaded, or the masking strategy does not fit its tokenizer.
        DataError: the tokenizer makes nothing but special tokens of the text.
    """
    if isinstance(model, str):
        model = load_for_inference(model, device="cpu", offline=offline, progress=progress)
    wanted = _wanted(model, processes, progress)
    checks = []
    with tempfile.TemporaryDirectory(prefix="unmask-conformance-") as place, _at_rest(model):
        case = Case.make(model, Path(place), seed, masking)
        progress.begin("conformance")
        for number, (name, promise) in enumerate(wanted.items()):
            progress.advance(number / len(wanted), {"check": name})
            checks.append(_check(name, promise, case))
        progress.end()
    return checks


def _wanted(model: MaskedLM, processes: bool, progress: Progress) -> dict[str, Promise]:
    """Leave out the checks that need further processes, where they are not wanted or cannot be had."""
    on_cpu = model.device.type == "cpu"
    if processes and not on_cpu:
        progress.log("the checks with two processes are left out: they need the model on the CPU")
    together = not (processes and on_cpu)
    return {name: found for name, found in CHECKS.items() if not (together and name.startswith("process"))}


@contextmanager
def _at_rest(model: MaskedLM) -> Iterator[None]:
    """Compute in fp32 and without dropout, then leave the model as it was, without gradients."""
    training, autocast = model.model.training, model.autocast
    model.model.eval()
    model.autocast = False
    try:
        yield
    finally:
        model.autocast = autocast
        model.model.train(training)
        model.model.zero_grad(set_to_none=True)


def _check(name: str, promise: Promise, case: Case) -> Check:
    try:
        found = promise.measure(case)
    except (
        Exception
    ) as error:  # what cannot even be measured is broken, and the other promises are still asked
        reason = (str(error).strip().splitlines() or [""])[0]
        found = Finding(math.inf, 0.0, f"{type(error).__name__}: {reason}")
    return Check(
        name, promise.what, found.measured, found.tolerance, found.measured <= found.tolerance, found.detail
    )


# --- loss and gradient --------------------------------------------------------------------------------------------


def _own_loss(case: Case) -> Finding:
    found, losses = case.to_theirs
    detail = f"{losses} by {type(case.model.model).__name__}, {len(case.few)} sequences"
    return Finding(found.loss, _EXACT, detail)


def _own_gradient(case: Case) -> Finding:
    return _judged(case, case.to_theirs[0], f"{case.model.parameters:,} weights")


def _judged(case: Case, found: Distance, detail: str) -> Finding:
    """Hold a gradient to 1e-6, or to twice the model's own rounding where that is more."""
    if found.gradient <= _EXACT:
        return Finding(found.gradient, _EXACT, detail)
    detail = f"{detail}; transformers' own gradient, padded against alone: {case.rounding:.1e}"
    return Finding(found.gradient, max(_EXACT, 2 * case.rounding), detail)


def _parts_loss(case: Case) -> Finding:
    counts = [len(case.batch(np.array([number])).target_ids) for number in case.numbers]
    count = len(counts)
    detail = f"1×{count}, 4×{count // 4}, {count}×1; {min(counts)} to {max(counts)} targets in a sequence"
    return Finding(max(found.loss for found in case.to_parts), _EXACT, detail)


def _parts_gradient(case: Case) -> Finding:
    fours, singles = case.to_parts
    detail = f"in 4 parts {fours.gradient:.1e}, in single sequences {singles.gradient:.1e}"
    return _judged(case, max(case.to_parts, key=lambda found: found.gradient), detail)


def _processes_loss(case: Case) -> Finding:
    return Finding(case.to_processes.loss, _EXACT, f"{PROCESSES} processes over gloo")


def _processes_gradient(case: Case) -> Finding:
    return _judged(case, case.to_processes, f"{PROCESSES} processes over gloo")


def _no_targets(case: Case) -> Finding:
    batch = _row(case.batch(case.few).input_ids[: case.length])
    step = case.ours([batch])
    finite = math.isfinite(step.loss) and bool(step.gradient.isfinite().all())
    moved = abs(step.loss) + float(step.gradient.abs().max())
    return Finding(moved if finite else math.inf, 0, f"{batch.tokens} tokens, loss {step.loss:g}")


# --- packing ------------------------------------------------------------------------------------------------------


def _all_logits(case: Case, batch: Batch) -> Tensor:
    """Return ``[T, V]`` logits of a batch at every place, our way."""
    everywhere = np.arange(batch.tokens)
    return case.model.target_logits(replace(batch, target_index=everywhere, target_ids=batch.input_ids))


def _difference(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference of logits, over their own size where that is above one."""
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1.0))


@torch.no_grad()
def _packing(case: Case) -> Finding:
    batch = case.batch(case.few)
    together = _all_logits(case, batch)
    ids, _, real = padded(batch, case.model)
    with case.model.plain() as raw:
        widened = raw(input_ids=ids, attention_mask=real.long()).logits[real]
        rows = [row[kept][None] for row, kept in zip(ids, real, strict=True)]
        alone = torch.cat([raw(input_ids=row).logits[0] for row in rows])
    measured = max(_difference(together, alone), _difference(together, widened))
    how = "packed rows" if case.model.packed else "padded by length, since this architecture cannot pack"
    lengths = np.diff(batch.cu_seqlens)
    detail = f"{how}; {lengths.min()} to {lengths.max()} tokens"
    return Finding(measured, _CLOSE, detail)


@torch.no_grad()
def _neighbours(case: Case) -> Finding:
    long, short = case.few[len(case.few) // 2 :][:2]
    document = case.batch(np.array([long])).input_ids
    draw = np.random.default_rng(case.seed)
    lengths = (len(document), len(document), len(case.batch(np.array([short])).input_ids), 1)
    others = [draw.choice(case.model.vocabulary.replacements, length) for length in lengths]
    found = [_all_logits(case, _row(document, other))[: len(document)] for other in others]
    measured = max(_difference(logits, found[0]) for logits in found[1:])
    return Finding(measured, _EXACT, f"a document of {len(document)} tokens beside {len(others)} others")


def _row(*documents: np.ndarray) -> Batch:
    """Lay documents end to end, unmasked."""
    lengths = [len(document) for document in documents]
    positions = np.concatenate([np.arange(length) for length in lengths])
    cuts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    none = np.zeros(0, dtype=np.int64)
    return Batch(np.concatenate(documents), positions, cuts, none, none, np.arange(len(lengths)))


def _tokens_kept(case: Case) -> Finding:
    sizes = case.source.sizes(case.all)
    text = int(sizes.sum()) - case.model.vocabulary.overhead * len(sizes)
    detail = (
        f"{case.source.corpus.tokens:,} tokens of text in {len(sizes)} sequences of at most {sizes.max()}"
    )
    return Finding(abs(text - case.source.corpus.tokens), 0, detail)


# --- masks --------------------------------------------------------------------------------------------------------

_Masks = dict[int, tuple[bytes, bytes]]


def _masks(batches: Iterable[Batch]) -> _Masks:
    """Return, for every sequence, what the model sees and where its targets are."""
    found = {}
    for batch in batches:
        cuts = batch.cu_seqlens
        for row, number in enumerate(batch.sequence_ids.tolist()):
            begin, end = np.searchsorted(batch.target_index, cuts[row : row + 2])
            targets = batch.target_index[begin:end] - cuts[row]
            found[number] = (batch.input_ids[cuts[row] : cuts[row + 1]].tobytes(), targets.tobytes())
    return found


def _differing(found: _Masks, wanted: _Masks) -> int:
    return sum(found.get(number) != wanted.get(number) for number in {*found, *wanted})


def _masks_split(case: Case) -> Finding:
    stream, numbers = case.stream(), case.all
    wanted = _masks([case.batch(numbers)])
    worst = 0
    for world in (1, 2, 4):
        for parts in (1, 7, 32):
            shares = [
                stream.micro_batches(Cursor(), numbers, case.rate, parts, rank, world)
                for rank in range(world)
            ]
            worst = max(worst, _differing(_masks(batch for share in shares for batch in share), wanted))
    with ThreadPoolExecutor(4) as pool:
        made = pool.map(lambda number: case.batch(np.array([number])), numbers[::-1])
        worst = max(worst, _differing(_masks(made), wanted))
    return Finding(
        worst, 0, f"{len(numbers)} sequences; 1, 2, 4 processes; 1, 7, 32 micro-batches; 4 workers"
    )


def _masks_resumed(case: Case) -> Finding:
    steps = 12
    undisturbed = list(_walk(case.stream(), Cursor(), steps))
    differing = 0
    for stop in (1, steps // 2, steps - 1):
        saved = json.loads(json.dumps(Position(stop, undisturbed[stop][0]).to_dict()))
        again = _walk(case.stream(), Position.from_dict(saved).cursor, steps - stop)
        pairs = zip(again, undisturbed[stop:], strict=True)
        differing += sum(_differing(found, wanted) for (_, found), (_, wanted) in pairs)
    return Finding(differing, 0, f"stopped after 1, {steps // 2} and {steps - 1} of {steps} steps")


def _walk(stream: TrainingStream, cursor: Cursor, steps: int) -> Iterator[tuple[Cursor, _Masks]]:
    for _ in range(steps):
        numbers, following = stream.take(cursor)
        yield cursor, _masks(stream.micro_batches(cursor, numbers, stream.source.masking.rate, 1))
        cursor = following


def _masks_fresh(case: Case) -> Finding:
    """Two epochs, and two seeds, must share targets by chance only, which repeats the rate's share of them."""
    first, rate = case.batch(case.all), case.rate
    worst = 0.0
    for key in (MaskKey(case.seed, 1), MaskKey(case.seed + 1, 0)):
        other = case.source.batch(case.all, key, rate)
        worst = max(worst, abs(float(np.isin(first.target_index, other.target_index).mean()) - rate))
    detail = f"{len(first.target_ids)} targets; chance repeats {rate:.0%} of them"
    settings = case.source.masking
    if settings.strategy == "terms" or settings.count == "fixed":
        # Not every token has the same chance, so chance repeats more; but never as much as no change would.
        return Finding(worst, (1 - rate) / 2, detail)
    runs = 1 + int((np.diff(first.target_index) > 1).sum())
    return Finding(worst, _SIGMAS * math.sqrt(rate * (1 - rate) / runs), detail)


def _special_tokens(case: Case) -> Finding:
    tokenizer = case.model.tokenizer
    # Asked of the tokenizer itself, not of the table that masking goes by.
    special = np.array([*map(int, tokenizer.all_special_ids)])
    wrong = targets = 0
    for epoch in range(10):
        batch = case.source.batch(case.all, MaskKey(case.seed, epoch), 0.5)
        seen = batch.input_ids[batch.target_index]
        replaced = seen[(seen != batch.target_ids) & (seen != tokenizer.mask_token_id)]
        wrong += int(np.isin(batch.target_ids, special).sum() + np.isin(replaced, special).sum())
        targets += len(batch.target_ids)
    return Finding(wrong, 0, f"{targets:,} targets in ten epochs at 50%")


def _literal_tokens(case: Case) -> Finding:
    tokenizer = case.model.tokenizer
    names = list(dict.fromkeys(str(token) for token in tokenizer.all_special_tokens))
    control = {*map(int, tokenizer.all_special_ids)} - {tokenizer.unk_token_id}
    encoded = TextEncoder(tokenizer)([f"a {name} b{name}" for name in names])
    wrong = sum(int(number) in control for ids in encoded for number in ids)
    return Finding(wrong, 0, " ".join(names))


# --- evaluation ---------------------------------------------------------------------------------------------------


def _evaluation_twice(case: Case) -> Finding:
    losses = [
        evaluate_batches(case.model, case.source.evaluation_batches(8 * case.length)).loss for _ in range(2)
    ]
    return Finding(abs(losses[0] - losses[1]), 0, f"loss {losses[0]!r}")


@torch.no_grad()
def _evaluation_alone(case: Case) -> Finding:
    figures = evaluate_batches(case.model, case.source.evaluation_batches(8 * case.length))
    total, asked = 0.0, 0
    with case.model.plain() as raw:
        for batch in case.source.evaluation_batches(1):
            logits = raw(input_ids=torch.from_numpy(batch.input_ids)[None].to(raw.device)).logits[0].cpu()
            rows = logits[torch.from_numpy(batch.target_index)].double().log_softmax(-1)
            total -= float(rows.gather(1, torch.from_numpy(batch.target_ids)[:, None]).sum())
            asked += len(batch.target_ids)
    detail = f"{figures.loss:.6f} against {total / asked:.6f}, {asked} targets"
    return Finding(abs(figures.loss - total / asked) / (total / asked), _CLOSE, detail)


CHECKS: dict[str, Promise] = {
    "loss": Promise("our loss is the model's own loss on the same labels", _own_loss),
    "gradient": Promise("our gradient is that of the model's own loss", _own_gradient),
    "micro-batch loss": Promise("the loss is the same for any split into micro-batches", _parts_loss),
    "micro-batch gradient": Promise(
        "the gradient is the same for any split into micro-batches", _parts_gradient
    ),
    "process loss": Promise("two processes find the loss of one", _processes_loss),
    "process gradient": Promise("two processes find the gradient of one", _processes_gradient),
    "no targets": Promise("a batch without targets has loss and gradient zero", _no_targets),
    "packing": Promise("logits are those of each document alone, and of a padded batch", _packing),
    "neighbours": Promise("a document's logits do not depend on its neighbour", _neighbours),
    "tokens kept": Promise("no token of the text is dropped", _tokens_kept),
    "masks and splits": Promise("masks are the same for any batch size, workers and processes", _masks_split),
    "masks and resuming": Promise("masks are the same after a resume", _masks_resumed),
    "masks and epochs": Promise("another epoch, or seed, has independent masks", _masks_fresh),
    "special tokens": Promise("special tokens are never targets nor replacements", _special_tokens),
    "literal tokens": Promise("a special token's name in the text is text", _literal_tokens),
    "evaluation again": Promise(
        "a second evaluation gives the same figure to the last bit", _evaluation_twice
    ),
    "evaluation alone": Promise("evaluation gives what transformers gives one at a time", _evaluation_alone),
}
"""Every promise by its name."""
