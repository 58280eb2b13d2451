"""What an ONNX graph holds, and nodes put between those that are there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from fxcompress.ir.reach import reached

# What moves values, or picks among them.
MOVES = {"Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "MaxPool", "Pad", "Reshape", "Slice", "SpaceToDepth"}
MOVES |= {"Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
# What runs in the kernel before it, element by element.
POINTWISE = {"Abs", "Add", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Max"}
POINTWISE |= {"Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "Reciprocal", "Relu", "Sigmoid", "Softplus", "Sqrt", "Sub", "Tanh"}
# What has as many dimensions as its first input.
_SAME_RANK = {"Cast", "Concat", "DepthToSpace", "DequantizeLinear", "Identity", "MaxPool", "Pad", "QuantizeLinear", "Slice"}
_SAME_RANK |= {"SpaceToDepth", "Split", "Tile", "Transpose"}


def numbers_of(value: ir.Value | None) -> np.ndarray | None:
    """The numbers of a constant."""
    return value.const_value.numpy() if value is not None and value.const_value is not None else None


def is_shared(value: ir.Value) -> bool:
    """Whether `value` is read more than once, counting both operands of ``y + y``."""
    return len(value.uses()) + value.is_graph_output() > 1


def constants_of(graph: ir.Graph) -> set[ir.Value | None]:
    """The values that are computed from constants alone, as a weight may be, and None, which stands for an input left out."""
    found: set[ir.Value | None] = {None, *(value for value in graph.initializers.values() if value.const_value is not None)}
    for node in graph:
        if found.issuperset(node.inputs):
            found.update(node.outputs)
    return found


def rank_of(value: ir.Value | None) -> int:
    """How many dimensions `value` has, as it declares or as follows from what it is computed from; 0 where neither tells."""
    if value is None or value.shape is not None:
        return 0 if value is None else len(value.shape)  # type: ignore[arg-type]
    node = value.producer()
    if node is None:
        return 0
    axes = numbers_of(node.inputs[1]) if len(node.inputs) > 1 else None
    reduces = node.op_type.startswith("Reduce")
    if node.op_type in _SAME_RANK or (reduces and node.attributes.get_int("keepdims", 1) == 1):
        return rank_of(node.inputs[0])
    if node.op_type in POINTWISE | {"MatMul", "Where"}:
        ranks = [rank_of(source) for source in node.inputs]
        return max(ranks) if all(ranks) else 0
    if axes is not None and (reduces or node.op_type in ("Squeeze", "Unsqueeze")):
        rank = rank_of(node.inputs[0])
        return rank and rank + (axes.size if node.op_type == "Unsqueeze" else -axes.size)
    return axes.size if axes is not None and node.op_type == "Reshape" else 0


def type_of(value: ir.Value | None) -> ir.DataType | None:
    """The type of `value`, as it declares, is cast to, or as what it is computed from has; None where neither tells."""
    while value is not None and value.dtype is None:
        node = value.producer()
        if node is not None and node.op_type == "Cast":
            return ir.DataType(node.attributes.get_int("to"))
        known = node is not None and node.op_type in MOVES | POINTWISE | _SAME_RANK - {"QuantizeLinear"}
        value = node.inputs[int(node.op_type == "DequantizeLinear")] if known and node is not None else None
    return None if value is None else value.dtype


def is_float(value: ir.Value | None) -> bool:
    """Whether `value` is known to be of floats in single precision."""
    return type_of(value) == ir.DataType.FLOAT


def dequantize_of(value: ir.Value | None) -> ir.Node | None:
    """The dequantize that `value` comes from, maybe moved on the way."""
    while value is not None and (producer := value.producer()) is not None:
        if producer.op_type == "DequantizeLinear":
            return producer
        value = producer.inputs[0] if producer.op_type in MOVES else None
    return None


def is_quantized_activation(value: ir.Value | None, constants: set[ir.Value | None]) -> bool:
    """Whether `value` is dequantized, and not from `constants` of the graph, as a weight is, whatever it is cast from."""
    dequantize = dequantize_of(value)
    return dequantize is not None and dequantize.inputs[0] not in constants


def products_of(graph: ir.Graph) -> list[ir.Node]:
    """What multiplies two quantized activations."""
    constants = constants_of(graph)
    products = [node for node in graph if node.op_type == "MatMul"]
    return [node for node in products if all(is_quantized_activation(value, constants) for value in node.inputs)]


def constant(graph: ir.Graph, numbers: list[int] | np.ndarray, name: str | None = None) -> ir.Value:
    """An initializer of the graph: of `name`, or one like it where that is taken by another tensor."""
    array = np.asarray(numbers) if isinstance(numbers, np.ndarray) else np.asarray(numbers, np.int64)
    name = name or "_".join(["constant/int64", *map(str, array.tolist())])
    while name in graph.initializers:  # a number and a list of it alone have one name
        known = numbers_of(graph.initializers[name])
        if known is not None and known.dtype == array.dtype and np.array_equal(known, array):
            return graph.initializers[name]
        name += "_"
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def put_before(graph: ir.Graph, node: ir.Node, op_type: str, *constants: ir.Value, place: int = 0) -> ir.Node:
    """The node that is put between `node` and its input at `place`."""
    source = node.inputs[place]
    assert source is not None
    made = ir.Node("", op_type, [source, *constants], name=f"{node.name}/{op_type.lower()}")
    made.outputs[0].name = f"{made.name}/inner"
    graph.insert_before(node, made)
    node.replace_input_with(place, made.outputs[0])
    return made


def shield(graph: ir.Graph, found: list[tuple[ir.Node, int]]) -> int:
    """Have a maximum with minus infinity stand in front of nodes, at places, unless one does: nothing moves through it.

    Integers need none: what runtimes do to bytes they do to those that stand for floats.
    """
    infinity = minus_infinity(graph)
    floats = [(node, place) for node, place in found if type_of(node.inputs[place]) in (None, ir.DataType.FLOAT)]
    bare = [(node, place) for node, place in floats if not _is_maximum_with(infinity, node.inputs[place])]
    for node, place in bare:
        put_before(graph, node, "Max", infinity, place=place)
    return len(bare)


def _is_maximum_with(limit: ir.Value, value: ir.Value | None) -> bool:
    node = value.producer() if value is not None else None
    return node is not None and node.op_type == "Max" and limit in node.inputs


def minus_infinity(graph: ir.Graph) -> ir.Value:
    """No number is smaller: a maximum with it changes nothing, and no runtime knows that."""
    return constant(graph, np.asarray(-np.inf, np.float32), "constant/float32_-inf")


def lift(graph: ir.Graph, node: ir.Node, place: int) -> None:
    """Give the input of `node` at `place` one dimension more, in front, and so what it puts out."""
    put_before(graph, node, "Unsqueeze", constant(graph, [0]), place=place)


def follow(graph: ir.Graph, value: ir.Value, op_type: str, *constants: ir.Value) -> ir.Value:
    """A node that reads `value` and stands for it from now on, under its name and with its shape."""
    node, source = ir.Node("", op_type, [value, *constants], name=f"{value.name}/{op_type.lower()}"), value.producer()
    assert source is not None
    graph.insert_after(source, node)
    made = node.outputs[0]
    made.type, made.shape = value.type, value.shape
    value.type = value.shape = None
    take_over(graph, value, made, but=node)
    return made


def take_over(graph: ir.Graph, value: ir.Value, made: ir.Value, but: ir.Node | None = None) -> None:
    """Let all that reads `value` read `made`, which gets its name."""
    for reader, place in list(value.uses()):
        if reader is not but:
            reader.replace_input_with(place, made)
    for place, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[place] = made
    source = value.producer()
    assert source is not None
    made.name, value.name = value.name, f"{value.name}/{source.op_type}/inner"


def readers(value: ir.Value) -> Iterator[ir.Node]:
    """What computes with `value`, moved or not."""
    moved = reached([value], lambda one: (made for node, _ in one.uses() if node.op_type in MOVES for made in node.outputs))
    yield from dict.fromkeys(node for one in moved for node, _ in one.uses() if node.op_type not in MOVES)
