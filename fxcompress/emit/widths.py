"""Small integers and truth values where a runtime has no kernel for them: computed in a wider type, and cast back.

A table tells which types an operator takes in onnxruntime 1.32; whoever wrote a node, it is looked at here. OpenVINO clips what
leaves the range of a byte where torch and onnxruntime wrap around, so that arithmetic takes 32 bits at least.
"""

from __future__ import annotations

import functools

import onnx
import onnx_ir as ir

from fxcompress.emit.rewiring import constants_of, follow

_BOOL, _U8, _I8, _I16, _I32, _I64 = (
    getattr(ir.DataType, name) for name in ("BOOL", "UINT8", "INT8", "INT16", "INT32", "INT64")
)
_FLOAT, _DOUBLE = ir.DataType.FLOAT, ir.DataType.DOUBLE
_WHOLE = (_BOOL, _U8, _I8, _I16, _I32, _I64)
_BYTES, _WIDE = {_U8, _I8}, {_I32, _I64}
_NUMBERS = _BYTES | {_I16} | _WIDE

TAKES: dict[str, set[ir.DataType]] = {
    **dict.fromkeys(("Abs", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mod", "Sign", "TopK"), _NUMBERS),
    **dict.fromkeys(("Add", "CumSum", "Div", "Einsum", "MatMul", "Mul", "Neg", "Pow", "Sub"), _WIDE),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum"), _WIDE),
    **dict.fromkeys(("ArgMax", "ArgMin", "Clip", "Max", "Min", "Where"), _BYTES | _WIDE),
    **dict.fromkeys(("Pad", "ReduceMax", "ReduceMin"), {_BOOL} | _BYTES | _WIDE),
    **dict.fromkeys(("DepthToSpace", "MaxPool", "SpaceToDepth"), _BYTES),
    "NonZero": {_BOOL, _U8} | _WIDE,
    "Range": {_I16} | _WIDE,
    "Relu": {_I8, _I32},
    "Resize": _BYTES | {_I32},
    "Trilu": {_BOOL} | _WIDE,
}
"""The whole numbers that an operator is left to compute with; those that are not here take all of them, or floats alone."""


def widen(graph: ir.Graph) -> None:
    """Have every node compute in a type that it takes: the narrowest wider one, from which its results are cast back."""
    constants = constants_of(graph)
    for node in list(graph):
        takes = TAKES.get(node.op_type) if not node.domain else None
        if takes is not None and not constants.issuperset(node.inputs):
            _widen(graph, node, takes)


def _widen(graph: ir.Graph, node: ir.Node, takes: set[ir.DataType]) -> None:
    inputs, outputs = _of_one_type(node.op_type)
    typed = [(place, value) for place, value in enumerate(node.inputs) if value is not None and place in inputs]
    narrow = typed[0][1].dtype if typed else None
    if narrow not in _WHOLE or narrow in takes:
        return
    assert narrow is not None
    wide = _wider(narrow, takes)
    for place, value in typed:
        cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(wide))], name=f"{node.name}/cast_{place}")
        cast.outputs[0].name, cast.outputs[0].type = f"{cast.name}/inner", ir.TensorType(wide)
        cast.outputs[0].shape = value.shape
        graph.insert_before(node, cast)
        node.replace_input_with(place, cast.outputs[0])
    for value in node.outputs:
        if value.index() in outputs and (value.uses() or value.is_graph_output()):
            back = follow(graph, value, "Cast")
            back.producer().attributes["to"] = ir.AttrInt64("to", int(narrow))  # type: ignore[union-attr]
            value.type, back.type = ir.TensorType(wide), ir.TensorType(narrow)


def _wider(narrow: ir.DataType, takes: set[ir.DataType]) -> ir.DataType:
    """The first type that is taken and holds all of `narrow`; a float where no whole number is."""
    wider = [one for one in _WHOLE[_WHOLE.index(narrow) + 1 :] if one in takes and one not in _BYTES]
    return wider[0] if wider else _DOUBLE if narrow in _WIDE else _FLOAT


@functools.cache
def _of_one_type(op_type: str) -> tuple[range | set[int], set[int]]:
    """The places of the inputs and outputs of an operator that are of one type, that which it computes in."""
    schema = onnx.defs.get_schema(op_type, 20)
    kinds = [one.type_str for one in schema.inputs]
    kind = schema.outputs[0].type_str if schema.outputs[0].type_str in kinds else kinds[0]
    if schema.inputs[0].option == onnx.defs.OpSchema.FormalParameterOption.Variadic:
        return range(2**31), {0}
    places = {place for place, one in enumerate(kinds) if one == kind}
    return places, {place for place, one in enumerate(schema.outputs) if one.type_str == kind}
