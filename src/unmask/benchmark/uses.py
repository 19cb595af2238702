"""Compare how fast models, or forms of one, fill, embed and score texts on this machine.

The models take turns, so that a slower moment of the machine affects all alike.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unmask.benchmark.bench import SECONDS, read_texts
from unmask.benchmark.stopwatch import Stopwatch
from unmask.config.settings import DocumentSettings
from unmask.data.corpus import require_readable
from unmask.data.tokenizer import TextEncoder
from unmask.errors import ConfigError, DataError, plural
from unmask.inference.embed import Embedder
from unmask.inference.fill import FillMask
from unmask.inference.markers import MARKERS
from unmask.model.base import LanguageModel
from unmask.model.load import load_for_inference
from unmask.progress import Progress
from unmask.reporting.results import Result, Rows
from unmask.run.fingerprint import machine_info
from unmask.run_folder import model_folder
from unmask.scoring.scorer import Scorer

_TOKENS = 18  # of a text, without special ones
_FEWEST, _MOST = 4, 128
_CHARACTERS = 400_000
_LEAST = 3  # rounds

Texts = Sequence[str]
USES: dict[str, tuple[int, Callable[[LanguageModel, Texts, Texts], Callable[[], object]]]] = {
    "fill, one after another": (
        8,
        lambda model, masked, plain: _fill_each(FillMask(model, blanks=False), masked),
    ),
    "fill, together": (128, lambda model, masked, plain: partial(FillMask(model, blanks=False).fill, masked)),
    "embed": (128, lambda model, masked, plain: partial(Embedder(model), plain)),
    "score": (4, lambda model, masked, plain: _score_each(Scorer(model), plain)),
}
"""By use: the texts of a turn, and what is timed, made from a model, texts with a mask and the same without."""


@dataclass(frozen=True)
class ModelSpeed:
    """The speed of one model.

    Attributes:
        model: its name, as given.
        precision: in which it computes.
        megabytes: size of its weights on disk; of a model of the Hub or in memory, in fp32.
        texts_per_second: the median by use; ``None`` where the model cannot be used so.
        ratio: the median, over the rounds, of its speed over that of the first model.
    """

    model: str
    precision: str
    megabytes: float
    texts_per_second: dict[str, float | None]
    ratio: dict[str, float | None]


@dataclass(frozen=True, repr=False)
class ModelSpeeds(Result):
    """What ``unmask bench MODEL`` measured.

    Attributes:
        machine: versions and machine, as ``run.json`` has them.
        threads: how many compute.
        texts: the number of different ones.
        tokens: of a text, on average, special tokens included; by the tokenizer of the first model.
        models: the speeds, in the order of the models.
    """

    machine: dict[str, Any]
    threads: int
    texts: int
    tokens: float
    models: list[ModelSpeed]

    def _title(self) -> str:
        return f"speed of {plural(len(self.models), 'model')} on texts of {self.tokens:.0f} tokens"

    def to_rows(self) -> Rows:
        """Return a row for each model and use: ``model``, ``use``, ``texts_per_second``, ``ratio``."""
        return [
            {"model": found.model, "use": use, "texts_per_second": rate, "ratio": found.ratio[use]}
            for found in self.models
            for use, rate in found.texts_per_second.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return what ``unmask bench MODEL --json`` prints."""
        return asdict(self)


def measure_models(
    models: Sequence[str | Path | LanguageModel],
    data: DocumentSettings,
    inputs: Sequence[str] = (),
    *,
    seconds: float = SECONDS,
    progress: Progress = Progress(),
    **loading: Any,
) -> ModelSpeeds:
    """Measure how fast models fill texts one after another, fill and embed them together, and score them.

    The texts have about 20 tokens; to be filled, one of them is masked.

    Args:
        models: names, folders, exported models, or models in memory; the others are compared with the first.
        data: how the text is read.
        inputs: the text; by default the documentation of this Python.
        seconds: how long each model is measured, in all.
        progress: told how far it is.
        loading: ``device``, ``precision``, ``offline``, as for :func:`~unmask.model.load.load_for_inference`.

    Raises:
        ConfigError: a model cannot be loaded.
        DataError: the text cannot be used.
    """
    require_readable(inputs, data)
    loaded = [load_for_inference(model, progress=progress, **loading) for model in models]
    if not loaded:
        raise ConfigError("there is no model to measure; give one or more")
    texts = list(islice(_short_texts(loaded[0], read_texts(data, inputs, _CHARACTERS, progress)), _MOST))
    if not texts:
        raise DataError(f"there is no text of {_FEWEST} tokens or more to measure with; give more text")
    progress.begin("measure")
    rates: dict[str, np.ndarray] = {}
    for number, (use, (count, make)) in enumerate(USES.items()):
        progress.advance(number / len(USES), {"texts": len(texts)})
        masked, plain = zip(*islice(cycle(texts), count), strict=True)
        rates[use] = count / _in_turns([make(model, masked, plain) for model in loaded], seconds / len(USES))
    progress.end()
    return ModelSpeeds(
        machine=machine_info(),
        threads=torch.get_num_threads(),
        texts=len(texts),
        tokens=float(np.mean([len(row) for row in Embedder(loaded[0]).rows([plain for _, plain in texts])])),
        models=[
            _speed(
                str(given) if isinstance(given, str | Path) else model.name,
                model,
                {use: rate[:, [0, place]] for use, rate in rates.items()},
            )
            for place, (given, model) in enumerate(zip(models, loaded, strict=True))
        ],
    )


def _short_texts(model: LanguageModel, documents: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield parts of documents, with the token in the middle masked and without."""
    core = TextEncoder(model.tokenizer).core
    markers = (*MARKERS, str(model.tokenizer.mask_token))
    for document in documents:
        text = " ".join(document[:_CHARACTERS].split())
        offsets = core.encode(text, add_special_tokens=False).offsets
        for part in (offsets[begin : begin + _TOKENS] for begin in range(0, len(offsets), _TOKENS)):
            begin, end = part[0][0], part[-1][1]
            # A token at the start of a word may have no character of its own.
            gap = next((place for place in part[len(part) // 2 :] if place[0] < place[1]), part[0])
            if len(part) >= _FEWEST and not any(marker in text[begin:end] for marker in markers):
                yield f"{text[begin : gap[0]]}[MASK]{text[gap[1] : end]}", text[begin:end]


def _fill_each(fill: FillMask, texts: Texts) -> Callable[[], object]:
    return lambda: [fill(text) for text in texts]


def _score_each(score: Scorer, texts: Texts) -> Callable[[], object]:
    return lambda: list(score(texts))


def _in_turns(calls: Sequence[Callable[[], object]], seconds: float) -> np.ndarray:
    """Return the seconds of each call, ``[rounds, calls]``; NaN where a model cannot be used so."""
    able = [_works(call) for call in calls]  # and the warm-up
    watch = Stopwatch(seconds * len(calls), warm_up=1, least=_LEAST)
    rounds: list[list[float]] = []
    watch.tick(0)
    while not rounds or not watch.tick(1):
        rounds.append([_timed(call) if works else math.nan for call, works in zip(calls, able, strict=True)])
    return np.array(rounds)


def _works(call: Callable[[], object]) -> bool:
    try:
        call()
    except ConfigError:  # an exported model without hidden states gives no embeddings
        return False
    return True


def _timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _speed(name: str, model: LanguageModel, rates: dict[str, np.ndarray]) -> ModelSpeed:
    return ModelSpeed(
        name,
        model.precision_name,
        _megabytes(model),
        {use: _median(rate[:, 1]) for use, rate in rates.items()},
        {use: _median(rate[:, 1] / rate[:, 0]) for use, rate in rates.items()},
    )


def _median(values: np.ndarray) -> float | None:
    found = float(np.median(values))
    return None if math.isnan(found) else found


def _megabytes(model: LanguageModel) -> float:
    """Return the size of the weights' files."""
    path = Path(model.name)
    files = (
        path.parent.glob(f"{path.stem}.*")
        if path.is_file()
        else Path(model_folder(model.name)).glob("*.safetensors")
    )
    return (sum(file.stat().st_size for file in files) or 4 * model.parameters) / 1e6
