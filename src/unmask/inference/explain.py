"""Show what masked language modelling does to one text, step by step and with every figure.

The steps are those of training: the text is tokenised, a draw that depends on seed, text and position alone
decides which tokens are predicted, what replaces them is drawn likewise, the model fills them in, and the loss is
the mean cross-entropy over what it was asked. The figures come from the functions that training calls, not from a
second telling of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from unmask.config.settings import MaskingSettings
from unmask.errors import ConfigError, DataError
from unmask.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from unmask.data.masking.mask import Decisions, Masked
    from unmask.data.packing import Packed
    from unmask.data.tokenizer import Vocabulary
    from unmask.model.masked_lm import MaskedLM

Labels = Literal["all", "masked"]
IGNORED = -100
"""The label of a token that is not scored, as in torch and transformers."""

_BESIDE = {"spans", "chances", "units", "masking", "seed", "mask_token_id", "takes_token_types", "model"}


class Guess(NamedTuple):
    """A token that the model thinks possible, with its softmax probability over the whole vocabulary."""

    token: str
    token_id: int
    probability: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model makes of one selected position.

    Attributes:
        position: the position, counted from 0, special tokens included.
        original: the token that stood there.
        shown: the token that the model saw there: the mask, a random token or the original.
        top: the most probable tokens, best first; special tokens are not left out.
        loss: the natural logarithm of the original's probability, negated.
    """

    position: int
    original: str
    shown: str
    top: list[Guess]
    loss: float


@dataclass(frozen=True)
class Explanation:
    """Everything that happened to one text of ``T`` tokens, special tokens included; lists are by position.

    Attributes:
        text: as it was given.
        tokens: the vocabulary's own spellings.
        input_ids: their ids.
        token_type_ids: all 0, there is one segment.
        attention_mask: all 1, nothing is padded.
        labels: the id to predict, or -100 where the loss does not look.
        random_draw: uniform in [0, 1), one for all tokens that are drawn together; a token whose draw is below its
            chance is selected, unless it is special. ``None`` when the positions were given.
        special_tokens_mask: 1 for tokens that are never selected.
        mask: whether the token is selected.
        selected: positions of the selected tokens, ascending.
        masked_input_ids: what the model sees.
        masked_tokens: the same, spelt.
        predictions: for each selected position what the model says.
        token_loss: cross-entropy in nats, ``None`` where nothing is scored.
        loss: the mean of the scored, or ``None`` if nothing is.
        labels_mode: whether ``all`` tokens are scored or only the ``masked``.
        mask_positions_given: whether the positions were given, not drawn.
        spans: where each token stands in ``text``, first character and the one after the last; special tokens
            stand nowhere, from 0 to 0.
        chances: how likely each token was to be selected: the rate, but with the strategy ``terms``. ``None`` when
            the positions were given.
        units: the numbers of the tokens, words, spans or phrases that were drawn as one, counted from 0. ``None``
            when the positions were given.
        masking: the settings of the draw.
        seed: of the draw.
        mask_token_id: id of the mask token.
        takes_token_types: whether the model looks at token_type_ids at all.
        model: name of the model.
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
    spans: list[tuple[int, int]]
    chances: list[float] | None
    units: list[int] | None
    masking: MaskingSettings
    seed: int
    mask_token_id: int
    takes_token_types: bool
    model: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings, ready for JSON: the figures, without settings and names."""
        content = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in _BESIDE}
        predictions = [asdict(prediction) for prediction in self.predictions]
        for plain, prediction in zip(predictions, self.predictions, strict=True):
            plain["top"] = [guess._asdict() for guess in prediction.top]
        return content | {"predictions": predictions}

    def to_html(self) -> str:
        """Return one HTML page that tells the steps in order; it needs no script, no network and no other file."""
        from unmask.reporting.explain_page import page

        return page(self)


def explain(
    text: str,
    model: MaskedLM | str | Path,
    *,
    mask_positions: Sequence[int] | None = None,
    labels: Labels = "masked",
    masking: MaskingSettings = MaskingSettings(),
    seed: int = 0,
    top_k: int = 5,
    device: str = "auto",
    precision: str = "fp32",
    offline: bool = False,
    progress: Progress = Progress(),
) -> Explanation:
    """Mask one text, let a model fill it in, and keep every figure on the way.

    The draw is that of the first epoch of training on a document with this text and this seed (Devlin et al.
    2019 for the scheme). A literal ``[MASK]`` in the text is text, as it is in training.

    Args:
        text: at least one token, at most what the model takes.
        model: a loaded model, a Hub name or a folder.
        mask_positions: mask exactly these, counted from 0 with special tokens included; every one of them becomes
            the mask token. By default positions and replacements are drawn.
        labels: which tokens the loss is over: ``masked``, as in training, or ``all``, where labels are a plain
            copy of input_ids.
        masking: strategy, rate and split of the draw; not looked at when positions are given.
        seed: of the draw.
        top_k: predictions kept for each selected position.

    Raises:
        DataError: the text is empty or too long for the model.
        ConfigError: a position is not an integer, out of range, given twice or that of a special token; ``top_k``
            or ``labels`` is out of range; the masking strategy does not fit the tokenizer.
    """
    from unmask.model.load import load_for_inference

    lm = load_for_inference(model, device=device, precision=precision, offline=offline, progress=progress)
    if labels not in ("all", "masked"):
        raise ConfigError(f"labels must be 'all' or 'masked'; got '{labels}'")
    _check_top_k(top_k, lm)
    packed, spans = _tokenised(text, lm)
    tokens = _spelt(packed.input_ids, lm)
    special = lm.vocabulary.special[packed.input_ids]
    if mask_positions is None:
        drawn, masked = _drawn(packed, lm.vocabulary, masking, seed)
    else:
        drawn, masked = None, _placed(packed, lm.vocabulary, _checked(mask_positions, tokens, special))
    wanted = np.zeros(len(tokens), dtype=bool)
    wanted[masked.target_index] = True
    scored = wanted if labels == "masked" else np.ones(len(tokens), dtype=bool)
    losses, best = _asked(lm, packed.input_ids, masked, top_k)
    return Explanation(
        text=text,
        tokens=tokens,
        input_ids=packed.input_ids.tolist(),
        token_type_ids=[0] * len(tokens),
        attention_mask=[1] * len(tokens),
        labels=np.where(scored, packed.input_ids, IGNORED).tolist(),
        random_draw=drawn and drawn.draw.tolist(),
        special_tokens_mask=special.astype(int).tolist(),
        mask=wanted.tolist(),
        selected=masked.target_index.tolist(),
        masked_input_ids=masked.input_ids.tolist(),
        masked_tokens=_spelt(masked.input_ids, lm),
        predictions=_predictions(tokens, masked, losses, best, lm),
        token_loss=[float(loss) if count else None for loss, count in zip(losses, scored, strict=True)],
        loss=float(losses[scored].mean()) if scored.any() else None,
        labels_mode=labels,
        mask_positions_given=mask_positions is not None,
        spans=spans,
        chances=drawn and drawn.chance.tolist(),
        units=drawn and drawn.unit.tolist(),
        masking=masking,
        seed=seed,
        mask_token_id=lm.vocabulary.mask_id,
        takes_token_types="token_type_ids" in lm.tokenizer.model_input_names,
        model=str(lm.tokenizer.name_or_path or type(lm.model).__name__),
    )


def _check_top_k(top_k: int, lm: MaskedLM) -> None:
    if not 1 <= top_k <= lm.vocabulary.size:
        raise ConfigError(
            f"top_k must be 1 to {lm.vocabulary.size:,}, the size of the vocabulary; got {top_k:,}"
        )


def _tokenised(text: str, lm: MaskedLM) -> tuple[Packed, list[tuple[int, int]]]:
    """Return the text as the one sequence that training would make of it, and where its tokens stand in it."""
    from unmask.data.corpus import document_key
    from unmask.data.packing import Packed
    from unmask.data.tokenizer import plain_copy

    body = plain_copy(lm.tokenizer).encode(text, add_special_tokens=False)
    vocabulary = lm.vocabulary
    length = len(body.ids) + vocabulary.overhead
    if not body.ids:
        raise DataError("the text is empty: expected at least one token to mask")
    if length > lm.max_length:
        raise DataError(
            f"the text has {length:,} tokens, {vocabulary.overhead} special ones included, and the model takes "
            f"{lm.max_length:,}; give a shorter text"
        )
    packed = Packed(
        input_ids=np.concatenate([vocabulary.prefix, body.ids, vocabulary.suffix]).astype(np.int64),
        cu_seqlens=np.array([0, length]),
        keys=np.array([document_key(text)], dtype=np.uint64),
        offsets=np.array([-len(vocabulary.prefix)]),
    )
    nowhere = (0, 0)
    return packed, [nowhere] * len(vocabulary.prefix) + body.offsets + [nowhere] * len(vocabulary.suffix)


def _drawn(
    packed: Packed, vocabulary: Vocabulary, masking: MaskingSettings, seed: int
) -> tuple[Decisions, Masked]:
    """Mask as training would, and return what decided it."""
    from unmask.data.masking.mask import MaskKey, mask, mask_decisions, plan_of

    key, policy = MaskKey(seed, epoch=0), plan_of(vocabulary, masking)
    masked = mask(packed, vocabulary, policy, key, masking.rate)
    return mask_decisions(packed, vocabulary, policy, key, masking.rate), masked


def _placed(packed: Packed, vocabulary: Vocabulary, positions: list[int]) -> Masked:
    from unmask.data.masking.mask import mask_at

    return mask_at(packed, vocabulary, np.array(positions, dtype=np.int64))


def _checked(positions: Sequence[int], tokens: list[str], special: np.ndarray) -> list[int]:
    """Return the positions in ascending order.

    Raises:
        ConfigError: naming the first position that cannot be masked, and its token.
    """
    if not len(positions):
        raise ConfigError("mask_positions is empty: give at least one position, or none at all to draw them")
    last = len(tokens) - 1
    seen: set[int] = set()
    for position in positions:
        if isinstance(position, bool) or not isinstance(position, (int, np.integer)):
            raise ConfigError(f"mask_positions must be integers; got {position!r}")
        if not 0 <= position <= last:
            raise ConfigError(
                f"mask position {position} is outside the text: its positions are 0 ('{tokens[0]}') to {last} "
                f"('{tokens[last]}')"
            )
        if special[position]:
            raise ConfigError(
                f"mask position {position} holds the special token '{tokens[position]}', which is never masked; "
                f"choose a token of the text"
            )
        if position in seen:
            raise ConfigError(f"mask position {position} ('{tokens[position]}') is given twice")
        seen.add(int(position))
    return sorted(seen)


def _asked(
    lm: MaskedLM, originals: np.ndarray, masked: Masked, top_k: int
) -> tuple[np.ndarray, list[list[tuple[int, float]]]]:
    """Run the bare model.

    Returns:
        ``float64 [T]`` cross-entropy of every original token, and the best ids with their probabilities at each of
        the ``M`` targets.
    """
    import torch
    from torch.nn import functional

    with torch.inference_mode():
        logits = _logits(lm, masked.input_ids)
        losses = functional.cross_entropy(logits, torch.from_numpy(originals).to(lm.device), reduction="none")
        rows = logits[torch.from_numpy(masked.target_index).to(lm.device)]
        best = torch.softmax(rows, dim=-1).topk(top_k, dim=-1)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return losses.double().cpu().numpy(), [list(zip(ids, shares, strict=True)) for ids, shares in pairs]


def _logits(lm: MaskedLM, input_ids: np.ndarray) -> Tensor:
    """Return fp32 ``[T, V]`` logits: one row, all positions, the model's own attention."""
    import torch

    inputs = {"input_ids": torch.from_numpy(input_ids).unsqueeze(0).to(lm.device)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "token_type_ids" in lm.tokenizer.model_input_names:
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    with lm.plain() as model, lm.precision():
        logits: Tensor = model(**inputs).logits[0]
    return logits.float()


def _predictions(
    tokens: list[str],
    masked: Masked,
    losses: np.ndarray,
    best: list[list[tuple[int, float]]],
    lm: MaskedLM,
) -> list[Prediction]:
    shown = _spelt(masked.input_ids, lm)
    found = []
    for position, top in zip(masked.target_index.tolist(), best, strict=True):
        names = _spelt([number for number, _ in top], lm)
        guesses = [Guess(name, number, share) for name, (number, share) in zip(names, top, strict=True)]
        found.append(
            Prediction(position, tokens[position], shown[position], guesses, float(losses[position]))
        )
    return found


def _spelt(input_ids: Sequence[int] | np.ndarray, lm: MaskedLM) -> list[str]:
    """Return the vocabulary's spellings; a row of the model that no token has goes by its number."""
    spelt = lm.tokenizer.convert_ids_to_tokens([int(number) for number in input_ids])
    return [token or f"[id {number}]" for token, number in zip(spelt, input_ids, strict=True)]
