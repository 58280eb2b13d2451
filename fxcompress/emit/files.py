"""ONNX models in files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import onnx_ir as ir

from fxcompress.emit.names import in_utf8
from fxcompress.emit.protobuf import write_protobuf
from fxcompress.errors import InputError
from fxcompress.storage.atomic import as_file, check_writable, replacing, takes_files_beside

LARGEST_FILE = 2**29
"""Bytes of weights in a single file; more go to a file beside it. Protobuf ends at 2 GiB, and needs thrice the memory."""

Check = Callable[[Path, dict[str, list[Any]]], object]
"""What looks at a finished file, given the shapes of its inputs."""

_LARGEST_INTERNAL = 1023  # bytes; shape inference reads axes and shapes, which must stay in the model


def check_onnx_path(path: str | os.PathLike[str]) -> Path:
    """`path` as a `Path`, once it is known that an ONNX file can be written there. Call it before any long work.

    Raises:
        InputError: it cannot be written, or is named as OpenVINO's own format, which is written in another way.
    """
    target = as_file(path)
    if target.suffix.lower() in (".xml", ".bin"):
        raise InputError(
            f"{target} is a name of OpenVINO's own format, and this writes ONNX: name {target.with_suffix('.onnx')}, which "
            f"OpenVINO reads as it is, or call to_openvino({str(target.with_suffix('.xml'))!r}) on the compiled model"
        )
    return check_writable(target)


def write_onnx(
    model: ir.Model,
    path: str | os.PathLike[str],
    *,
    largest_file: int = LARGEST_FILE,
    check: Check | None = None,
) -> Path:
    """Write `model` to `path`, whole or not at all, and return the path.

    Weights of more than `largest_file` bytes go to a file beside it (external data), called ``<name>.<digest>.data``: a graph
    never reads the weights of another. They are written first, and those of the old graph are removed when the new one is
    there. `check` is called with the finished file before that gets its name; what it raises leaves nothing behind.

    Raises:
        InputError: the path cannot be written. Nothing is left behind and an old file stays as it was.
    """
    target = check_writable(path)
    tensors = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    if sum(tensor.nbytes for tensor in tensors) <= largest_file:
        with replacing(target, obsolete=lambda: _data_files(target)) as (part,):
            write_protobuf(model, part)
            _checked(check, part, model)
        return target
    if not takes_files_beside(target):
        raise InputError(f"cannot write {target}: so large a model needs a file beside it for its weights; name a file")
    if target.name != in_utf8(target.name):
        raise InputError(f"cannot write {target!r}: the model names the file of its weights, in UTF-8; give it such a name")
    limit = min(_LARGEST_INTERNAL, largest_file)
    data = target.with_name(f"{target.name}.{_digest(tensors)}.data")
    with replacing(data, target, obsolete=lambda: _data_files(target) - {data}) as (_, part):
        ir.save(model, part, format="protobuf", external_data=data.name, size_threshold_bytes=limit)
        _checked(check, part, model)
    return target


def _data_files(target: Path) -> set[Path]:
    """The files of weights beside the model `target`."""
    ours = re.compile(re.escape(target.name) + r"\.[0-9a-f]{16}\.data")
    return {path for path in target.parent.iterdir() if ours.fullmatch(path.name)}


def _digest(tensors: Iterable[ir.TensorProtocol]) -> str:
    """16 hexadecimal digits that tell these tensors from others."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tensor.name} {tensor.dtype} {tensor.shape} {tensor.nbytes} ".encode())
        found.update(tensor.tobytes())
    return found.hexdigest()[:16]


def declared_shapes(model: ir.Model) -> dict[str, list[Any]]:
    """The sizes of each input by its name, those that are free as symbols."""
    return {str(value.name): list(value.shape or ()) for value in model.graph.inputs}


def _checked(check: Check | None, part: Path, model: ir.Model) -> None:
    if check is not None:
        check(part, declared_shapes(model))
