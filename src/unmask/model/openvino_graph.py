"""A model for OpenVINO, computed on the CPU."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unmask.errors import ConfigError, MissingExtra
from unmask.model.graph import HIDDEN, LOGITS, Feed, read_facts
from unmask.storage import JsonDict

FACTS = "unmask"
"""The entry of the model's runtime information in which its facts stand, as JSON."""


def import_openvino(purpose: str) -> Any:
    """Import OpenVINO without its telemetry, which would report the import and every conversion to Intel.

    Raises:
        MissingExtra: it is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError:
        raise MissingExtra("openvino", "openvino", purpose) from None
    return openvino


class OpenVinoGraph:
    """See :class:`~unmask.model.graph.Graph`.

    Where the file has both outputs, encoder and LM head are compiled apart, so that the head computes the masked tokens
    alone.

    Raises:
        ConfigError: openvino is not installed, or the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        openvino = import_openvino(f"reading {path}")
        if b"<net" not in path.read_bytes()[:4096]:  # OpenVINO would try the readers of other frameworks
            raise ConfigError(
                f"'{path}' is no model of OpenVINO: there is no <net> at its beginning; copy or export it again"
            )
        try:
            core = openvino.Core()
            model = core.read_model(path)
            self.inputs = {value.get_any_name() for value in model.inputs}
            self.outputs = {value.get_any_name() for value in model.outputs}
            self._is_split = {HIDDEN, LOGITS} <= self.outputs
            parts = self._split(openvino, model) if self._is_split else (model,)
            self._parts = [core.compile_model(part, "CPU", _settings()) for part in parts]
        except RuntimeError as error:
            raise ConfigError(
                f"'{path}' cannot be read as a model of OpenVINO ({_reason(error)}); copy or export it again"
            ) from error
        for value in model.inputs:
            if value.get_element_type() != openvino.Type.i64 or not all(
                side.is_dynamic for side in value.partial_shape
            ):
                raise ConfigError(
                    f"'{path}': expected inputs in int64, of any number of texts and tokens, not '{value.get_any_name()}' "
                    f"in {value.get_element_type().to_string()} {value.partial_shape}"
                )
        recorded = model.has_rt_info(FACTS)
        self.facts: JsonDict = read_facts(model.get_rt_info(FACTS).astype(str), path) if recorded else {}
        weights = (node for node in model.get_ops() if node.get_type_name() == "Constant")
        counted = sum(math.prod(node.shape) for node in weights if len(node.shape))
        self.parameters = int(self.facts.get("parameters", counted))

    def _split(self, openvino: Any, model: Any) -> tuple[Any, Any]:
        from openvino import opset13 as operations

        encoder = openvino.Model([model.output(HIDDEN).get_node()], model.get_parameters())
        rest = model.clone()
        states = rest.output(HIDDEN).get_node().input_value(0)
        given = operations.parameter(states.get_partial_shape(), states.get_element_type(), HIDDEN)
        for use in states.get_target_inputs():
            use.replace_source_output(given.output(0))
        return encoder, openvino.Model([rest.output(LOGITS).get_node()], [given])

    def hidden_states(self, feed: Feed) -> np.ndarray:
        hidden: np.ndarray = self._parts[0](feed)[0]
        return hidden

    def logits(self, feed: Feed, places: np.ndarray) -> np.ndarray:
        found = self.hidden_states(feed) if self._is_split else self._parts[0](feed)[LOGITS]
        rows: np.ndarray = found.reshape(1, -1, found.shape[-1])[:, places]
        return (self._parts[1]([rows])[0] if self._is_split else rows)[0]


def _settings() -> dict[str, Any]:
    """Return how to compute: in fp32, where a processor with bf16 would round to it."""
    return {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}


def _reason(error: Exception) -> str:
    """Return what an error of OpenVINO says, without the lines of C++ that it comes from."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return (told or [type(error).__name__])[0][:200]
