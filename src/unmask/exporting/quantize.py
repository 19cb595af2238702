"""Dynamic quantisation to 8 bits: of the encoder's matrices by ONNX Runtime, of tables and the LM head here.

ONNX Runtime leaves the matrix that embeddings and LM head share in fp32; here both read one table of bytes. It scales the
input of a matrix as a whole; in the head each row is scaled by itself, so that the prediction of a token does not depend on
which others are predicted with it. Weights are unsigned: products with signed ones overflow, silently, on processors whose widest instructions are AVX2.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unmask.model.graph import HIDDEN

if TYPE_CHECKING:
    import onnx

_ZERO = 128
_LEAST = 1 << 12
"""Numbers of a table that is worth it."""


def quantized(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model in int8, whose encoder ends in :data:`~unmask.model.graph.HIDDEN`."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    head = _after(model.graph, HIDDEN)
    with tempfile.TemporaryDirectory(prefix="unmask-int8-") as folder:
        path = Path(folder, "model.onnx")
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=sorted(head),
            per_channel=True,
            weight_type=QuantType.QUInt8,
            use_external_data_format=False,
        )
        made = onnx.load(path)
    _quantize_rest(made.graph, head)
    onnx.checker.check_model(made)
    return made


def _after(graph: onnx.GraphProto, name: str) -> set[str]:
    """Return the names of the nodes that need a value, at first or at second hand; nodes are in order."""
    values, nodes = {name}, set()
    for node in graph.node:
        if values & set(node.input):
            values |= set(node.output)
            nodes.add(node.name)
    return nodes


def _quantize_rest(graph: onnx.GraphProto, head: set[str]) -> None:
    """Replace by bytes what is looked up, or multiplied with after being transposed, and the matrices of the head."""
    from onnx import numpy_helper

    uses: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            uses[name].append(node)
    weights = {weight.name: weight for weight in graph.initializer}
    replaced: dict[
        str, list[onnx.NodeProto]
    ] = {}  # new nodes, by the output of the node in whose place they stand
    for name, weight in weights.items():
        if len(weight.dims) != 2 or np.prod(weight.dims) < _LEAST:
            continue
        direct = {node.op_type for node in uses[name]} == {"MatMul"} and {
            node.name for node in uses[name]
        } <= head
        products = [
            after for node in uses[name] if node.op_type == "Transpose" for after in uses[node.output[0]]
        ]
        kinds = {node.op_type if node.input[0] == name else "" for node in uses[name]}
        table = kinds <= {"Gather", "Transpose"} and all(node.op_type == "MatMul" for node in products)
        if not (direct or table):
            continue
        graph.initializer.remove(weight)
        graph.initializer.extend(_as_bytes(name, numpy_helper.to_array(weight), 0 if direct else 1))
        for node in uses[name]:
            node.input[list(node.input).index(name)] = f"{name}_bytes"
            if node.op_type == "Gather":
                replaced[node.output[0]] = _lookup(name, node)
        for node in uses[name] if direct else products:
            replaced[node.output[0]] = _product(name, node)
    nodes = [new for node in graph.node for new in replaced.get(node.output[0], [node])]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # the recorded types of what was replaced are wrong now


def _as_bytes(name: str, table: np.ndarray, axis: int) -> list[onnx.TensorProto]:
    """Return a matrix as ``uint8``, its scales along an axis, flat and as they divide it, and constants."""
    from onnx import numpy_helper

    scale = np.abs(table).max(axis=axis, keepdims=True).astype(np.float32) / (_ZERO - 1)
    scale[scale == 0] = 1
    rows = np.rint(table / scale) + _ZERO
    parts = {
        "bytes": rows.astype(np.uint8),
        "scale": scale.ravel(),
        "scales": scale,
        "zero": np.uint8(_ZERO),
        "offset": np.float32(_ZERO),
        "most": np.float32(_ZERO - 1),
        "least": np.float32(1e-30),
        "axis": np.array([-1]),
    }
    return [numpy_helper.from_array(np.asarray(part), f"{name}_{key}") for key, part in parts.items()]


def _lookup(name: str, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return what looks up rows of bytes and scales them."""
    from onnx import TensorProto, helper

    rows, out = node.input[1], node.output[0]
    return [
        helper.make_node("Gather", [f"{name}_bytes", rows], [f"{out}_bytes"]),
        helper.make_node("Cast", [f"{out}_bytes"], [f"{out}_cast"], to=TensorProto.FLOAT),
        helper.make_node("Sub", [f"{out}_cast", f"{name}_offset"], [f"{out}_centred"]),
        helper.make_node("Gather", [f"{name}_scales", rows], [f"{out}_scales"]),
        helper.make_node("Mul", [f"{out}_centred", f"{out}_scales"], [out]),
    ]


def _product(name: str, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return what multiplies rows, each scaled by itself, with bytes."""
    from onnx import TensorProto, helper

    hidden, out = node.input[0], node.output[0]
    steps = [
        ("Abs", [hidden], "size"),
        ("ReduceMax", [f"{out}_size", f"{name}_axis"], "largest"),
        ("Max", [f"{out}_largest", f"{name}_least"], "divided"),
        ("Div", [f"{out}_divided", f"{name}_most"], "step"),
        ("Div", [hidden, f"{out}_step"], "steps"),
        ("Round", [f"{out}_steps"], "rounded"),
        ("Add", [f"{out}_rounded", f"{name}_offset"], "shifted"),
    ]
    zero = f"{name}_zero"
    return [
        *(helper.make_node(kind, given, [f"{out}_{made}"]) for kind, given, made in steps),
        helper.make_node("Cast", [f"{out}_shifted"], [f"{out}_bytes"], to=TensorProto.UINT8),
        helper.make_node("MatMulInteger", [f"{out}_bytes", node.input[1], zero, zero], [f"{out}_sum"]),
        helper.make_node("Cast", [f"{out}_sum"], [f"{out}_cast"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{out}_cast", f"{out}_step"], [f"{out}_scaled"]),
        helper.make_node("Mul", [f"{out}_scaled", f"{name}_scale"], [out]),
    ]
