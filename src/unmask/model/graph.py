"""The graph of an exported model: its inputs and outputs, what it records, and what a runtime does with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol, get_args

import numpy as np

from unmask.data.tokenizer import tokenizer_hash
from unmask.errors import ConfigError
from unmask.model.base import Batching, LanguageModel
from unmask.storage import JsonDict

HIDDEN, LOGITS = "last_hidden_state", "logits"
"""Names of the outputs."""
INPUTS = "input_ids", "attention_mask", "token_type_ids"
"""Names of the inputs; the last one only where the model has it."""
PLACES, ROWS = "places", "masked_hidden_state"
"""The input with the places whose tokens are predicted; and in a graph for the web, their hidden states."""

Feed = dict[str, np.ndarray]


class Graph(Protocol):
    """A model in a runtime.

    Attributes:
        facts: what the export recorded (:func:`facts_of`); empty where another tool wrote the file.
        parameters: number of its weights.
        inputs, outputs: names of its inputs and outputs.
    """

    facts: JsonDict
    parameters: int
    inputs: set[str]
    outputs: set[str]

    def hidden_states(self, feed: Feed) -> np.ndarray:
        """Return ``float32 [N, W, H]`` hidden states, of a graph with the output :data:`HIDDEN`."""

    def logits(self, feed: Feed, places: np.ndarray) -> np.ndarray:
        """Return ``float32 [M, V]`` logits at ``int64 [M]`` of the ``N * W`` places."""


def facts_of(model: LanguageModel, precision: str) -> JsonDict:
    """Return what an export records of a model, ready for JSON.

    In int8 the numbers of a layer are scaled by the largest of them all, so each text is computed by itself: otherwise
    the texts beside it would change its output.
    """
    return {
        "precision": precision,
        "architecture": model.architecture,
        "parameters": model.parameters,
        "shortest": model.shortest,
        "max_length": model.max_length,
        "batching": "alone" if precision == "int8" else "equal" if model.batching == "equal" else "padded",
        "tokenizer": tokenizer_hash(model.tokenizer),
    }


def read_facts(recorded: str, path: Path) -> JsonDict:
    """Return the facts that were recorded in an exported model.

    Raises:
        ConfigError: they are not those of :func:`facts_of`.
    """
    kinds = {"precision": str, "parameters": int, "shortest": int, "max_length": int, "tokenizer": str}
    try:
        facts: JsonDict = json.loads(recorded)
        if facts["batching"] in get_args(Batching) and all(
            isinstance(facts[key], kinds[key]) for key in kinds
        ):
            return facts
    except (ValueError, TypeError, KeyError):
        pass
    raise ConfigError(
        f"'{path}': what unmask recorded in it is damaged, or of another version; export the model again"
    )
