"""What a run knows besides its weights, its optimizer and its position, as its checkpoints keep it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from unmask.evaluation.heldout import MASKS
from unmask.progress import Progress
from unmask.training.best_weights import Best


@dataclass
class RunState:
    """The evaluations and the loss of a run so far.

    Attributes:
        before: metrics of the model before training, as :func:`unmask.run.results.final_metrics` gives them, and
            ``selection``, those on the text that chooses the weights.
        evaluated: the step after which the run was evaluated last; -1 before the first.
        last_loss: of the last row of metrics that has one.
        best: the lowest held-out loss.
    """

    before: dict[str, dict[str, Any]] = field(default_factory=dict)
    evaluated: int = -1
    last_loss: float | None = None
    best: Best | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it for a checkpoint, with the version of the evaluation masks."""
        return {"evaluation": MASKS, **asdict(self)}

    @staticmethod
    def from_dict(content: dict[str, Any], selects: bool, progress: Progress) -> RunState:
        """Return what a checkpoint keeps, without what an earlier version evaluated otherwise.

        Args:
            content: of the checkpoint; other keys are ignored.
            selects: whether a text of its own chooses the weights.
            progress: is warned where held-out metrics are dropped.
        """
        best = content["best"]
        state = RunState(
            content["before"],
            content.get("evaluated", -1),
            content["last_loss"],
            Best(**best) if best else None,
        )
        if selects and "selection" not in state.before:
            state.before = {}  # an earlier version evaluated the base on the held-out text as a whole
        if content.get("evaluation") != MASKS:
            state.before, state.best = {}, None
            progress.warning(
                "an earlier version of unmask began this run and evaluated it at other masks: its held-out metrics up to "
                f"here are compared with nothing, and the best weights are sought from step {content['step']} on"
            )
        return state
