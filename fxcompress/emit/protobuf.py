"""An ONNX model written to a file tensor by tensor: protobuf's own way holds all of them three times.

Source: the encoding of protocol buffers (a field is a tag, ``number << 3 | type``, and a length), and the numbers of the fields
in onnx.proto: `ModelProto.graph` 7, `GraphProto.initializer` 5, `TensorProto.raw_data` 9.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir

from fxcompress.storage.memory import give_back

_GIVEN_BACK = 2**20  # bytes of a weight after which memory is given back
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9


def write_protobuf(model: ir.Model, path: Path) -> None:
    """Write `model` to `path`, each weight straight from where it is held."""
    tensors = [
        _Written(name, value.const_value) for name, value in model.graph.initializers.items() if value.const_value is not None
    ]
    skeleton = _without_initializers(model)
    graph = skeleton.graph.SerializeToString(deterministic=True)
    skeleton.ClearField("graph")
    with path.open("wb") as file:
        file.write(skeleton.SerializeToString(deterministic=True))
        file.write(_prefix(_GRAPH, len(graph) + sum(map(len, tensors))) + graph)
        for tensor in tensors:
            tensor.write_to(file)
            if tensor.tensor.nbytes > _GIVEN_BACK:
                give_back()


class _Written:
    """An initializer as a field of the graph; its length is known before its values are computed."""

    def __init__(self, name: str, tensor: ir.TensorProtocol):
        self.tensor = tensor
        header = onnx.TensorProto(name=name, data_type=int(tensor.dtype), dims=tensor.shape.numpy())
        self.header = header.SerializeToString(deterministic=True) + _prefix(_RAW_DATA, tensor.nbytes)
        self.opening = _prefix(_INITIALIZER, len(self.header) + tensor.nbytes)

    def __len__(self) -> int:
        return len(self.opening) + len(self.header) + self.tensor.nbytes

    def write_to(self, file: BinaryIO) -> None:
        file.write(self.opening + self.header)
        begun = file.tell()
        self.tensor.tofile(file)  # type: ignore[attr-defined]  # `tobytes` would copy them
        assert file.tell() - begun == self.tensor.nbytes


def _without_initializers(model: ir.Model) -> onnx.ModelProto:
    """`model` with all that it says of its initializers, and nothing of what they hold."""
    held = {value: value.const_value for value in model.graph.initializers.values()}
    nothing = ir.tensor([0])
    try:
        for value in held:
            value.const_value = nothing
        skeleton = ir.to_proto(model)
    finally:
        for value, tensor in held.items():
            value.const_value = tensor
    del skeleton.graph.initializer[:]
    return skeleton


def _prefix(field: int, length: int) -> bytes:
    return _varint(field << 3 | 2) + _varint(length)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)
