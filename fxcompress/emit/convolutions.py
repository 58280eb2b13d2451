"""Integer convolutions of geometries that a runtime computes wrongly: written as others, or left to compute in float."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from fxcompress.emit.rewiring import constant, dequantize_of, follow, numbers_of, put_before, shield
from fxcompress.ir.geometry import Axis

_END = 2**63 - 1
_IN_A_STEP = 4  # bytes that one instruction multiplies and adds up
_OUTPUTS_AT_ONCE = 16
_REGISTER = 64  # bytes


def float_weights_apart(graph: ir.Graph) -> int:
    """Have a maximum with minus infinity stand between a quantized value and the float weights that it is multiplied with."""
    found = [
        node for node in graph if node.op_type in ("Conv", "ConvTranspose", "Gemm") and numbers_of(node.inputs[1]) is not None
    ]
    return shield(graph, [(node, 0) for node in found if dequantize_of(node.inputs[0]) is not None])


def strides_apart(graph: ir.Graph) -> int:
    """Have a convolution of one place compute every place, of which its strides are taken behind it."""
    found = [node for node in graph if node.op_type == "Conv" and _strides_over_padding(_axes(node))]
    for node in found:
        strides = list(node.attributes["strides"].as_ints())
        node.attributes["strides"] = ir.AttrInt64s("strides", [1] * len(strides))
        axes = list(range(2, 2 + len(strides)))
        slices = ([0] * len(strides), [_END] * len(strides), axes, strides)
        follow(graph, node.outputs[0], "Slice", *(constant(graph, one) for one in slices))
    return len(found)


def _strides_over_padding(axes: list[Axis]) -> bool:
    strides, pads = max(axis.stride for axis in axes), max(axis.before + axis.after for axis in axes)
    return max(axis.kernel for axis in axes) == 1 < strides and pads > 0


def single_columns(graph: ir.Graph) -> int:
    """Have a convolution that puts out one column read that column alone, so that it need not stride."""
    found = [node for node in graph if _is_integer(node) and _strides_to_one_column(_axes(node))]
    for node in found:
        *others, last = _axes(node)
        assert last.size is not None
        end = last.extent - last.before
        if end < last.size:
            put_before(graph, node, "Slice", *(constant(graph, [number]) for number in (0, end, 2 + len(others))))
        pads = [axis.before for axis in (*others, last)] + [axis.after for axis in others] + [max(end - last.size, 0)]
        node.attributes["pads"] = ir.AttrInt64s("pads", pads)
        node.attributes["strides"] = ir.AttrInt64s("strides", [*(axis.stride for axis in others), 1])
    return len(found)


def _strides_to_one_column(axes: list[Axis]) -> bool:
    last = axes[-1]
    reads_some = last.size is not None and last.before < last.extent
    return len(axes) > 1 and last.outputs == 1 and last.stride > 1 and last.kernel > 1 and reads_some


def bytes_padded(graph: ir.Graph) -> int:
    """Have a convolution some of whose outputs are of padding alone read bytes that are padded in front of it."""
    found = [node for node in graph if _is_integer(node) and any(axis.pads_alone for axis in _axes(node))]
    for node in found:
        read, dequantize, axes = node.inputs[0], dequantize_of(node.inputs[0]), _axes(node)
        assert read is not None and dequantize is not None
        scale, *zero_point = (held for held in dequantize.inputs[1:] if held is not None)
        pads = [0, 0, *(axis.before for axis in axes), 0, 0, *(axis.after for axis in axes)]
        restored = put_before(graph, node, "DequantizeLinear", scale, *zero_point)
        padded = put_before(graph, restored, "Pad", constant(graph, pads), *zero_point)
        put_before(graph, padded, "QuantizeLinear", scale, *zero_point)
        node.attributes["pads"] = ir.AttrInt64s("pads", [0] * 2 * len(axes))
        if read.shape is not None:
            sizes = (axis.size and axis.before + axis.size + axis.after for axis in axes)
            restored.outputs[0].shape, restored.outputs[0].type = ir.Shape([*read.shape[:2], *sizes]), read.type
    return len(found)


def wide_groups_in_float(graph: ir.Graph) -> int:
    """Have groups of an odd number of channels and many filters compute in float."""
    return _in_float(graph, [node for node in graph if _is_integer(node) and _has_wide_groups(node)])


def _has_wide_groups(node: ir.Node) -> bool:
    filters, channels, groups = _filters(node)
    odd = channels % _IN_A_STEP > 0 and _axes(node)[-1].kernel > 1
    return odd and groups > 1 and filters // groups > _OUTPUTS_AT_ONCE


def shallow_volumes_in_float(graph: ir.Graph) -> int:
    """Have what is deeper than the volume that it reads, and reads an odd number of channels, compute in float."""
    return _in_float(graph, [node for node in graph if _is_integer(node) and _is_deeper(node)])


def _is_deeper(node: ir.Node) -> bool:
    axes = _axes(node)
    odd = _filters(node)[1] % _IN_A_STEP > 0 and axes[-1].kernel > 1
    return odd and len(axes) == 3 and axes[0].size is not None and axes[0].extent > axes[0].size


def long_rows_longer(graph: ir.Graph) -> int:
    """Give rows of a kernel that fill several registers one column of zeros more, and the padding that it reads."""
    found = [node for node in graph if _is_integer(node) and _fills_registers(node)]
    for node in found:
        axes = _axes(node)
        _add_a_column(graph, node)
        pads = [*(one.before for one in axes), *(one.after for one in axes[:-1]), axes[-1].after + 1]
        node.attributes["pads"] = ir.AttrInt64s("pads", pads)
        node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", [one.kernel for one in _axes(node)])
    return len(found)


def _fills_registers(node: ir.Node) -> bool:
    """Whether a row of the kernel, over its few channels, is several registers and nothing more."""
    _, channels, _ = _filters(node)
    last = _axes(node)[-1]
    row = channels * last.kernel
    few = channels % _IN_A_STEP == 0 and channels < _REGISTER // 2
    return few and row > _REGISTER and row % _REGISTER == 0 and last.dilation == 1


def _add_a_column(graph: ir.Graph, node: ir.Node) -> None:
    """Have `node` alone read its weight with a column of zeros behind the last one."""
    dequantize = dequantize_of(node.inputs[1])
    assert dequantize is not None
    stored, *grid = (held for held in dequantize.inputs if held is not None)
    cast = stored.producer()  # of bits that no kernel reads
    kept = numbers_of(cast.inputs[0] if cast else stored)
    assert kept is not None
    zeros = numbers_of(grid[1]) if len(grid) > 1 else np.zeros((), kept.dtype)
    assert zeros is not None
    column = np.broadcast_to(zeros.astype(kept.dtype).reshape(-1, *[1] * (kept.ndim - 1)), (*kept.shape[:-1], 1))
    value = constant(graph, np.concatenate([kept, column], -1), f"{stored.name}_longer")
    for source, more in [(cast, []), (dequantize, grid)]:
        if source is not None:
            name = f"{node.name}/longer_{source.op_type}"
            copy = ir.Node("", source.op_type, [value, *more], attributes=source.attributes.values(), name=name)
            graph.insert_before(node, copy)
            value = copy.outputs[0]
            value.name = f"{name}/inner"
    value.shape, value.type = ir.Shape([*kept.shape[:-1], kept.shape[-1] + 1]), dequantize.outputs[0].type
    node.replace_input_with(1, value)


def wide_crops_in_float(graph: ir.Graph) -> int:
    """Have transposed convolutions whose padding crops as much as the kernel spans compute in float."""
    transposed = [node for node in graph if _is_integer(node, "ConvTranspose")]
    return _in_float(graph, [node for node in transposed if any(_crops_all(axis) for axis in _axes(node))])


def _crops_all(axis: Axis) -> bool:
    return max(axis.before, axis.after) >= axis.extent


def _in_float(graph: ir.Graph, nodes: list[ir.Node]) -> int:
    return shield(graph, [(node, 0) for node in nodes])


def _is_integer(node: ir.Node, op_type: str = "Conv") -> bool:
    return node.op_type == op_type and all(dequantize_of(value) is not None for value in node.inputs[:2])


def _filters(node: ir.Node) -> tuple[int, int, int]:
    """How many filters there are, how many channels each of them reads, and in how many groups they are."""
    weight = node.inputs[1]
    assert weight is not None and weight.shape is not None
    filters, channels, *_ = weight.shape.numpy()
    return filters, channels, node.attributes.get_int("group", 1)


def _axes(node: ir.Node) -> list[Axis]:
    """The spatial axes of a convolution, the last one the columns."""
    weight = node.inputs[1]
    assert weight is not None and weight.shape is not None
    kernel = weight.shape.numpy()[2:]
    count = len(kernel)
    ones, zeros = [1] * count, [0] * 2 * count
    listed = [
        list(node.attributes[name].as_ints()) if name in node.attributes else default
        for name, default in (("strides", ones), ("dilations", ones), ("pads", zeros))
    ]
    strides, dilations, pads = listed
    return [Axis(*one) for one in zip(_sizes(node.inputs[0], count), kernel, strides, dilations, pads[:count], pads[count:])]


def _sizes(value: ir.Value | None, count: int) -> list[int | None]:
    """The last sizes of `value`, as far as they are known."""
    if value is None or value.shape is None:
        return [None] * count
    return [size if isinstance(size, int) else None for size in value.shape[-count:]]
