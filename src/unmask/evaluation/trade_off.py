"""Gain on the domain against forgetting, for weights between those of the base and those of the adapted model.

All points are evaluated at the same masks; each is compared with the base, paired over documents.

Shapes: U resampling units.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from unmask.data.batches import Batch, TextSource
from unmask.evaluation.bootstrap import Floats, ratios, resampling_units
from unmask.evaluation.metrics import metrics_of, paired_sums, target_columns
from unmask.evaluation.predictions import TargetPredictions
from unmask.evaluation.strata import places
from unmask.storage import JsonDict

ALPHAS = tuple(step / 10 for step in range(11))
"""Shares of the adapted weights that are evaluated."""

FORGET_HALF = 0.5
"""Of what the adapted weights forget, so much is allowed where no limit is given."""


def unit_sums(source: TextSource, batches: Iterable[Batch], predictions: TargetPredictions) -> Floats:
    """Return ``[U, 3]``: number of targets, their losses and how many are right, of each resampling unit.

    Args:
        source: the text.
        batches: those that were predicted.
        predictions: at all their targets.
    """
    document = np.concatenate([places(source, batch).document for batch in batches if len(batch.target_ids)])
    unit = resampling_units(source.corpus.keys[source.documents])
    sums = np.zeros((int(unit.max()) + 1, 3))
    np.add.at(sums, unit[document], target_columns(predictions)[:, :3])
    return sums


def relative_loss(base: Floats, other: Floats) -> JsonDict:
    """Return the change of the loss as a share of that of the base, with its paired interval, from ``[U, 3]`` sums."""
    return ratios(other[:, [1]], base[:, [1]])[0].map(lambda value: value - 1).to_dict()


def point(alpha: float, sums: Mapping[str, tuple[Floats, Floats]]) -> dict[str, Any]:
    """Return ``alpha`` and, for each text, loss, change of the loss and ``relative`` change, ready for JSON.

    Args:
        alpha: the share of the adapted weights.
        sums: by text, those of the base and those at ``alpha``.
    """
    found: dict[str, Any] = {"alpha": alpha}
    for name, (base, other) in sums.items():
        change = metrics_of(paired_sums(base, other), difference=True)["loss"].to_dict()
        value = metrics_of(other)["loss"].value
        found[name] = {"loss": value, "change": change, "relative": relative_loss(base, other)}
    return found


def forgetting_limit(points: Sequence[JsonDict], most: float | None) -> float:
    """Return the largest rise of the loss on general text that is allowed, as a share; infinite where nothing is forgotten.

    Args:
        points: the last of which is that of the adapted weights.
        most: the limit that was given, if any.
    """
    rise = float(points[-1]["general"]["relative"]["value"])
    return most if most is not None else FORGET_HALF * rise if rise > 0 else np.inf


def choose_alpha(points: Sequence[JsonDict], limit: float) -> float | None:
    """Return the alpha of the lowest loss on the domain whose forgetting is within a limit, the largest of equal ones.

    ``None`` where only the base is.
    """
    allowed = [
        each for each in points if each["alpha"] > 0 and float(each["general"]["relative"]["value"]) <= limit
    ]
    best = min(allowed, key=lambda each: (each["domain"]["loss"], -each["alpha"]), default=None)
    return None if best is None else float(best["alpha"])
