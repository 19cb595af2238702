"""What the server computes: the functions of a loaded model, in the form that requests and answers have."""

from __future__ import annotations

import queue
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

from unmask.config.settings import MaskingSettings
from unmask.errors import UnmaskError
from unmask.inference.embed import Embedder
from unmask.inference.explain import explain
from unmask.inference.fill import FillMask
from unmask.inference.results import FillResult
from unmask.model.pooling import MEAN, Pooling
from unmask.scoring.scorer import Scorer
from unmask.serving.batcher import Task
from unmask.serving.schemas import ExplainParameters, FillMaskParameters, FillParameters, ScoreParameters

if TYPE_CHECKING:
    from unmask.model.base import LanguageModel


class _Engine:
    """What computes one batch at a time: a model, or a copy that shares its weights."""

    def __init__(self, lm: LanguageModel, pooling: Pooling) -> None:
        self.lm = lm
        # Without a trained LM head there are only embeddings.
        both = () if lm.new_head else (True, False)
        self.fillers = {blanks: FillMask(lm, blanks=blanks) for blanks in both}
        self.embedder = Embedder(lm, pooling)

    def warm_up(self) -> None:
        """Compute something of each kind, so that the first request is not slower than others."""
        if self.fillers:
            self.fillers[False].fill([f"{self.lm.tokenizer.mask_token} a"])
            list(Scorer(self.lm)(["a a"]))
        if self.embedder.size:
            self.embedder(["a"])


class ServedModel:
    """One model of the server.

    Args:
        name: by which requests ask for it.
        lm: the model.
        check: called before every pass through the model; it may raise to stop it.
        pooling: how its tokens become one embedding.
        at_once: batches that it should compute at the same time, where it can.

    Attributes:
        at_once: batches that it can compute at the same time.
        embedding_size: numbers in an embedding; 0 of an exported model that gives none.
        mask_token: how a mask is written.
    """

    def __init__(
        self,
        name: str,
        lm: LanguageModel,
        check: Callable[[], None],
        pooling: Pooling = MEAN,
        at_once: int = 1,
    ) -> None:
        self.name, self.lm = name, lm
        lm.before_each_pass(check)
        self._first = _Engine(lm, pooling)
        self._first.warm_up()  # before it is copied: copies share what the first pass makes
        engines = [self._first]
        while len(engines) < at_once and (copy := lm.shared_copy()):
            engines.append(_Engine(copy, pooling))
        self.at_once = len(engines)
        self._idle = queue.LifoQueue[_Engine]()
        for engine in engines:
            self._idle.put(engine)
        self.embedding_size = self._first.embedder.size
        self.mask_token = str(lm.tokenizer.mask_token)

    def about(self) -> dict[str, Any]:
        """Return what ``/models`` says of it."""
        model, pooling = self.lm, self._first.embedder.pooling
        return {
            "name": self.name,
            "architecture": model.architecture,
            "parameters": model.parameters,
            "vocabulary": model.vocabulary.size,
            "max_length": model.max_length,
            "mask_token": self.mask_token,
            "embedding_size": self.embedding_size,
            "pooling": pooling.mode,
            "normalized": pooling.normalize,
            "precision": model.precision_name,
            "device": str(model.device),
        }

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Return the length of each text in tokens, special tokens included."""
        return [len(row) for row in self._first.embedder.rows(texts)]

    def fill(self, parameters: FillParameters) -> Task:
        """Fill: a ``dict`` for each text, as ``unmask fill --json`` prints it."""
        targets, blanks = parameters.targets, parameters.blanks
        ranking, beam = parameters.ranking, parameters.beam

        def compute(engine: _Engine, texts: Sequence[str]) -> list[dict[str, Any]]:
            filler = engine.fillers[blanks]
            top_k = min(parameters.top_k, filler.possible)
            found = filler.fill(texts, top_k, targets=targets, ranking=ranking, beam=beam)
            return [result.to_dict() for result in found]

        def cost(text: str, tokens: int) -> int:
            if targets is not None:
                return tokens * (1 + len(targets))
            filler = self._first.fillers[blanks]
            return tokens * filler.sequences(text, parameters.top_k, ranking=ranking, beam=beam)

        return self._task(("fill", parameters.model_dump_json()), compute, cost)

    def fill_mask(self, parameters: FillMaskParameters) -> Task:
        """Fill as the fill-mask task of Hugging Face: a list of candidates for each text, or one for each mask of it.

        An error takes the place of the list of a text that cannot be filled.
        """
        targets = parameters.targets

        def compute(engine: _Engine, texts: Sequence[str]) -> list[Any]:
            filler = engine.fillers[False]
            top_k = min(parameters.top_k, filler.possible)
            found = filler.fill(texts, top_k, targets=targets, ranking="independent")
            return [self._candidates(filler, result, targets is not None) for result in found]

        return self._task(("fill-mask", parameters.model_dump_json()), compute)

    def score(self, parameters: ScoreParameters) -> Task:
        """Score: a ``dict`` for each text, as ``unmask score --json`` prints it."""
        method, details = parameters.method, parameters.details

        def compute(engine: _Engine, texts: Sequence[str]) -> list[dict[str, Any]]:
            return [
                result.to_dict(details=details) | ({"error": result.error} if result.error else {})
                for result in Scorer(engine.lm, method=method)(texts)
            ]

        key = ("score", method, details)
        one_pass = method == "estimate"
        return self._task(key, compute) if one_pass else self._task(key, compute, self._copies)

    def explain(self, parameters: ExplainParameters) -> Task:
        """Explain: the ``dict`` of ``unmask explain --json``, or the :class:`UnmaskError` of a text."""
        masking = MaskingSettings(rate=parameters.mask_rate, strategy=parameters.strategy)

        def compute(engine: _Engine, texts: Sequence[str]) -> list[dict[str, Any] | UnmaskError]:
            return [_explained(engine.lm, text) for text in texts]

        def _explained(lm: LanguageModel, text: str) -> dict[str, Any] | UnmaskError:
            try:
                found = explain(
                    text,
                    lm,
                    mask_positions=parameters.mask_positions,
                    labels=parameters.labels,
                    masking=masking,
                    seed=parameters.seed,
                    top_k=parameters.top_k,
                )
            except UnmaskError as error:
                return error
            return found.to_dict() | {"model": self.name}

        return self._task(("explain", parameters.model_dump_json()), compute)

    def embed(self, normalize: bool) -> Task:
        """Embed: an ``fp32 [H]`` array for each text."""

        def compute(engine: _Engine, texts: Sequence[str]) -> Sequence[Any]:
            return list(engine.embedder(texts, normalize=normalize))

        return self._task(("embed", normalize), compute)

    def _task(
        self,
        key: tuple[Hashable, ...],
        compute: Callable[[_Engine, Sequence[str]], Sequence[Any]],
        cost: Callable[[str, int], int] = Task.cost,
    ) -> Task:
        def by_idle_engine(texts: Sequence[str]) -> Sequence[Any]:
            engine = self._idle.get()
            try:
                return compute(engine, texts)
            finally:
                self._idle.put(engine)

        return Task(self.name, (self.name, *key), by_idle_engine, cost, self.at_once)

    def _copies(self, _: str, tokens: int) -> int:
        """Return the tokens of all masked copies of a text."""
        return tokens * min(tokens, self.lm.max_length)

    def _candidates(self, filler: FillMask, result: FillResult, with_targets: bool) -> Any:
        if result.error:
            return UnmaskError(result.error)
        for error in result.target_errors.values():
            return UnmaskError(error)
        decode = self.lm.tokenizer.decode
        if with_targets:
            return sorted(
                (
                    {
                        "score": one.probability,
                        "token": one.token_ids[0],
                        "token_str": one.text if len(one.token_ids) > 1 else decode(one.token_ids),
                        "sequence": one.sequence,
                    }
                    for one in result.candidates
                ),
                key=lambda candidate: -candidate["score"],
            )
        masks = [
            [
                {
                    "score": one.probability,
                    "token": one.token_id,
                    "token_str": decode([one.token_id]),
                    "sequence": filler.sequence_with(result.text, number, one.token_id),
                }
                for one in candidates
            ]
            for number, candidates in enumerate(result.per_mask)
        ]
        return masks[0] if len(masks) == 1 else masks
