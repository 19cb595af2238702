"""A ``data_collator`` for a Hugging Face ``Trainer`` with the masking of this package.

::

    collator = MLMCollator(tokenizer, MaskingSettings(strategy="word"), seed=1)
    trainer = Trainer(model, args, train_dataset=data, data_collator=collator)

The masks depend on the seed, the epoch, and the input_ids and id of a text, so they are the same for any batch size,
order, padding and number of workers, and after a resume. Without ids, texts of the same tokens have the same masks.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from unmask.config.settings import MaskingSettings
from unmask.data.masking.mask import mask
from unmask.data.masking.random_bits import EVALUATION_KEY, MaskKey
from unmask.data.masking.units import plan_of
from unmask.data.packing import Packed
from unmask.data.tokenizer import vocabulary_of, with_segmenter
from unmask.data.words import Segmenter
from unmask.errors import DataError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, TrainerCallback

IGNORED = -100
"""The label of a token that is not predicted, as in torch and transformers."""
_COLUMNS = ("input_ids", "attention_mask", "token_type_ids", "special_tokens_mask")
ID = "id"
"""The column of features that names a text."""


class MLMCollator:
    """Pads and masks texts.

    Every epoch of a ``Trainer`` has new masks: creating a collator registers a default callback that sets its epoch. In
    a loop of your own, call :meth:`set_epoch` before each epoch; it is 0 at first. The epoch is in shared memory, so
    persistent workers see it too.

    Args:
        tokenizer: a fast tokenizer with a mask token.
        masking: masking settings; the rate is constant, ``initial_rate`` is ignored.
        seed: seed of all masks.
        segmenter: splits Chinese text into words; without it, each Chinese character is a word.
        pad_to_multiple_of: the padded length is a multiple of this.

    Raises:
        ConfigError: the tokenizer has no mask token or no entries for text, or the strategy does not fit it or lacks its file.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        masking: MaskingSettings = MaskingSettings(),
        seed: int = 0,
        *,
        segmenter: Segmenter | None = None,
        pad_to_multiple_of: int | None = None,
    ) -> None:
        import torch

        vocabulary = vocabulary_of(tokenizer)
        self._plan = plan_of(with_segmenter(vocabulary, segmenter) if segmenter else vocabulary, masking)
        self._multiple = pad_to_multiple_of or 1
        self._seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        _register_callback()

    def set_epoch(self, epoch: int) -> None:
        """Use the masks of this epoch, from 0."""
        self._epoch.fill_(epoch)

    def evaluation(self) -> MLMCollator:
        """Return a collator with the fixed masks of evaluation, which replace every target by the mask token."""
        import torch

        other = copy.copy(self)
        other._plan = self._plan.hidden
        other._seed, other._epoch = EVALUATION_KEY.seed, torch.tensor(EVALUATION_KEY.epoch)
        return other

    def callback(self) -> TrainerCallback:
        """Return a callback that sets the epoch of this collator, for a ``Trainer`` whose loader does not hold it."""
        return _epoch_callback()(self)

    def __call__(self, features: Sequence[Mapping[str, Any] | Sequence[int]]) -> dict[str, torch.Tensor]:
        """Mask ``N`` texts.

        Args:
            features: each with ``input_ids``, with or without special tokens, and optionally ``attention_mask``,
                ``token_type_ids`` and ``special_tokens_mask``, whose tokens are not masked; or only token ids. An
                ``id``, an integer or a string, gives a text masks of its own even if another one has the same tokens; a
                ``Trainer`` hands it over only with ``remove_unused_columns=False``.

        Returns:
            ``int64 [N, L]`` tensors: ``input_ids``, ``attention_mask``, ``labels`` (-100 where nothing is
            predicted), and ``token_type_ids`` if all features have them.

        Raises:
            DataError: there are no features, or one lacks ``input_ids``, has an unknown column, an ``id`` that is
                no integer or string, or columns of different lengths.
        """
        import torch

        rows = [_row(feature, number) for number, feature in enumerate(features)]
        if not rows:
            raise DataError("MLMCollator got an empty list of features")
        input_ids, attended, special = (
            np.concatenate([row[name] for row in rows])
            for name in ("input_ids", "attention_mask", "special_tokens_mask")
        )
        self._check_ids(input_ids)
        # Padding is left out, so that it has no influence on the masks on either side of the text.
        text = np.flatnonzero(attended)
        packed = _pack(rows, [_id(feature, number) for number, feature in enumerate(features)])
        key, rate = MaskKey(self._seed, int(self._epoch)), self._plan.settings.rate
        protected = special[text].astype(bool)
        masked = mask(packed, self._plan.vocabulary, self._plan, key, rate, protected=protected)
        labels = np.full(len(input_ids), IGNORED, dtype=np.int64)
        labels[text[masked.target_index]] = masked.target_ids
        input_ids[text] = masked.input_ids
        lengths = np.array([len(row["input_ids"]) for row in rows])
        columns = {
            "input_ids": (input_ids, self._plan.vocabulary.pad_id),
            "attention_mask": (attended, 0),
            "labels": (labels, IGNORED),
        }
        if all("token_type_ids" in row for row in rows):
            columns["token_type_ids"] = np.concatenate([row["token_type_ids"] for row in rows]), 0
        padded = {name: self._padded(flat, lengths, fill) for name, (flat, fill) in columns.items()}
        return {name: torch.from_numpy(array) for name, array in padded.items()}

    def _check_ids(self, input_ids: np.ndarray) -> None:
        size = self._plan.vocabulary.size
        if len(input_ids) and not 0 <= input_ids.min() <= input_ids.max() < size:
            raise DataError(
                f"token ids go from {input_ids.min()} to {input_ids.max()}, and the tokenizer has {size:,}: were "
                f"these texts tokenised with another one?"
            )

    def _padded(self, flat: np.ndarray, lengths: np.ndarray, fill: int) -> np.ndarray:
        width = -(-int(lengths.max()) // self._multiple) * self._multiple
        out = np.full((len(lengths), width), fill, dtype=np.int64)
        out[np.arange(width) < lengths[:, None]] = flat
        return out


@cache
def _epoch_callback() -> Callable[..., TrainerCallback]:
    """Return the callback class; importing transformers' trainer takes a second, so it is defined on first use."""
    from transformers import TrainerCallback

    class MaskEpochCallback(TrainerCallback):
        """Sets the epoch of a given :class:`MLMCollator`, or of the trainer's."""

        def __init__(self, collator: MLMCollator | None = None) -> None:
            self.collator = collator

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            found: Any = self.collator or getattr(kwargs.get("train_dataloader"), "collate_fn", None)
            while not isinstance(found, MLMCollator) and hasattr(found, "data_collator"):
                found = found.data_collator  # a trainer wraps it to drop columns
            if isinstance(found, MLMCollator):
                found.set_epoch(int(state.epoch or 0))

    return MaskEpochCallback


def _register_callback() -> None:
    """Add the callback to every ``Trainer`` created from now on."""
    from transformers import trainer

    defaults: list[Any] = trainer.DEFAULT_CALLBACKS
    if _epoch_callback() not in defaults:
        defaults.append(_epoch_callback())


def _row(feature: Mapping[str, Any] | Sequence[int], number: int) -> dict[str, np.ndarray]:
    """Return the columns of a feature as ``int64 [n]``, with defaults for the masks."""
    content = feature if isinstance(feature, Mapping) else {"input_ids": feature}
    if "input_ids" not in content:
        raise DataError(
            f"feature {number} has no input_ids, it has {', '.join(map(str, content)) or 'nothing'}"
        )
    unknown = [name for name in content if name not in (*_COLUMNS, ID)]
    if unknown:
        raise DataError(
            f"feature {number} has '{unknown[0]}'; MLMCollator takes {', '.join(_COLUMNS)} and {ID}: drop the others "
            f"from the data set"
        )
    try:
        row = {name: np.asarray(content[name], dtype=np.int64) for name in _COLUMNS if name in content}
    except (TypeError, ValueError) as error:
        raise DataError(f"feature {number} must hold integers only ({error})") from None
    row.setdefault("attention_mask", np.ones_like(row["input_ids"]))
    row.setdefault("special_tokens_mask", np.zeros_like(row["input_ids"]))
    if any(column.shape != (len(row["input_ids"]),) for column in row.values()):
        shapes = ", ".join(f"{name} {column.shape}" for name, column in row.items())
        raise DataError(f"the columns of feature {number} must be flat and of one length, not {shapes}")
    return row


def _pack(rows: list[dict[str, np.ndarray]], ids: list[int | str | None]) -> Packed:
    """Concatenate texts without padding; each is a document whose key is a hash of its token ids and its ``id``."""
    texts = [row["input_ids"][row["attention_mask"] != 0] for row in rows]
    keys = [_key(text, id) for text, id in zip(texts, ids, strict=True)]
    return Packed(
        input_ids=np.concatenate(texts),
        cu_seqlens=np.cumsum([0] + [len(text) for text in texts]),
        keys=np.array(keys, dtype=np.uint64),
        offsets=np.zeros(len(texts), dtype=np.int64),
    )


def _key(input_ids: np.ndarray, id: int | str | None) -> int:
    found = hashlib.blake2b(input_ids.tobytes(), digest_size=8)
    if id is not None:
        found.update(f"id {id}".encode(errors="surrogatepass"))
    return int.from_bytes(found.digest(), "little")


def _id(feature: Mapping[str, Any] | Sequence[int], number: int) -> int | str | None:
    """Return the ``id`` of a feature, also where a data set holds it as a tensor or a number of NumPy."""
    if not isinstance(feature, Mapping) or ID not in feature:
        return None
    found = feature[ID]
    if getattr(found, "shape", None) == ():
        found = found.item()
    if isinstance(found, int | str):
        return found
    raise DataError(f"the id of feature {number} must be an integer or a string, not {found!r}")
