"""A file, written from a compiled graph, and run in its runtime before it gets its name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir
from torch import fx

from fxcompress.conformance.check import FileCheck
from fxcompress.conformance.client import CHILD
from fxcompress.data.inputs import ExampleInputs
from fxcompress.emit.interface import float32_inputs
from fxcompress.errors import InputError, shown
from fxcompress.report.rows import Row
from fxcompress.storage.memory import give_back

Verify = bool | Literal["strict"]


@dataclass
class CheckedFile:
    """How the file of a compiled graph comes about.

    Attributes:
        lower: makes the graph that the file holds.
        emit: the ONNX model of that graph.
        write: writes such a model to a path, in the file's format.
        runtime: the one that it is for, a key of `fxcompress.conformance.check.RUNTIMES`.
        example: inputs of the compiled graph.
        names: given to `emit` for the file itself, not where single nodes are looked at.
        form: the same, given to `write`.
        row: that of the report, once the file was looked at.
        mismatch: what to warn of, if anything.
        weight_bytes: what the weights in the file take, with their scales and zero points, once it is written.
        told: of tables that it has twice, once it is written.
    """

    lower: Callable[[], fx.GraphModule]
    emit: Callable[..., ir.Model]
    write: Callable[..., Path]
    runtime: str
    example: ExampleInputs
    names: Mapping[str, Sequence[str] | None] = field(default_factory=dict)
    form: Mapping[str, Any] = field(default_factory=dict)
    row: Row | None = field(default=None, init=False)
    mismatch: str | None = field(default=None, init=False)
    weight_bytes: int = field(default=0, init=False)
    told: tuple[str, ...] = field(default=(), init=False)

    def write_to(self, path: str | os.PathLike[str], verify: Verify) -> Path:
        """Lower, translate and write the graph, and run the file unless `verify` is False.

        Raises:
            VerificationError: the runtime does not load it, or ``verify="strict"`` and it computes something else; nothing is
                written.
        """
        if not isinstance(verify, (bool, str)) or verify not in (True, False, "strict"):
            raise InputError(f"verify is True, False or 'strict', not {shown(verify)}")
        if verify:
            CHILD.start()  # and is ready when the file is written
        lowered, example = self.lower(), float32_inputs(self.example)
        strict = verify == "strict"
        check = FileCheck(lowered, example, self.runtime, self.emit, self.write, strict, Path(path)) if verify else None
        give_back()
        model = self.emit(lowered, **self.names)
        self.weight_bytes, self.told = _weight_bytes(model), tuple(model.meta.get("told", ()))
        give_back()
        written = self.write(model, path, check=check, **self.form)
        if check:
            self.row, self.mismatch = check.row, check.mismatch
        if self.row:
            self.row = replace(self.row, notes=(*self.row.notes, *lowered.meta["report"].notes, *self.told))
        return written


def _weight_bytes(model: ir.Model) -> int:
    """The bytes of the tensors of `model`, but for 64-bit integers, which are sizes and axes of operations."""
    held = (one.const_value for one in model.graph.initializers.values())
    return sum(one.nbytes for one in held if one is not None and one.dtype != ir.DataType.INT64)
