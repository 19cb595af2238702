"""What fits into the minutes of a forecast: the tokens of a step, the length of the probing runs, how much an evaluation reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unmask.config.settings import RunConfig
from unmask.errors import ConfigError
from unmask.forecasting.plan import FEWEST_STEPS, ProbingRun, longest_run, plan_runs
from unmask.forecasting.probing import Prober
from unmask.progress import Progress

FEWEST_STEPS_A_PASS = 4
_EVAL_SHARE = 0.25
_FEWEST_EVAL_TOKENS = 4_000
_SPARE = 0.9
"""Of the minutes so much is planned: no step takes as long as the one before it."""
_FEWEST_BATCH_TOKENS = 1_024
"""Steps are not made shorter than this to make a plan fit."""


def with_batch(config: RunConfig, tokens: int | None) -> RunConfig:
    """Return settings with so many tokens a step; ``None`` leaves them open."""
    return config.model_copy(update={"train": config.train.model_copy(update={"batch_tokens": tokens})})


def prober_that_fits(
    prober: Prober, evaluation: float, minutes: float, shares: Sequence[float], progress: Progress
) -> Prober:
    """Halve the tokens of a step until a plan fits into the minutes and the text, by the speed of the shortest steps."""
    text, usual, config = prober.components.text.tokens, prober.config.train.batch_tokens or 1, prober.config

    def of(batch: int) -> Prober:
        prober.reset()
        return Prober(prober.components, with_batch(config, batch), prober.eval_tokens)

    shortest = of(min(usual, _FEWEST_BATCH_TOKENS)).seconds() / min(usual, _FEWEST_BATCH_TOKENS)
    batch = usual
    while batch >= 2 * _FEWEST_BATCH_TOKENS and (
        text < FEWEST_STEPS_A_PASS * batch
        or _steps(batch * shortest, evaluation, prober.eval_tokens, minutes, shares)[0] < FEWEST_STEPS
    ):
        batch //= 2
    if batch < usual:
        progress.log(
            f"{batch:,} tokens a step: {usual:,} would take {usual * shortest:.2g} s here, and the text has {text:,}; "
            f"--batch-tokens sets them, more --minutes allow more"
        )
    return of(batch)


def _steps(
    step: float, evaluation: float, tokens: int, minutes: float, shares: Sequence[float]
) -> tuple[int, int]:
    """Return the steps of the longest run of a plan that fits into the minutes, and how many of the ``tokens`` an evaluation reads."""
    budget = 60 * minutes * _SPARE
    count = len(plan_runs(1 << 16, 1.0, shares)) + 1
    most = _EVAL_SHARE * budget / count
    read = min(tokens, max(_FEWEST_EVAL_TOKENS, int(tokens * most / evaluation)))
    return longest_run((budget - count * evaluation * read / tokens) / step, shares), read


def planned(
    prober: Prober,
    step: float,
    evaluation: float,
    minutes: float,
    shares: Sequence[float],
) -> list[ProbingRun]:
    """Choose the runs that fit into the minutes; a slow evaluation reads less text.

    Raises:
        ConfigError: none do.
    """
    longest, read = _steps(step, evaluation, prober.eval_tokens, minutes, shares)
    batch = prober.config.train.batch_tokens or 1
    if longest < FEWEST_STEPS:
        least = minutes
        while _steps(step, evaluation, prober.eval_tokens, least, shares)[0] < FEWEST_STEPS:
            least *= 1.1
        raise ConfigError(
            f"{minutes:g} minutes are too short for a plan: a step of {batch:,} tokens takes {step:.2g} s here, and the longest "
            f"probing run needs {FEWEST_STEPS} steps; give --minutes {np.ceil(least * 10) / 10:g}"
            + (", or a lower --batch-tokens" if batch > _FEWEST_BATCH_TOKENS else "")
        )
    prober.eval_tokens = read
    return plan_runs(longest, min(1.0, longest * batch / prober.components.text.tokens), shares)
