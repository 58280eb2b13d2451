"""Ways to write a graph that keep a runtime from computing something else than the file says, one for each `Fault`.

They work on the ONNX graph, where all that reads a value is seen, whoever wrote the node. None changes what is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import onnx_ir as ir

from fxcompress.emit.chains import chains_cut
from fxcompress.emit.conversions import conversions_apart
from fxcompress.emit.convolutions import (
    bytes_padded,
    float_weights_apart,
    long_rows_longer,
    shallow_volumes_in_float,
    single_columns,
    strides_apart,
    wide_crops_in_float,
    wide_groups_in_float,
)
from fxcompress.emit.groups import groups_divided, odd_rows_in_bytes
from fxcompress.emit.joins import (
    depths_apart,
    expansions_apart,
    joins_binarized_apart,
    joins_quantized_apart,
    joins_requantized,
)
from fxcompress.emit.kernels import (
    averages_apart,
    channels_apart,
    clips_apart,
    cuts_apart,
    mishes_spelled,
    picks_apart,
    pools_apart,
    rounded_averages_apart,
    scaled_rows_apart,
    scalings_apart,
    signed_factors_apart,
)
from fxcompress.emit.products import few_bits_multiplied_apart
from fxcompress.emit.reductions import (
    averages_of_bytes_apart,
    averages_of_noise_apart,
    maxima_apart,
    means_in_float,
    reduced_integers_apart,
    reductions_apart,
    reshaped_reductions_apart,
)
from fxcompress.emit.rewiring import (
    constant,
    dequantize_of,
    follow,
    is_shared,
    numbers_of,
    rank_of,
)
from fxcompress.emit.sums import bare_sums_guarded
from fxcompress.emit.zero_points import (
    middles_signed,
    moved_unsigned,
    outputs_unsigned,
    transposed_unsigned,
    zero_points_in_biases,
)
from fxcompress.targets.faults import Fault

_END = 2**63 - 1
_SMALLEST = np.finfo(np.float32).tiny
_LARGEST_BIAS = 2**30  # steps; the other half of what 32 bits hold is for the sum that the bias is added to


def write_around(graph: ir.Graph, faults: Collection[Fault]) -> list[str]:
    """Rewrite what would run into one of `faults`; a line for each of them that was met.

    Files without quantized values meet few.
    """
    ways = _WAYS if any(node.op_type == "QuantizeLinear" for node in graph) else _WAYS_IN_FLOAT
    met = ((fault, ways[fault](graph)) for fault in Fault if fault in faults and fault in ways)
    return [f"{count} of what a runtime gets wrong is written another way: it {fault.value}" for fault, count in met if count]


def _copy_shared_biases(graph: ir.Graph) -> int:
    """Give every convolution a bias that nothing else reads."""
    found = [node for node in graph if node.op_type in ("Conv", "ConvTranspose") and len(node.inputs) > 2]
    found = [node for node in found if numbers_of(node.inputs[2]) is not None and is_shared(node.inputs[2])]  # type: ignore[arg-type]
    for node in found:
        bias = np.asarray(numbers_of(node.inputs[2]))
        node.replace_input_with(2, constant(graph, bias, f"{node.name}/bias"))
    return len(found)


def _hide_shapes(graph: ir.Graph) -> int:
    """Read sizes in a way that tells nobody which axis of which value they are the size of."""
    found = [node for node in graph if node.op_type == "Shape"]
    for node in found:
        start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", _END)
        for name in ("start", "end"):
            node.attributes.pop(name, None)
        whole = node.outputs[0]
        at_least = follow(graph, whole, "Max", constant(graph, [0]))
        if (start, end) != (0, _END):
            follow(graph, at_least, "Slice", *(constant(graph, [number]) for number in (start, end)))
    return len(found)


def _put_numbers_second(graph: ir.Graph) -> int:
    """Have the constants of sums and products be their second operands."""
    operations = [node for node in graph if node.op_type in ("Add", "Mul")]
    found = [node for node in operations if _several(node.inputs[0]) and numbers_of(node.inputs[1]) is None]
    for node in found:
        numbers, value = node.inputs
        node.replace_input_with(0, value)
        node.replace_input_with(1, numbers)
    return len(found)


def _several(value: ir.Value | None) -> bool:
    """Whether a value is a constant of more numbers than one."""
    numbers = numbers_of(value)
    return numbers is not None and numbers.size > 1


def _detach_large_biases(graph: ir.Graph) -> int:
    """Add the bias behind the layer, where it is too many steps of the layer's sum."""
    found = [node for node in graph if node.op_type in ("Conv", "ConvTranspose", "Gemm") and _overflows(node)]
    for node in found:
        bias = node.inputs[2]
        value = node.outputs[0]
        assert bias is not None and bias.const_value is not None
        spatial = 0 if node.op_type == "Gemm" else rank_of(node.inputs[1]) - 2
        node.resize_inputs(2)
        added = bias.const_value.numpy().reshape(-1, *[1] * spatial)
        follow(graph, value, "Add", constant(graph, added, f"{bias.name}_apart"))
    return len(found)


def _overflows(node: ir.Node) -> bool:
    bias = numbers_of(node.inputs[2]) if len(node.inputs) > 2 else None
    steps = [_step(value) for value in node.inputs[:2]]
    if bias is None or any(step is None for step in steps):
        return False
    bias = bias.reshape(-1).astype(np.float64)
    of_input, of_weight = (np.asarray(step, np.float64) for step in steps)
    with np.errstate(all="ignore"):
        size = np.abs(bias) / (of_input * np.resize(of_weight, bias.size))  # groups of a transposed convolution share scales
    return bool((size > _LARGEST_BIAS).any())


def _step(value: ir.Value | None) -> np.ndarray | None:
    """The scale that `value` is dequantized by: one number, or one for each channel."""
    dequantize = dequantize_of(value)
    scale = numbers_of(dequantize.inputs[1]) if dequantize is not None else None
    return scale.reshape(-1) if scale is not None and scale.ndim < 2 else None


def _omit_signed_zero_points(graph: ir.Graph) -> int:
    """Leave out zero points of 0, and name the type instead, which opset 21 can."""
    if graph.opset_imports[""] < 21:
        return 0
    outputs_unsigned(graph)
    found = [node for node in graph if node.op_type == "QuantizeLinear" and _has_signed_zero(node)]
    for node in found:
        node.resize_inputs(2)
        node.attributes["output_dtype"] = ir.AttrInt64("output_dtype", int(ir.DataType.INT8))
    for node in graph:
        if node.op_type == "DequantizeLinear" and numbers_of(node.inputs[0]) is None and _has_signed_zero(node):
            node.resize_inputs(2)
    return len(found)


def _has_signed_zero(node: ir.Node) -> bool:
    point = node.inputs[2] if len(node.inputs) > 2 else None
    numbers = numbers_of(point)
    return point is not None and point.dtype == ir.DataType.INT8 and numbers is not None and not numbers.any()


def _allow_more_overlap(graph: ir.Graph) -> int:
    """Raise the overlap at which boxes are suppressed by the least that there is: what is no more than was allowed stays."""
    found = [node for node in graph if node.op_type == "NonMaxSuppression" and numbers_of(node.inputs[3]) is not None]
    for node in found:
        allowed = np.asarray(numbers_of(node.inputs[3]), np.float32)
        raised = np.clip(np.nextafter(allowed, np.float32(np.inf)), _SMALLEST, 1)  # smaller ones count as zero
        node.replace_input_with(3, constant(graph, raised, f"{node.name}_overlap"))
    return len(found)


def _count_axes_from_the_end(graph: ir.Graph) -> int:
    """Name the axis of permutations that are not their own inverse in a way that nobody looks for them in."""
    found = [node for node in graph if node.op_type == "Gather" and _permutes(numbers_of(node.inputs[1]))]
    found = [node for node in found if node.attributes.get_int("axis", 0) > 0 and rank_of(node.inputs[0])]
    for node in found:
        node.attributes["axis"] = ir.AttrInt64("axis", node.attributes.get_int("axis", 0) - rank_of(node.inputs[0]))
    return len(found)


def _permutes(order: np.ndarray | None) -> bool:
    """Whether `order` is a permutation other than its own inverse."""
    if order is None or order.ndim != 1:
        return False
    order, places = np.where(order < 0, order + order.size, order), np.arange(order.size)
    return np.array_equal(np.sort(order), places) and not np.array_equal(order[order], places)


_WAYS_IN_FLOAT: dict[Fault, Callable[[ir.Graph], int]] = {
    Fault.SHARED_BIASES: _copy_shared_biases,
    Fault.PERMUTED_CHANNELS: _count_axes_from_the_end,
    Fault.CHANNELS_OF_ROWS: channels_apart,
    Fault.REDUCTIONS: reductions_apart,
    Fault.REDUCED_INTEGERS: reduced_integers_apart,
    Fault.RESHAPED_REDUCTIONS: reshaped_reductions_apart,
    Fault.PADDED_AVERAGES: rounded_averages_apart,
    Fault.MISH_OF_ATTENTION: mishes_spelled,
    Fault.STRIDED_PADDING: strides_apart,
    Fault.ODD_GROUPS: groups_divided,
    Fault.ODD_ROWS: odd_rows_in_bytes,
    Fault.SUPPRESSED_TIES: _allow_more_overlap,
    Fault.LONG_CHAINS: chains_cut,
}
_WAYS: dict[Fault, Callable[[ir.Graph], int]] = {
    **_WAYS_IN_FLOAT,
    Fault.BARE_SUMS: bare_sums_guarded,
    Fault.MIDDLES: middles_signed,
    Fault.SIGNED_MOVED: moved_unsigned,
    Fault.SIGNED_TRANSPOSED: transposed_unsigned,
    Fault.ZERO_POINTS: zero_points_in_biases,
    Fault.POOLED_OUTPUTS: pools_apart,
    Fault.PADDED_AVERAGES: averages_apart,
    Fault.MOVED_NUMBERS: picks_apart,
    Fault.CLIPPED_NUMBERS: clips_apart,
    Fault.CONVERSIONS: conversions_apart,
    Fault.CUT_NUMBERS: cuts_apart,
    Fault.QUANTIZED_MAXIMA: maxima_apart,
    Fault.MEANS_OF_BYTES: means_in_float,
    Fault.ROUNDED_AVERAGES: averages_of_bytes_apart,
    Fault.JOINED_ROWS: joins_quantized_apart,
    Fault.NUMBERS_FIRST: _put_numbers_second,
    Fault.SIGNED_FACTORS: signed_factors_apart,
    Fault.SCALED_PRODUCTS: scalings_apart,
    Fault.SCALED_ROWS: scaled_rows_apart,
    Fault.SHAPES_OF_CONVOLUTIONS: _hide_shapes,
    Fault.PADDED_OUTPUTS: bytes_padded,
    Fault.FEW_BITS_MULTIPLIED: few_bits_multiplied_apart,
    Fault.DEPTHS_OF_JOINS: depths_apart,
    Fault.EXPANSIONS: expansions_apart,
    Fault.REPEATED_JOINS: joins_requantized,
    Fault.JOINED_BITS: joins_binarized_apart,
    Fault.WIDE_GROUPS: wide_groups_in_float,
    Fault.SHALLOW_VOLUMES: shallow_volumes_in_float,
    Fault.WIDE_CROPS: wide_crops_in_float,
    Fault.SINGLE_COLUMNS: single_columns,
    Fault.LONG_ROWS: long_rows_longer,
    Fault.TINY_AVERAGES: averages_of_noise_apart,
    Fault.FLOAT_WEIGHTS: float_weights_apart,
    Fault.LARGE_BIASES: _detach_large_biases,
    Fault.SIGNED_ZERO_POINTS: _omit_signed_zero_points,
}
