"""The quick form of ``unmask conformance``, once per model: what the trial at load, with its few tokens, does not see.

Documents of many lengths, with different shares of masks and longer than a sliding window, must have in one batch the
logits that transformers gives each alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import transformers

from unmask.data.batches import Batch
from unmask.data.packing import frame_positions
from unmask.errors import DataError
from unmask.model.base import BATCHINGS, LanguageModel
from unmask.model.float64 import exact_device
from unmask.model.masked_lm import MaskedLM
from unmask.model.trial import gives
from unmask.progress import Progress
from unmask.storage import read_json, write_json

_USUAL, _LONGEST = 64, 512
_MASKED = (0.0, 0.15, 0.4)  # shares of masks, document by document
_WORDS = {"packed": "packed", "padded": "padded", "equal": "of texts of one length"}


def verify(model: LanguageModel, progress: Progress = Progress()) -> None:
    """Make sure that a text has the same output whatever shares its batch; compute batches in a safer way if not.

    An exported model computes as its export found.

    The verdict is kept in ``$UNMASK_CACHE`` (``~/.cache/unmask``) under a hash of the weights, the configuration and the
    versions, so each model is computed once.

    Raises:
        ConfigError: no way gives a text the output that it has alone.
    """
    if not isinstance(model, MaskedLM) or model.verified:
        return
    path = _verdict(model)
    with contextlib.suppress(DataError, OSError):  # a damaged one is written anew
        if (known := read_json(path)) in BATCHINGS:
            if known != model.batching:
                model.find_batching([known])
            model.verified = True
            return
    while not _holds(model):
        before = model.batching
        model.find_batching(BATCHINGS[BATCHINGS.index(before) + 1 :])
        progress.warning(
            f"{type(model.model).__name__}: texts in a batch change each other's output when batches are {_WORDS[before]}; "
            f"they are {_WORDS[model.batching]} instead, which is slower"
        )
    model.verified = True
    with contextlib.suppress(OSError):  # without a cache it is computed again next time
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, model.batching)


def _holds(model: MaskedLM) -> bool:
    batch = trial_documents(model)
    with model.evaluating(), model.in_fp32(), torch.no_grad():
        with model.plain():
            wanted = [
                model.alone(batch.input_ids[begin:end])[_targets(end - begin)]
                for begin, end in pairwise(batch.cu_seqlens.tolist())
            ]
        return gives(model.target_logits, batch, torch.cat(wanted))


def trial_documents(model: MaskedLM) -> Batch:
    """Return random tokens, longest document first, with every fourth place a target."""
    draw = np.random.default_rng(0)
    window = int(getattr(model.model.config, "sliding_window", None) or 0)
    longest = min(model.max_length, _LONGEST, max(_USUAL, 2 * window))
    lengths = np.geomspace(longest, min(2, longest), 9).astype(np.int64).repeat(2)
    cuts = np.concatenate([[0], np.cumsum(lengths)])
    ids = draw.choice(model.vocabulary.replacements, cuts[-1]).astype(np.int64)
    shares = np.resize(_MASKED, len(lengths))
    # The first token stays: ESM has no output for a document of masks alone.
    masked = (draw.random(len(ids)) < np.repeat(shares, lengths)) & (frame_positions(cuts) > 0)
    ids[masked] = model.vocabulary.mask_id
    index = np.concatenate([begin + _targets(end - begin) for begin, end in pairwise(cuts.tolist())])
    numbers = np.arange(len(lengths))
    return Batch(ids, frame_positions(cuts), cuts.astype(np.int32), index, ids[index], numbers)


def _targets(length: int) -> np.ndarray:
    return np.arange(0, length, 4)


def _verdict(model: MaskedLM) -> Path:
    """Return the file of a model's verdict, named by the hash of what its output depends on."""
    config = {name: value for name, value in model.model.config.to_dict().items() if name != "_name_or_path"}
    versions = torch.__version__, transformers.__version__
    head = [
        *versions,
        type(model.model).__name__,
        model.device.type,
        model.batching,
        model.max_length,
        config,
    ]
    digest = hashlib.sha256(json.dumps(head, sort_keys=True, default=str).encode())
    for name, weight in model.model.state_dict().items():
        digest.update(
            f"{name} {tuple(weight.shape)} {torch.hash_tensor(weight.to(exact_device(weight.device))).cpu().numpy()}".encode()
        )
    cache = os.environ.get("UNMASK_CACHE") or os.path.expanduser("~/.cache/unmask")
    return Path(cache) / "verified" / f"{digest.hexdigest()}.json"
