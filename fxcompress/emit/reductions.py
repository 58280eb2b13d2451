"""Sums, means and maxima, kept out of what a runtime would run with them in one kernel and gets wrong there."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx_ir as ir

from fxcompress.emit.kernels import CONVOLUTIONS, MAXIMA, NORM, by_numbers, comes_from, is_from
from fxcompress.emit.rewiring import (
    MOVES,
    POINTWISE,
    constant,
    dequantize_of,
    follow,
    numbers_of,
    rank_of,
    readers,
    shield,
    take_over,
    type_of,
)
from fxcompress.ir.reach import reached

_INTEGERS = {ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64, ir.DataType.UINT8}
_STEPS = 128  # of an average in one of what it is the average of, at most: half of what onnxruntime's kernel computes with
_RESHAPES = {"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
_GLOBAL_POOLS = {"GlobalMaxPool": "ReduceMax", "GlobalAveragePool": "ReduceMean"}


def maxima_apart(graph: ir.Graph) -> int:
    """Have a maximum of a value with itself stand behind each maximum, so that no quantizer runs in its kernel.

    In front of that a reshape takes what is moved behind the maximum. Alone it would be no wall: operations on elements, and
    quantizers with them, are moved in front of it.
    """
    return _alone(graph, [_reshape_behind(graph, node) for node in list(graph) if node.op_type in MAXIMA])


def reductions_apart(graph: ir.Graph) -> int:
    """Have a reshape stand behind what reduces axes, where numbers run behind it, or may come to run there."""
    reductions = [node for node in graph if node.op_type.startswith("Reduce") or node.op_type in _GLOBAL_POOLS]
    moved = [node for node in reductions if _reduces_rows(node) and comes_from(node, CONVOLUTIONS)]
    rows = [node for node in reductions if rank_of(node.inputs[0]) == 3 and node.op_type not in MAXIMA]
    moved += [node for node in rows if comes_from(node, {NORM}, numbers=True)]
    moved += [node for node in reductions if any(one.op_type == NORM for one in _computed_with(node))]
    found = [node for node in reductions if node in moved or any(by_numbers(node, joins=False))]
    for node in found:
        _reshape_behind(graph, node)
    return len(found)


def _computed_with(node: ir.Node) -> Iterator[ir.Node]:
    """What reads the outputs of `node`, and what is computed with them element by element."""
    return reached(readers(node.outputs[0]), lambda one: readers(one.outputs[0]) if one.op_type in POINTWISE else ())


def _reduces_rows(node: ir.Node) -> bool:
    return rank_of(node.inputs[0]) == 3 and _reduced_axes(node) == [2]


def means_in_float(graph: ir.Graph) -> int:
    """Have a maximum with minus infinity stand in front of a sum or mean of bytes of three dimensions, of floats then."""
    means = [node for node in graph if node.op_type in ("ReduceMean", "ReduceSum") and rank_of(node.inputs[0]) == 3]
    return shield(graph, [(node, 0) for node in means if _are_bytes(node.inputs[0])])


def averages_of_bytes_apart(graph: ir.Graph) -> int:
    """Have a maximum with minus infinity stand between an average of bytes and all but a quantizer: it stays a float."""
    averages = [node for node in graph if node.op_type == "AveragePool" and dequantize_of(node.inputs[0]) is not None]
    moved = reached(averages, lambda node: [reader for reader in node.successors() if reader.op_type in MOVES])
    read = [use for node in moved for value in node.outputs for use in value.uses()]
    return shield(graph, [(node, place) for node, place in read if node.op_type not in MOVES | {"QuantizeLinear", "Shape"}])


def averages_of_noise_apart(graph: ir.Graph) -> int:
    """Have a maximum with minus infinity stand behind an average whose quantizer has steps that are next to nothing."""
    averages = [node for node in graph if node.op_type in ("AveragePool", "GlobalAveragePool")]
    read = [(node, use) for node in averages for use in node.outputs[0].uses() if use.node.op_type == "QuantizeLinear"]
    return shield(graph, [(use.node, use.idx) for node, use in read if _takes_smaller_steps(node, use.node)])


def _takes_smaller_steps(average: ir.Node, quantize: ir.Node) -> bool:
    dequantize = dequantize_of(average.inputs[0])
    scales = [numbers_of(node.inputs[1]) for node in (dequantize, quantize) if node is not None]
    return len(scales) == 2 and all(one is not None for one in scales) and float(scales[0]) > _STEPS * float(scales[1])  # type: ignore[arg-type]


def _are_bytes(value: ir.Value | None) -> bool:
    """Whether `value` may be bytes to a runtime: it was dequantized, or is a scale times what was looked up in a table."""
    return dequantize_of(value) is not None or is_from(value, {"Cast"}, MOVES | {"Mul", "Sub"})


def reduced_integers_apart(graph: ir.Graph) -> int:
    """Have a maximum of a value with itself stand behind what reduces integers, so that nothing runs in its kernel."""
    reductions = [node for node in graph if node.op_type.startswith("Reduce") and type_of(node.inputs[0]) in _INTEGERS]
    return _alone(graph, [node for node in reductions if any(one.op_type in POINTWISE for one in readers(node.outputs[0]))])


def reshaped_reductions_apart(graph: ir.Graph) -> int:
    """Have what drops the axes that it reduces keep them, and a squeeze drop them, where it is next to what reshapes.

    That is behind it, and has 1 for those axes, or in front of it, from where it is moved behind.
    """
    dropping = [one for one in graph if one.op_type.startswith("Reduce") and one.attributes.get_int("keepdims", 1) == 0]
    found = [
        one
        for one in dropping
        if is_from(one.inputs[0], _RESHAPES, POINTWISE) or any(_has_ones(use.node, one) for use in one.outputs[0].uses())
    ]
    for node in found:
        _reshape_behind(graph, node)
    return len(found)


def _has_ones(node: ir.Node, reduction: ir.Node) -> bool:
    """Whether `node` reshapes to as many dimensions as there are left, of which those that were reduced are 1."""
    if node.op_type != "Reshape":
        return False
    pattern, axes = numbers_of(node.inputs[1]), _reduced_axes(reduction)
    left = rank_of(reduction.inputs[0]) - len(axes)
    return pattern is None or (pattern.size == left and all(axis < left and pattern[axis] == 1 for axis in axes))


def _alone(graph: ir.Graph, nodes: Collection[ir.Node]) -> int:
    """Have a maximum of a value with itself stand behind `nodes`, which runs in no kernel: it reads what they compute twice."""
    for node in nodes:
        follow(graph, node.outputs[0], "Max", node.outputs[0])
    return len(nodes)


def _reshape_behind(graph: ir.Graph, node: ir.Node) -> ir.Node:
    """Have `node`, which reduces axes, keep those that it does not keep, or the other way round; the reshape, or `node`.

    Where a reshape stands already there is nothing to do: two of them would make way for one another.
    """
    axes, value = _reduced_axes(node), node.outputs[0]
    behind = [reader for reader, _ in value.uses()]
    if [one.op_type for one in behind] in (["Squeeze"], ["Unsqueeze"]):
        return behind[0]
    if not axes:
        return node
    if node.op_type in _GLOBAL_POOLS:
        node = _as_reduction(graph, node, axes)
    keeps = node.attributes.get_int("keepdims", 1)
    node.attributes["keepdims"] = ir.AttrInt64("keepdims", 1 - keeps)
    reshaped = follow(graph, node.outputs[0], "Unsqueeze" if keeps else "Squeeze", constant(graph, axes)).producer()
    assert reshaped is not None
    return reshaped


def _as_reduction(graph: ir.Graph, pool: ir.Node, axes: list[int]) -> ir.Node:
    """The reduction of `axes` that takes the place of the global `pool`."""
    read = [pool.inputs[0], constant(graph, axes)]
    node, value = ir.Node("", _GLOBAL_POOLS[pool.op_type], read, num_outputs=1, name=pool.name), pool.outputs[0]
    graph.insert_after(pool, node)
    node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
    take_over(graph, value, node.outputs[0])
    graph.remove(pool, safe=True)
    return node


def _reduced_axes(node: ir.Node) -> list[int]:
    """The axes that `node` reduces, from the front where its rank is known; none where they are not."""
    rank = rank_of(node.inputs[0])
    if node.op_type in _GLOBAL_POOLS:
        return list(range(2, rank))
    axes = numbers_of(node.inputs[1] if len(node.inputs) > 1 else None)
    if axes is None:
        return list(range(rank))
    return sorted(int(axis) % rank if rank else int(axis) for axis in axes.reshape(-1))
