"""Explain masked language modelling on one text: tokens, draw, mask, predictions and loss, step by step.

The steps and the numbers are those of training: the same draw, the same replacements, the same loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from unmask.config.settings import MaskingSettings
from unmask.data.corpus import document_key
from unmask.data.masking.mask import Decisions, Masked, mask, mask_at, mask_decisions
from unmask.data.masking.random_bits import MaskKey
from unmask.data.masking.units import plan_of
from unmask.data.packing import Packed
from unmask.data.pairs import IN_ORDER
from unmask.data.special_tokens import between_passages
from unmask.data.tokenizer import Vocabulary, token_names
from unmask.errors import ConfigError, DataError
from unmask.inference.detection import detect, with_generator
from unmask.inference.explanation import (
    Explanation,
    Labels,
    PairPrediction,
    Prediction,
    TokenPrediction,
)
from unmask.model.base import LanguageModel
from unmask.model.load import load_for_inference
from unmask.model.masked_lm import MaskedLM
from unmask.model.sentence_head import pair_probabilities

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IGNORED = -100
"""The label of a token that is not scored, as in torch and transformers."""


def explain(
    text: str,
    model: str | Path | PreTrainedModel | LanguageModel,
    *,
    mask_positions: Sequence[int] | None = None,
    labels: Labels = "masked",
    masking: MaskingSettings = MaskingSettings(),
    seed: int = 0,
    top_k: int = 5,
    pair: str | None = None,
) -> Explanation:
    """Mask one text, predict the masked tokens, and return every intermediate value.

    The draw is that of the first epoch of training on a document with this text and this seed (Devlin et al.
    2019). A literal ``[MASK]`` in the text is text, as in training. If nothing is drawn, as happens to short texts,
    the unit with the lowest draw is masked, and ``forced`` is set.

    Of a discriminator (Clark et al. 2020) the generator that was saved with it predicts the masked tokens; then the discriminator
    judges the text in which they are replaced by the generator's draws.

    Args:
        text: at least one token, at most what the model takes.
        model: whatever :func:`unmask.model.load.load_for_inference` takes.
        mask_positions: mask exactly these, counted from 0 with special tokens included; every one of them becomes
            the mask token. By default positions and replacements are drawn.
        labels: the tokens that the loss is over: ``masked``, as in training, or ``all``, where labels are a copy
            of input_ids.
        masking: strategy, rate and split of the draw; unused when positions are given.
        seed: of the draw.
        top_k: predictions for each selected position.
        pair: a second passage; the model then sees both, with token types 0 and 1.

    Raises:
        DataError: the text is empty or too long for the model.
        ConfigError: a position is not an integer, out of range, given twice or that of a special token; ``top_k``
            or ``labels`` is out of range; the masking strategy does not fit the tokenizer.
    """
    if labels not in ("all", "masked"):
        raise ConfigError(f"labels must be 'all' or 'masked'; got '{labels}'")
    lm, discriminator = with_generator(load_for_inference(model))
    lm.require_head()
    _check_top_k(top_k, lm)
    packed, spans, types = _tokenized(text, lm) if pair is None else _tokenized_pair(text, pair, lm)
    text = text if pair is None else f"{text} {pair}"
    tokens, special = _tokens(packed.input_ids, lm), lm.vocabulary.special[packed.input_ids]
    if mask_positions is None:
        drawn, masked, forced = _draw(packed, lm.vocabulary, masking, seed)
    else:
        places = _checked(mask_positions, tokens, special)
        drawn, masked, forced = None, mask_at(packed, lm.vocabulary, places), False
    selected = np.zeros(len(tokens), dtype=bool)
    selected[masked.target_index] = True
    scored = selected if labels == "masked" else np.ones(len(tokens), dtype=bool)
    logs = _log_probabilities(lm, masked.input_ids, types)
    losses = _token_losses(logs, packed.input_ids)
    return Explanation(
        text=text,
        tokens=tokens,
        input_ids=packed.input_ids.tolist(),
        token_type_ids=types.tolist(),
        attention_mask=[1] * len(tokens),
        labels=np.where(scored, packed.input_ids, IGNORED).tolist(),
        random_draw=drawn and drawn.draw.tolist(),
        special_tokens_mask=special.astype(int).tolist(),
        mask=selected.tolist(),
        selected=masked.target_index.tolist(),
        masked_input_ids=masked.input_ids.tolist(),
        masked_tokens=_tokens(masked.input_ids, lm),
        predictions=_predictions(tokens, masked, logs, losses, top_k, lm),
        token_loss=[float(loss) if count else None for loss, count in zip(losses, scored, strict=True)],
        loss=float(losses[scored].mean()) if scored.any() else None,
        labels_mode=labels,
        mask_positions_given=mask_positions is not None,
        forced=forced,
        spans=spans,
        chances=drawn and drawn.chance.tolist(),
        units=drawn and drawn.unit.tolist(),
        masking=masking,
        seed=seed,
        mask_token_id=lm.vocabulary.mask_id,
        takes_token_types=lm.takes_token_types,
        model=str(lm.tokenizer.name_or_path or lm.architecture),
        pair=None if pair is None else _pair_prediction(pair, lm, masked.input_ids, types),
        detection=None
        if discriminator is None
        else detect(discriminator, packed, types, masked, logs, MaskKey(seed, epoch=0)),
    )


def _check_top_k(top_k: int, lm: LanguageModel) -> None:
    if not 1 <= top_k <= lm.vocabulary.size:
        raise ConfigError(
            f"top_k must be 1 to {lm.vocabulary.size:,}, the size of the vocabulary; got {top_k:,}"
        )


def _pair_prediction(
    second: str, lm: LanguageModel, input_ids: np.ndarray, token_type_ids: np.ndarray
) -> PairPrediction:
    found = pair_probabilities(lm, input_ids, token_type_ids) if isinstance(lm, MaskedLM) else None
    losses = [None, None] if found is None else [-math.log(max(share, 1e-45)) for share in found]
    return PairPrediction(second, IN_ORDER, found, *losses)


def _tokenized_pair(
    first: str, second: str, lm: LanguageModel
) -> tuple[Packed, list[tuple[int, int]], np.ndarray]:
    """Return two passages as the pair of training, the characters of their tokens, and token types."""
    middle = between_passages(lm.tokenizer)
    if middle is None or not lm.takes_token_types:
        whose = "the tokenizer" if middle is None else lm.architecture
        raise ConfigError(
            f"a pair needs token types 0 and 1, and {whose} has no such pairs; use a BERT or ALBERT with its own tokenizer, or "
            f"leave the second passage out"
        )
    bodies = [lm.text_encoder.core.encode(text, add_special_tokens=False) for text in (first, second)]
    if not all(body.ids for body in bodies):
        raise DataError("a passage of the pair is empty: expected at least one token in each")
    ids = [*bodies[0].ids, *middle, *bodies[1].ids]
    packed = _sequence(ids, f"{first} {second}", lm)
    prefix, suffix, after = lm.vocabulary.prefix, lm.vocabulary.suffix, len(first) + 1
    nowhere = (0, 0)
    moved = [(begin + after, end + after) for begin, end in bodies[1].offsets]
    spans = [nowhere] * len(prefix) + bodies[0].offsets + [nowhere] * len(middle) + moved
    types = np.zeros(len(packed.input_ids), dtype=np.int64)
    types[len(prefix) + len(bodies[0].ids) + len(middle) :] = 1
    return packed, spans + [nowhere] * len(suffix), types


def _tokenized(text: str, lm: LanguageModel) -> tuple[Packed, list[tuple[int, int]], np.ndarray]:
    """Return the text as the one sequence of training, the characters of its tokens, and token types."""
    body = lm.text_encoder.core.encode(text, add_special_tokens=False)
    if not body.ids:
        raise DataError("the text is empty: expected at least one token to mask")
    packed, vocabulary = _sequence(body.ids, text, lm), lm.vocabulary
    nowhere = (0, 0)
    spans = [nowhere] * len(vocabulary.prefix) + body.offsets + [nowhere] * len(vocabulary.suffix)
    return packed, spans, np.zeros(len(packed.input_ids), dtype=np.int64)


def _sequence(ids: Sequence[int], text: str, lm: LanguageModel) -> Packed:
    """Return the tokens of a text as a sequence of training."""
    vocabulary = lm.vocabulary
    length = len(ids) + vocabulary.overhead
    if length > lm.max_length:
        raise DataError(
            f"the text has {length:,} tokens, {vocabulary.overhead} special ones included, and the model takes "
            f"{lm.max_length:,}; give a shorter text"
        )
    return Packed(
        input_ids=vocabulary.framed(ids),
        cu_seqlens=np.array([0, length]),
        keys=np.array([document_key(text)], dtype=np.uint64),
        offsets=np.array([-len(vocabulary.prefix)]),
    )


def _draw(
    packed: Packed, vocabulary: Vocabulary, masking: MaskingSettings, seed: int
) -> tuple[Decisions, Masked, bool]:
    """Mask as in training, and return what decided it; where nothing is drawn, mask the unit with the lowest draw."""
    key, plan = MaskKey(seed, epoch=0), plan_of(vocabulary, masking)
    masked = mask(packed, vocabulary, plan, key, masking.rate)
    decisions = mask_decisions(packed, vocabulary, plan, key, masking.rate)
    maskable = ~vocabulary.special[packed.input_ids]
    if len(masked.target_index) or not maskable.any():
        return decisions, masked, False
    lowest = np.where(maskable, decisions.draw, np.inf).argmin()
    positions = np.flatnonzero(maskable & (decisions.unit == decisions.unit[lowest]))
    return decisions, mask_at(packed, vocabulary, positions), True


def _checked(positions: Sequence[int], tokens: list[str], special: np.ndarray) -> np.ndarray:
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
    return np.array(sorted(seen), dtype=np.int64)


@torch.inference_mode()
def _log_probabilities(lm: LanguageModel, input_ids: np.ndarray, token_type_ids: np.ndarray) -> Tensor:
    """Return fp32 ``[T, V]``: one row, all positions, the model's own attention."""
    return lm.document_logits(input_ids, token_type_ids).float().log_softmax(-1)


def _token_losses(logs: Tensor, input_ids: np.ndarray) -> np.ndarray:
    """Return ``float64 [T]``: cross-entropy of the true tokens in nats, by ``[T, V]`` log-probabilities."""
    of_tokens = logs.gather(1, torch.from_numpy(input_ids).to(logs.device)[:, None])[:, 0]
    losses: np.ndarray = -of_tokens.cpu().double().numpy()
    return losses


def _predictions(
    tokens: list[str], masked: Masked, logs: Tensor, losses: np.ndarray, top_k: int, lm: LanguageModel
) -> list[Prediction]:
    best = logs[torch.from_numpy(masked.target_index).to(logs.device)].topk(top_k, dim=-1)
    shown = _tokens(masked.input_ids, lm)
    found = []
    for at, ids, values in zip(
        masked.target_index.tolist(), best.indices.tolist(), best.values.exp().tolist(), strict=True
    ):
        top = [TokenPrediction(*item) for item in zip(_tokens(ids, lm), ids, values, strict=True)]
        found.append(Prediction(at, tokens[at], shown[at], top, float(losses[at])))
    return found


def _tokens(input_ids: Sequence[int] | np.ndarray, lm: LanguageModel) -> list[str]:
    return token_names(lm.tokenizer, lm.vocabulary, [int(number) for number in input_ids])
