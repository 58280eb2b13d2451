"""Files that appear whole or not at all, and ONNX models streamed into them.

A file is written under a temporary name in its own folder and then renamed over the old one, so that an interrupted
write leaves the old file as it was and nothing beside it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

import onnx
import onnx_ir as ir
import torch
from onnx_ir import serde
from onnx_ir.tensor_adapters import TorchTensor

from fxcompress.errors import InputError

LARGEST_FILE = 2**31 - 2**20
"""Bytes of weights that a single ONNX file holds (protobuf ends at 2 GiB); more go to a file beside it."""

_SMALLEST_EXTERNAL = 1024  # bytes; shape inference reads axes and shapes, which must stay in the model

# Field numbers of the ONNX protobuf messages that are streamed; all are length-delimited (wire type 2).
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = 7, 5, 9


def check_writable(path: str | os.PathLike[str]) -> Path:
    """`path` as a `Path`, once it is known that a file can be written there. Call it before any long work.

    Raises:
        InputError: the folder does not exist or cannot be written to, or the path is a folder.
    """
    target = Path(path)
    if target.is_dir():
        raise InputError(f"cannot write {target}: it is a folder; give the path of a file in it")
    if not target.parent.is_dir():
        raise InputError(f"cannot write {target}: the folder {target.parent} does not exist; create it first")
    try:
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise InputError(f"cannot write {target}: no file can be made in {target.parent} ({error.strerror})") from error
    if target.exists() and not os.access(target, os.W_OK):
        raise InputError(f"cannot write {target}: the file that is there is read-only")
    return target


@contextmanager
def replacing(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file that takes the place of `path` when the block ends well, and vanishes when it does not.

    Raises:
        InputError: as `check_writable`, or the disk cannot take the file (`OSError` while writing).
    """
    target = check_writable(path)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    try:
        with os.fdopen(handle, mode) as file:
            yield file
        os.chmod(temporary, _permissions(target))
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _permissions(target: Path) -> int:
    """Those of the file that is there, else those of a new file."""
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def write_onnx(model: ir.Model, path: str | os.PathLike[str], *, largest_file: int = LARGEST_FILE) -> Path:
    """Write `model` to `path`; its weights go from memory to the file without a copy of them all.

    Weights of more than `largest_file` bytes go to a file beside it (external data), called ``<name>.data``.

    Raises:
        InputError: the path cannot be written. Nothing is left behind and an old file stays as it was.
    """
    target = check_writable(path)
    tensors = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    external = sum(tensor.nbytes for tensor in tensors) > largest_file
    headers = [_header(value) for value in model.graph.initializers.values()]
    if not external:
        with replacing(target) as file:
            _write_model(file, _skeleton(model), headers, tensors)
        return target
    # The old model may refer to the old data, so the new data takes the other of two names until the model is renamed.
    first, second = (target.with_name(f"{target.name}{suffix}") for suffix in (".data", ".1.data"))
    data, stale = (second, first) if first.exists() else (first, second)
    try:
        with replacing(data) as file:
            for header, tensor in zip(headers, tensors):
                if tensor.nbytes < min(_SMALLEST_EXTERNAL, largest_file):
                    header.raw_data = tensor.tobytes()
                else:
                    _refer(header, data.name, file.tell(), _write_data(file, tensor))
        with replacing(target) as file:
            _write_model(file, _skeleton(model), headers, [])
    except BaseException:
        data.unlink(missing_ok=True)
        raise
    stale.unlink(missing_ok=True)
    return target


def _skeleton(model: ir.Model) -> onnx.ModelProto:
    """The model without its initializers."""
    proto = onnx.ModelProto(
        ir_version=model.ir_version, producer_name=model.producer_name, producer_version=model.producer_version
    )
    for domain, version in model.opset_imports.items():
        proto.opset_import.add(domain=domain, version=version)
    for key, text in model.metadata_props.items():
        proto.metadata_props.add(key=key, value=text)
    graph = proto.graph
    graph.name = model.graph.name or ""
    for node in model.graph:
        serde.serialize_node_into(graph.node.add(), node)
        for output in node.outputs:
            if not output.is_graph_output() and output.shape is not None and output.dtype is not None:
                serde.serialize_value_into(graph.value_info.add(), output)
    for value in model.graph.inputs:
        serde.serialize_value_into(graph.input.add(), value)
    for value in model.graph.outputs:
        serde.serialize_value_into(graph.output.add(), value)
    return proto


def _header(value: ir.Value) -> onnx.TensorProto:
    """The initializer without its data."""
    tensor = value.const_value
    assert tensor is not None
    return onnx.TensorProto(name=value.name, data_type=tensor.dtype.value, dims=list(tensor.shape.numpy()))


def _refer(header: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    header.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        header.external_data.add(key=key, value=value)


def _write_model(
    file: BinaryIO | IO[Any],
    skeleton: onnx.ModelProto,
    headers: list[onnx.TensorProto],
    tensors: list[ir.TensorProtocol],
) -> None:
    """Write the protobuf message by its fields, in any order as it allows: the weights are never joined in memory.

    Without `tensors`, the headers refer to external data.
    """
    graph = skeleton.graph.SerializeToString()
    skeleton.ClearField("graph")
    encoded = [header.SerializeToString() for header in headers]
    data = [tensor.nbytes for tensor in tensors] or [0] * len(headers)
    marks = [_mark(_TENSOR_RAW_DATA, size) if tensors else b"" for size in data]
    bodies = [len(head) + len(mark) + size for head, mark, size in zip(encoded, marks, data)]
    opens = [_mark(_GRAPH_INITIALIZER, body) for body in bodies]
    file.write(skeleton.SerializeToString())
    file.write(_mark(_MODEL_GRAPH, len(graph) + sum(map(len, opens)) + sum(bodies)))
    file.write(graph)
    for index, (opening, head, mark) in enumerate(zip(opens, encoded, marks)):
        file.write(opening + head + mark)
        if tensors:
            _write_data(file, tensors[index])


def _mark(field: int, length: int) -> bytes:
    """The tag and length in front of a length-delimited protobuf field."""
    encoded = bytearray([field << 3 | 2])
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)


def _write_data(file: BinaryIO | IO[Any], tensor: ir.TensorProtocol) -> int:
    """Write the elements of `tensor`, little-endian and row by row; the number of bytes."""
    if isinstance(tensor, TorchTensor) and tensor.raw.numel() and tensor.raw.dtype != torch.bool:
        data = tensor.raw.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        return file.write(memoryview(data))
    return file.write(tensor.tobytes())
