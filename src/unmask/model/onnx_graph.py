"""A model in ONNX, computed by ONNX Runtime on the CPU."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from unmask.errors import ConfigError, MissingExtra
from unmask.model.graph import HIDDEN, LOGITS, PLACES, ROWS, Feed
from unmask.storage import JsonDict

if TYPE_CHECKING:
    import onnx
    from onnxruntime import InferenceSession

FACTS = "unmask"
"""The entry of the file's metadata in which its facts stand, as JSON."""


class OnnxGraph:
    """See :class:`~unmask.model.graph.Graph`.

    Where the file has both outputs, encoder and LM head become two sessions, so that the head computes the masked
    tokens alone. Weights outside the file (more than 2 GB) are computed in one.

    Raises:
        ConfigError: onnxruntime is not installed, or the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            import onnx
            import onnxruntime  # noqa: F401
        except ImportError:
            raise MissingExtra("onnxruntime", "export", f"reading {path}") from None
        try:
            model = onnx.load(path, load_external_data=False)
            inputs = {value.name for value in model.graph.input}
            self.inputs = inputs - {PLACES}
            self._rows = ROWS if PLACES in inputs else HIDDEN
            outputs = {value.name for value in model.graph.output}
            inside = not any(weight.data_location for weight in model.graph.initializer)
            self.split = inside and {HIDDEN, LOGITS} <= outputs
            self._sessions = self._split(model) if self.split else (_session(str(path)),)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise ConfigError(f"'{path}' cannot be read as an ONNX model: {reason}") from error
        if LOGITS not in outputs:
            raise ConfigError(
                f"'{path}' is no masked language model: it has the outputs {', '.join(sorted(outputs))}, not '{LOGITS}'"
            )
        recorded = {entry.key: entry.value for entry in model.metadata_props}
        self.facts: JsonDict = json.loads(recorded.get(FACTS, "{}"))
        counted = sum(math.prod(weight.dims) for weight in model.graph.initializer if weight.dims)
        self.parameters = int(self.facts.get("parameters", counted))

    def _split(self, model: onnx.ModelProto) -> tuple[InferenceSession, ...]:
        from onnx.utils import Extractor

        parts = Extractor(model)
        encoder = parts.extract_model(sorted(self.inputs), [HIDDEN])
        head = parts.extract_model([self._rows], [LOGITS])
        return _session(encoder.SerializeToString()), _session(head.SerializeToString())

    def encode(self, feed: Feed) -> np.ndarray:
        hidden: np.ndarray = self._sessions[0].run([HIDDEN], feed)[0]
        return hidden

    def head(self, rows: np.ndarray) -> np.ndarray:
        logits: np.ndarray = self._sessions[1].run([LOGITS], {self._rows: rows})[0]
        return logits

    def logits(self, feed: Feed) -> np.ndarray:
        if self.split:
            return self.head(self.encode(feed))
        logits: np.ndarray = self._sessions[0].run([LOGITS], feed)[0]
        return logits


def _session(model: str | bytes) -> InferenceSession:
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return InferenceSession(model, options, providers=["CPUExecutionProvider"])
