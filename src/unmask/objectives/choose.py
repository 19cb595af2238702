"""The objective of a run: by its settings, or one of one's own."""

from __future__ import annotations

from dataclasses import dataclass

from unmask.config.settings import RunConfig
from unmask.data.masking.custom import Strategy
from unmask.errors import ConfigError
from unmask.objectives.clm import SHARE, CausalDetour
from unmask.objectives.contrastive import ContrastiveLearning
from unmask.objectives.mlm import MaskedLanguageModelling
from unmask.objectives.objective import Objective
from unmask.objectives.pairs import NextSentencePrediction, SentenceOrderPrediction
from unmask.objectives.rtd import ReplacedTokenDetection


@dataclass(frozen=True)
class Custom:
    """What a caller passes in Python besides settings.

    Attributes:
        objective: an objective of one's own, where ``train.objective`` is ``custom``.
        strategy: a masking strategy of one's own, where ``masking.strategy`` is ``custom``.
    """

    objective: Objective | None = None
    strategy: Strategy | None = None

    def require(self, config: RunConfig) -> None:
        """Make sure that what the settings call ``custom`` was passed.

        Raises:
            ConfigError: it was not, or was passed where the settings name another.
        """
        for name, setting, given in (
            ("objective", config.train.objective, self.objective),
            ("strategy", config.masking.strategy, self.strategy),
        ):
            if setting == "custom" and given is None:
                raise ConfigError(
                    f"the {name} of this run is one of its own (custom), which is code and not in a run folder; pass it, also to "
                    f"resume: unmask.train(..., {name}=...)"
                )
            if setting != "custom" and given is not None:
                raise ConfigError(
                    f"two of one kind: {name}={given!r} was passed, and the settings name '{setting}'"
                )
        if self.objective is not None:
            _require_whole(self.objective)


def _require_whole(objective: Objective) -> None:
    """Raise :class:`ConfigError` where an objective of the caller lacks what every objective has."""
    name, losses = getattr(objective, "name", None), getattr(objective, "loss_names", None)
    kind = type(objective).__name__
    if not isinstance(name, str):
        raise ConfigError(f"the objective {kind} has no name; set one in the class: name = 'mine'")
    if not isinstance(losses, tuple) or not losses or not all(isinstance(each, str) for each in losses):
        raise ConfigError(
            f"the objective {kind} must name its losses in a tuple, such as loss_names = ('{name}',); it has {losses!r}"
        )
    if len(objective.loss_weights) != len(losses):
        raise ConfigError(
            f"the objective {kind} has {len(losses)} loss_names and {len(objective.loss_weights)} loss_weights; give one "
            f"weight for each"
        )


def objective_of(config: RunConfig, custom: Custom = Custom()) -> Objective:
    """Return the objective of settings that :meth:`Custom.require` has passed."""
    if custom.objective is not None:
        return custom.objective
    train = config.train
    if train.objective == "clm":
        return CausalDetour(train.detour or SHARE)
    if train.objective == "nsp":
        return NextSentencePrediction()
    if train.objective == "sop":
        return SentenceOrderPrediction()
    if train.objective == "rtd":
        return ReplacedTokenDetection(config.model.generator, offline=config.model.offline)
    if train.objective == "contrastive":
        return ContrastiveLearning()
    return MaskedLanguageModelling()
