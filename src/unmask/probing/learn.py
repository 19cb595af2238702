"""Two ways to learn a task: a linear model on the features of a frozen encoder, and fine-tuning the encoder.

Of a pair of texts the frozen encoder reads each alone, and the features are both vectors, their absolute difference and their
product (Conneau & Kiela 2018, "SentEval"). In fine-tuning it reads both as one sequence.

A seed changes, for the linear probe, how often each training example counts (a bootstrap resample: logistic regression
itself has one solution); for fine-tuning the weights of the new head, the order of examples and dropout. The same seed
gives the same resample and order for every model, so that comparisons are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unmask.errors import DivergedError
from unmask.model.masked_lm import MaskedLM
from unmask.probing.features import Encoded, features, length_batches, vectors
from unmask.probing.settings import FineTuningSettings, Pool
from unmask.probing.targets import Array, Target
from unmask.progress import Progress

Floats = NDArray[np.float32]
Codes = list[Array]
"""E arrays of labels in numbers, see :mod:`unmask.probing.targets`; the first dimension is the units of an example."""
Metric = Callable[[Codes, Codes], float]
"""The metric of true and predicted labels to choose by."""

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Inverse regularisation strengths to choose from on held-out examples."""
_FIFTH = 5
_HEAD_TIMES = 10  # learning rate of the new head, as a multiple of that of the encoder
_WIDTH = 768
_CHUNK = 32  # batches that are sorted by length together


@dataclass(frozen=True)
class Part:
    """One part of a task, for one model.

    Attributes:
        encoded: its texts. codes: E arrays of labels in numbers, one per unit, also of those without a place.
        second: the second texts of pairs, where each is read alone.
    """

    encoded: Encoded
    codes: Codes
    second: Encoded | None = None

    @property
    def targets(self) -> Array:
        """``[U, ...]`` labels of the units that have a place."""
        return np.concatenate(
            [codes[kept] for codes, kept in zip(self.codes, self.encoded.kept, strict=True)]
        )

    def take(self, rows: Sequence[int]) -> Part:
        """Return the examples of these numbers."""
        second = self.second and self.second.take(rows)
        return Part(self.encoded.take(rows), [self.codes[row] for row in rows], second)

    def whole(self, predicted: Array, fallback: int) -> Codes:
        """Distribute ``[U, ...]`` predictions over the examples; units that were truncated get ``fallback``."""
        found, begin = [], 0
        for kept in self.encoded.kept:
            codes = np.full((len(kept), *predicted.shape[1:]), fallback, dtype=predicted.dtype)
            codes[kept] = predicted[begin : begin + int(kept.sum())]
            begin += int(kept.sum())
            found.append(codes)
        return found


@dataclass(frozen=True)
class Learner:
    """The inputs of both ways.

    Attributes:
        lm: the model. tagged: whether units are tokens. pool: how a text becomes one vector.
        target: what is predicted.
        metric: the metric to choose the regularisation by.
        progress: gets progress and messages.
    """

    lm: MaskedLM
    tagged: bool
    pool: Pool
    target: Target
    metric: Metric
    progress: Progress = Progress()


# The linear probe


def probe_frozen(
    learner: Learner, train: Part, held: Part | None, test: Part, seeds: int
) -> tuple[list[Codes], dict[str, Any]]:
    """Fit a regularised linear model on standardised features, once for each seed.

    Args:
        learner: the model and how it is used.
        train: training examples; every seed resamples them with replacement.
        held: examples that choose the strength of the regularisation, once; by default every fifth of ``train``.
        test: examples to predict.
        seeds: S.

    Returns:
        S predictions for the examples of ``test``, and what was chosen.
    """
    raw = _features(learner, train)
    mean, spread = raw.mean(axis=0), raw.std(axis=0)
    scale = np.where(spread > 0, spread, 1)
    x, x_test = (raw - mean) / scale, (_features(learner, test) - mean) / scale
    x_held = None if held is None else (_features(learner, held) - mean) / scale
    learner.progress.begin("linear model")
    strength = _choose(learner, train, x, held, x_held)
    predictions = []
    for seed in range(seeds):
        weights = np.repeat(_resample(len(train.codes), seed), train.encoded.units)
        used = weights > 0
        guess = learner.target.fit(x[used], train.targets[used], strength, weights[used])(x_test)
        predictions.append(test.whole(guess, learner.target.fallback))
        learner.progress.advance((seed + 1) / seeds, {"seed": seed + 1})
    learner.progress.end()
    return predictions, {"strength": strength, "features": x.shape[1]}


def _choose(learner: Learner, train: Part, x: Floats, held: Part | None, x_held: Floats | None) -> float:
    """Return the strength with the best metric on held-out examples; of equals the smallest."""
    y, fitted = train.targets, np.ones(len(x), dtype=bool)
    if held is None or x_held is None:
        rows = list(range(_FIFTH - 1, len(train.codes), _FIFTH))
        last = np.isin(np.arange(len(train.codes)), rows)
        fitted = ~np.repeat(last, train.encoded.units)
        held, x_held = train.take(rows), x[~fitted]
    if not (fitted.any() and len(held.codes)):
        return STRENGTHS[1]
    scores = {}
    for strength in STRENGTHS:
        guess = learner.target.fit(x[fitted], y[fitted], strength, None)(x_held)
        scores[strength] = learner.metric(held.codes, held.whole(guess, learner.target.fallback))
    return max(STRENGTHS, key=lambda strength: scores[strength])


def _features(learner: Learner, part: Part) -> Floats:
    found = []
    for encoded in filter(None, (part.encoded, part.second)):
        learner.progress.begin("features")
        found.append(
            features(learner.lm, encoded, tagged=learner.tagged, pool=learner.pool, progress=learner.progress)
        )
        learner.progress.end()
    if len(found) == 1:
        return found[0]
    first, second = found
    return np.concatenate([first, second, np.abs(first - second), first * second], axis=1)


def _resample(examples: int, seed: int) -> NDArray[np.float64]:
    """Return how often each example counts in the resample of a seed."""
    drawn = np.random.default_rng(seed).integers(examples, size=examples)
    return np.bincount(drawn, minlength=examples).astype(np.float64)


# Fine-tuning


def default_rate(width: int) -> float:
    """Return 5e-5 for hidden size 768, and more for a narrower model: 1.5e-4 at 256."""
    return 5e-5 * _WIDTH / min(width, _WIDTH)


def finetune(
    learner: Learner, train: Part, test: Part, seeds: int, tuning: FineTuningSettings
) -> tuple[list[Codes], dict[str, Any]]:
    """Train encoder and a new linear head with AdamW, once for each seed, from the same weights.

    The rate warms up over a tenth of the steps and decays linearly to zero; the weights after the last step count.

    Returns:
        S predictions for the examples of ``test``, and what was chosen.

    Raises:
        DivergedError: the loss is NaN or infinite.
    """
    lm = learner.lm
    rate = tuning.learning_rate or default_rate(int(lm.model.config.hidden_size))
    start = {name: value.detach().clone() for name, value in lm.encoder.state_dict().items()}
    predictions = []
    with lm.plain():
        for seed in range(seeds):
            lm.encoder.load_state_dict(start)
            learner.progress.begin(f"fine-tuning, seed {seed + 1} of {seeds}")
            head = _tune(learner, train, seed, tuning, rate)
            predictions.append(test.whole(_predict(learner, head, test), learner.target.fallback))
            learner.progress.end()
    lm.encoder.load_state_dict(start)
    return predictions, {"learning_rate": rate, "epochs": tuning.epochs, "batch": tuning.batch}


def _tune(learner: Learner, train: Part, seed: int, tuning: FineTuningSettings, rate: float) -> nn.Linear:
    lm = learner.lm
    devices = [lm.device] if lm.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        head = nn.Linear(int(lm.model.config.hidden_size), learner.target.outputs).to(lm.device)
        nn.init.normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        batches = [
            rows
            for epoch in range(tuning.epochs)
            for rows in _epoch(train.encoded, tuning.batch, seed, epoch)
        ]
        optimizer = _optimizer(lm.encoder, head, rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _linear(len(batches)))
        lm.encoder.train()
        for step, rows in enumerate(batches, 1):
            loss = _loss(learner, head, train, rows)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([w for group in optimizer.param_groups for w in group["params"]], 1.0)
            optimizer.step()
            schedule.step()
            if step % 10 == 0 or step == len(batches):
                _report(learner.progress, step, len(batches), loss.item())
        lm.encoder.eval()
    return head


def _loss(learner: Learner, head: nn.Linear, train: Part, rows: list[int]) -> Tensor:
    found = vectors(learner.lm, train.encoded, rows, tagged=learner.tagged, pool=learner.pool)
    targets = np.concatenate([train.codes[row][train.encoded.kept[row]] for row in rows])
    # The mean would be NaN in a batch whose tokens were all truncated.
    total = learner.target.loss(head(found), torch.from_numpy(targets).to(found.device))
    return total / max(len(targets), 1)


def _report(progress: Progress, step: int, steps: int, loss: float) -> None:
    if not np.isfinite(loss):
        raise DivergedError(f"fine-tuning: the loss is {loss} at step {step}; try a lower --learning-rate")
    progress.advance(step / steps, {"loss": loss})


def _epoch(encoded: Encoded, batch: int, seed: int, epoch: int) -> Iterator[list[int]]:
    """Yield batches in random order, each of texts of similar length."""
    draw = np.random.default_rng([seed, epoch])
    order = draw.permutation(len(encoded.ids))
    batches: list[list[int]] = []
    for begin in range(0, len(order), batch * _CHUNK):
        chunk = sorted(order[begin : begin + batch * _CHUNK].tolist(), key=lambda row: len(encoded.ids[row]))
        batches += [chunk[first : first + batch] for first in range(0, len(chunk), batch)]
    for number in draw.permutation(len(batches)):
        yield batches[number]


def _optimizer(encoder: nn.Module, head: nn.Linear, rate: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019); no weight decay of vectors (norms and biases)."""
    weights = [weight for weight in encoder.parameters() if weight.requires_grad]
    groups: Sequence[dict[str, Any]] = [
        {"params": [w for w in weights if w.ndim > 1], "lr": rate, "weight_decay": 0.01},
        {"params": [w for w in weights if w.ndim <= 1], "lr": rate, "weight_decay": 0.0},
        {"params": list(head.parameters()), "lr": _HEAD_TIMES * rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, fused=True)


def _linear(steps: int) -> Callable[[int], float]:
    warm = max(1, steps // 10)
    return lambda step: min((step + 1) / warm, (steps - step) / max(steps - warm, 1))


def _predict(learner: Learner, head: nn.Linear, part: Part) -> Array:
    ends = np.concatenate([[0], np.cumsum(part.encoded.units)])
    found = np.zeros_like(part.targets)
    with torch.inference_mode():
        for rows in length_batches(part.encoded):
            batch = vectors(learner.lm, part.encoded, rows, tagged=learner.tagged, pool=learner.pool)
            places = np.concatenate([np.arange(ends[row], ends[row + 1]) for row in rows])
            found[places] = learner.target.decode(head(batch)).cpu().numpy()
    return found
