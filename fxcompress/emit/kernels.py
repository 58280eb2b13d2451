"""What a runtime would run in the kernel of the operation before it, and gets wrong there, is kept out of that kernel."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import partial

import numpy as np
import onnx_ir as ir

from fxcompress.emit.rewiring import (
    MOVES,
    POINTWISE,
    constant,
    constants_of,
    follow,
    is_float,
    is_shared,
    lift,
    numbers_of,
    products_of,
    put_before,
    rank_of,
    shield,
    take_over,
)
from fxcompress.ir.reach import reached

MAXIMA = {"ReduceMax", "ReduceMin", "ReduceProd", "GlobalMaxPool"}
_POOLS = {"AveragePool", "LpPool", "MaxPool", "Resize", "Tile"}
_PICKS = {"Concat", "Flatten", "Gather", "GatherElements", "GatherND", "Reshape", "Slice", "SpaceToDepth", "Split"}
_NORMS_OF_CHANNELS = {"BatchNormalization", "InstanceNormalization"}
NORM = "BatchNormalization"
LINEAR, CONVOLUTIONS = {"Gemm", "MatMul"}, {"Conv", "ConvTranspose"}


def comes_from(node: ir.Node, kernels: set[str], through: Collection[str] = MOVES | POINTWISE, numbers: bool = False) -> bool:
    """Whether `node` reads what one of `kernels` computes, maybe through what a scale of its outputs may be moved behind.

    With `numbers`, what computes with a constant of several numbers counts as one of them.
    """
    return any(is_from(value, kernels, through, numbers) for value in node.inputs)


def is_from(
    value: ir.Value | None, kernels: set[str], through: Collection[str] = MOVES | POINTWISE, numbers: bool = False
) -> bool:
    """As `comes_from`, of a value that is read."""
    first = value.producer() if value is not None else None
    met = reached([first] if first else [], lambda source: source.predecessors() if source.op_type in through else ())
    return any(source.op_type in kernels or (numbers and _is_by_several(source)) for source in met)


def _is_by_several(node: ir.Node) -> bool:
    """Whether `node` computes with a constant of several numbers, element by element."""
    return node.op_type in POINTWISE and any(map(_are_numbers, node.inputs))


def pools_apart(graph: ir.Graph) -> int:
    """Have a maximum with minus infinity stand in front of what pools or repeats the outputs of a linear layer.

    No scale of single outputs moves behind it.
    """
    pools = [node for node in graph if (node.op_type in _POOLS or _adds_last(node)) and comes_from(node, LINEAR)]
    return shield(graph, [(node, 0) for node in pools])


def averages_apart(graph: ir.Graph) -> int:
    """Have a maximum with minus infinity stand in front of what averages padding, which nothing moves behind it."""
    return shield(graph, [(node, 0) for node in graph if node.op_type == "AveragePool" and _averages_padding(node)])


def picks_apart(graph: ir.Graph) -> int:
    """Have a maximum with minus infinity stand in front of what reshapes or picks floats that were computed with numbers."""
    picks = [(node, place) for node in graph if node.op_type in _PICKS for place in _moved(node)]
    return shield(graph, [(node, place) for node, place in picks if _is_by_numbers(node.inputs[place])])


def _moved(node: ir.Node) -> range:
    """The places of the values that `node` moves; others are axes and indices."""
    return range(len(node.inputs) if node.op_type == "Concat" else 1)


def _is_by_numbers(value: ir.Value | None) -> bool:
    """Whether `value` is of floats, and computed with numbers of its channels, maybe moved on the way."""
    return is_float(value) and is_from(value, _NORMS_OF_CHANNELS, numbers=True)


def rounded_averages_apart(graph: ir.Graph) -> int:
    """Have a maximum with minus infinity stand between padding and an average whose windows may reach beyond it."""
    rounded = [node for node in graph if node.op_type == "AveragePool" and node.attributes.get_int("ceil_mode", 0) == 1]
    return shield(graph, [(node, 0) for node in rounded if comes_from(node, {"Pad"}, MOVES)])


def _averages_padding(node: ir.Node) -> bool:
    """Whether padding counts in the average pool `node`: its own, or that of what it reads."""
    counts = node.attributes.get_int("count_include_pad", 0) and any(node.attributes.get_ints("pads", []))
    return bool(counts) or comes_from(node, {"Pad"}, MOVES | POINTWISE | {"DequantizeLinear", "QuantizeLinear"})


def _adds_last(node: ir.Node) -> bool:
    """Whether `node` adds a dimension behind the last one."""
    axes = numbers_of(node.inputs[1]) if node.op_type == "Unsqueeze" else None
    return axes is not None and int(axes.max()) in (-1, rank_of(node.outputs[0]) - 1, rank_of(node.inputs[0]))


def scalings_apart(graph: ir.Graph) -> int:
    """Have what computes with numbers run by itself behind a product of two activations."""
    computed = (one for source in products_of(graph) for one in by_numbers(source))
    return _run_apart(graph, (one for one in computed if not _adds_bias_of_places(one)))


def _adds_bias_of_places(node: ir.Node) -> bool:
    """Whether numbers are added that differ along several axes, as the bias of an attention: no kernel runs that."""
    numbers = [one for one in map(numbers_of, node.inputs) if one is not None]
    return node.op_type in ("Add", "Sub") and any(one.size > max(one.shape, default=1) for one in numbers)


def signed_factors_apart(graph: ir.Graph) -> int:
    """Give what multiplies by factors of both signs, or behind a maximum, a dimension more: no quantizer takes them in then.

    In the kernel of a layer they stay.
    """
    maxima = [node for node in graph if _is_maximum(node.inputs[0] if node.inputs else None)]
    signed = [node for node in graph if node.op_type in ("Div", "Mul") and any(map(_are_of_both_signs, node.inputs))]
    found = _once(
        [*(one for source in maxima for one in _scalings(source)), *(one for one in signed if not _runs_in_layer(one))]
    )
    for node in found:
        place = _place_beside_numbers(node)
        if rank_of(node.inputs[place]) < rank_of(node.inputs[1 - place]):  # or the numbers alone would tell how many there are
            lift(graph, node, 1 - place)
        lift(graph, node, place)
        follow(graph, node.outputs[0], "Squeeze", constant(graph, [0]))
    return len(found)


def _runs_in_layer(node: ir.Node) -> bool:
    """Whether `node` runs in the kernel of a layer: nothing else reads what is computed between the two."""

    def before(one: ir.Node) -> list[ir.Node]:
        read = [value for value in one.inputs if value is not None and len(value.uses()) == 1 and not value.is_graph_output()]
        return [source for value in read if (source := value.producer()) is not None]

    met = reached([node], lambda one: before(one) if one is node or one.op_type in POINTWISE else ())
    return any(one.op_type in LINEAR | CONVOLUTIONS for one in met)


def _are_of_both_signs(value: ir.Value | None) -> bool:
    """Whether `value` is a constant of several numbers that are not all positive."""
    return _are_numbers(value) and bool((np.asarray(numbers_of(value)) < 0).any())


def _scalings(source: ir.Node) -> Iterator[ir.Node]:
    return (node for node in by_numbers(source) if node.op_type in ("Div", "Mul"))


def channels_apart(graph: ir.Graph) -> int:
    """Have what computes with numbers along another axis than the last run by itself behind a linear layer."""
    constants = constants_of(graph)
    linear = [node for node in graph if node.op_type == "MatMul" and node.inputs[1] in constants]
    sources = [node for node in linear if rank_of(node.inputs[0]) > 2]
    norms = [node for node in graph if node.op_type == NORM and comes_from(node, {"MatMul"}, POINTWISE)]
    shield(graph, [(node, 0) for node in norms if _is_by_numbers(node.inputs[0])])
    for node in norms:
        put_before(graph, node, "Unsqueeze", constant(graph, [-1]))
        follow(graph, node.outputs[0], "Squeeze", constant(graph, [-1]))
    return len(norms) + _run_apart(graph, (one for source in sources for one in by_numbers(source) if _along_others(one)))


def scaled_rows_apart(graph: ir.Graph) -> int:
    """Have what computes with numbers run by itself where a linear layer is read twice, and what it puts out is quantized."""
    found = [node for node in graph if _is_by_several(node) and _is_quantized(node.outputs[0])]
    return _run_apart(graph, (node for node in found if _is_of_shared_rows(node.inputs[_place_beside_numbers(node)])))


def _is_quantized(value: ir.Value) -> bool:
    """Whether what is computed with `value`, element by element, is quantized."""

    def behind(node: ir.Node) -> list[ir.Node]:
        return [reader for reader, _ in node.outputs[0].uses()] if node.op_type in MOVES | POINTWISE else []

    return any(node.op_type == "QuantizeLinear" for node in reached([reader for reader, _ in value.uses()], behind))


def _is_of_shared_rows(value: ir.Value | None) -> bool:
    """Whether `value` is made, element by element, of what a linear layer puts out, and is read twice somewhere on the way."""
    first = value.producer() if value is not None else None
    met = [*reached([first] if first else [], lambda node: node.predecessors() if node.op_type in MOVES | POINTWISE else ())]
    return any(node.op_type in LINEAR for node in met) and any(is_shared(node.outputs[0]) for node in met)


def clips_apart(graph: ir.Graph) -> int:
    """Have a maximum with minus infinity stand in front of a clip of what was computed with numbers, or with zero."""
    constants = constants_of(graph)
    clips = [node for node in graph if node.op_type == "Clip" and _is_by_numbers_alone(node.inputs[0], constants)]
    found = [node for node in clips if any(reader.op_type == "QuantizeLinear" for reader, _ in node.outputs[0].uses())]
    return shield(graph, [(node, 0) for node in found])


def cuts_apart(graph: ir.Graph) -> int:
    """Have a maximum with minus infinity stand between a quantizer and numbers of what is cut from a length that is free."""
    lengths = [size for value in graph.inputs for size in (value.shape or ())[1:]]
    if all(isinstance(size, int) for size in lengths):
        return 0
    read = [(node, node.inputs[0]) for node in graph if node.op_type == "QuantizeLinear" and rank_of(node.inputs[0]) == 2]
    cut = [
        node for node, value in read if is_from(value, {"Slice", "Split"}) and is_from(value, set(), POINTWISE, numbers=True)
    ]
    return shield(graph, [(node, 0) for node in cut])


def _is_by_numbers_alone(value: ir.Value | None, constants: set[ir.Value | None]) -> bool:
    """Whether `value` is computed with a constant of several numbers, or zero, and not in the kernel of a layer."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type not in ("Add", "Div", "Mul", "Sub"):
        return False
    known = [numbers for numbers in map(numbers_of, node.inputs) if numbers is not None]
    if all(numbers.size == 1 and numbers.all() for numbers in known):
        return False
    sources = [source.producer() for source in node.inputs if source is not None]
    return not any(source and source.op_type in LINEAR | CONVOLUTIONS and source.inputs[1] in constants for source in sources)


def mishes_spelled(graph: ir.Graph) -> int:
    """Spell Mish out behind a product, which may be that of an attention.

    With ``e = exp(x)``, ``tanh(log(1 + e))`` is ``n / (n + 2)`` for ``n = e * (e + 2)``; from 20 on it is 1 in float32.
    """
    found = [node for node in graph if node.op_type == "Mish" and comes_from(node, {"MatMul"})]
    two, limit = (constant(graph, np.asarray(n, np.float32), f"constant/float32_{n}") for n in (2.0, 20.0))
    for node in found:
        x, value = node.inputs[0], node.outputs[0]
        step = partial(_inserted, graph, node)
        grown = step("Exp", step("Min", x, limit))
        ratio = step("Mul", grown, step("Add", grown, two))
        spelled = step("Mul", x, step("Div", ratio, step("Add", ratio, two)))
        spelled.type, spelled.shape = value.type, value.shape
        take_over(graph, value, spelled)
        graph.remove(node, safe=True)
    return len(found)


def _inserted(graph: ir.Graph, node: ir.Node, op_type: str, *inputs: ir.Value | None) -> ir.Value:
    """What a new operation in front of `node` puts out."""
    made = ir.Node("", op_type, inputs, name=f"{node.name}/{op_type.lower()}")
    made.outputs[0].name = f"{made.name}/inner"
    graph.insert_before(node, made)
    return made.outputs[0]


def _along_others(node: ir.Node) -> bool:
    numbers = next(found for found in map(numbers_of, node.inputs) if found is not None)
    return bool(numbers.size > numbers.shape[-1])


def _run_apart(graph: ir.Graph, nodes: Iterable[ir.Node]) -> int:
    """Have a maximum with minus infinity stand in front of what computes with numbers, in no kernel of another's then."""
    return shield(graph, [(node, _place_beside_numbers(node)) for node in _once(nodes)])


def _once(nodes: Iterable[ir.Node]) -> list[ir.Node]:
    return list({id(node): node for node in nodes}.values())


def _place_beside_numbers(node: ir.Node) -> int:
    return 0 if _are_numbers(node.inputs[1]) else 1


def _is_maximum(value: ir.Value | None) -> bool:
    producer = value.producer() if value is not None else None
    return producer is not None and producer.op_type in MAXIMA


def by_numbers(node: ir.Node, joins: bool = True) -> Iterator[ir.Node]:
    """What computes with constants of several numbers, element by element, in the kernel of `node`.

    Args:
        joins: also behind what joins it with another value.
    """

    def goes_on(one: ir.Node) -> bool:
        return one is node or joins or sum(numbers_of(source) is None for source in one.inputs) == 1

    def behind(one: ir.Node) -> list[ir.Node]:
        return [reader for reader, _ in one.outputs[0].uses() if reader.op_type in POINTWISE] if goes_on(one) else []

    return (one for one in reached([node], behind) if one is not node and _is_by_several(one))


def _are_numbers(value: ir.Value | None) -> bool:
    """Whether `value` is a constant of more than one number."""
    numbers = numbers_of(value)
    return numbers is not None and numbers.size > 1
