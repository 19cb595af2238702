"""Fine-tuning of an encoder on a labelled task, by the loop that trains masked language models.

The examples of a task are a text source, and a new head on the output of the encoder is an objective: so steps are of equal
numbers of tokens, sequences are packed where the model can, the loss is divided by the units of the whole step, and memory
that runs out halves the micro-batches.

A seed changes the weights of the new head, the order of examples and dropout, alike for every model.

Shapes: N sequences, T tokens, M units of a batch, O outputs of the head, H hidden size.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from unmask.config.settings import MaskingSettings
from unmask.data.batches import Batch, MakeBatch, batch_of
from unmask.data.masking.random_bits import MaskKey
from unmask.data.masking.units import MaskingPlan, plan_of
from unmask.data.packing import Packed
from unmask.data.tokenizer import Vocabulary
from unmask.data.training_stream import TrainingStream
from unmask.errors import DivergedError
from unmask.model.float64 import exact_device
from unmask.model.masked_lm import MaskedLM
from unmask.model.packed_layout import on_device
from unmask.objectives.objective import Loss, Objective
from unmask.probing.features import body_tokens, length_batches, vectors
from unmask.probing.learn import Codes, Learner, Part
from unmask.probing.settings import FineTuningSettings, Pool
from unmask.probing.targets import Array, Target
from unmask.storage import read_json, write_json
from unmask.training.checkpoint import find_checkpoint, load_checkpoint_state, restore, save_checkpoint
from unmask.training.loop import Loop
from unmask.training.parallel import GradientSum
from unmask.training.position import Length, Position
from unmask.training.window import Row

_HEAD = "task"
_CHECKPOINTS, _BEST, _PREDICTIONS = "checkpoints", "best", "predictions.json"
_HEAD_TIMES = 10  # learning rate of the new head, as a multiple of that of the encoder
_WIDTH = 768
_WARM = 0.1  # share of the steps in which the rate rises
_ROUNDING = 1e-9


def default_rate(width: int) -> float:
    """Return 5e-5 for hidden size 768, and more for a narrower model: 1.5e-4 at 256."""
    return 5e-5 * _WIDTH / min(width, _WIDTH)


def finetune(
    learner: Learner,
    train: Part,
    held: Part | None,
    test: Part,
    seeds: int,
    tuning: FineTuningSettings,
    keep: Path | None = None,
) -> tuple[list[Codes], dict[str, Any]]:
    """Train encoder and a new linear head with AdamW, once for each seed, from the same weights.

    The rate warms up over a tenth of the run and decays linearly to zero.

    Args:
        learner: the model and how it is used.
        train: training examples.
        held: examples that are predicted after each epoch: the weights of the epoch with the best metric count, and training
            ends where ``tuning.patience`` epochs in a row are no better. Without them the last weights count.
        test: examples to predict.
        seeds: S.
        tuning: how long, in which steps and how fast.
        keep: a folder for checkpoints after each epoch, and for the predictions of finished seeds. A call with the same model,
            examples and settings goes on from there, and ends with the same weights as one that was not interrupted.

    Returns:
        S predictions for the examples of ``test``, and what was chosen.

    Raises:
        DivergedError: the loss is NaN or infinite.
    """
    lm = learner.lm
    rate = tuning.learning_rate or default_rate(int(lm.model.config.hidden_size))
    start = _copied(lm.encoder)
    kept = None if keep is None else keep / _fingerprint(learner, start, (train, held, test), tuning, rate)
    predictions, epochs = [], []
    try:
        for seed in range(seeds):
            folder = None if kept is None else kept / f"seed-{seed}"
            if folder is not None and (found := read_json(folder / _PREDICTIONS)):
                learner.progress.log(f"fine-tuning, seed {seed + 1} of {seeds}: kept in {folder}")
            else:
                lm.encoder.load_state_dict(start)
                learner.progress.begin(f"fine-tuning, seed {seed + 1} of {seeds}")
                tuned = _Run(learner, train, held, seed, tuning, rate, folder)
                epoch, guess = tuned.run(), _predict(learner, tuned.head, test)
                learner.progress.end()
                found = {"epoch": epoch, "predictions": guess.tolist()}
                if folder is not None:
                    write_json(folder / _PREDICTIONS, found)
                    shutil.rmtree(folder / _CHECKPOINTS, ignore_errors=True)
            epochs.append(found["epoch"])
            guess = np.array(found["predictions"], dtype=test.targets.dtype).reshape(test.targets.shape)
            predictions.append(test.whole(guess, learner.target.fallback))
    finally:
        lm.encoder.load_state_dict(start)
        lm.detach()
    chosen = {"learning_rate": rate, "epochs": tuning.epochs, "batch": tuning.batch}
    return predictions, chosen | ({} if held is None else {"best_epochs": epochs})


def _fingerprint(
    learner: Learner,
    start: dict[str, Tensor],
    parts: Sequence[Part | None],
    tuning: FineTuningSettings,
    rate: float,
) -> str:
    """Return a name for all that the result depends on: weights, examples and settings."""
    digest = hashlib.sha256(json.dumps(
        [tuning.model_dump(), rate, learner.pool, learner.tagged, learner.target.outputs, learner.lm.autocast]
    ).encode())  # fmt: skip
    for value in start.values():
        digest.update(value.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    for part in parts:
        if part is not None:
            arrays = [*part.encoded.ids, *part.encoded.places, *(part.encoded.types or []), *part.codes]
            digest.update(str([len(array) for array in arrays]).encode())
            for array in arrays:
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


class _Run:
    """One fine-tuning, with one seed; goes on from the last checkpoint in its folder, if there is one."""

    def __init__(
        self,
        learner: Learner,
        train: Part,
        held: Part | None,
        seed: int,
        tuning: FineTuningSettings,
        rate: float,
        folder: Path | None,
    ) -> None:
        self.learner, self.held, self.tuning, self.folder = learner, held, tuning, folder
        lm, source = learner.lm, ExampleSource(train, learner.lm.vocabulary)
        with torch.random.fork_rng(devices=_devices(lm)):
            torch.manual_seed(seed)
            self.head = nn.Linear(int(lm.model.config.hidden_size), learner.target.outputs).to(lm.device)
            nn.init.normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)
        lm.attach(**{_HEAD: self.head})
        tokens = max(source.longest, round(tuning.batch * source.tokens / len(source.sequences)))
        self._loop = Loop(
            model=lm,
            stream=TrainingStream(source, tokens, seed),
            optimizers=[_optimizer(lm.encoder, self.head, rate)],
            length=Length(epochs=tuning.epochs),
            lr_factor=lambda begin, end: min(end / _WARM, (1 - begin) / (1 - _WARM), 1.0),
            mask_rate=lambda progress: 0.0,
            micro_batch_tokens=tokens,
            clip_norm=1.0,
            log_every=10,
            gradient_sum=GradientSum(lm),
            position=Position(),
            on_row=self._on_row,
            after_step=self._after_step,
            log=learner.progress.log,
            seed=seed,
            objective=TaskObjective(learner.target, learner.tagged, learner.pool),
        )
        self._best: _Best | None = None
        self._epoch = 0
        if folder is not None and (path := find_checkpoint(folder / _CHECKPOINTS, "auto", learner.progress)):
            self._resume(path, folder / _BEST)

    def _resume(self, path: Path, best: Path) -> None:
        loop, lm = self._loop, self.learner.lm
        metric = load_checkpoint_state(path)["metric"]
        if metric is not None and (chosen := find_checkpoint(best, "auto", self.learner.progress)):
            epoch = restore(chosen, lm.model, [])["step"]
            self._best = _Best(metric, epoch, _copied(lm.encoder), _copied(self.head))
        state = restore(path, lm.model, loop.optimizers)
        loop.position = Position.from_dict(state["position"])
        self._epoch = math.floor(loop.epochs + _ROUNDING)
        self.learner.progress.log(f"fine-tuning: going on after epoch {self._epoch}, from {path}")

    def run(self) -> int:
        """Train; return the epoch whose weights the model has then."""
        lm = self.learner.lm
        with torch.random.fork_rng(devices=_devices(lm)):
            self._loop.run()
        lm.model.eval()
        if self._best is None:
            return self.tuning.epochs
        lm.encoder.load_state_dict(self._best.encoder)
        self.head.load_state_dict(self._best.head)
        return self._best.epoch

    def _on_row(self, row: Row) -> None:
        if why := row.get("skipped"):
            raise DivergedError(
                f"fine-tuning, step {row['step']}: {why.partition(';')[0]}; try a lower --learning-rate"
            )
        self.learner.progress.advance(row["progress"], {"loss": row["loss"]})

    def _after_step(self, loop: Loop) -> None:
        epoch = math.floor(loop.epochs + _ROUNDING)
        if epoch == self._epoch:
            return
        self._epoch = epoch
        if self.held is not None:
            best = self._judge(epoch, self.held)
            loop.ended = self.tuning.patience is not None and epoch - best.epoch >= self.tuning.patience
        if self.folder is not None and not loop.over:
            metric = None if self._best is None else self._best.metric
            state = {"step": loop.position.step, "position": loop.position.to_dict(), "metric": metric}
            save_checkpoint(
                self.folder / _CHECKPOINTS, self.learner.lm.model, loop.optimizers, state, keep_last=1
            )

    def _judge(self, epoch: int, held: Part) -> _Best:
        """Predict held-out examples; return the best epoch so far."""
        lm, target = self.learner.lm, self.learner.target
        lm.model.eval()
        found = held.whole(_predict(self.learner, self.head, held), target.fallback)
        metric = self.learner.metric(held.codes, found)
        if self._best is None or metric > self._best.metric:
            self._best = _Best(metric, epoch, _copied(lm.encoder), _copied(self.head))
            if self.folder is not None:
                save_checkpoint(self.folder / _BEST, lm.model, [], {"step": epoch}, keep_last=1)
        return self._best


class _Best(NamedTuple):
    """The weights of the epoch with the best metric so far."""

    metric: float
    epoch: int
    encoder: dict[str, Tensor]
    head: dict[str, Tensor]


@dataclass(frozen=True)
class _PackedExamples(Packed):
    """Packed examples with what is predicted of them.

    Attributes:
        codes: ``[M, ...]`` labels of the units, in the order of the sequences.
        places: ``int64 [M]``, the token of each unit; of a whole text one of its tokens.
        share: ``float32 [T]``, the part of each token in the mean over its text.
        types: ``int64 [T]`` token types of pairs, or ``None``.
    """

    codes: Array
    places: np.ndarray
    share: np.ndarray
    types: np.ndarray | None


class ExampleSource:
    """The examples of a task as the sequences of a training stream, one each.

    Args:
        part: the examples.
        vocabulary: of the tokenizer that they were encoded by.
    """

    def __init__(self, part: Part, vocabulary: Vocabulary) -> None:
        self.sequences, self._encoded, self._vocabulary = part.codes, part.encoded, vocabulary
        self._plan = plan_of(vocabulary, MaskingSettings())  # which nothing is masked by
        self._sizes = np.array([len(ids) for ids in part.encoded.ids], dtype=np.int64)
        self.tokens, self.longest = int(self._sizes.sum()), int(self._sizes.max())

    def sizes(self, numbers: np.ndarray) -> np.ndarray:
        """Return ``int64 [N]``: tokens of examples with their special tokens."""
        return self._sizes[numbers]

    def documents_of(self, numbers: np.ndarray) -> list[int]:
        """Return the numbers of examples, as they were read."""
        return np.unique(numbers).tolist()

    def batch(self, numbers: np.ndarray, key: MaskKey, rate: float, *, make: MakeBatch) -> Batch:
        """Return the batch of ``int64 [N]`` examples; nothing is drawn."""
        rows, encoded = numbers.tolist(), self._encoded
        ends = np.concatenate([[0], np.cumsum(self._sizes[numbers])])
        places = [begin + encoded.places[row] for begin, row in zip(ends, rows, strict=False)]
        packed = _PackedExamples(
            np.concatenate([encoded.ids[row] for row in rows]),
            ends,
            numbers.astype(np.uint64),
            np.zeros(len(rows), dtype=np.int64),
            np.concatenate([self.sequences[row][encoded.kept[row]] for row in rows]),
            np.concatenate(places),
            self._shares(np.diff(ends)),
            None if encoded.types is None else np.concatenate([encoded.types[row] for row in rows]),
        )
        return replace(make(packed, self._plan, key, rate), sequence_ids=numbers)

    def _shares(self, sizes: np.ndarray) -> np.ndarray:
        within = np.arange(int(sizes.max())) < sizes[:, None]
        body = body_tokens(within, sizes, self._vocabulary)
        shares: np.ndarray = (body / body.sum(axis=1, keepdims=True))[within].astype(np.float32)
        return shares


class TaskObjective(Objective):
    """Predict the labels of examples by the head that is attached to the model.

    Args:
        target: what is predicted.
        tagged: whether units are tokens.
        pool: how a text becomes one vector.
    """

    name = "task"
    loss_names = ("task",)
    masks = False
    targets_in_place = False
    uses_head = False

    def __init__(self, target: Target, tagged: bool, pool: Pool) -> None:
        self.target, self.tagged, self.pool = target, tagged, pool

    def batch(self, packed: Packed, plan: MaskingPlan, key: MaskKey, rate: float) -> Batch:
        assert isinstance(packed, _PackedExamples)
        made = batch_of(packed, packed.input_ids, packed.places, np.zeros_like(packed.places))
        types = {} if packed.types is None else {"token_type_ids": packed.types}
        return replace(made, of_tokens={"share": packed.share, **types}, of_targets={"codes": packed.codes})

    def losses(self, model: MaskedLM, batch: Batch, divisors: Sequence[int]) -> tuple[Loss, ...]:
        codes = torch.from_numpy(batch.of_targets["codes"])
        codes = codes.to(exact_device(model.device) if codes.is_floating_point() else model.device)
        outputs = model.attached[_HEAD](self._vectors(model.encode(batch).float(), batch))
        right = (self.target.decode(outputs) == codes).view(len(codes), -1).all(dim=1)
        return (Loss(self.target.loss(outputs, codes) / divisors[0], right.sum().to(outputs.device)),)

    def _vectors(self, states: Tensor, batch: Batch) -> Tensor:
        """Return ``[M, H]`` vectors of the units from ``[T, H]`` states."""
        if self.tagged or self.pool == "cls":
            places = batch.target_index if self.tagged else batch.cu_seqlens[:-1].astype(np.int64)
            return states.index_select(0, on_device(places, states.device))
        lengths = np.diff(batch.cu_seqlens)
        owner = on_device(np.repeat(np.arange(len(lengths)), lengths), states.device)
        share = torch.from_numpy(batch.of_tokens["share"]).to(states.device)
        means = states.new_zeros(len(lengths), states.shape[-1])
        return means.index_add_(0, owner, states * share[:, None])


def _devices(lm: MaskedLM) -> list[torch.device]:
    return [lm.device] if lm.device.type == "cuda" else []


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _optimizer(encoder: nn.Module, head: nn.Module, rate: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019); no weight decay of vectors (norms and biases)."""
    weights = [weight for weight in encoder.parameters() if weight.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [w for w in weights if w.ndim > 1], "lr": rate, "weight_decay": 0.01},
        {"params": [w for w in weights if w.ndim <= 1], "lr": rate, "weight_decay": 0.0},
        {"params": list(head.parameters()), "lr": _HEAD_TIMES * rate, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, fused=True)
    for group in optimizer.param_groups:
        group["peak_lr"], group["full_decay"] = group["lr"], group["weight_decay"]
    return optimizer


def _predict(learner: Learner, head: nn.Module, part: Part) -> Array:
    ends = np.concatenate([[0], np.cumsum(part.encoded.units)])
    found = np.zeros_like(part.targets)
    with learner.lm.plain(), torch.inference_mode():
        for rows in length_batches(part.encoded):
            batch = vectors(learner.lm, part.encoded, rows, tagged=learner.tagged, pool=learner.pool)
            places = np.concatenate([np.arange(ends[row], ends[row + 1]) for row in rows])
            found[places] = learner.target.decode(head(batch)).cpu().numpy()
    return found
