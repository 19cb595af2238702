"""What explaining masked language modelling on one text gives back."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from unmask.config.settings import MaskingSettings
from unmask.errors import plural
from unmask.inference.detection import Detection
from unmask.reporting.explain_page import render_explanation
from unmask.reporting.results import Result, Rows, frame, short

Labels = Literal["all", "masked"]
_PARTS = "pair", "detection"


@dataclass(frozen=True, slots=True)
class TokenPrediction:
    """A token that the model predicts, with its softmax probability over the whole vocabulary."""

    token: str
    token_id: int
    probability: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The model's prediction at one selected position.

    Attributes:
        position: the position, counted from 0, special tokens included.
        original: the true token.
        shown: the token that the model saw there: the mask, a random token or the original.
        top: the most probable tokens, best first; special tokens are not left out.
        loss: the negative natural logarithm of the original's probability.
    """

    position: int
    original: str
    shown: str
    top: list[TokenPrediction]
    loss: float


@dataclass(frozen=True, slots=True)
class PairPrediction:
    """What the sentence head of BERT or ALBERT makes of a pair of passages, which it sees with its masks, as in training.

    Attributes:
        second: the second passage.
        label: 0, the label of a pair whose second passage follows the first, which the passages are taken to be.
        probabilities: of label 0 and of label 1 (another document, or swapped); ``None`` without a trained sentence head.
        loss: cross-entropy of label 0 in nats, or ``None``.
        other_loss: the same of label 1.
    """

    second: str
    label: int
    probabilities: tuple[float, float] | None
    loss: float | None
    other_loss: float | None


@dataclass(frozen=True, repr=False)
class Explanation(Result):
    """Masked language modelling on one text of ``T`` tokens, special tokens included; lists are by position.

    Attributes:
        text: the text; of a pair, both passages with a space between them.
        tokens: the vocabulary's own spellings, bytes of a byte-level vocabulary as text.
        input_ids: their ids.
        token_type_ids: all 0, there is one segment; of a pair, 1 in the second passage.
        attention_mask: all 1, nothing is padded.
        labels: the true token id, or -100 where there is no loss.
        random_draw: uniform in [0, 1), one for all tokens that are drawn together; a token whose draw is below its
            chance is selected, unless it is special. ``None`` when the positions were given.
        special_tokens_mask: 1 for tokens that are never selected.
        mask: whether the token is selected.
        selected: positions of the selected tokens, ascending.
        masked_input_ids: the model's input.
        masked_tokens: its tokens.
        predictions: one for each selected position.
        token_loss: cross-entropy in nats, ``None`` where nothing is scored.
        loss: the mean of the scored, or ``None`` if nothing is.
        labels_mode: whether ``all`` tokens are scored or only the ``masked``.
        mask_positions_given: whether the positions were given, not drawn.
        forced: whether no draw was below its chance, so that the lowest draw was masked to have something to show;
            training would predict nothing of this text in this epoch.
        spans: for each token its first character in ``text`` and the one after its last; ``(0, 0)`` for special
            tokens.
        chances: probability of each token to be selected: the rate, except with the strategy ``terms``. ``None``
            when the positions were given.
        units: the numbers of the tokens, words, spans or phrases that were drawn as one, counted from 0. ``None``
            when the positions were given.
        masking: the settings of the draw.
        seed: of the draw.
        mask_token_id: id of the mask token.
        takes_token_types: whether the model tells a first sentence from a second by token_type_ids.
        model: name of the model.
        pair: what the sentence head says of a pair, if the text is one.
        detection: what a discriminator makes of the tokens that its generator, which is then ``model``, draws for the masks.
    """

    text: str
    tokens: list[str]
    input_ids: list[int]
    token_type_ids: list[int]
    attention_mask: list[int]
    labels: list[int]
    random_draw: list[float] | None
    special_tokens_mask: list[int]
    mask: list[bool]
    selected: list[int]
    masked_input_ids: list[int]
    masked_tokens: list[str]
    predictions: list[Prediction]
    token_loss: list[float | None]
    loss: float | None
    labels_mode: Labels
    mask_positions_given: bool
    forced: bool
    spans: list[tuple[int, int]]
    chances: list[float] | None
    units: list[int] | None
    masking: MaskingSettings
    seed: int
    mask_token_id: int
    takes_token_types: bool
    model: str
    pair: PairPrediction | None = None
    detection: Detection | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings, ready for JSON."""
        spans = [list(span) for span in self.spans]
        found = asdict(self) | {"spans": spans, "masking": self.masking.model_dump()}
        return {name: value for name, value in found.items() if value is not None or name not in _PARTS}

    def _title(self) -> str:
        loss = "nothing is predicted" if self.loss is None else f"loss {self.loss:.3f}"
        return f"explanation of '{short(self.text)}': {len(self.selected)} of {plural(len(self.tokens), 'token')} masked, {loss}"

    def to_rows(self) -> Rows:
        """Return a row for each prediction at each masked token, best first."""
        return [
            {
                "position": one.position,
                "original": one.original,
                "shown": one.shown,
                "loss": one.loss,
                "rank": rank,
                "prediction": guess.token,
                "probability": guess.probability,
            }
            for one in self.predictions
            for rank, guess in enumerate(one.top, 1)
        ]

    def to_html(self) -> str:
        """Return one HTML page with the steps in order; it needs no script, no network and no other file."""
        return render_explanation(self.to_dict())

    def _repr_html_(self) -> str:
        return frame(self.to_html(), "44em")
