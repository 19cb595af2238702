"""Features of texts from the last layer of an encoder: one vector per text, or per token of a tagged sentence.

Shapes: E examples, U units (texts, or tokens of tagged sentences), B sequences of L tokens in a batch, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmask.data.special_tokens import between_texts, unknown_id
from unmask.data.tokenizer import Vocabulary
from unmask.data.unknown import UnknownTokens
from unmask.errors import ConfigError
from unmask.evaluation.evaluate import ModelLike
from unmask.evaluation.text_cache import LogOnce
from unmask.model.load import load_torch
from unmask.model.masked_lm import MaskedLM
from unmask.probing.settings import EncoderSettings, Pool
from unmask.progress import Progress

Ints = NDArray[np.int64]

_SPACES = ("▁", "Ġ")
_BATCH_TOKENS = 8_192  # padding included; computing features keeps no activations


@dataclass(frozen=True)
class Encoded:
    """Examples as token ids with special tokens, truncated to what the model takes.

    Attributes:
        ids: E sequences with their special tokens.
        places: E lists of positions in the sequence, one for each unit that was kept: the first subword of a token.
            For whole texts a single 0, which is not used.
        kept: E ``bool`` arrays, which units were kept and not truncated.
        truncated: number of examples that were truncated.
        unknown: the unknown tokens of all examples.
        types: E sequences of token types, of pairs where tokenizer and model have them.
    """

    ids: list[Ints]
    places: list[Ints]
    kept: list[NDArray[np.bool_]]
    truncated: int
    unknown: UnknownTokens
    types: list[Ints] | None = None

    @property
    def units(self) -> Ints:
        """``[E]`` number of units that were kept, by example."""
        return np.array([len(places) for places in self.places], dtype=np.int64)

    def take(self, rows: Sequence[int]) -> Encoded:
        """Return the examples of these numbers; ``truncated`` stays that of all."""
        return Encoded(
            [self.ids[row] for row in rows],
            [self.places[row] for row in rows],
            [self.kept[row] for row in rows],
            self.truncated,
            self.unknown,
            self.types and [self.types[row] for row in rows],
        )


class EncoderLoader:
    """Loads the models of a probe, all on one device and in one precision; what they log is logged once."""

    def __init__(self, settings: EncoderSettings, progress: Progress) -> None:
        self.settings, self.progress = settings, LogOnce(progress)

    def __call__(self, model: ModelLike) -> MaskedLM:
        """Return a model in PyTorch; one in memory as it is.

        Raises:
            ConfigError: it cannot be loaded, or is an exported one.
        """
        if isinstance(model, MaskedLM):
            return model
        settings = self.settings
        # Only the encoder is used, so a missing LM head is not logged.
        return load_torch(
            model,
            "probes need the encoder in PyTorch",
            device=settings.device,
            precision=settings.precision,
            offline=settings.offline,
            progress=self.progress,
        )


def token_limit(lm: MaskedLM, max_length: int | None) -> int:
    """Return the tokens of a sequence: as given, but no more than the model takes."""
    return min(max_length or lm.max_length, lm.max_length)


def encode(
    lm: MaskedLM,
    texts: Sequence[str],
    words: Sequence[Sequence[str]] | None = None,
    max_length: int | None = None,
) -> Encoded:
    """Tokenise E texts; the names of special tokens in a text are text.

    Args:
        lm: the model.
        texts: of tagged sentences their tokens, joined by single spaces.
        words: the tokens of tagged sentences, whose units they are.
        max_length: tokens of a sequence; by default what the model takes.

    Raises:
        ConfigError: ``max_length`` leaves no room for text.
    """
    limit = token_limit(lm, max_length)
    room = limit - lm.vocabulary.overhead
    if room < 1:
        raise ConfigError(
            f"--max-length {limit} leaves no room for text: {lm.vocabulary.overhead} tokens are special"
        )
    if words is None:
        bodies = lm.text_encoder(texts)
        first = [np.zeros(1, dtype=np.int64) for _ in bodies]
    else:
        bodies, first = _tagged(lm, texts, words)
    kept, places = [], []
    for body, found in zip(bodies, first, strict=True):
        inside = (found >= 0) & (found < min(room, max(len(body), 1)))
        kept.append(inside)
        places.append(found[inside] + len(lm.vocabulary.prefix))
    truncated = sum(len(body) > room for body in bodies)
    unknown = UnknownTokens(unknown_id(lm.tokenizer))
    for body in bodies:
        unknown.add(body, list)
    return Encoded([lm.vocabulary.framed(body[:room]) for body in bodies], places, kept, truncated, unknown)


def encode_pairs(
    lm: MaskedLM, firsts: Sequence[str], seconds: Sequence[str], max_length: int | None = None
) -> Encoded:
    """Tokenise E pairs of texts, each as one sequence as the tokenizer frames it; of a long pair the longer text is truncated.

    Raises:
        ConfigError: ``max_length`` leaves no room for text.
    """
    (middle, typed), vocabulary = between_texts(lm.tokenizer), lm.vocabulary
    room = token_limit(lm, max_length) - vocabulary.overhead - len(middle)
    if room < 2:
        raise ConfigError(
            f"--max-length {room + vocabulary.overhead + len(middle)} leaves no room for two texts: "
            f"{vocabulary.overhead + len(middle)} tokens are special"
        )
    unknown, truncated = UnknownTokens(unknown_id(lm.tokenizer)), 0
    ids, types = [], []
    for first, second in zip(lm.text_encoder(firsts), lm.text_encoder(seconds), strict=True):
        for body in (first, second):
            unknown.add(body, list)
        truncated += len(first) + len(second) > room
        kept = min(len(first), max(room - len(second), (room + 1) // 2))
        first, second = first[:kept], second[: room - kept]
        ids.append(vocabulary.framed(np.concatenate([first, middle, second]).astype(np.int64)))
        begin = len(vocabulary.prefix) + len(first) + len(middle)
        types.append((np.arange(len(ids[-1])) >= begin).astype(np.int64))
    one = [np.zeros(1, dtype=np.int64)] * len(ids)
    kept_units = [np.ones(1, dtype=bool)] * len(ids)
    return Encoded(
        ids, one, kept_units, truncated, unknown, types if typed and lm.takes_token_types else None
    )


def _tagged(
    lm: MaskedLM, texts: Sequence[str], words: Sequence[Sequence[str]]
) -> tuple[list[Ints], list[Ints]]:
    """Return the ids of sentences, and for each token the position of its first subword, or -1 if it has none."""
    encodings = lm.text_encoder.core.encode_batch(list(texts), add_special_tokens=False)
    bodies, first = [], []
    for encoding, tokens in zip(encodings, words, strict=True):
        bodies.append(np.array(encoding.ids, dtype=np.int64))
        first.append(_first_subwords(encoding.offsets, encoding.tokens, tokens))
    return bodies, first


def _first_subwords(
    offsets: Sequence[tuple[int, int]], subwords: Sequence[str], words: Sequence[str]
) -> Ints:
    """Find the first subword with characters of each word; in the text, words are separated by single spaces."""
    found = np.full(len(words), -1, dtype=np.int64)
    place = begin = 0
    for number, word in enumerate(words):
        end = begin + len(word)
        # A byte-level subword may begin with the space before its word, and a subword may be only the space.
        while place < len(offsets) and offsets[place][1] <= begin:
            place += 1
        if place + 1 < len(offsets) and subwords[place] in _SPACES and offsets[place + 1][0] < end:
            place += 1
        if place < len(offsets) and offsets[place][0] < end:
            found[number] = place
        begin = end + 1
    return found


def vectors(
    lm: MaskedLM, encoded: Encoded, rows: Sequence[int], *, tagged: bool, pool: Pool = "mean"
) -> Tensor:
    """Run the bare encoder on some examples, as one padded batch or, where padding would change the output, by length.

    Args:
        lm: the model, inside its ``plain()``.
        encoded: all examples.
        rows: B numbers of examples.
        tagged: return a vector for each token that was kept, else one for each text.
        pool: of a text, the mean over its tokens (special ones left out), or the vector of the first token.

    Returns:
        ``[U, H]`` fp32, in the order of ``rows``.
    """
    lengths = np.array([len(encoded.ids[row]) for row in rows])
    if lm.batching == "equal" and lengths.min() < lengths.max():
        return _by_length(lm, encoded, rows, lengths, tagged=tagged, pool=pool)
    inputs, real = lm.padded(np.concatenate([encoded.ids[row] for row in rows]), lengths)
    if encoded.types is not None:
        types = np.zeros(real.shape, dtype=np.int64)
        types[real] = np.concatenate([encoded.types[row] for row in rows])
        inputs["token_type_ids"] = torch.from_numpy(types).to(lm.device)
    with lm.precision():
        hidden = lm.encoder(**inputs).last_hidden_state.float()
    if tagged:
        row = np.repeat(np.arange(len(rows)), encoded.units[list(rows)])
        place = np.concatenate([encoded.places[row] for row in rows])
        picked: Tensor = hidden[torch.from_numpy(row).to(lm.device), torch.from_numpy(place).to(lm.device)]
        return picked
    return hidden[:, 0] if pool == "cls" else _mean(hidden, real, lengths, lm.vocabulary)


def _by_length(
    lm: MaskedLM, encoded: Encoded, rows: Sequence[int], lengths: Ints, *, tagged: bool, pool: Pool
) -> Tensor:
    units = encoded.units[list(rows)] if tagged else np.ones(len(rows), dtype=np.int64)
    places = np.split(np.arange(units.sum()), np.cumsum(units)[:-1])
    found, order = [], []
    for length in np.unique(lengths):
        same = np.flatnonzero(lengths == length)
        found.append(
            vectors(lm, encoded, [rows[number] for number in same.tolist()], tagged=tagged, pool=pool)
        )
        order += [places[number] for number in same]
    return torch.cat(found)[torch.from_numpy(np.argsort(np.concatenate(order))).to(lm.device)]


def body_tokens(real: NDArray[np.bool_], lengths: Ints, vocabulary: Vocabulary) -> NDArray[np.bool_]:
    """Return ``bool [B, L]``, the tokens that are averaged of texts: all but the frame; of an empty text its special tokens.

    Args:
        real: ``bool [B, L]``, what is not padding, at the beginning of each row.
        lengths: ``[B]``, tokens of each text.
        vocabulary: of the tokenizer.
    """
    body = real.copy()
    body[:, : len(vocabulary.prefix)] = False
    body &= np.arange(real.shape[1]) < (lengths - len(vocabulary.suffix))[:, None]
    body[~body.any(axis=1)] = real[~body.any(axis=1)]
    return body


def _mean(hidden: Tensor, real: NDArray[np.bool_], lengths: Ints, vocabulary: Vocabulary) -> Tensor:
    body = body_tokens(real, lengths, vocabulary)
    weights = torch.from_numpy(body).to(hidden).unsqueeze(-1)
    mean: Tensor = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
    return mean


def features(
    lm: MaskedLM, encoded: Encoded, *, tagged: bool, pool: Pool, progress: Progress = Progress()
) -> NDArray[np.float32]:
    """Compute the vectors of all examples, batched by length.

    Returns:
        ``[U, H]`` in the order of the examples.
    """
    ends = np.concatenate(
        [[0], np.cumsum(encoded.units if tagged else np.ones(len(encoded.ids), dtype=np.int64))]
    )
    found: NDArray[np.float32] | None = None
    done = 0
    with lm.plain(), torch.inference_mode():
        for rows in length_batches(encoded):
            batch = vectors(lm, encoded, rows, tagged=tagged, pool=pool).cpu().numpy()
            if found is None:
                found = np.zeros((int(ends[-1]), batch.shape[1]), dtype=np.float32)
            found[np.concatenate([np.arange(ends[row], ends[row + 1]) for row in rows])] = batch
            done += len(rows)
            progress.advance(done / len(encoded.ids), {"examples": done})
    return np.zeros((0, 1), dtype=np.float32) if found is None else found


def length_batches(encoded: Encoded) -> Iterator[list[int]]:
    """Yield the numbers of all examples, the longest first, in batches of about equal size, padding included."""
    order = sorted(range(len(encoded.ids)), key=lambda row: -len(encoded.ids[row]))
    begin = 0
    while begin < len(order):
        count = max(1, _BATCH_TOKENS // max(len(encoded.ids[order[begin]]), 1))
        yield order[begin : begin + count]
        begin += count
