"""``unmask conformance``: the promises about loss, gradients, packing and masks, measured on any model.

Everything is computed in fp32 without dropout; nothing is trained and no weight changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unmask.config.settings import MaskingSettings
from unmask.data.batches import Batch
from unmask.data.shards import TemporaryFolder
from unmask.data.special_tokens import control_ids, text_specials
from unmask.data.tokenizer import TextEncoder
from unmask.evaluation.heldout import evaluate_batches
from unmask.model.base import LanguageModel
from unmask.model.load import load_torch
from unmask.model.masked_lm import MaskedLM
from unmask.progress import Progress
from unmask.promises.case import PROCESSES, Case, Distance, Measurement, padded
from unmask.promises.masks import (
    masks_fresh,
    masks_resumed,
    masks_split,
    rate_of_short_documents,
    special_tokens,
)
from unmask.promises.objectives import COMPARISONS, compare, why_not

_EXACT = 1e-6
_CLOSE = 1e-5


@dataclass(frozen=True)
class Check:
    """One promise, measured.

    Attributes:
        name: a short name.
        what: the promise, in one sentence.
        measured: a difference, or a number of violations.
        tolerance: the largest value that passes.
        passed: whether ``measured`` is within it.
        detail: what was compared, or the error.
    """

    name: str
    what: str
    measured: float
    tolerance: float
    passed: bool
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, ready for JSON."""
        return asdict(self)


class Promise(NamedTuple):
    """A promise in one sentence, and its measurement."""

    what: str
    measure: Callable[[Case], Measurement]


def conformance(
    model: str | Path | LanguageModel,
    *,
    masking: MaskingSettings = MaskingSettings(),
    seed: int = 0,
    offline: bool = False,
    processes: bool = True,
    objectives: bool = True,
    progress: Progress = Progress(),
) -> list[Check]:
    """Measure every promise on one model.

    Args:
        model: Hub name, model folder or run folder, loaded on the CPU; or a model in memory, whose gradients are dropped.
        masking: strategy and rate of the masks.
        seed: of the text and the masks.
        offline: make no network call.
        processes: start two processes, to compare their summed gradient with that of one; only on the CPU.
        objectives: compare the loss of each training objective that the model can be trained by.
        progress: gets the name of the current check, and which objectives are left out, and why.

    Returns:
        The checks in the order of :data:`CHECKS`, then one of each objective. A check that raises has not passed.

    Raises:
        ConfigError: the model cannot be loaded, or the masking strategy does not fit its tokenizer.
        DataError: the tokenizer makes nothing but special tokens of the text.
    """
    model = load_torch(
        model, "the promises are about training", device="cpu", offline=offline, progress=progress
    )
    promises = _promises_for(model, processes, progress)
    checks = []
    with (
        TemporaryFolder("unmask-conformance-") as folder,
        _fp32_without_dropout(model),
    ):
        case = Case.make(model, Path(folder), seed, masking)
        progress.begin("conformance")
        if objectives:
            promises |= _promises_of_objectives(case, progress)
        for number, (name, promise) in enumerate(promises.items()):
            progress.advance(number / len(promises), {"check": name})
            checks.append(_check(name, promise, case))
        progress.advance(1.0, {"checks": len(checks)})
        progress.end()
    return checks


def _promises_for(model: MaskedLM, processes: bool, progress: Progress) -> dict[str, Promise]:
    """Leave out the checks that start processes, if not wanted or if the model is not on the CPU."""
    if processes and model.device.type != "cpu":
        progress.log("skipping the checks with two processes: they need the model on the CPU")
        processes = False
    return {name: found for name, found in CHECKS.items() if processes or not name.startswith("process")}


def _promises_of_objectives(case: Case, progress: Progress) -> dict[str, Promise]:
    """Leave out the objectives that the model cannot be trained by."""
    found = {}
    for name in COMPARISONS:
        if reason := why_not(case, name):
            progress.log(f"objective {name} is not checked: {reason}")
        else:
            what = f"the loss of objective {name} equals that of plain transformers on the same sequences"
            found[f"{name} loss"] = Promise(what, partial(compare, name))
    return found


@contextmanager
def _fp32_without_dropout(model: MaskedLM) -> Iterator[None]:
    """Compute in fp32 and without dropout, then restore the model and drop its gradients."""
    autocast, model.autocast = model.autocast, False
    try:
        with model.evaluating():
            yield
    finally:
        model.autocast = autocast
        model.model.zero_grad(set_to_none=True)


def _check(name: str, promise: Promise, case: Case) -> Check:
    try:
        found = promise.measure(case)
    except Exception as error:  # a check that cannot run has failed, and the others still run
        reason = (str(error).strip().splitlines() or [""])[0]
        found = Measurement(math.inf, 0.0, f"{type(error).__name__}: {reason}")
    return Check(
        name, promise.what, found.measured, found.tolerance, found.measured <= found.tolerance, found.detail
    )


# --- loss and gradient --------------------------------------------------------------------------------------------


def _own_loss(case: Case) -> Measurement:
    found, losses = case.to_transformers
    detail = f"{losses} by {type(case.model.model).__name__}, {len(case.few)} sequences"
    return Measurement(found.loss, _EXACT, detail)


def _own_gradient(case: Case) -> Measurement:
    return _gradient(case, case.to_transformers[0], f"{case.model.parameters:,} weights")


def _gradient(case: Case, found: Distance, detail: str) -> Measurement:
    """Compare a gradient with a tolerance of 1e-6, or of what fp32 gives for the model where that is more.

    That is the rounding of its longest sum, or twice the difference between two ways of transformers.
    """
    if found.gradient <= _EXACT:
        return Measurement(found.gradient, _EXACT, detail)
    detail = f"{detail}; fp32 sums of {case.terms:,} terms differ by {case.bound:.1e}"
    tolerance = max(_EXACT, case.bound)
    if found.gradient > tolerance:
        detail = f"{detail}, transformers' own gradient, padded and alone, by {case.rounding:.1e}"
        tolerance = max(tolerance, 2 * case.rounding)
    return Measurement(found.gradient, tolerance, detail)


def _parts_loss(case: Case) -> Measurement:
    counts = [len(case.batch(np.array([number])).target_ids) for number in case.numbers]
    count = len(counts)
    detail = f"1×{count}, 4×{count // 4}, {count}×1; {min(counts)} to {max(counts)} targets in a sequence"
    return Measurement(max(found.loss for found in case.to_parts), _EXACT, detail)


def _parts_gradient(case: Case) -> Measurement:
    fours, singles = case.to_parts
    detail = f"in 4 parts {fours.gradient:.1e}, in single sequences {singles.gradient:.1e}"
    return _gradient(case, max(case.to_parts, key=lambda found: found.gradient), detail)


def _processes_loss(case: Case) -> Measurement:
    return Measurement(case.to_processes.loss, _EXACT, f"{PROCESSES} processes over gloo")


def _processes_gradient(case: Case) -> Measurement:
    return _gradient(case, case.to_processes, f"{PROCESSES} processes over gloo")


def _no_targets(case: Case) -> Measurement:
    batch = _row(case.batch(case.few).input_ids[: case.length])
    step = case.step([batch])
    finite = math.isfinite(step.loss) and bool(step.gradient.isfinite().all())
    size = abs(step.loss) + float(step.gradient.abs().max())
    return Measurement(size if finite else math.inf, 0, f"{batch.tokens} tokens, loss {step.loss:g}")


# --- packing ------------------------------------------------------------------------------------------------------


def _all_logits(case: Case, batch: Batch) -> Tensor:
    """Return the ``[T, V]`` logits of a batch at every position, computed by unmask."""
    everywhere = np.arange(batch.tokens)
    return case.model.target_logits(replace(batch, target_index=everywhere, target_ids=batch.input_ids))


def _difference(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference of logits, relative where they are larger than one."""
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1.0))


_HOW = {
    "packed": "packed rows",
    "padded": "padded by length, since this architecture cannot pack",
    "equal": "documents of one length together, since padding changes the output of this architecture",
}


@torch.no_grad()
def _packing(case: Case) -> Measurement:
    batch = case.batch(case.few)
    together = _all_logits(case, batch)
    inputs, _, real = padded(batch, case.model)
    with case.model.plain() as raw:
        documents = np.split(batch.input_ids, batch.cu_seqlens[1:-1])
        alone = torch.cat([case.model.alone(document) for document in documents])
        widened = alone if case.model.batching == "equal" else raw(**inputs).logits[real]
    measured = max(_difference(together, alone), _difference(together, widened))
    how = _HOW[case.model.batching]
    lengths = np.diff(batch.cu_seqlens)
    detail = f"{how}; {lengths.min()} to {lengths.max()} tokens"
    return Measurement(measured, _CLOSE, detail)


@torch.no_grad()
def _neighbours(case: Case) -> Measurement:
    long, short = case.few[len(case.few) // 2 :][:2]
    document = case.batch(np.array([long])).input_ids
    draw = np.random.default_rng(case.seed)
    lengths = (len(document), len(document), len(case.batch(np.array([short])).input_ids), 1)
    others = [draw.choice(case.model.vocabulary.replacements, length) for length in lengths]
    found = [_all_logits(case, _row(document, other))[: len(document)] for other in others]
    measured = max(_difference(logits, found[0]) for logits in found[1:])
    detail = f"a document of {len(document)} tokens next to {len(others)} others"
    if measured <= _EXACT:
        return Measurement(measured, _EXACT, detail)
    return Measurement(
        measured,
        max(_EXACT, case.bound),
        f"{detail}; fp32 sums of {case.terms:,} terms differ by {case.bound:.1e}",
    )


def _row(*documents: np.ndarray) -> Batch:
    """Pack documents end to end, unmasked."""
    lengths = [len(document) for document in documents]
    positions = np.concatenate([np.arange(length) for length in lengths])
    cuts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    none = np.zeros(0, dtype=np.int64)
    return Batch(np.concatenate(documents), positions, cuts, none, none, np.arange(len(lengths)))


def _tokens_kept(case: Case) -> Measurement:
    sizes = case.source.sizes(case.all)
    text = int(sizes.sum()) - case.model.vocabulary.overhead * len(sizes)
    detail = (
        f"{case.source.corpus.tokens:,} tokens of text in {len(sizes)} sequences of at most {sizes.max()}"
    )
    return Measurement(abs(text - case.source.corpus.tokens), 0, detail)


def _literal_tokens(case: Case) -> Measurement:
    tokenizer = case.model.tokenizer
    names = list(dict.fromkeys(str(token) for token in tokenizer.all_special_tokens))
    control = control_ids(tokenizer) - {tokenizer.unk_token_id}
    encoded = TextEncoder(tokenizer)([f"a {name} b{name}" for name in names])
    wrong = sum(int(number) in control for ids in encoded for number in ids)
    own = zip(names, encoded, strict=True)
    read = text_specials(tokenizer)
    wrong += sum(tokenizer.convert_tokens_to_ids(name) not in ids for name, ids in own if name in read)
    return Measurement(wrong, 0, " ".join(names))


# --- evaluation ---------------------------------------------------------------------------------------------------


def _evaluation_twice(case: Case) -> Measurement:
    losses = [
        evaluate_batches(case.model, case.source.evaluation_batches(8 * case.length)).loss for _ in range(2)
    ]
    return Measurement(abs(losses[0] - losses[1]), 0, f"loss {losses[0]!r}")


@torch.no_grad()
def _evaluation_alone(case: Case) -> Measurement:
    found = evaluate_batches(case.model, case.source.evaluation_batches(8 * case.length))
    total, targets = 0.0, 0
    with case.model.plain():
        for batch in case.source.evaluation_batches(1):
            logits = case.model.alone(batch.input_ids).cpu()
            rows = logits[torch.from_numpy(batch.target_index)].double().log_softmax(-1)
            total -= float(rows.gather(1, torch.from_numpy(batch.target_ids)[:, None]).sum())
            targets += len(batch.target_ids)
    detail = f"{found.loss:.6f} against {total / targets:.6f}, {targets} targets"
    return Measurement(abs(found.loss - total / targets) / (total / targets), _CLOSE, detail)


CHECKS: dict[str, Promise] = {
    "loss": Promise("the loss equals the model's own loss in transformers on the same labels", _own_loss),
    "gradient": Promise("the gradient equals that of the model's own loss in transformers", _own_gradient),
    "micro-batch loss": Promise("the loss is the same for any split into micro-batches", _parts_loss),
    "micro-batch gradient": Promise(
        "the gradient is the same for any split into micro-batches", _parts_gradient
    ),
    "process loss": Promise("two processes compute the loss of one", _processes_loss),
    "process gradient": Promise("two processes compute the gradient of one", _processes_gradient),
    "no targets": Promise("a batch without targets has loss and gradient zero", _no_targets),
    "packing": Promise("packed logits equal those of each document alone and of a padded batch", _packing),
    "neighbours": Promise("a document's logits do not depend on its neighbours in a packed row", _neighbours),
    "tokens kept": Promise("no token of the text is dropped", _tokens_kept),
    "masks and splits": Promise("masks are the same for any batch size, workers and processes", masks_split),
    "masks and resuming": Promise("masks are the same after a resume", masks_resumed),
    "masks and epochs": Promise("another epoch, or seed, has independent masks", masks_fresh),
    "mask rate": Promise("documents of 2 to 20 tokens have the mask rate too", rate_of_short_documents),
    "special tokens": Promise("special tokens are never targets nor replacements", special_tokens),
    "literal tokens": Promise(
        "the name of a control token in a text is text, an added special token is itself", _literal_tokens
    ),
    "evaluation again": Promise("a second evaluation gives the same loss to the last bit", _evaluation_twice),
    "evaluation alone": Promise(
        "the held-out loss equals that of transformers, one sequence at a time", _evaluation_alone
    ),
}
"""Every promise by its name."""
