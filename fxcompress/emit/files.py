"""ONNX models in files."""

from __future__ import annotations

import os
from pathlib import Path

import onnx_ir as ir

from fxcompress.storage.atomic import check_writable, replacing

LARGEST_FILE = 2**29
"""Bytes of weights in a single file; more go to a file beside it. Protobuf ends at 2 GiB, and needs thrice the memory."""

_LARGEST_INTERNAL = 1023  # bytes; shape inference reads axes and shapes, which must stay in the model


def write_onnx(model: ir.Model, path: str | os.PathLike[str], *, largest_file: int = LARGEST_FILE) -> Path:
    """Write `model` to `path`, whole or not at all, and return the path.

    Weights of more than `largest_file` bytes go to a file beside it (external data), called ``<name>.data``.

    Raises:
        InputError: the path cannot be written. Nothing is left behind and an old file stays as it was.
    """
    target = check_writable(path)
    tensors = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    if sum(tensor.nbytes for tensor in tensors) <= largest_file:
        with replacing(target) as (part,):
            ir.save(model, part, format="protobuf")
        return target
    # The old model may refer to the old data, so new data take the other of two names until the model is renamed.
    first, second = (target.with_name(f"{target.name}{suffix}") for suffix in (".data", ".1.data"))
    data, stale = (second, first) if first.exists() else (first, second)
    limit = min(_LARGEST_INTERNAL, largest_file)
    with replacing(data, target) as (_, part):
        ir.save(model, part, format="protobuf", external_data=data.name, size_threshold_bytes=limit)
    stale.unlink(missing_ok=True)
    return target
