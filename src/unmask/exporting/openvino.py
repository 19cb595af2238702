"""Write a model for OpenVINO, as ``openvino_model.xml`` and ``.bin``, where optimum-intel looks.

Shapes: V rows of a table, H numbers in each.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unmask.exporting.onnx import exported_graph, save_graph
from unmask.model.graph import facts_of
from unmask.model.openvino_graph import FACTS, import_openvino

if TYPE_CHECKING:
    from unmask.model.masked_lm import MaskedLM

_LEAST = 1 << 14
"""Numbers of a table that is worth it."""


def write_openvino(model: MaskedLM, folder: Path) -> None:
    """Write a model in fp32.

    Raises:
        ConfigError: a package is not installed, or the exporter of PyTorch cannot take the architecture.
    """
    _write(model, folder, "fp32")


def write_openvino_int8(model: MaskedLM, folder: Path) -> None:
    """Write a model with its tables and matrices in 8 bits.

    Raises:
        ConfigError: as :func:`write_openvino`.
    """
    _write(model, folder, "int8")


def _write(model: MaskedLM, folder: Path, precision: str) -> None:
    openvino = import_openvino("exporting to OpenVINO")
    with tempfile.TemporaryDirectory(prefix="unmask-openvino-") as place:
        path = Path(place, "model.onnx")
        save_graph(exported_graph(model), path, {})
        made = openvino.convert_model(path)
        if precision == "int8":
            _compress(made)
        made.set_rt_info(json.dumps(facts_of(model, precision)), FACTS)
        openvino.save_model(made, folder / "openvino_model.xml", compress_to_fp16=False)


def _compress(model: Any) -> None:
    """Replace each table that is looked up or multiplied with by ``uint8 [V, H]``, and ``[V, 1]`` zeros and scales of rows.

    The package nncf writes the same for ``INT8_ASYM``.
    """
    from openvino import Type
    from openvino import opset13 as operations

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != Type.f32:
            continue
        if len(node.shape) != 2 or np.prod(node.shape) < _LEAST:
            continue
        uses = list(node.output(0).get_target_inputs())
        if not all(_takes_rows(use) for use in uses):
            continue
        table = node.data
        low, high = table.min(axis=1, keepdims=True).clip(max=0), table.max(axis=1, keepdims=True).clip(min=0)
        scale = (high - low) / 255
        scale[scale == 0] = 1
        zero = np.rint(-low / scale)
        rows, zeros = (
            operations.convert(operations.constant(whole.clip(0, 255).astype(np.uint8)), "f32")
            for whole in (np.rint(table / scale) + zero, zero)
        )
        scaled = operations.multiply(operations.subtract(rows, zeros), operations.constant(scale))
        for use in uses:
            use.replace_source_output(scaled.output(0))


def _takes_rows(use: Any) -> bool:
    """Return whether an input looks up rows of a table, or multiplies with each of them."""
    node = use.get_node()
    if node.get_type_name() == "Gather":
        return bool(use.get_index() == 0)
    return bool(
        node.get_type_name() == "MatMul" and use.get_index() == 1 and node.get_attributes()["transpose_b"]
    )
