"""What to predict for a text: its window, the lengths of its blanks, the subwords of the targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from unmask.errors import plural
from unmask.inference.beam import BeamProblem
from unmask.inference.markers import MarkerEncoder, Reading
from unmask.inference.predict import ANY, PredictionRow
from unmask.inference.targets import TargetForm
from unmask.inference.windows import MOST_FORMS, Form, Window, all_sizes, form, window_around
from unmask.inference.word_tokenizer import Context, WordTokenizer, length_weight

if TYPE_CHECKING:
    from unmask.model.base import LanguageModel

_WORDS_WIDTH = 32  # tokens tried for each subword of a word: many of them do not continue it


@dataclass(frozen=True, slots=True)
class FillPlan:
    """A text that is ready to be filled.

    Attributes:
        index: number of the text.
        parts: the text around its gaps.
        window: the part of it that the model sees.
        forms: the text with its blanks at every length.
        contexts: the text around each gap that takes a word, ``None`` for a plain mask.
        words: the subwords of the targets that fit each form, if there are targets.
        targets: which targets these are.
        errors: why the other targets cannot be scored, by target.
    """

    index: int
    parts: list[str]
    window: Window
    forms: list[Form]
    contexts: list[Context | None]
    words: list[list[tuple[int, ...]]] = field(default_factory=list)
    targets: list[list[int]] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)


class Planner:
    """Makes plans for one model.

    Args:
        model: the model.
        encoder: reads texts for it.
        word_tokenizer: of its tokenizer.
    """

    def __init__(self, model: LanguageModel, encoder: MarkerEncoder, word_tokenizer: WordTokenizer) -> None:
        self._model, self._encoder, self._word_tokenizer = model, encoder, word_tokenizer

    def plan(self, index: int, reading: Reading, targets: Sequence[str] | None) -> FillPlan | str:
        """Return the plan of a text, or why it cannot be filled."""
        if reading.error:
            return reading.error
        places = np.flatnonzero(reading.body == self._encoder.mask_id).tolist()
        if len(places) != len(reading.gaps):
            return (
                f"the text has {plural(len(reading.gaps), 'mask')}, but its tokens have {len(places)}; "
                f"put spaces around them"
            )
        make = self._for_search if targets is None else self._for_targets
        return make(index, reading, places, targets or ())

    def problems(self, plan: FillPlan, top_k: int) -> list[BeamProblem]:
        """Return the forms of a plan as problems of a search for ``top_k`` fillings of the text."""
        if not any(plan.contexts):
            return [
                BeamProblem(
                    PredictionRow(one.input_ids, one.masks, [ANY] * len(one.masks)),
                    (1.0,) * len(one.masks),
                    top_k,
                    top_k,
                )
                for one in plan.forms
            ]
        return [self._word_problem(one, plan.contexts, top_k) for one in plan.forms]

    def _word_problem(self, one: Form, contexts: list[Context | None], top_k: int) -> BeamProblem:
        kinds: list[int] = []
        weights: list[float] = []
        for size, context in zip(one.sizes, contexts, strict=True):
            kinds += [ANY] * size if context is None else self._word_tokenizer.kinds(context, size)
            weights += [1.0 if context is None else length_weight(size)] * size

        def possible(tokens: list[int | None]) -> bool:
            every = iter(tokens)
            return all(
                context is None or self._word_tokenizer.can_be_word(subwords, context)
                for context, subwords in [
                    (context, list(islice(every, size)))
                    for context, size in zip(contexts, one.sizes, strict=True)
                ]
            )

        row = PredictionRow(one.input_ids, one.masks, kinds)
        return BeamProblem(row, tuple(weights), top_k, max(top_k, _WORDS_WIDTH), possible)

    def target_forms(self, plan: FillPlan) -> list[TargetForm]:
        """Return the forms of a plan with the words that are to be scored in them."""
        return [
            TargetForm(PredictionRow(one.input_ids, one.masks, [ANY] * len(one.masks)), words)
            for one, words in zip(plan.forms, plan.words, strict=True)
        ]

    def _for_search(
        self, index: int, reading: Reading, places: list[int], _: Sequence[str]
    ) -> FillPlan | str:
        sizes = all_sizes(reading.gaps, MOST_FORMS)
        if sizes is None:
            return (
                f"the blanks of this text have more than {MOST_FORMS} combinations of lengths; give narrower ones, "
                f"such as {{1-2}}"
            )
        contexts = [
            self._word_tokenizer.context(reading.parts, gap) if marker.word else None
            for gap, marker in enumerate(reading.gaps)
        ]
        window = self._window(reading.body, places, sizes[-1])
        if isinstance(window, str):
            return window
        forms = [form(window, size, self._model.vocabulary) for size in sizes]
        return FillPlan(index, reading.parts, window, forms, contexts)

    def _for_targets(
        self, index: int, reading: Reading, places: list[int], targets: Sequence[str]
    ) -> FillPlan | str:
        if len(places) > 1:
            return f"targets need a text with one mask, and this one has {len(places)}"
        context = self._word_tokenizer.context(reading.parts, 0)
        by_size: dict[int, list[tuple[int, tuple[int, ...]]]] = {}
        errors = {}
        for number, target in enumerate(targets):
            subwords = self._word_tokenizer.tokenize(target, context)
            if error := self._target_error(target, subwords):
                errors[target] = error
            else:
                by_size.setdefault(len(subwords), []).append((number, subwords))
        window = self._window(reading.body, places, (max(by_size, default=1),))
        if isinstance(window, str):
            return window
        forms = [form(window, (size,), self._model.vocabulary) for size in by_size]
        words = [[subwords for _, subwords in found] for found in by_size.values()]
        numbers = [[number for number, _ in found] for found in by_size.values()]
        return FillPlan(index, reading.parts, window, forms, [context], words, numbers, errors)

    def _target_error(self, target: str, subwords: tuple[int, ...]) -> str | None:
        if not subwords:
            return f"the target '{target}' has no tokens"
        if self._encoder.unknown_id in subwords:
            unknown = self._model.tokenizer.unk_token
            return (
                f"the target '{target}' cannot be written with this tokenizer: a part of it becomes {unknown}"
            )
        if self._model.vocabulary.special[list(subwords)].any():
            return f"the target '{target}' holds a special token, which no model learns to predict; a target is a word"
        return None

    def _window(self, body: np.ndarray, places: list[int], sizes: tuple[int, ...]) -> Window | str:
        """Truncate a text to what the model takes when its gaps have as many subwords as ``sizes``."""
        room = self._model.max_length - self._model.vocabulary.overhead - sum(sizes) + len(sizes)
        if len(body) <= room:
            return Window(body, tuple(places), 0, len(body))
        window = window_around(body, places, room) if room > 0 else None
        if window is None:
            return (
                f"the masks of this text take {places[-1] - places[0] + 1:,} tokens from the first to the last, and "
                f"the model takes {max(room, 0):,} at once; put them nearer to one another, or into texts of their own"
            )
        return window
