"""The conformance suite: what unmask promises of loss, packing and masks, measured on any checkpoint.

The text is made up from the tokenizer's own vocabulary, so that a model of any language can be asked. Everything is
computed in fp32 with dropout off; nothing is trained and no weight is changed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unmask.data.batches import Batch, Cursor, TextSource, TrainingStream
from unmask.data.corpus import open_corpus, prepare
from unmask.data.masking import MaskKey
from unmask.data.settings import DocumentSettings, MaskingSettings
from unmask.data.tokenizer import TextEncoder
from unmask.errors import DataError
from unmask.evaluation.heldout import evaluate
from unmask.model.load import load_masked_lm
from unmask.model.masked_lm import MaskedLM
from unmask.progress import Progress
from unmask.run_folder import read_json, write_json
from unmask.training.distributed import World
from unmask.training.loop import Position
from unmask.training.loss import step_gradients

_SEQUENCES = 32
_FEW = 8
_DOCUMENTS = 48
_SHORTEST, _USUAL, _LONGEST = 5, 96, 512
_RATE = 0.15
_PROCESSES = 2
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


def run_checks(
    model: str | MaskedLM,
    *,
    seed: int = 0,
    offline: bool = False,
    processes: bool = True,
    progress: Progress = Progress(),
) -> list[Check]:
    """Measure every promise on one model.

    Args:
        model: Hub name or folder, loaded on the CPU; or a model in memory, whose gradients are dropped.
        seed: of the text and the masks.
        offline: make no network call to load it.
        processes: start two further processes, to compare their sum with one; only on the CPU.
        progress: hears which check is at work.

    Returns:
        The checks in the order of :data:`CHECKS`. One that fails to run at all has not passed.

    Raises:
        ConfigError: the model cannot be loaded.
        DataError: the tokenizer makes nothing but special tokens of the text.
    """
    if isinstance(model, str):
        model = load_masked_lm(model, device="cpu", offline=offline, notice=progress.notice)
    wanted = _wanted(model, processes, progress)
    with tempfile.TemporaryDirectory(prefix="unmask-conformance-") as place, _at_rest(model):
        case = _Case.make(model, Path(place), seed)
        progress.begin("conformance")
        checks = []
        for number, (name, promise) in enumerate(wanted.items()):
            progress.advance(number / len(wanted), {"check": name})
            checks.append(_measure(name, promise, case))
        progress.end()
    return checks


def _wanted(model: MaskedLM, processes: bool, progress: Progress) -> dict[str, _Promise]:
    """Leave out the checks that need further processes, where they are not wanted or cannot be had."""
    if processes and model.device.type != "cpu":
        progress.notice("the checks with two processes are left out: they need the model on the CPU")
    if processes and model.device.type == "cpu":
        return CHECKS
    return {name: promise for name, promise in CHECKS.items() if not name.startswith("process")}


@contextmanager
def _at_rest(model: MaskedLM) -> Iterator[None]:
    """Compute in fp32, without dropout, and leave the model as it was, without gradients."""
    training, autocast = model.model.training, model.autocast
    model.model.eval()
    model.autocast = False
    try:
        yield
    finally:
        model.autocast = autocast
        model.model.train(training)
        model.model.zero_grad(set_to_none=True)


def _measure(name: str, promise: _Promise, case: _Case) -> Check:
    try:
        measured, tolerance, detail = promise.measure(case)
    except (
        Exception
    ) as fault:  # a promise that cannot even be measured is broken, and the others are still asked
        reason = (str(fault).strip().splitlines() or [""])[0]
        return Check(name, promise.what, math.inf, 0.0, False, f"{type(fault).__name__}: {reason}")
    return Check(name, promise.what, measured, tolerance, measured <= tolerance, detail)


# --- the case ---------------------------------------------------------------------------------------------------


class _Step(NamedTuple):
    """Loss and gradient of one step; the gradient is one ``float32`` vector over all weights."""

    loss: float
    gradient: Tensor


class _Case:
    """A model with a small text, and the sequences of one step, longest first."""

    def __init__(self, model: MaskedLM, folder: Path, length: int, seed: int) -> None:
        self.model, self.folder, self.length, self.seed = model, folder, length, seed
        corpus = open_corpus(folder / "shards", verify=False)
        masking = MaskingSettings(rate=_RATE)
        documents = np.arange(len(corpus))
        self.source = TextSource(corpus, documents, model.vocabulary, masking, length)
        longest_first = self.source.by_length(np.arange(len(self.source.sequences)))
        self.numbers = _spread(longest_first, _SEQUENCES)
        self.few = _spread(longest_first, _FEW)

    @staticmethod
    def make(model: MaskedLM, folder: Path, seed: int) -> _Case:
        """Write the text and its shards to an empty folder."""
        length = _length(model)
        with (folder / "text.jsonl").open("w", encoding="utf-8") as file:
            for text in _texts(model, length, seed):
                file.write(json.dumps({"text": text}) + "\n")
        prepare([folder / "text.jsonl"], DocumentSettings(), model.tokenizer, folder / "shards")
        case = _Case(model, folder, length, seed)
        if not len(case.batch(case.few).target_ids):
            raise DataError(
                "the tokenizer makes nothing but special or unknown tokens of text in its own vocabulary; "
                "is it the one of this model?"
            )
        return case

    @property
    def key(self) -> MaskKey:
        return MaskKey(self.seed, 0)

    def stream(self) -> TrainingStream:
        return TrainingStream(self.source, 4 * self.length, self.seed)

    def batch(self, numbers: np.ndarray) -> Batch:
        """Return ``int64 [N]`` sequences as one micro-batch."""
        return self.source.batch(numbers, self.key, _RATE)

    def step(self, batches: Iterable[Batch]) -> _Step:
        """Compute a step our way."""
        batches = list(batches)
        self.model.model.zero_grad(set_to_none=True)
        loss, _ = step_gradients(self.model, batches, sum(len(batch.target_ids) for batch in batches))
        return _Step(float(loss), flat_gradient(self.model))

    @cached_property
    def whole(self) -> _Step:
        """The step of all sequences in one micro-batch."""
        return self.step([self.batch(self.numbers)])

    @cached_property
    def fours(self) -> _Step:
        return self.step(self.batch(part) for part in np.split(self.numbers, 4))

    @cached_property
    def singles(self) -> _Step:
        return self.step(self.batch(part) for part in np.split(self.numbers, len(self.numbers)))

    @cached_property
    def ours(self) -> _Step:
        """The step of a few sequences, our way."""
        return self.step([self.batch(self.few)])

    @cached_property
    def theirs(self) -> _Step:
        """The same step by transformers alone: padded, with labels, and the loss that the model itself returns."""
        batch = self.batch(self.few)
        ids, real = _padded(batch, self.model)
        labels = torch.full_like(ids, -100)
        flat = torch.full((batch.tokens,), -100, device=ids.device)
        flat[torch.from_numpy(batch.target_index).to(ids.device)] = torch.from_numpy(batch.target_ids).to(
            ids.device
        )
        labels[real] = flat
        with self.model.plain() as raw:
            raw.zero_grad(set_to_none=True)
            loss = raw(input_ids=ids, attention_mask=real.long(), labels=labels).loss
            loss.backward()
        return _Step(float(loss), flat_gradient(self.model))

    @cached_property
    def apart(self) -> _Step:
        """The step of all sequences, shared by two processes."""
        return _in_processes(self)


def _spread(numbers: np.ndarray, count: int) -> np.ndarray:
    """Take ``count`` of the numbers at even distances, the first and the last among them."""
    return numbers[np.unique(np.linspace(0, len(numbers) - 1, count).astype(np.int64))]


def _length(model: MaskedLM) -> int:
    """A length at which a model with windows has tokens that do not see each other."""
    window = getattr(model.model.config, "sliding_window", None) or 0
    return min(model.max_length, _LONGEST, max(_USUAL, 3 * int(window)))


def _texts(model: MaskedLM, length: int, seed: int) -> list[str]:
    """Make up documents from random vocabulary entries; some are too long for one sequence, some name special tokens."""
    draw = np.random.default_rng(seed)
    sizes = np.geomspace(_SHORTEST, 1.5 * length, _DOCUMENTS).astype(int)
    texts = [
        model.tokenizer.decode(draw.choice(model.vocabulary.replacements, size).tolist()).strip() or "a"
        for size in sizes
    ]
    names = list(dict.fromkeys(str(token) for token in model.tokenizer.all_special_tokens))
    return [*texts, *(f"{texts[3]} {name} {texts[4]}" for name in names)]


def _padded(batch: Batch, model: MaskedLM) -> tuple[Tensor, Tensor]:
    """Return a batch as ``int64 [N, W]`` padded ids, and ``bool [N, W]`` where tokens are real."""
    lengths = np.diff(batch.cu_seqlens)
    real = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(real.shape, model.vocabulary.pad_id, dtype=np.int64)
    ids[real] = batch.input_ids
    return torch.from_numpy(ids).to(model.device), torch.from_numpy(real).to(model.device)


def flat_gradient(model: MaskedLM) -> Tensor:
    """Return the gradients of all weights as one vector on the CPU; a weight without one counts as zeros."""
    weights = model.model.parameters()
    parts = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights if w.requires_grad]
    return torch.cat([part.detach().reshape(-1) for part in parts]).cpu()


def _between(found: Tensor, wanted: Tensor) -> float:
    """Return the norm of a difference over the norm of what was wanted."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm().clamp_min(1e-30))


def _relative(found: float, wanted: float) -> float:
    return abs(found - wanted) / max(abs(wanted), 1e-30)


# --- loss and gradient --------------------------------------------------------------------------------------------

_Measured = tuple[float, float, str]


def _own_loss(case: _Case) -> _Measured:
    ours, theirs = case.ours.loss, case.theirs.loss
    name = type(case.model.model).__name__
    return (
        _relative(ours, theirs),
        1e-6,
        f"{ours:.7f} against {theirs:.7f} by {name}, {len(case.few)} sequences",
    )


def _own_gradient(case: _Case) -> _Measured:
    return _between(case.ours.gradient, case.theirs.gradient), 1e-6, f"{len(case.ours.gradient):,} weights"


def _micro_loss(case: _Case) -> _Measured:
    losses = [step.loss for step in (case.whole, case.fours, case.singles)]
    counts = [len(case.batch(np.array([number])).target_ids) for number in case.numbers]
    detail = (
        f"1×{len(counts)}, 4 parts, {len(counts)}×1; {min(counts)} to {max(counts)} targets in a sequence"
    )
    return max(_relative(loss, losses[0]) for loss in losses), 1e-6, detail


def _micro_gradient(case: _Case) -> _Measured:
    measured = [_between(step.gradient, case.whole.gradient) for step in (case.fours, case.singles)]
    return max(measured), 1e-6, f"4 parts {measured[0]:.1e}, single sequences {measured[1]:.1e}"


def _process_loss(case: _Case) -> _Measured:
    return _relative(case.apart.loss, case.whole.loss), 1e-6, f"{_PROCESSES} processes over gloo"


def _process_gradient(case: _Case) -> _Measured:
    return _between(case.apart.gradient, case.whole.gradient), 1e-6, f"{_PROCESSES} processes over gloo"


def _no_targets(case: _Case) -> _Measured:
    batch = case.source.batch(case.few, case.key, 1e-18)
    step = case.step([batch])
    finite = math.isfinite(step.loss) and bool(step.gradient.isfinite().all())
    moved = float(step.gradient.abs().max()) + abs(step.loss)
    return moved if finite else math.inf, 0.0, f"{len(batch.target_ids)} targets, loss {step.loss:g}"


# --- packing ------------------------------------------------------------------------------------------------------


def _all_logits(case: _Case, batch: Batch) -> Tensor:
    """Return ``[T, V]`` logits of a batch at every place, our way."""
    everywhere = np.arange(batch.tokens)
    return case.model.target_logits(
        dataclasses.replace(batch, target_index=everywhere, target_ids=batch.input_ids)
    )


def _difference(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference of logits, over their own size where that is above one."""
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1.0))


@torch.no_grad()
def _packed_padded_alone(case: _Case) -> _Measured:
    batch = case.batch(case.few)
    together = _all_logits(case, batch)
    ids, real = _padded(batch, case.model)
    cuts = batch.cu_seqlens.tolist()
    with case.model.plain() as raw:
        padded = raw(input_ids=ids, attention_mask=real.long()).logits[real]
        alone = torch.cat(
            [raw(input_ids=row[kept][None]).logits[0] for row, kept in zip(ids, real, strict=True)]
        )
    measured = _difference(together, alone), _difference(together, padded), _difference(padded, alone)
    how = "packed rows" if case.model.packed else "padded by length (this architecture cannot pack)"
    detail = (
        f"{how}; {max(np.diff(cuts))} to {min(np.diff(cuts))} tokens; padded against alone {measured[2]:.1e}"
    )
    return max(measured[:2]), 1e-5, detail


@torch.no_grad()
def _neighbours(case: _Case) -> _Measured:
    batch = case.batch(case.few[len(case.few) // 2 :][:2])
    first, second = (int(size) for size in np.diff(batch.cu_seqlens))
    document = batch.input_ids[:first]
    draw = np.random.default_rng(case.seed)
    worst, usual = 0.0, None
    for length in (first, first, second, 1):
        other = draw.choice(case.model.vocabulary.replacements, length)
        found = _all_logits(case, _row(document, other))[:first]
        usual = found if usual is None else usual
        worst = max(worst, _difference(found, usual))
    return worst, 1e-6, f"a document of {first} tokens beside four others"


def _row(*documents: np.ndarray) -> Batch:
    lengths = [len(document) for document in documents]
    positions = np.concatenate([np.arange(length) for length in lengths])
    cuts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    none = np.zeros(0, dtype=np.int64)
    return Batch(
        np.concatenate(documents).astype(np.int64), positions, cuts, none, none, np.arange(len(lengths))
    )


def _tokens_kept(case: _Case) -> _Measured:
    numbers = np.arange(len(case.source.sequences))
    packed = case.source.pack(numbers)
    text = len(packed.input_ids) - case.model.vocabulary.overhead * len(numbers)
    detail = f"{case.source.corpus.tokens:,} tokens of text in {len(numbers)} sequences"
    return abs(text - case.source.corpus.tokens), 0, detail


# --- masks --------------------------------------------------------------------------------------------------------

_Masks = dict[int, tuple[bytes, bytes]]


def _masks(batches: Iterable[Batch]) -> _Masks:
    """Return, for every sequence, what the model sees and where its targets are."""
    found = {}
    for batch in batches:
        cuts = batch.cu_seqlens
        for row, number in enumerate(batch.sequence_ids.tolist()):
            inside = (batch.target_index >= cuts[row]) & (batch.target_index < cuts[row + 1])
            targets = batch.target_index[inside] - cuts[row]
            found[number] = (batch.input_ids[cuts[row] : cuts[row + 1]].tobytes(), targets.tobytes())
    return found


def _differing(found: _Masks, wanted: _Masks) -> int:
    return sum(found.get(number) != wanted.get(number) for number in {*found, *wanted})


def _masks_split(case: _Case) -> _Measured:
    stream, numbers = case.stream(), case.source.by_length(np.arange(len(case.source.sequences)))
    wanted = _masks([case.source.batch(numbers, case.key, _RATE)])
    worst = 0
    for world in (1, 2, 4):
        for parts in (1, 7, 32):
            shares = [
                stream.micro_batches(Cursor(), numbers, _RATE, parts, rank, world) for rank in range(world)
            ]
            worst = max(worst, _differing(_masks(batch for share in shares for batch in share), wanted))
    with ThreadPoolExecutor(4) as pool:
        made = pool.map(lambda number: case.source.batch(np.array([number]), case.key, _RATE), numbers[::-1])
        worst = max(worst, _differing(_masks(made), wanted))
    return worst, 0, f"{len(numbers)} sequences; 1, 2, 4 processes; 1, 7, 32 micro-batches; 4 workers"


def _masks_resumed(case: _Case) -> _Measured:
    steps = 12
    undisturbed = list(_walk(case.stream(), Cursor(), steps))
    differing = 0
    for stop in (1, steps // 2, steps - 1):
        cursor, _ = undisturbed[stop]
        saved = json.loads(json.dumps(Position(stop, cursor).to_dict()))
        again = list(_walk(case.stream(), Position.from_dict(saved).cursor, steps - stop))
        pairs = zip(again, undisturbed[stop:], strict=True)
        differing += sum(_differing(found, wanted) for (_, found), (_, wanted) in pairs)
    return (
        differing,
        0,
        f"stopped after 1, {steps // 2} and {steps - 1} of {steps} steps, over the end of an epoch",
    )


def _walk(stream: TrainingStream, cursor: Cursor, steps: int) -> Iterator[tuple[Cursor, _Masks]]:
    for _ in range(steps):
        numbers, following = stream.take(cursor)
        yield cursor, _masks(stream.micro_batches(cursor, numbers, _RATE, 1))
        cursor = following


def _masks_fresh(case: _Case) -> _Measured:
    """Two epochs, and two seeds, must share targets only by chance: as many as the rate says."""
    numbers = np.arange(len(case.source.sequences))
    first = case.source.batch(numbers, case.key, _RATE)
    worst, tolerance = 0.0, _SIGMAS * math.sqrt(_RATE * (1 - _RATE) / len(first.target_ids))
    for key in (MaskKey(case.seed, 1), MaskKey(case.seed + 1, 0)):
        other = case.source.batch(numbers, key, _RATE)
        shared = np.isin(first.target_index, other.target_index).mean()
        worst = max(worst, abs(float(shared) - _RATE))
    return worst, tolerance, f"{len(first.target_ids)} targets; chance would share {_RATE:.0%} of them"


def _special_tokens(case: _Case) -> _Measured:
    numbers, special = np.arange(len(case.source.sequences)), case.model.vocabulary.special
    wrong = targets = 0
    for epoch in range(10):
        batch = case.source.batch(numbers, MaskKey(case.seed, epoch), 0.5)
        seen = batch.input_ids[batch.target_index]
        replaced = seen[(seen != batch.target_ids) & (seen != case.model.vocabulary.mask_id)]
        wrong += int(special[batch.target_ids].sum() + special[replaced].sum())
        targets += len(batch.target_ids)
    return wrong, 0, f"{targets:,} targets in ten epochs at 50%"


def _literal_tokens(case: _Case) -> _Measured:
    tokenizer = case.model.tokenizer
    names = list(dict.fromkeys(str(token) for token in tokenizer.all_special_tokens))
    control = {*map(int, tokenizer.all_special_ids)} - {tokenizer.unk_token_id}
    found = TextEncoder(tokenizer)([f"a {name} b{name}" for name in names])
    return sum(int(number) in control for ids in found for number in ids), 0, " ".join(names)


# --- evaluation ---------------------------------------------------------------------------------------------------


def _evaluation_twice(case: _Case) -> _Measured:
    losses = [evaluate(case.model, case.source.evaluation_batches(8 * case.length)).loss for _ in range(2)]
    return abs(losses[0] - losses[1]), 0.0, f"loss {losses[0]!r}"


@torch.no_grad()
def _evaluation_alone(case: _Case) -> _Measured:
    figures = evaluate(case.model, case.source.evaluation_batches(8 * case.length))
    total = asked = 0.0
    with case.model.plain() as raw:
        for batch in case.source.evaluation_batches(1):
            logits = raw(input_ids=torch.from_numpy(batch.input_ids)[None].to(raw.device)).logits[0]
            rows = logits[torch.from_numpy(batch.target_index)].double().log_softmax(-1).cpu()
            total -= float(rows.gather(1, torch.from_numpy(batch.target_ids)[:, None]).sum())
            asked += len(batch.target_ids)
    detail = f"{figures.loss:.6f} against {total / asked:.6f}, {figures.masked_tokens} targets"
    return _relative(figures.loss, total / asked), 1e-5, detail


# --- two processes ------------------------------------------------------------------------------------------------


def _in_processes(case: _Case) -> _Step:
    """Save the model, start two processes that share one step, and read back what they found together."""
    with case.model.plain() as raw:
        raw.save_pretrained(case.folder / "model")
    case.model.tokenizer.save_pretrained(case.folder / "model")
    write_json(case.folder / "case.json", {"length": case.length, "seed": case.seed})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(_PROCESSES), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    code = f"from unmask.conformance import share_step; share_step({str(case.folder)!r})"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(_PROCESSES)
    ]
    try:
        for worker in workers:
            _, errors = worker.communicate(timeout=600)
            if worker.returncode:
                raise RuntimeError(
                    f"a process ended with {worker.returncode}: {errors.strip().splitlines()[-1:]}"
                )
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    gradient = torch.from_numpy(np.load(case.folder / "gradient.npy"))
    return _Step(float(read_json(case.folder / "loss.json")), gradient)


def share_step(folder: str) -> None:
    """Compute this process's share of the step of a case; the first process writes what all found together."""
    place, device = Path(folder), torch.device("cpu")
    world = World.join(device)
    model = load_masked_lm(str(place / "model"), device="cpu", offline=True)
    case = _Case(model, place, **read_json(place / "case.json"))
    batches = case.stream().micro_batches(Cursor(), case.numbers, _RATE, 2, world.rank, world.size)
    targets = world.sum_(torch.tensor(sum(len(batch.target_ids) for batch in batches)))
    loss, _ = step_gradients(model, batches, int(targets))
    world.sum_gradients(model.model)
    world.sum_(loss)
    if world.leads:
        np.save(place / "gradient.npy", flat_gradient(model).numpy())
        write_json(place / "loss.json", float(loss))
    world.wait()


# --- the list -----------------------------------------------------------------------------------------------------


class _Promise(NamedTuple):
    what: str
    measure: Callable[[_Case], Any]


CHECKS: dict[str, _Promise] = {
    "loss": _Promise("our loss is the model's own loss on the same labels", _own_loss),
    "gradient": _Promise("our gradient is that of the model's own loss", _own_gradient),
    "micro-batch loss": _Promise("the loss is the same for any split into micro-batches", _micro_loss),
    "micro-batch gradient": _Promise(
        "the gradient is the same for any split into micro-batches", _micro_gradient
    ),
    "process loss": _Promise("two processes find the loss of one", _process_loss),
    "process gradient": _Promise("two processes find the gradient of one", _process_gradient),
    "no targets": _Promise("a batch without targets has loss and gradient zero", _no_targets),
    "packing": _Promise(
        "logits are those of each document alone, and of a padded batch", _packed_padded_alone
    ),
    "neighbours": _Promise("a document's logits do not depend on its neighbour", _neighbours),
    "tokens kept": _Promise("no token of the text is dropped", _tokens_kept),
    "masks and splits": _Promise(
        "masks are the same for any batch size, workers and processes", _masks_split
    ),
    "masks and resuming": _Promise("masks are the same after a resume", _masks_resumed),
    "masks and epochs": _Promise("another epoch, or seed, has independent masks", _masks_fresh),
    "special tokens": _Promise("special tokens are never targets nor replacements", _special_tokens),
    "literal tokens": _Promise("a special token's name in the text is text", _literal_tokens),
    "evaluation again": _Promise(
        "a second evaluation gives the same figure to the last bit", _evaluation_twice
    ),
    "evaluation alone": _Promise("evaluation gives what transformers gives one at a time", _evaluation_alone),
}
"""Every check: the promise, and how it is measured."""
