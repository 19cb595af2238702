"""Mix the weights of base and adapted model after training: the trade-off of gain and forgetting, and the exported mixture.

All mixtures are evaluated on the same held-out text. With ``--export-alpha auto`` the alpha is chosen on one half of its
documents, by their text alone, and the metrics of the run are of the other half.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from unmask.config.settings import RunConfig
from unmask.data.batches import TextSource
from unmask.errors import plural
from unmask.evaluation.bootstrap import Floats
from unmask.evaluation.predictions import TargetPredictions
from unmask.evaluation.trade_off import ALPHAS, choose_alpha, forgetting_limit, point, unit_sums
from unmask.model.load import read_checkpoint
from unmask.model.mixing import MixedWeights
from unmask.progress import Progress
from unmask.reporting.format import loss, percent
from unmask.run.components import RunComponents
from unmask.run.results import evaluation_batches_of, metrics_on
from unmask.run_folder import RunFolder

_ENDS = "weights-to-mix"


@dataclass(frozen=True)
class Interpolation:
    """What was found between base and adapted weights.

    Attributes:
        alpha: of the weights that the model now has.
        content: for ``adaptation.json``; ``None`` where nothing was evaluated.
    """

    alpha: float = 1.0
    content: dict[str, Any] | None = None


def interpolate(
    components: RunComponents, config: RunConfig, folder: RunFolder, progress: Progress = Progress()
) -> Interpolation:
    """Evaluate mixtures of base and adapted weights where there is general text, and leave the model at the exported one.

    Args:
        components: the whole adapted model, in all processes, and the texts.
        config: resolved.
        folder: of the run; both ends are written there for a while.
        progress: gets the choice.
    """
    wanted, texts = config.train.export_alpha, _texts(components)
    if not components.has_base:
        if wanted is not None:
            progress.warning("--export-alpha has no effect: there are no metrics of the base to compare with")
        return Interpolation()
    if wanted == "auto" and len(texts) < 2:
        progress.warning(
            "--export-alpha auto has no effect: there is no held-out domain text or no held-out general text that is masked "
            "anywhere, so nothing can be weighed"
        )
        wanted = None
    if wanted is None and len(texts) < 2:
        return Interpolation()
    with _ends(components, config, folder) as mix:
        if mix.without_base:
            progress.log(
                f"{plural(len(mix.without_base), 'weight')} that the base lacks ({', '.join(mix.without_base[:3])}) are not mixed"
            )
        content = _trade_off(components, config, texts, mix, progress) if texts else None
        alpha = content["alpha"] if content else float(wanted or 0)
        mix.set(alpha)
    if alpha < 1:
        progress.log(f"exporting weights between base and adapted model, alpha {alpha:g}")
    return Interpolation(alpha, content and content | {"not_mixed": mix.without_base})


def _texts(components: RunComponents) -> dict[str, TextSource]:
    """Return the texts that are reported: ``domain`` and ``general``."""
    texts = {"domain": components.heldout, "general": components.general}
    return {name: text for name, text in texts.items() if text is not None}


def _deciding(components: RunComponents) -> dict[str, TextSource]:
    """Return the texts that decide on the alpha; where one is not divided it is the reported one."""
    chosen = {"domain": components.selection, "general": components.general_selection}
    return _texts(components) | {name: text for name, text in chosen.items() if text is not None}


class _Mixer:
    """Sets the model to a mixture, in all processes: the main one alone reads the files."""

    def __init__(self, ends: MixedWeights | None, components: RunComponents) -> None:
        self.ends, self.components = ends, components
        self.without_base: list[str] = components.world.from_main(ends.without_base if ends else [])

    @torch.no_grad()
    def set(self, alpha: float) -> None:
        world, model = self.components.world, self.components.model.model
        if self.ends is not None:
            self.ends.set(model, alpha)
        if world.size > 1:
            for weight in model.parameters():
                world.sum_(weight.data if world.is_main else weight.data.zero_())


@contextmanager
def _ends(components: RunComponents, config: RunConfig, folder: RunFolder) -> Iterator[_Mixer]:
    """Write base and adapted weights into the run folder for the time of the ``with`` block."""
    world, name = components.world, str(config.model.name)
    place = folder / _ENDS

    def write() -> MixedWeights:
        shutil.rmtree(place, ignore_errors=True)  # of a run that was killed here
        place.mkdir(parents=True)
        return MixedWeights(place, lambda: _base(name, config), components.model.model)

    try:
        yield _Mixer(world.main_first(write, "writing the weights to mix"), components)
    finally:
        if world.is_main:
            shutil.rmtree(place, ignore_errors=True)


def _base(name: str, config: RunConfig) -> torch.nn.Module:
    return read_checkpoint(name, offline=config.model.offline, seed=config.train.seed).model


def _trade_off(
    components: RunComponents,
    config: RunConfig,
    texts: Mapping[str, TextSource],
    mix: _Mixer,
    progress: Progress,
) -> dict[str, Any]:
    """Evaluate all mixtures; return the content of ``interpolation`` in ``adaptation.json``."""
    train, auto = config.train, config.train.export_alpha == "auto"
    given = () if train.export_alpha is None or auto else (float(train.export_alpha),)
    alphas = sorted({*ALPHAS, *given})
    sets = [texts, _deciding(components)] if auto else [texts]
    progress.begin("mix")
    found: list[list[dict[str, TargetPredictions]]] = []
    for done, alpha in enumerate(alphas, 1):
        mix.set(alpha)
        found.append([_predictions(components, each, train.eval_tokens) for each in sets])
        progress.advance(done / len(alphas), {"alpha": alpha})
    progress.end()

    def compare() -> dict[str, Any]:
        reported, *others = (
            _points(each, train.eval_tokens, alphas, [row[place] for row in found])
            for place, each in enumerate(sets)
        )
        return _content(components, config, reported, others[0] if others else reported, progress)

    return components.world.from_main(components.world.main_first(compare, "comparing the mixtures") or {})


def _predictions(
    components: RunComponents, texts: Mapping[str, TextSource], tokens: int
) -> dict[str, TargetPredictions]:
    return {name: metrics_on(components, text, tokens).predictions for name, text in texts.items()}


def _points(
    texts: Mapping[str, TextSource],
    tokens: int,
    alphas: Sequence[float],
    found: Sequence[Mapping[str, TargetPredictions]],
) -> list[dict[str, Any]]:
    """Return a point for each alpha."""
    sums: dict[str, list[Floats]] = {}
    for name, text in texts.items():
        batches = list(evaluation_batches_of(text, tokens))
        sums[name] = [unit_sums(text, batches, each[name]) for each in found]
    return [
        point(alpha, {name: (rows[0], rows[place]) for name, rows in sums.items()})
        for place, alpha in enumerate(alphas)
    ]


def _content(
    components: RunComponents,
    config: RunConfig,
    reported: list[dict[str, Any]],
    deciding: list[dict[str, Any]],
    progress: Progress,
) -> dict[str, Any]:
    train = config.train
    content: dict[str, Any] = {"wanted": train.export_alpha, "points": reported, "tokens": train.eval_tokens}
    if "general" not in reported[0]:
        return content | {"alpha": float(train.export_alpha or 0)}
    limit = forgetting_limit(deciding, train.max_forgetting)
    best = choose_alpha(deciding, limit)
    content |= {
        "limit": limit if np.isfinite(limit) else None,
        "limit_given": train.max_forgetting is not None,
    }
    content |= {"suggested": best}
    if train.export_alpha != "auto":
        return content | {"alpha": 1.0 if train.export_alpha is None else float(train.export_alpha)}
    progress.log(_choice_text(deciding, best, limit))
    sizes = {f"{name}_documents": len(text.documents) for name, text in _deciding(components).items()}
    same = components.selection is None or components.general_selection is None
    return content | {
        "decided_on": sizes | {"is_reported": same},
        "alpha": 1.0 if best is None else best,
    }


def _choice_text(points: Sequence[Mapping[str, Any]], best: float | None, limit: float) -> str:
    within = (
        "nothing is forgotten at alpha 1"
        if np.isinf(limit)
        else f"the loss on general text rises by at most {percent(limit, 2)}"
    )
    if best is None:
        return (
            f"--export-alpha auto: no mixture will do: {within} is the limit, and alpha {points[1]['alpha']:g} already forgets "
            f"{percent(points[1]['general']['relative']['value'], 2)}; the adapted weights are exported as they are (alpha 1)"
        )
    at = next(each for each in points if each["alpha"] == best)
    return (
        f"--export-alpha auto: alpha {best:g} has the lowest loss on the domain ({loss(at['domain']['loss'])}) where {within}; "
        f"decided on one half of the held-out text"
    )
