"""Floats that are computed from sizes that are free, such as ``16 / x.shape[2]``, where a call reads them."""

from __future__ import annotations

import onnx_ir as ir
import torch

from fxcompress.emit.shapes import UnknownSizeError
from fxcompress.emit.translation import Emitter


def fraction(emit: Emitter, number: torch.SymFloat) -> ir.Value:
    """`number`, which is of double precision, as a float32 tensor of shape [].

    Raises:
        UntranslatableError: it does not follow from the shapes of the graph's inputs.
    """
    try:
        value = emit.symbols.value(emit, number)
    except UnknownSizeError as error:
        emit.unsupported(str(error))
    scalar = emit.cast(emit.Squeeze(value, [0]), torch.float32)
    scalar.meta["val"] = torch.empty((), device="meta")
    scalar.shape = ir.Shape([])
    return scalar
