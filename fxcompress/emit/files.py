"""ONNX models in files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir

from fxcompress.storage.atomic import check_writable, replacing

LARGEST_FILE = 2**29
"""Bytes of weights in a single file; more go to a file beside it. Protobuf ends at 2 GiB, and needs thrice the memory."""

Check = Callable[[Path, dict[str, list[Any]]], object]
"""What looks at a finished file, given the shapes of its inputs."""

_LARGEST_INTERNAL = 1023  # bytes; shape inference reads axes and shapes, which must stay in the model


def write_onnx(
    model: ir.Model,
    path: str | os.PathLike[str],
    *,
    largest_file: int = LARGEST_FILE,
    check: Check | None = None,
) -> Path:
    """Write `model` to `path`, whole or not at all, and return the path.

    Weights of more than `largest_file` bytes go to a file beside it (external data), called ``<name>.data``. `check` is called
    with the finished file before that gets its name; what it raises leaves nothing behind.

    Raises:
        InputError: the path cannot be written. Nothing is left behind and an old file stays as it was.
    """
    target = check_writable(path)
    tensors = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    if sum(tensor.nbytes for tensor in tensors) <= largest_file:
        with replacing(target) as (part,):
            ir.save(model, part, format="protobuf")
            _checked(check, part, model)
        return target
    # The old model may refer to the old data, so new data take the other of two names until the model is renamed.
    first, second = (target.with_name(f"{target.name}{suffix}") for suffix in (".data", ".1.data"))
    data, stale = (second, first) if first.exists() else (first, second)
    limit = min(_LARGEST_INTERNAL, largest_file)
    with replacing(data, target) as (_, part):
        ir.save(model, part, format="protobuf", external_data=data.name, size_threshold_bytes=limit)
        _checked(check, part, model)
    stale.unlink(missing_ok=True)
    return target


def declared_shapes(model: ir.Model) -> dict[str, list[Any]]:
    """The sizes of each input by its name, those that are free as symbols."""
    return {str(value.name): list(value.shape or ()) for value in model.graph.inputs}


def _checked(check: Check | None, part: Path, model: ir.Model) -> None:
    if check is not None:
        check(part, declared_shapes(model))
