"""A model in ONNX, computed by ONNX Runtime on the CPU."""

from __future__ import annotations

import math
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from unmask.errors import ConfigError, MissingExtra, UnmaskError
from unmask.model.graph import HIDDEN, INPUTS, LOGITS, PLACES, Feed, read_facts
from unmask.model.onnx_targets import choose_places, keep_output
from unmask.storage import LFS_POINTER, JsonDict, is_lfs_pointer

if TYPE_CHECKING:
    import onnx
    from onnxruntime import InferenceSession

FACTS = "unmask"
"""The entry of the file's metadata in which its facts stand, as JSON."""


class OnnxGraph:
    """See :class:`~unmask.model.graph.Graph`.

    There is a session for logits, which computes the LM head and most of the last layer at the chosen tokens alone, and
    another one for hidden states, made when they are first wanted.

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
            self.outputs = {value.name for value in model.graph.output}
            guessed = _guessed(model, self.inputs)
            counted = sum(math.prod(weight.dims) for weight in model.graph.initializer if weight.dims)
            if LOGITS in self.outputs:
                keep_output(model.graph, LOGITS) if PLACES in inputs else choose_places(model.graph)
            self._logits = _session(model, path)
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
        self.facts: JsonDict = _recorded(model, path) or guessed
        self.parameters = int(self.facts.get("parameters", counted))

    @cached_property
    def _encoder(self) -> InferenceSession:
        import onnx

        model = onnx.load(self._path, load_external_data=False)
        keep_output(model.graph, HIDDEN)
        return _session(model, self._path)

    def hidden_states(self, feed: Feed) -> np.ndarray:
        return self._run(self._encoder, feed)

    def logits(self, feed: Feed, places: np.ndarray) -> np.ndarray:
        found: np.ndarray = self._run(self._logits, feed | {PLACES: places})[0]
        return found

    def _run(self, session: InferenceSession, feed: Feed) -> np.ndarray:
        try:
            found: np.ndarray = session.run(None, feed)[0]
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


def _recorded(model: onnx.ModelProto, path: Path) -> JsonDict | None:
    """Return what an export of unmask recorded."""
    recorded = {entry.key: entry.value for entry in model.metadata_props}
    return read_facts(recorded[FACTS], path) if FACTS in recorded else None


def _guessed(model: onnx.ModelProto, inputs: set[str]) -> JsonDict:
    """Return the facts by which batches are computed, of a model that another tool exported."""
    if any(node.op_type == "DynamicQuantizeLinear" for node in model.graph.node):
        return {"precision": "int8", "batching": "alone"}
    return {"batching": "padded" if INPUTS[1] in inputs else "equal"}


def _session(model: onnx.ModelProto, path: Path) -> InferenceSession:
    """Return a session for a changed graph of a file."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised
    # Threads of one session that wait for more would keep another, and torch, from the cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(path.parent.resolve())
    )
    return InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
