"""``load`` and what a model does with texts: fill masks, score, explain."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, TypeVar, Unpack, cast, overload

from unmask.api.progress import ProgressLike, shown
from unmask.api.texts import MISSING, Text, is_missing, text_values
from unmask.errors import ConfigError
from unmask.reporting.results import ResultList

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from unmask.inference.explanation import Explanation, Labels
    from unmask.inference.fill import FillMask
    from unmask.inference.results import FillResult, Ranking
    from unmask.model.base import LanguageModel
    from unmask.scoring.results import Score

    ModelLike: TypeAlias = "str | PathLike[str] | PreTrainedModel | LanguageModel | Model"

R = TypeVar("R", "FillResult", "Score")


class FillOptions(TypedDict, total=False):
    """Options of :meth:`Model.fill`."""

    targets: Sequence[str] | None
    ranking: Ranking
    beam: int | None
    blanks: bool
    batch_size: int | None
    text_field: str
    progress: ProgressLike


class ScoreOptions(TypedDict, total=False):
    """Options of :meth:`Model.score`."""

    method: str
    max_length: int | None
    batch_tokens: int | None
    text_field: str
    progress: ProgressLike


class Model:
    """A masked language model in memory, with its tokenizer. Make one with :func:`unmask.load`.

    Attributes:
        name: what it was loaded from.
        lm: the model as unmask runs it; ``lm.model`` is the transformers model.
    """

    def __init__(self, lm: LanguageModel, name: str) -> None:
        self.lm, self.name = lm, name
        self._fillers: dict[bool, FillMask] = {}

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of transformers."""
        return self.lm.tokenizer

    def __repr__(self) -> str:
        kind, size = self.lm.architecture, self.lm.parameters
        return f"Model('{self.name}': {kind}, {size / 1e6:,.1f}M parameters, {self.lm.device})"

    @overload
    def fill(self, text: str, top_k: int = 5, **options: Unpack[FillOptions]) -> FillResult: ...
    @overload
    def fill(self, text: Text, top_k: int = 5, **options: Unpack[FillOptions]) -> ResultList[FillResult]: ...
    def fill(
        self,
        text: Text,
        top_k: int = 5,
        *,
        targets: Sequence[str] | None = None,
        ranking: Ranking = "joint",
        beam: int | None = None,
        blanks: bool = True,
        batch_size: int | None = None,
        text_field: str = "text",
        progress: ProgressLike = None,
    ) -> FillResult | ResultList[FillResult]:
        """Return the most probable tokens or words for the masks of a text, or of several.

        Args:
            text: one text or several (a list, Series, data set …), each with one or several mask tokens, or blanks:
                ``___`` for a word of 1 to 4 subwords, ``{2}`` or ``{1-4}`` for so many.
            top_k: candidates of each text.
            targets: score these words instead of searching the vocabulary, in texts with one mask.
            ranking: of candidates for several masks: ``joint`` by the chain rule, or ``independent``.
            beam: partial candidates that the joint search keeps; by default 16, or ``top_k`` if that is more.
            blanks: whether ``___`` and ``{1-4}`` are blanks, not text.
            batch_size: most sequences computed at once.
            text_field: the column of tables and records.
            progress: see :class:`unmask.Progress`.

        Returns:
            One result for one text, a list for several, in which a text that cannot be filled has its ``error`` set.

        Raises:
            DataError: the one text has no mask, or its masks are too far apart.
            ConfigError: an option or a target that cannot work.
        """
        from unmask.inference.fill import FillMask
        from unmask.inference.results import FillResult

        filler = self._fillers.get(blanks) or FillMask(self.lm, blanks=blanks)
        self._fillers[blanks] = filler
        if isinstance(text, str):
            return filler(text, top_k, targets=targets, ranking=ranking, beam=beam)
        with shown(progress) as listener:
            return _each(
                text_values(text, text_field, "text"),
                lambda texts: filler.fill(
                    texts, top_k, batch_size, targets=targets, ranking=ranking, beam=beam, progress=listener
                ),
                lambda: FillResult("", error=MISSING, ranking=ranking),
            )

    @overload
    def score(self, text: str, **options: Unpack[ScoreOptions]) -> Score: ...
    @overload
    def score(self, text: Text, **options: Unpack[ScoreOptions]) -> ResultList[Score]: ...
    def score(
        self,
        text: Text,
        *,
        method: str = "original",
        max_length: int | None = None,
        batch_tokens: int | None = None,
        text_field: str = "text",
        progress: ProgressLike = None,
    ) -> Score | ResultList[Score]:
        """Return the pseudo-log-likelihood of a text, or of several.

        Args:
            text: one text or several (a list, Series, data set …), of any length.
            method: ``original``, ``within_word_l2r``, ``whole_word`` or ``estimate``; see :mod:`unmask.scoring.scorer`.
            max_length: tokens of a window, special tokens included; by default what the model takes.
            batch_tokens: tokens computed at once.
            text_field: the column of tables and records.
            progress: see :class:`unmask.Progress`.

        Returns:
            One result for one text, a list for several. A text that cannot be scored has its ``error`` set.

        Raises:
            ConfigError: there is no such method.
            DivergedError: the model's output is NaN or infinite.
        """
        from unmask.scoring.results import Score
        from unmask.scoring.scorer import score

        one = isinstance(text, str)
        with shown(progress) as listener:
            results = _each(
                [text] if one else text_values(text, text_field, "text"),
                lambda texts: score(
                    texts, self.lm, method=method, max_length=max_length, batch_tokens=batch_tokens, progress=listener
                ),
                lambda: Score("", math.nan, 0, 0, 0, method, error=MISSING),  # type: ignore[arg-type]
            )  # fmt: skip
        return results[0] if one else results

    def explain(
        self,
        text: str,
        *,
        mask_positions: Sequence[int] | None = None,
        labels: Labels = "masked",
        seed: int = 0,
        top_k: int = 5,
        pair: str | None = None,
        **options: Any,
    ) -> Explanation:
        """Mask one text as in training, let the model predict it, and keep every step. A notebook shows it as a page.

        Args:
            text: at least one token, at most what the model takes.
            mask_positions: mask exactly these tokens, counted from 0 with special tokens included.
            labels: the loss is over the ``masked`` tokens, as in training, or over ``all``.
            seed: of the random draw.
            top_k: predictions kept of each masked token.
            pair: a second passage, with token types 1; a BERT or ALBERT with a sentence head says whether it follows.
            options: ``mask_rate`` and ``strategy``, or a whole ``config``.

        Raises:
            DataError: the text is empty or too long.
            ConfigError: a position or an option that cannot work.
        """
        from unmask.api.options import sections
        from unmask.inference.explain import explain

        if not isinstance(text, str):
            raise ConfigError(f"text: expected one text, not an object of type {type(text).__name__}")
        masking = sections(options, ("mask_rate", "strategy")).masking
        return explain(
            text, self.lm, mask_positions=mask_positions, labels=labels, masking=masking, seed=seed, top_k=top_k, pair=pair
        )  # fmt: skip


def as_list(model: ModelLike | Sequence[ModelLike]) -> tuple[list[ModelLike], bool]:
    """Return one model or several as a list, and whether it is one that was not given in a list."""
    if isinstance(model, list | tuple):
        return list(model), False
    return [cast("ModelLike", model)], True


def _each(
    values: Iterable[object], compute: Callable[[list[str]], Iterable[R]], missing: Callable[[], R]
) -> ResultList[R]:
    """Return a result for every value; those of missing values say so, the others are computed together."""
    listed = list(values)
    texts: list[str] = [value for value in listed if not is_missing(value)]  # type: ignore[misc]
    for number, value in enumerate(texts, 1):
        if not isinstance(value, str):
            raise ConfigError(f"texts must be strings; text {number} is of type {type(value).__name__}")
    results: Iterator[R] = iter(compute(texts) if texts else ())
    return ResultList([missing() if is_missing(value) else next(results) for value in listed])


def load(
    model: ModelLike,
    tokenizer: str | Path | PreTrainedTokenizerBase | None = None,
    *,
    device: str = "auto",
    precision: str = "fp32",
    offline: bool = False,
    progress: ProgressLike = None,
) -> Model:
    """Load a masked language model.

    Args:
        model: Hub name (``name@revision`` pins one), model folder, run folder, or a transformers model in memory, which
            is used as it is; then ``tokenizer`` is needed too.
        tokenizer: Hub name, folder or object; by default that of the model.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``fp32``, ``bf16``, or ``auto`` for the faster of the two on this machine.
        offline: make no network call.
        progress: see :class:`unmask.Progress`.

    Raises:
        ConfigError: it cannot be loaded.
    """
    if isinstance(model, Model):
        return model
    from unmask.model.load import load_for_inference

    given = str(model) if isinstance(model, PathLike) else model
    with shown(progress, offline) as listener:
        lm = load_for_inference(
            given, tokenizer, device=device, precision=precision, offline=offline, progress=listener
        )
    return Model(lm, given if isinstance(given, str) else lm.name)


def fill(
    model: ModelLike, text: Text, top_k: int = 5, *, offline: bool = False, **options: Any
) -> FillResult | ResultList[FillResult]:
    """Fill the masks of a text, or of several: :func:`load` and :meth:`Model.fill`, with the options of both."""
    loaded, rest = _loaded(model, offline, options)
    return loaded.fill(text, top_k, **rest)


def score(
    model: ModelLike, text: Text, *, offline: bool = False, **options: Any
) -> Score | ResultList[Score]:
    """Score a text, or several: :func:`load` and :meth:`Model.score`, with the options of both."""
    loaded, rest = _loaded(model, offline, options)
    return loaded.score(text, **rest)


def convert(folder: str | Path, out: str | Path, *, progress: ProgressLike = None) -> Path:
    """Write a copy of a model folder with its ``pytorch_model.bin`` as safetensors; return ``out``.

    The weights are read in a process of their own that takes tensors only.

    Args:
        folder: a model folder with ``pytorch_model.bin``, in one file or several.
        out: the folder to write, absent or empty.
        progress: as for :func:`unmask.load`.

    Raises:
        ConfigError: there are no such weights, they hold more than tensors, or they are no masked language model.
    """
    from unmask.model.convert import convert_weights

    with shown(progress) as listener:
        convert_weights(Path(folder), Path(out), listener)
    return Path(out)


def explain(model: ModelLike, text: str, *, offline: bool = False, **options: Any) -> Explanation:
    """Explain masked language modelling on a text: :func:`load` and :meth:`Model.explain`, with the options of both."""
    loaded, rest = _loaded(model, offline, options)
    rest.pop("progress", None)
    return loaded.explain(text, **rest)


def _loaded(model: ModelLike, offline: bool, options: dict[str, Any]) -> tuple[Model, dict[str, Any]]:
    loading = {name: options.pop(name) for name in ("tokenizer", "device", "precision") if name in options}
    return load(model, offline=offline, progress=options.get("progress"), **loading), options
