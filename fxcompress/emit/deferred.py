"""Integers of a file that are computed when it is written: those that lie two in a byte, given a byte each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor


class Deferred(ir.LazyTensor):
    """8-bit integers of `shape` that `values` computes at each call."""

    def __init__(self, values: Callable[[], torch.Tensor], shape: Sequence[int], name: str) -> None:
        super().__init__(lambda: TorchTensor(values()), ir.DataType.UINT8, ir.Shape(shape), name=name)
        self.values = values

    def fake(self) -> torch.Tensor:
        """A tensor of that shape without values."""
        return torch.empty(tuple(self.shape.numpy()), dtype=torch.uint8, device="meta")
