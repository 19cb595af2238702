"""Probing runs: the ordinary training loop from the base weights on, again and again, evaluated at the same masks.

Shapes: U resampling units, B draws, n probing runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from unmask.config.settings import RunConfig
from unmask.data.batches import TextSource
from unmask.data.masking.random_bits import MaskKey, mix
from unmask.errors import DivergedError
from unmask.evaluation.bootstrap import Floats, resample_counts
from unmask.evaluation.trade_off import unit_sums
from unmask.forecasting.law import DRAWS, Points
from unmask.forecasting.plan import ProbingRun, Purpose
from unmask.run.assemble import make_loop, make_stream, recipe_of, with_recipe
from unmask.run.components import RunComponents
from unmask.run.results import evaluation_batches_of, metrics_on
from unmask.training.loop import Loop

Sums = dict[str, Floats]
"""By text, ``domain`` and perhaps ``general``: ``[U, 2]``, number of targets and their losses."""

_TIMED_STEPS = 3


@dataclass(frozen=True)
class Probe:
    """A finished probing run.

    Attributes:
        run: what was run.
        tokens: trained on, those of general text among them.
        domain_tokens: those of the training text.
        text_tokens: of the text that it was given, in one pass.
        seconds: of training and evaluation.
        sums: of the evaluation.
    """

    run: ProbingRun
    tokens: int
    domain_tokens: int
    text_tokens: int
    seconds: float
    sums: Sums

    def loss(self, text: str) -> float:
        """Return the mean loss on a text."""
        return mean_loss(self.sums[text])


def mean_loss(sums: Floats) -> float:
    """Return the loss of ``[U, 2]`` sums."""
    count, total = sums.sum(axis=0)
    return float(total / count)


@dataclass(frozen=True)
class Probed:
    """What was measured.

    Attributes:
        base: sums of the base model.
        probes: the probing runs.
        text_tokens: of one pass over the training text.
        seed: of the draws.
    """

    base: Sums
    probes: Sequence[Probe]
    text_tokens: int
    seed: int

    def of(self, *purposes: Purpose) -> list[Probe]:
        """Return the probing runs of some purposes."""
        return [probe for probe in self.probes if probe.run.purpose in purposes]

    def losses(self, probes: Sequence[Probe], text: str) -> tuple[Floats, Floats]:
        """Return ``[B]`` losses of the base and ``[B, n]`` of runs, over resamples of the documents; the first is no resample."""
        sums = np.stack([self.base[text], *(probe.sums[text] for probe in probes)], axis=2)
        counts = [np.ones((1, len(sums))), *resample_counts(len(sums), DRAWS - 1, self.seed)]
        targets, totals = (np.tensordot(np.concatenate(counts), sums[:, place], 1) for place in (0, 1))
        losses = totals / np.maximum(targets, 1)
        return losses[:, 0], losses[:, 1:]

    def points(self, probes: Sequence[Probe], text: str) -> tuple[Floats, Points]:
        """Return ``[B]`` losses of the base on a text, and the runs with theirs, as the laws see them."""
        base, losses = self.losses(probes, text)
        domain = np.array([probe.domain_tokens for probe in probes], dtype=float)
        general = np.array([probe.tokens - probe.domain_tokens for probe in probes], dtype=float)
        passes = np.array([probe.text_tokens for probe in probes], dtype=float)
        return base, Points(domain, general, passes, losses)

    @cached_property
    def base_losses(self) -> Floats:
        """``[B]`` losses of the base on the domain."""
        return self.losses([], "domain")[0]

    @property
    def longest(self) -> Probe:
        """The longest run on the text as it is."""
        return max(self.of("length"), key=lambda probe: probe.tokens)


class Prober:
    """Runs probing runs in memory.

    Args:
        components: of a run: the base model and the texts.
        config: its settings; what is open is decided as for a run.
        eval_tokens: held-out tokens of an evaluation.
    """

    def __init__(self, components: RunComponents, config: RunConfig, eval_tokens: int) -> None:
        self.components = components
        self.config = with_recipe(config, recipe_of(config, components), components)
        self.eval_tokens = eval_tokens
        weights = components.model.model.state_dict()
        self._base = {name: weight.detach().clone() for name, weight in weights.items()}

    def reset(self) -> None:
        """Set the model to its base weights."""
        with torch.no_grad():
            for name, weight in self.components.model.model.state_dict().items():
                weight.copy_(self._base[name])

    def evaluate(self) -> Sums:
        """Evaluate the model as it is on all held-out texts, in fp32."""
        texts = {"domain": self.components.heldout, "general": self.components.general}
        with self.components.model.in_fp32():
            return {name: self._sums(text) for name, text in texts.items() if text is not None}

    def _sums(self, text: TextSource) -> Floats:
        predictions = metrics_on(self.components, text, self.eval_tokens).predictions
        sums = unit_sums(text, evaluation_batches_of(text, self.eval_tokens), predictions)[:, :2]
        return sums[sums[:, 0] > 0]  # an evaluation may read fewer documents than are held out

    def seconds(self) -> float:
        """Measure and return the seconds of an optimizer step."""
        loop = self._loop(ProbingRun("length", 1_000))
        times = []

        def stop(loop: Loop) -> None:
            times.append(time.perf_counter())
            loop.ended = len(times) > _TIMED_STEPS  # the first one warms up

        loop.after_step = stop
        loop.run()
        return float(np.median(np.diff(times)))

    def evaluation_seconds(self) -> float:
        """Measure and return the seconds of an evaluation."""
        begin = time.perf_counter()
        self.evaluate()
        return time.perf_counter() - begin

    def probe(
        self, run: ProbingRun, deadline: float = np.inf, advance: Callable[[], None] = lambda: None
    ) -> Probe | None:
        """Make a run from the base weights on and evaluate it; ``None`` where the deadline passes before it ends.

        Args:
            run: what to run.
            deadline: by :func:`time.perf_counter`.
            advance: called after each step.

        Raises:
            DivergedError: the loss is NaN or infinite.
        """
        begin = time.perf_counter()
        loop = self._loop(run)

        def after(loop: Loop) -> None:
            advance()
            loop.ended = time.perf_counter() > deadline and loop.position.step < run.steps

        loop.after_step = after
        loop.run()
        if loop.position.step < run.steps:
            return None
        sums = self.evaluate()
        if not all(np.isfinite(each).all() for each in sums.values()):
            raise DivergedError(
                f"a probing run of {run.steps} steps at {run.rate:g} times the learning rate has a held-out loss that is NaN or infinite"
            )
        position = loop.position
        domain = position.cursor.tokens
        return Probe(
            run,
            position.tokens,
            position.tokens if domain is None else domain,
            loop.stream.source.tokens,
            time.perf_counter() - begin,
            sums,
        )

    def _loop(self, run: ProbingRun) -> Loop:
        self.reset()
        train = self.config.train
        rate = train.optimizer.learning_rate
        assert rate is not None
        optimizer = train.optimizer.model_copy(update={"learning_rate": rate * run.rate})
        limits = {"max_steps": run.steps, "epochs": None, "minutes": None, "optimizer": optimizer}
        config = self.config.model_copy(
            update={
                "train": train.model_copy(update=limits),
                "data": self.config.data.model_copy(update={"replay_share": run.replay_share or 0.05}),
            }
        )
        components = replace(
            self.components,
            text=part_of(self.components.text, run.text_share, train.seed),
            replay=self.components.replay if run.replay_share else None,
        )
        recipe = recipe_of(config, components)
        return make_loop(config, recipe, components, make_stream(config, recipe, components))


def part_of(text: TextSource, share: float, seed: int) -> TextSource:
    """Return about a share of the documents of a text; a smaller share is part of a larger one, and none is empty."""
    if share >= 1:
        return text
    key = MaskKey(seed, 0).stream("part of the text")
    least, chosen = None, []
    with np.errstate(over="ignore"):
        for block in text.documents.blocks():
            place = mix(text.corpus.keys[block] + key).astype(np.float64) / 2.0**64
            chosen.append(block[place < share])
            if len(block) and (least is None or place.min() < least[0]):
                least = float(place.min()), block[[int(place.argmin())]]
    found = np.concatenate(chosen)
    return text.part(found if len(found) or least is None else least[1])
