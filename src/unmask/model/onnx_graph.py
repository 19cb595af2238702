"""A model in ONNX, computed by ONNX Runtime on the CPU."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from unmask.errors import ConfigError, MissingExtra, UnmaskError
from unmask.model.graph import HIDDEN, INPUTS, LOGITS, PLACES, ROWS, Feed, read_facts
from unmask.storage import LFS_POINTER, JsonDict, is_lfs_pointer

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
        ConfigError: onnxruntime is not installed, or the file cannot be read, or does not take texts of any length.
    """

    def __init__(self, path: Path) -> None:
        try:
            import onnx
            import onnxruntime  # noqa: F401
        except ImportError:
            raise MissingExtra("onnxruntime", "export", f"reading {path}") from None
        self._path = path
        if is_lfs_pointer(path):
            raise ConfigError(f"{path}: {LFS_POINTER}")
        try:
            model = onnx.load(path, load_external_data=False)
            weights = {weight.name for weight in model.graph.initializer}
            given = [value for value in model.graph.input if value.name not in weights]
            inputs = {value.name for value in given}
            self.inputs = inputs - {PLACES}
            self._rows = ROWS if PLACES in inputs else HIDDEN
            self.outputs = {value.name for value in model.graph.output}
            inside = not any(weight.data_location for weight in model.graph.initializer)
            self.split = inside and {HIDDEN, LOGITS} <= self.outputs
            self._sessions = self._split(model) if self.split else (_session(str(path)),)
        except Exception as error:
            raise ConfigError(
                f"'{path}' cannot be read as an ONNX model ({_reason(error)}); copy or export it again"
            ) from error
        for value in given:
            tensor = value.type.tensor_type
            if tensor.elem_type != onnx.TensorProto.INT64 or any(side.dim_value for side in tensor.shape.dim):
                raise ConfigError(
                    f"'{path}': expected inputs in int64, of any number of texts and tokens, not {_shown(value)}"
                )
        recorded = {entry.key: entry.value for entry in model.metadata_props}
        self.facts: JsonDict = (
            read_facts(recorded[FACTS], path) if FACTS in recorded else _guessed(model, self.inputs)
        )
        counted = sum(math.prod(weight.dims) for weight in model.graph.initializer if weight.dims)
        self.parameters = int(self.facts.get("parameters", counted))

    def _split(self, model: onnx.ModelProto) -> tuple[InferenceSession, ...]:
        from onnx.utils import Extractor

        parts = Extractor(model)
        encoder = parts.extract_model(sorted(self.inputs), [HIDDEN])
        head = parts.extract_model([self._rows], [LOGITS])
        return _session(encoder.SerializeToString()), _session(head.SerializeToString())

    def encode(self, feed: Feed) -> np.ndarray:
        return self._run(0, HIDDEN, feed)

    def head(self, rows: np.ndarray) -> np.ndarray:
        return self._run(1, LOGITS, {self._rows: rows})

    def logits(self, feed: Feed) -> np.ndarray:
        if self.split:
            return self.head(self.encode(feed))
        return self._run(0, LOGITS, feed)

    def _run(self, session: int, output: str, feed: Feed) -> np.ndarray:
        try:
            found: np.ndarray = self._sessions[session].run([output], feed)[0]
        except Exception as error:
            shape = " x ".join(map(str, next(iter(feed.values())).shape[:2]))
            raise UnmaskError(
                f"'{self._path}' cannot compute a batch of {shape} tokens ({_reason(error)}); export the model again"
            ) from error
        return found


def _reason(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", first)[:200].rstrip(". ")


def _shown(value: onnx.ValueInfoProto) -> str:
    """Return name, type and shape of an input."""
    import onnx

    tensor = value.type.tensor_type
    sides = ", ".join(str(side.dim_value or side.dim_param or "any") for side in tensor.shape.dim)
    return f"'{value.name}' in {onnx.TensorProto.DataType.Name(tensor.elem_type).lower()} [{sides}]"


def _guessed(model: onnx.ModelProto, inputs: set[str]) -> JsonDict:
    """Return the facts by which batches are computed, of a model that another tool exported."""
    if any(node.op_type == "DynamicQuantizeLinear" for node in model.graph.node):
        return {"precision": "int8", "batching": "alone"}
    return {"batching": "padded" if INPUTS[1] in inputs else "equal"}


def _session(model: str | bytes) -> InferenceSession:
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised
    # Threads of one session that wait for more would keep the other, and torch, from the cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return InferenceSession(model, options, providers=["CPUExecutionProvider"])
