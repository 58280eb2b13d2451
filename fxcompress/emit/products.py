"""Products of two activations, as floats where a runtime does not take their bytes."""

from __future__ import annotations

import onnx_ir as ir

from fxcompress.emit.rewiring import dequantize_of, products_of, shield


def few_bits_multiplied_apart(graph: ir.Graph) -> int:
    """Have a maximum with minus infinity stand behind one of two activations that are multiplied, where one has few bits."""
    return shield(graph, [(node, 1) for node in products_of(graph) if any(map(_has_few_bits, node.inputs))])


def _has_few_bits(value: ir.Value | None) -> bool:
    """Whether `value` comes from bytes of what was clipped to fewer levels."""
    dequantize = dequantize_of(value)
    quantize = dequantize.inputs[0].producer() if dequantize is not None and dequantize.inputs[0] is not None else None
    clip = quantize.inputs[0].producer() if quantize is not None and quantize.inputs[0] is not None else None
    return clip is not None and clip.op_type == "Clip"
