"""Matrix products. Constant weights are stored the way round that the ONNX operator reads them."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch

from fxcompress.emit.forms import Form
from fxcompress.emit.translate.quantization import dequantize_transposed, dequantized
from fxcompress.emit.translation import Emitter, translation

aten = torch.ops.aten


@translation(aten.linear.default)
def linear(emit: Emitter, x: ir.Value, weight: ir.Value, bias: ir.Value | None = None) -> ir.Value:
    # onnxruntime has kernels for integer weights alone behind MatMul, and none behind Gemm; OpenVINO takes either.
    if emit.rank(x) == 2 and (dequantized(weight) is None or _is_dequantized(x)):
        untransposed = _before_transpose(emit, weight)
        if untransposed is not None:
            return emit.Gemm(x, untransposed, bias)
        return emit.Gemm(x, weight, bias, transB=1)
    product = emit.MatMul(x, transposed(emit, weight))
    return product if bias is None else emit.Add(product, bias)


def transposed(emit: Emitter, matrix: ir.Value) -> ir.Value:
    """`matrix` with its two dimensions swapped: for a constant, or integers behind a dequantize, in the file itself."""
    untransposed = _before_transpose(emit, matrix)
    if untransposed is not None:
        return untransposed
    return emit.derived(matrix, "transposed", lambda: _transpose(emit, matrix))


def _transpose(emit: Emitter, matrix: ir.Value) -> ir.Value:
    data = emit.data(matrix)
    if data is not None and not matrix.uses():  # already in the file untransposed (a tied embedding): keep one copy
        return emit.stored(data.t(), f"{matrix.name}_transposed")
    held = dequantized(matrix)
    if held is not None and Form.TIED_ONCE in emit.forms and any(use.node.op_type == "Gather" for use in held.integers.uses()):
        return emit.Transpose(matrix, perm=[1, 0])
    return dequantize_transposed(emit, held) if held is not None else emit.Transpose(matrix, perm=[1, 0])


def _before_transpose(emit: Emitter, matrix: ir.Value) -> ir.Value | None:
    producer = matrix.producer()
    if producer is None or producer.op_type != "Transpose" or emit.rank(matrix) != 2:
        return None
    return producer.inputs[0]


@translation(aten.matmul.default, aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default)
def matmul(emit: Emitter, a: ir.Value, b: ir.Value) -> ir.Value:
    return emit.MatMul(a, _folded_transpose(emit, b))


def _folded_transpose(emit: Emitter, b: ir.Value) -> ir.Value:
    """The right operand of a product; a transposed constant matrix is stored transposed."""
    untransposed = _before_transpose(emit, b)
    return transposed(emit, untransposed) if untransposed is not None and _is_weight(untransposed) else b


def _is_weight(value: ir.Value) -> bool:
    return value.const_value is not None or dequantized(value) is not None


def _is_dequantized(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


@translation(aten.addmm.default)
def addmm(emit: Emitter, bias: ir.Value, a: ir.Value, b: ir.Value, beta: Any = 1, alpha: Any = 1) -> ir.Value:
    return emit.Gemm(a, b, bias, alpha=float(alpha), beta=float(beta))


@translation(aten.baddbmm.default)
def baddbmm(emit: Emitter, bias: ir.Value, a: ir.Value, b: ir.Value, beta: Any = 1, alpha: Any = 1) -> ir.Value:
    product = emit.MatMul(a, b)
    product = product if alpha == 1 else emit.Mul(product, float(alpha))
    if beta == 0:
        return product
    return emit.Add(product, bias if beta == 1 else emit.Mul(bias, float(beta)))


@translation(aten.einsum.default)
def einsum(emit: Emitter, equation: str, operands: list[ir.Value], path: Any = None) -> ir.Value:
    return emit.Einsum(*operands, equation=equation)


@translation(aten.outer.default)
def outer(emit: Emitter, a: ir.Value, b: ir.Value) -> ir.Value:
    return emit.Mul(emit.Unsqueeze(a, [1]), b)


@translation(aten.linalg_vecdot.default, aten.vdot.default)
def vecdot(emit: Emitter, x: ir.Value, y: ir.Value, *, dim: int = -1) -> ir.Value:
    a, b = emit.promote(x, y)
    if emit.dtype(a).is_complex:
        emit.unsupported("complex vectors")
    return emit.ReduceSum(emit.Mul(a, b), [dim], keepdims=0)
