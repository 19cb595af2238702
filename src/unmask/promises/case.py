"""The case of the conformance suite: a model, a small text, and one training step, by unmask and by transformers alone.

The text is made of random entries of the tokenizer's vocabulary, so that it suits a model of any language.
"""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unmask.config.settings import DocumentSettings, MaskingSettings
from unmask.data.batches import Batch, TextSource
from unmask.data.corpus import open_corpus
from unmask.data.masking.random_bits import MaskKey
from unmask.data.preparation import prepare
from unmask.data.training_stream import Cursor, TrainingStream
from unmask.errors import DataError
from unmask.model.load import load_torch
from unmask.model.masked_lm import MaskedLM
from unmask.storage import read_json, write_json
from unmask.training.distributed import World, joined
from unmask.training.loss import step_gradients
from unmask.training.parallel import GradientSum

PROCESSES = 2

_SEQUENCES = 32
_FEW = 8
_DOCUMENTS = 48
_SHORTEST, _USUAL, _LONGEST = 5, 96, 512
_PATIENCE = 600


class Step(NamedTuple):
    """The loss of one step, and its gradient as one ``float32`` vector over all weights, on the CPU."""

    loss: float
    gradient: Tensor


class Distance(NamedTuple):
    """Relative distances between two ways to compute a step."""

    loss: float
    gradient: float


class Measurement(NamedTuple):
    """The measured value, the largest value that passes, and what was compared."""

    measured: float
    tolerance: float
    detail: str


class Case:
    """A model with a small text.

    Args:
        model: in evaluation mode and fp32.
        folder: of the text that :meth:`make` wrote.
        length: tokens of a sequence.
        seed: of the masks.
        masking: strategy and rate.

    Attributes:
        source: the text.
        all: ``int64 [N]``, all of its sequences, longest first.
        numbers: ``int64 [32]``, the sequences of the step, longest first, of all lengths; some have no target.
        few: ``int64 [8]``, some of them.
    """

    def __init__(
        self, model: MaskedLM, folder: Path, length: int, seed: int, masking: MaskingSettings
    ) -> None:
        self.model, self.folder, self.length, self.seed = model, folder, length, seed
        self.rate = masking.rate
        corpus = open_corpus(folder / "shards", verify=False)
        self.source = TextSource(corpus, np.arange(len(corpus)), model.vocabulary, masking, length)
        self.all = self.source.by_length(np.arange(len(self.source.sequences)))
        self.numbers, self.few = spread(self.all, _SEQUENCES), spread(self.all, _FEW)

    @staticmethod
    def make(model: MaskedLM, folder: Path, seed: int, masking: MaskingSettings) -> Case:
        """Write the text and its shards to an empty folder.

        Raises:
            DataError: the tokenizer makes nothing but special tokens of the text.
        """
        length = _length(model)
        with (folder / "text.jsonl").open("w", encoding="utf-8") as file:
            for text in _texts(model, length, seed):
                file.write(json.dumps({"text": text}) + "\n")
        prepare(
            [folder / "text.jsonl"], DocumentSettings(allow_unknown=True), model.tokenizer, folder / "shards"
        )
        case = Case(model, folder, length, seed, masking)
        if not len(case.batch(case.few).target_ids):
            raise DataError(
                "the tokenizer makes nothing but special or unknown tokens of a text in its own vocabulary; "
                "is its vocabulary damaged?"
            )
        return case

    @property
    def key(self) -> MaskKey:
        return MaskKey(self.seed, 0)

    def stream(self) -> TrainingStream:
        return TrainingStream(self.source, 4 * self.length, self.seed)

    def batch(self, numbers: np.ndarray) -> Batch:
        """Return ``int64 [N]`` sequences as one micro-batch."""
        return self.source.batch(numbers, self.key, self.rate)

    def step(self, batches: Iterable[Batch]) -> Step:
        """Compute a step by unmask."""
        batches = list(batches)
        self.model.model.zero_grad(set_to_none=True)
        targets = sum(len(batch.target_ids) for batch in batches)
        loss, _ = step_gradients(GradientSum(self.model), batches, [targets])
        return Step(float(loss), flat_gradient(self.model))

    def transformers_step(self, parts: Iterable[np.ndarray]) -> Step:
        """Compute a step by transformers alone, from the model's own loss on padded batches.

        That loss is a mean over the targets of a part, so parts are weighted by their targets. Where padding changes
        what the model gives a document, documents are computed alone.
        """
        if self.model.batching == "equal":
            parts = [part[place : place + 1] for part in parts for place in range(len(part))]
        batches = [self.batch(part) for part in parts]
        targets = sum(len(batch.target_ids) for batch in batches)
        total = 0.0
        with self.model.plain() as raw:
            raw.zero_grad(set_to_none=True)
            for batch in batches:
                if not len(batch.target_ids):
                    continue
                inputs, labels, _ = padded(batch, self.model)
                loss = raw(**inputs, labels=labels).loss * (len(batch.target_ids) / targets)
                loss.backward()
                total += float(loss.detach())
        return Step(total, flat_gradient(self.model))

    @cached_property
    def whole(self) -> Step:
        """The step of all sequences in one micro-batch."""
        return self.step([self.batch(self.numbers)])

    @cached_property
    def to_transformers(self) -> tuple[Distance, str]:
        """The distance between unmask and transformers on a few sequences, and both losses as text."""
        ours, theirs = self.step([self.batch(self.few)]), self.transformers_step([self.few])
        return distance(ours, theirs), f"{ours.loss:.7f} and {theirs.loss:.7f}"

    @cached_property
    def to_parts(self) -> tuple[Distance, Distance]:
        """The distances between the whole step and the step in 4 parts, and in single sequences."""
        fours, singles = (
            distance(self.step(self.batch(part) for part in np.array_split(self.numbers, count)), self.whole)
            for count in (4, len(self.numbers))
        )
        return fours, singles

    @cached_property
    def to_processes(self) -> Distance:
        """The distance between the whole step and that of two processes."""
        return distance(in_processes(self), self.whole)

    @cached_property
    def rounding(self) -> float:
        """How much transformers' own gradient differs when it computes the same step one document at a time.

        The sum is the same in another order, so the difference is the rounding of fp32, which grows with the depth of
        a model: the lower limit for any two ways to compute a gradient.
        """
        singles = (np.array([number]) for number in self.few)
        return distance(self.transformers_step(singles), self.transformers_step([self.few])).gradient

    @cached_property
    def terms(self) -> int:
        """Terms of the longest sum of the step: a row of the largest weight, or the tokens of a gradient."""
        largest = max(max(weight.shape, default=1) for weight in self.model.model.parameters())
        return max(int(largest), int(self.source.sizes(self.numbers).sum()))

    @property
    def bound(self) -> float:
        """The rounding of one fp32 sum of so many terms: 2⁻²⁴·√n, as errors of both signs add up (Higham & Mary 2019)."""
        return 2.0**-24 * math.sqrt(self.terms)


def spread(numbers: np.ndarray, count: int) -> np.ndarray:
    """Take ``count`` of the numbers at even distances, the first and the last among them."""
    return numbers[np.unique(np.linspace(0, len(numbers) - 1, count).astype(np.int64))]


def _length(model: MaskedLM) -> int:
    """A length at which a model with sliding windows has tokens that do not attend to each other."""
    window = getattr(model.model.config, "sliding_window", None) or 0
    return min(model.max_length, _LONGEST, max(_USUAL, 3 * int(window)))


def _texts(model: MaskedLM, length: int, seed: int) -> list[str]:
    """Return documents of random vocabulary entries: some too long for one sequence, some with names of special tokens."""
    draw = np.random.default_rng(seed)
    sizes = np.geomspace(_SHORTEST, 1.5 * length, _DOCUMENTS).astype(int)
    drawn = [draw.choice(model.vocabulary.replacements, size).tolist() for size in sizes]
    texts = [str(model.tokenizer.decode(ids)).strip() or "a" for ids in drawn]
    names = dict.fromkeys(str(token) for token in model.tokenizer.all_special_tokens)
    return [*texts, *(f"{texts[3]} {name} {texts[4]}" for name in names)]


def padded(batch: Batch, model: MaskedLM) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return a batch padded: the model's inputs, ``int64 [N, W]`` labels, and ``bool [N, W]`` where tokens are real."""
    inputs, real = model.padded(batch.input_ids, np.diff(batch.cu_seqlens))
    labels = np.full(real.shape, -100)
    rows, places = np.nonzero(real)
    labels[rows[batch.target_index], places[batch.target_index]] = batch.target_ids
    return inputs, torch.from_numpy(labels).to(model.device), torch.from_numpy(real).to(model.device)


def flat_gradient(model: MaskedLM) -> Tensor:
    """Return the gradients of all weights as one vector on the CPU; a weight without one counts as zeros."""
    weights = [weight for weight in model.model.parameters() if weight.requires_grad]
    parts = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    return torch.cat([part.detach().reshape(-1) for part in parts]).cpu()


def distance(found: Step, reference: Step) -> Distance:
    """Return the distance of a step from a reference."""
    apart = (found.gradient.double() - reference.gradient.double()).norm()
    return Distance(
        abs(found.loss - reference.loss) / max(abs(reference.loss), 1e-30),
        float(apart / reference.gradient.double().norm().clamp_min(1e-30)),
    )


# --- two processes ------------------------------------------------------------------------------------------------


def in_processes(case: Case) -> Step:
    """Save the model, start processes that share the step, and read back their common result.

    Raises:
        RuntimeError: a process failed.
    """
    with case.model.plain() as raw:
        raw.save_pretrained(case.folder / "model")
    case.model.tokenizer.save_pretrained(case.folder / "model")
    masking = case.source.masking.model_dump()
    write_json(case.folder / "case.json", {"length": case.length, "seed": case.seed, "masking": masking})
    code = f"from unmask.promises.case import share_step; share_step({str(case.folder)!r})"
    shared = os.environ | {
        "WORLD_SIZE": str(PROCESSES),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "HF_HUB_OFFLINE": "1",
    }
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        for rank in range(PROCESSES)
    ]
    _wait(workers)
    gradient = torch.from_numpy(np.load(case.folder / "gradient.npy"))
    return Step(float(read_json(case.folder / "loss.json")), gradient)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _wait(workers: list[subprocess.Popen[str]]) -> None:
    try:
        for worker in workers:
            _, errors = worker.communicate(timeout=_PATIENCE)
            if worker.returncode:
                last = (errors.strip().splitlines() or ["no error message"])[-1]
                raise RuntimeError(f"a process ended with {worker.returncode}: {last}")
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def share_step(folder: str) -> None:
    """Compute this process's share of the step of a case; the main process writes the sum of all."""
    root = Path(folder)
    # As a run does: the main process holds the store, and must not end before the others.
    with joined(torch.device("cpu")) as world:
        _share_step(root, world)


def _share_step(root: Path, world: World) -> None:
    model = load_torch(str(root / "model"), "the promises are about training", device="cpu", offline=True)
    saved = read_json(root / "case.json")
    case = Case(model, root, saved["length"], saved["seed"], MaskingSettings(**saved["masking"]))
    batches = case.stream().micro_batches(Cursor(), case.numbers, case.rate, 2, world.rank, world.size)
    targets = world.sum_(torch.tensor(sum(len(batch.target_ids) for batch in batches)))
    gradient_sum = GradientSum(model, world)
    gradient_sum.begin()
    loss, _ = step_gradients(gradient_sum, batches, [int(targets)])
    world.sum_(loss)
    if world.is_main:
        np.save(root / "gradient.npy", flat_gradient(model).numpy())
        write_json(root / "loss.json", float(loss))
    world.wait()
