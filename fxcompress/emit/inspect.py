"""What an ONNX file holds, from a compression's point of view."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from fxcompress.emit.rewiring import dequantize_of, numbers_of
from fxcompress.errors import InputError, unreadable
from fxcompress.report.units import readable_bytes
from fxcompress.storage.atomic import as_path

_HEAVY = {"Conv", "ConvTranspose", "MatMul", "Gemm"}
_INTEGERS = {ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4}


@dataclass(frozen=True)
class OnnxSummary:
    """Counts over one ONNX file; print it.

    Attributes:
        path: the file.
        opset: version of the standard operators.
        producer: name and version of what wrote the file.
        metadata: its `metadata_props`.
        inputs, outputs: name, type and shape of each, as text.
        operators: how many nodes of each type, most frequent first.
        quantizes, dequantizes: number of QuantizeLinear and DequantizeLinear nodes.
        bytes_by_type: bytes of initializers by element type.
        integer_weight_share: share of the weights' elements that are stored in 8 bits or fewer. Weights are the
            initializers of two or more dimensions that a convolution or matrix product reads, maybe dequantized.
        integer_layer_share: share of the convolutions and matrix products whose two operands are both dequantized,
            maybe moved (padded, reshaped, transposed, max-pooled) on the way.
        zero_share: share of the weights' elements that stand for zero.
        file_bytes: size of the file, without external data.
    """

    path: Path
    opset: int
    producer: str
    metadata: dict[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operators: dict[str, int]
    quantizes: int
    dequantizes: int
    bytes_by_type: dict[str, int]
    integer_weight_share: float
    integer_layer_share: float
    zero_share: float
    file_bytes: int

    def __str__(self) -> str:
        sizes = ", ".join(f"{readable_bytes(count)} {kind}" for kind, count in self.bytes_by_type.items()) or "none"
        operators = ", ".join(f"{count} {name}" for name, count in self.operators.items()) or "none"
        lines = [
            f"{self.path}  ({readable_bytes(self.file_bytes)}, opset {self.opset}, by {self.producer or 'unknown'})",
            f"inputs        {', '.join(self.inputs) or 'none'}",
            f"outputs       {', '.join(self.outputs) or 'none'}",
            f"operators     {operators}",
            f"quantization  {self.quantizes} QuantizeLinear, {self.dequantizes} DequantizeLinear",
            f"layers        {self.integer_layer_share:.1%} of convolutions and matrix products read integers",
            f"weights       {self.integer_weight_share:.1%} integer, {self.zero_share:.1%} zero",
            f"initializers  {sizes}",
            *(f"metadata      {key} = {value}" for key, value in self.metadata.items()),
        ]
        return "\n".join(lines)


def plain_summary(path: str | os.PathLike[str]) -> dict[str, Any]:
    """`inspect_onnx` as plain data, for `json`."""
    return {**asdict(inspect_onnx(path)), "path": str(path)}


def inspect_onnx(path: str | os.PathLike[str]) -> OnnxSummary:
    """Read the ONNX file at `path` and count.

    Raises:
        InputError: there is no such file, or it is not an ONNX model.
    """
    file = as_path(path)
    if not file.is_file():
        raise InputError(f"cannot inspect {file}: there is no such file")
    with unreadable(f"cannot inspect {file}: it is not an ONNX model, or not whole", "write it anew"):
        return _summary(file, ir.load(file))


def _summary(file: Path, model: ir.Model) -> OnnxSummary:
    nodes = list(model.graph)
    if not nodes and not model.graph.inputs and not model.graph.outputs:
        raise InputError(f"cannot inspect {file}: it holds no graph")
    operators = dict(Counter(node.op_type for node in nodes).most_common())
    weights = [weight for node in nodes if node.op_type in _HEAVY for weight in _weights(node)]
    elements, integers, zeros = _weight_elements(weights)
    heavy = [node for node in nodes if node.op_type in _HEAVY]
    return OnnxSummary(
        path=file,
        opset=model.opset_imports.get("", 0),
        producer=" ".join(filter(None, (model.producer_name, model.producer_version))),
        metadata=dict(model.metadata_props),
        inputs=tuple(map(_signature, model.graph.inputs)),
        outputs=tuple(map(_signature, model.graph.outputs)),
        operators=operators,
        quantizes=operators.get("QuantizeLinear", 0),
        dequantizes=operators.get("DequantizeLinear", 0),
        bytes_by_type=_bytes_by_type(model.graph),
        integer_weight_share=integers / elements if elements else 0.0,
        integer_layer_share=sum(map(_reads_integers, heavy)) / len(heavy) if heavy else 0.0,
        zero_share=zeros / elements if elements else 0.0,
        file_bytes=file.stat().st_size,
    )


def _reads_integers(node: ir.Node) -> bool:
    return all(dequantize_of(value) is not None for value in node.inputs[:2])


@dataclass(frozen=True)
class _Weight:
    """A constant operand of two or more dimensions, and what stands for zero in it, broadcast against it."""

    value: ir.Value
    zero: np.ndarray


def _weights(node: ir.Node) -> list[_Weight]:
    """The constant operands of `node`."""
    found = []
    for value in node.inputs[:2]:
        dequantize = dequantize_of(value)
        weight = _dequantized(dequantize) if dequantize is not None else value and _Weight(value, np.asarray(0))
        if weight and weight.value.const_value is not None and len(weight.value.const_value.shape) >= 2:
            found.append(weight)
    return found


def _dequantized(dequantize: ir.Node) -> _Weight | None:
    """What `dequantize` reads, maybe brought into 8 bits, and relative to its zero point, on the way."""
    value, subtracted = dequantize.inputs[0], None
    while value is not None and (producer := value.producer()) is not None and producer.op_type in ("Cast", "Sub"):
        subtracted = numbers_of(producer.inputs[1]) if producer.op_type == "Sub" else subtracted
        value = producer.inputs[0]
    numbers = numbers_of(value)
    if value is None or numbers is None:
        return None
    return _Weight(value, _zero_point(dequantize, numbers) if subtracted is None else subtracted.astype(numbers.dtype))


def _weight_elements(weights: list[_Weight]) -> tuple[int, int, int]:
    """Elements in all, those stored as integers, and those that are zero; a shared weight counts once."""
    elements = integers = zeros = 0
    for weight in {id(weight.value): weight for weight in weights}.values():
        tensor = weight.value.const_value
        assert tensor is not None
        elements += tensor.size
        integers += tensor.size if tensor.dtype in _INTEGERS else 0
        zeros += int(np.count_nonzero(tensor.numpy() == weight.zero))
    return elements, integers, zeros


def _zero_point(dequantize: ir.Node, values: np.ndarray) -> np.ndarray:
    """What stands for zero in `values`, broadcast against them: one number, or one for each channel or block."""
    given = numbers_of(dequantize.inputs[2]) if len(dequantize.inputs) > 2 else None
    if given is None:
        return np.asarray(0, values.dtype)
    points = given.astype(values.dtype)
    axis = dequantize.attributes.get_int("axis", 1)
    block = dequantize.attributes.get_int("block_size", 0)
    if block:
        return points.repeat(block, axis).take(range(values.shape[axis]), axis)
    return points.reshape([-1 if d == axis % values.ndim else 1 for d in range(values.ndim)]) if points.ndim else points


def _bytes_by_type(graph: ir.Graph) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for value in graph.initializers.values():
        if value.const_value is not None:
            counts[value.const_value.dtype.name.lower()] += value.const_value.nbytes
    return dict(counts.most_common())


def _signature(value: ir.Value) -> str:
    dims = ", ".join(str(d.value) if isinstance(d, ir.SymbolicDim) else str(d) for d in value.shape or ())
    return f"{value.name} {value.dtype.name.lower() if value.dtype else '?'}[{dims}]"
