"""What the server computes: the functions of a loaded model, in the form that requests and answers have."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unmask.config.settings import MaskingSettings
from unmask.errors import UnmaskError
from unmask.inference.embed import Embedder
from unmask.inference.explain import explain
from unmask.inference.fill import FillMask
from unmask.inference.results import FillResult
from unmask.model.pooling import MEAN, Pooling
from unmask.scoring.scorer import Scorer
from unmask.serving.schemas import ExplainParameters, FillMaskParameters, FillParameters, ScoreParameters

if TYPE_CHECKING:
    from unmask.model.base import LanguageModel


@dataclass(frozen=True)
class Task:
    """How to compute the texts of a request.

    Attributes:
        key: texts of tasks with the same key can be computed together.
        compute: returns a result for each text.
        cost: returns about how many tokens go through the model for a text, from the text and its own number of tokens.
    """

    key: Hashable
    compute: Callable[[Sequence[str]], Sequence[Any]]
    cost: Callable[[str, int], int] = lambda _, tokens: tokens


class ServedModel:
    """One model of the server.

    Args:
        name: by which requests ask for it.
        lm: the model.
        check: called before every pass through the model; it may raise to stop it.
        pooling: how its tokens become one embedding.

    Attributes:
        embedding_size: numbers in an embedding; 0 of an exported model that gives none.
        mask_token: how a mask is written.
    """

    def __init__(
        self, name: str, lm: LanguageModel, check: Callable[[], None], pooling: Pooling = MEAN
    ) -> None:
        self.name, self.lm = name, lm
        lm.before_each_pass(check)
        self._fillers = {blanks: FillMask(lm, blanks=blanks) for blanks in (True, False)}
        self._embedder = Embedder(lm, pooling)
        self.embedding_size = self._embedder.size
        self.mask_token = str(lm.tokenizer.mask_token)

    def about(self) -> dict[str, Any]:
        """Return what ``/models`` says of it."""
        model = self.lm
        return {
            "name": self.name,
            "architecture": model.architecture,
            "parameters": model.parameters,
            "vocabulary": model.vocabulary.size,
            "max_length": model.max_length,
            "mask_token": self.mask_token,
            "embedding_size": self.embedding_size,
            "pooling": self._embedder.pooling.mode,
            "normalized": self._embedder.pooling.normalize,
            "precision": model.precision_name,
            "device": str(model.device),
        }

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Return the length of each text in tokens, special tokens included."""
        return [len(row) for row in self._embedder.rows(texts)]

    def warm_up(self) -> None:
        """Compute something of each kind, so that the first request is not slower than others."""
        self._fillers[False].fill([f"{self.mask_token} a"])
        list(Scorer(self.lm)(["a a"]))
        if self.embedding_size:
            self._embedder(["a"])

    def fill(self, parameters: FillParameters) -> Task:
        """Fill: a ``dict`` for each text, as ``unmask fill --json`` prints it."""
        key = (self.name, "fill", parameters.model_dump_json())
        filler = self._fillers[parameters.blanks]

        def compute(texts: Sequence[str]) -> list[dict[str, Any]]:
            found = filler.fill(
                texts,
                min(parameters.top_k, filler.possible),
                targets=parameters.targets,
                ranking=parameters.ranking,
                beam=parameters.beam,
            )
            return [result.to_dict() for result in found]

        def cost(text: str, tokens: int) -> int:
            if parameters.targets is not None:
                return tokens * (1 + len(parameters.targets))
            ranking, beam = parameters.ranking, parameters.beam
            return tokens * filler.sequences(text, parameters.top_k, ranking=ranking, beam=beam)

        return Task(key, compute, cost)

    def fill_mask(self, parameters: FillMaskParameters) -> Task:
        """Fill as the fill-mask task of Hugging Face: a list of candidates for each text, or one for each mask of it.

        An error takes the place of the list of a text that cannot be filled.
        """
        key = (self.name, "fill-mask", parameters.model_dump_json())
        filler, targets = self._fillers[False], parameters.targets

        def compute(texts: Sequence[str]) -> list[Any]:
            top_k = min(parameters.top_k, filler.possible)
            found = filler.fill(texts, top_k, targets=targets, ranking="independent")
            return [self._candidates(filler, result, targets is not None) for result in found]

        return Task(key, compute)

    def score(self, parameters: ScoreParameters) -> Task:
        """Score: a ``dict`` for each text, as ``unmask score --json`` prints it."""
        scorer = Scorer(self.lm, method=parameters.method)

        def compute(texts: Sequence[str]) -> list[dict[str, Any]]:
            return [
                result.to_dict(details=parameters.details) | ({"error": result.error} if result.error else {})
                for result in scorer(texts)
            ]

        one_pass = parameters.method == "estimate"
        key = (self.name, "score", parameters.method, parameters.details)
        return Task(key, compute) if one_pass else Task(key, compute, self._copies)

    def explain(self, parameters: ExplainParameters) -> Task:
        """Explain: the ``dict`` of ``unmask explain --json``, or the :class:`UnmaskError` of a text."""
        masking = MaskingSettings(rate=parameters.mask_rate, strategy=parameters.strategy)

        def compute(texts: Sequence[str]) -> list[dict[str, Any] | UnmaskError]:
            return [_explained(text) for text in texts]

        def _explained(text: str) -> dict[str, Any] | UnmaskError:
            try:
                found = explain(
                    text,
                    self.lm,
                    mask_positions=parameters.mask_positions,
                    labels=parameters.labels,
                    masking=masking,
                    seed=parameters.seed,
                    top_k=parameters.top_k,
                )
            except UnmaskError as error:
                return error
            return found.to_dict() | {"model": self.name}

        return Task((self.name, "explain", parameters.model_dump_json()), compute)

    def embed(self, normalize: bool) -> Task:
        """Embed: an ``fp32 [H]`` array for each text."""

        def compute(texts: Sequence[str]) -> Sequence[Any]:
            return list(self._embedder(texts, normalize=normalize))

        return Task((self.name, "embed", normalize), compute)

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
