"""Let an ONNX graph compute chosen tokens alone, from its last attention on.

The rows of the logits that are wanted are chosen at the output, and the choice is then moved up, past every operation that
treats each token by itself: the LM head, and what the last layer does after its attention.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from unmask.model.graph import HIDDEN, LOGITS, PLACES

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

# Of one tensor, number by number.
_UNARY = {"Cast", "Erf", "Gelu", "Identity", "Neg", "Relu", "Sigmoid", "Sqrt", "Tanh"}
_BINARY = {"Add", "Div", "Mul", "Sub"}


def choose_places(graph: GraphProto) -> None:
    """Give a graph the input ``places``, ``int64 [M]`` numbers of tokens in all texts end to end, and as its only output
    the logits ``[1, M, V]`` of these.

    In fewer bits a layer is scaled by the numbers that it gets, so the choice is not moved past such products.
    """
    from onnx import TensorProto, helper

    choice = _Choice(graph)
    if HIDDEN in {value.name for value in graph.output}:
        choice.move(HIDDEN)
        keep_output(graph, LOGITS)
    else:
        keep_output(graph, choice.move(LOGITS))
    graph.input.append(helper.make_tensor_value_info(PLACES, TensorProto.INT64, ["places"]))


def keep_output(graph: GraphProto, name: str) -> None:
    """Leave one output, and what it is computed from."""
    from onnx import TensorProto, helper

    needed, nodes = {name}, []
    for node in reversed(graph.node):  # which are in the order of computation
        if needed.intersection(node.output):
            needed.update(_reads(node))
            nodes.append(node)
    _replace(graph.node, reversed(nodes))
    for at in reversed(range(len(graph.initializer))):  # in place: they are large
        if graph.initializer[at].name not in needed:
            del graph.initializer[at]
    _replace(graph.output, [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])


class _Choice:
    """Moves the choice of rows up a graph."""

    def __init__(self, graph: GraphProto) -> None:
        self._graph = graph
        self._weights = {weight.name: tuple(weight.dims) for weight in graph.initializer}
        for node in graph.node:
            if node.op_type == "Transpose" and len(self._weights.get(node.input[0], ())) == 2:
                self._weights[node.output[0]] = self._weights[node.input[0]][::-1]
        self._shapes = {
            value.name: tuple(side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim)
            for value in (*graph.value_info, *graph.output)
        }

    def move(self, name: str) -> str:
        """Choose rows of a value ``[N, W, ...]``, as far up as nothing else reads all of them; return the chosen ones' name."""
        nodes = list(self._graph.node)
        readers = Counter(read for node in nodes for read in set(_reads(node)))
        moved: list[NodeProto] = []
        wanted, computed = {name}, set[str]()
        for node in reversed(nodes):
            (output, *more), rows = node.output, self._read_by_row(node)
            of_moved = sum(output in other.input for other in moved)
            if output in wanted and rows and not more and (output == name or of_moved == readers[output]):
                moved.append(node)
                wanted.update(rows)
                computed.add(output)
        for read in sorted(wanted - computed):
            chosen = f"{read}_at_places"
            for node in moved or nodes:
                node.input[:] = [chosen if value == read else value for value in node.input]
            self._gather(read, chosen, nodes)
            name = chosen if read == name else name
        _replace(self._graph.node, nodes)
        self._drop_shapes({f"{read}_at_places" for read in wanted - computed})
        return name

    def _drop_shapes(self, changed: set[str]) -> None:
        """Forget the recorded shapes of values and of all that is computed from them; the others help to join operations."""
        for node in self._graph.node:
            if changed.intersection(_reads(node)):
                changed.update(node.output)
        _replace(
            self._graph.value_info,
            [value for value in self._graph.value_info if value.name not in changed],
        )

    def _gather(self, name: str, chosen: str, nodes: list[NodeProto]) -> None:
        """Choose rows of a value behind the node that it comes from."""
        from onnx import TensorProto, helper

        shape, flat = f"{name}_flat_shape", f"{name}_flat"
        self._graph.initializer.append(helper.make_tensor(shape, TensorProto.INT64, [3], [1, -1, 0]))
        begin = next((at for at, node in enumerate(nodes, 1) if name in node.output), 0)
        reshape = helper.make_node("Reshape", [name, shape], [flat])
        nodes[begin:begin] = [reshape, helper.make_node("Gather", [flat, PLACES], [chosen], axis=1)]

    def _read_by_row(self, node: NodeProto) -> list[str]:
        """Return which inputs of a node have a row for each token, if its output at a token needs no other token's."""
        first, *others = node.input or ("",)
        kind = node.op_type if node.domain in ("", "ai.onnx") else ""
        if kind in _UNARY:
            rows = [first]
        elif kind == "LayerNormalization" and _attribute(node, "axis", -1) in (-1, 2):
            rows = [first] if all(self._spans_last(name) for name in others) else []
        elif kind == "MatMul" and len(self._weights.get(node.input[1], ())) == 2:
            rows = [first]
        elif kind in _BINARY:
            rows = [name for name in node.input if not self._spans_last(name)]
        else:
            rows = []
        shapes = [self._shapes.get(name, ()) for name in (*rows, *node.output)]
        known = all(len(shape) == 3 and all(shape[:2]) for shape in shapes)
        return rows if known and len({shape[:2] for shape in shapes}) == 1 else []

    def _spans_last(self, name: str) -> bool:
        """Whether a weight is the same for every token."""
        sides = self._weights.get(name)
        return sides is not None and all(side == 1 for side in sides[:-1])


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def _reads(node: NodeProto) -> Iterator[str]:
    """Yield what a node reads, the parts of a condition or a loop too."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _reads(inner)
            yield from (value.name for value in graph.output)


def _replace(field: object, values: Iterable[object]) -> None:
    kept = list(values)
    del field[:]  # type: ignore[attr-defined]
    field.extend(kept)  # type: ignore[attr-defined]
