"""What an objective is: the one interface between what is learned and how a run learns it.

The loop, resuming, several processes, metrics and reports work with :class:`Objective` alone. A new objective is a module
here, an entry in :mod:`unmask.objectives.choose` and its name in ``train.objective``; ``docs/objectives.md`` has the steps.

Shapes: N sequences, T tokens, M targets, H hidden size, V vocabulary, K losses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from unmask.config.settings import MaskingSettings
from unmask.data.batches import Batch, TextSource
from unmask.data.masking.random_bits import EVALUATION_KEY, MaskKey
from unmask.data.masking.units import MaskingPlan, plan_of
from unmask.data.packing import Packed
from unmask.data.tokenizer import Vocabulary
from unmask.errors import ConfigError
from unmask.model.masked_lm import MaskedLM
from unmask.model.save import save_checked

Number = TypeVar("Number", Tensor, float)

_KEY_BITS = np.uint64(11)  # what is cut off the hash of a document, so that a float64 holds it
_FILLED = 4  # tokens of a stand-in beyond the fewest that the model takes


class Loss(NamedTuple):
    """One loss of a micro-batch.

    Attributes:
        value: the losses of its targets, summed and divided by their number in the whole step; scalar, in fp32.
        correct: how many of them were predicted exactly; ``int64`` scalar on the same device. ``None`` for a loss that
            predicts nothing, see :attr:`Objective.without_accuracy`.
    """

    value: Tensor
    correct: Tensor | None = None


class Objective(ABC):
    """A training objective.

    Its methods are pure: every random draw is a function of the key, the document and the position in it, never of what
    else is in a batch. Then no draw and no loss depends on micro-batches, processes or a resume.

    Attributes:
        name: as metrics and settings have it.
        loss_names: of its losses, the main one first.
        loss_weights: of the same in the loss that is minimised.
        without_accuracy: of the same, those that have no accuracy.
        masks: whether the mask rate has a meaning.
        targets_in_place: whether ``target_ids`` are the original tokens at ``target_index``.
        uses_head: whether the LM head of the given model is trained; else there are no metrics of the model before training.
        compares: whether a loss of a sequence depends on the other sequences of its step, see :meth:`rows`.
        has_answers: whether :meth:`answers` are evaluated on held-out text, besides the frozen masks of every run.
        answer_means: metrics that are the mean of a column of the answers, by name. Column 0 is then a number of the document,
            and the final metrics have intervals over documents.
    """

    name: str
    loss_names: tuple[str, ...]
    loss_weights: tuple[float, ...] = (1.0,)
    without_accuracy: tuple[str, ...] = ()
    masks = True
    targets_in_place = True
    uses_head = True
    compares = False
    has_answers = False
    answer_means: Mapping[str, int] = MappingProxyType({})

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" in vars(cls) and "title" not in vars(
            cls
        ):  # the title of its parent is that of another objective
            cls.title = Objective.title  # type: ignore[method-assign]

    @property
    def title(self) -> str:
        """What it is, for people."""
        return self.name

    # Stages

    @property
    def stages(self) -> tuple[Objective, ...]:
        """The objectives of the parts of a run, in their order."""
        return (self,)

    def stage(self, progress: float) -> int:
        """Return which stage a step has by the progress of the run, 0 to 1. A run never returns to an earlier one."""
        return 0

    # Before the first step

    def trained_model(self, given: MaskedLM, seed: int) -> MaskedLM:
        """Return the model that is trained: the one that is given, or one that predicts masked tokens in its place.

        Raises:
            ConfigError: the one that is given cannot be used.
        """
        return given

    def prepare(self, model: MaskedLM, seed: int) -> None:  # noqa: B027  (most have nothing to prepare)
        """Check that a model has what the objective needs, and :meth:`~MaskedLM.attach` what is trained with it.

        Raises:
            ConfigError: it has not; one line that says what to use instead.
        """

    def source(self, text: TextSource) -> TextSource:
        """Return where sequences come from, where they are not those of single documents, such as pairs of passages."""
        return text

    def describe(self, text: TextSource) -> str:
        """Say what the sequences of :meth:`source` are, where they are not those of single documents; else nothing.

        Raises:
            DataError: there is nothing to learn from this training text.
        """
        return ""

    # A step

    @abstractmethod
    def batch(self, packed: Packed, plan: MaskingPlan, key: MaskKey, rate: float) -> Batch:
        """Return what the model sees and has to predict.

        Args:
            packed: sequences of the source.
            plan: vocabulary and masking settings.
            key: of all random draws.
            rate: the mask rate of the step.
        """

    def counts(self, batch: Batch) -> tuple[int, ...]:
        """Return ``K`` numbers of targets; their sums over a step divide the losses."""
        return (len(batch.target_ids),)

    @abstractmethod
    def losses(self, model: MaskedLM, batch: Batch, divisors: Sequence[int]) -> tuple[Loss, ...]:
        """Return the ``K`` losses of a micro-batch, each divided by the count of the whole step, which is at least 1."""

    def rows(self, model: MaskedLM, batch: Batch) -> tuple[Tensor, ...]:
        """Return ``[n, ...]`` tensors of a micro-batch for those that are compared with its sequences, see :attr:`compares`.

        A step of one micro-batch is compared within it. Of several, each is given the rows of all, in order, as
        ``batch.of_step``. :meth:`losses` then computes the loss of the whole step with its own rows anew in their place, in
        the first pass through the model: the gradient is that of the whole step's loss, the value that of its own sequences.
        """
        raise NotImplementedError(f"{self.name} says that it compares sequences, and gives no rows")

    def total(self, losses: Sequence[Number]) -> Number:
        """Return the loss that is minimised: the weighted sum of the ``K`` losses."""
        parts = [
            loss if weight == 1.0 else loss * weight
            for loss, weight in zip(losses, self.loss_weights, strict=True)
        ]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def trial(self, vocabulary: Vocabulary, length: int, tokens: int, rate: float) -> Batch:
        """Return a batch of about so many ``tokens`` in sequences of ``length``, of no text.

        It must have targets at a rate of 1. Such batches find the micro-batch that memory allows, and stand in for the share
        of a process that has nothing to predict.
        """
        cuts = np.arange(0, max(length, tokens) + 1, length)
        count = len(cuts) - 1
        ids = np.resize(vocabulary.replacements, cuts[-1])
        packed = Packed(ids, cuts, np.arange(count, dtype=np.uint64), np.zeros(count, dtype=np.int64))
        return self.batch(packed, plan_of(vocabulary, MaskingSettings()), EVALUATION_KEY, rate)

    # Evaluation and export

    def answers(self, model: MaskedLM, batch: Batch) -> np.ndarray:
        """Return ``float64 [n, k]`` rows of what the model answers on frozen draws, for :meth:`metrics`.

        Args:
            model: in evaluation mode, without a gradient.
            batch: of :meth:`batch` on held-out text, every masked target replaced by the mask token.
        """
        raise NotImplementedError(f"{self.name} says that it has answers, and gives none")

    def scores(self, answers: np.ndarray) -> np.ndarray:
        """Return ``float64 [n, m]``, what :meth:`metrics` and intervals are computed from, by default the answers.

        Args:
            answers: on all held-out text, for scores of one that depend on the others.
        """
        return answers

    def metrics(self, answers: np.ndarray) -> dict[str, float]:
        """Return metrics by name from :meth:`scores` of the answers on all held-out text, by default :attr:`answer_means`."""
        if not self.answer_means:
            raise NotImplementedError(f"{self.name} says that it has answers, and gives no metrics of them")
        means = {name: float(answers[:, at].mean()) for name, at in self.answer_means.items()}
        return means if len(answers) else {}

    def saved_class(self, model: MaskedLM) -> str:
        """Return the class in transformers of what :meth:`save` writes."""
        return model.architecture

    def save(self, model: MaskedLM, folder: Path) -> None:
        """Write the Hugging Face checkpoint, without the tokenizer.

        Args:
            model: what was trained.
            folder: empty but for the modules of sentence-transformers that the model had before.
        """
        with model.plain() as raw:
            save_checked(raw, model.vocabulary, folder)


def document_numbers(keys: np.ndarray) -> np.ndarray:
    """Return the hashes of documents, ``uint64 [N]``, as ``int64 [N]`` numbers that a float64 of the answers holds."""
    return (keys >> _KEY_BITS).astype(np.int64)


def stand_in(objective: Objective, model: MaskedLM) -> Batch:
    """Return a small batch for a process that has none; its loss must be multiplied by zero, and its answers dropped."""
    length = model.shortest + _FILLED
    return objective.trial(model.vocabulary, length, 2 * length, rate=1.0)


def checked_losses(
    objective: Objective, model: MaskedLM, batch: Batch, divisors: Sequence[int]
) -> tuple[Loss, ...]:
    """Return :meth:`Objective.losses`, of which there is one for each name.

    Raises:
        ConfigError: there is not; the objective may be code of the caller.
    """
    found, names = objective.losses(model, batch, divisors), objective.loss_names
    losses = found if isinstance(found, tuple) and not isinstance(found, Loss) else ()
    if len(losses) != len(names) or not all(isinstance(each, Loss) for each in losses):
        raise ConfigError(
            f"losses() of the objective {objective.name} must return a tuple of {len(names)} unmask.Loss, one for each of its "
            f"loss_names ({', '.join(names)}); it returned {found!r}"[:300]
        )
    for name, each in zip(names, losses, strict=True):
        if each.correct is None and name not in objective.without_accuracy:
            raise ConfigError(
                f"losses() of the objective {objective.name} says for '{name}' not how many targets were predicted exactly "
                f"(Loss.correct); give it, or set without_accuracy = ('{name}',)"
            )
    return losses
