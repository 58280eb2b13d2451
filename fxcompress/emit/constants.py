"""What a call gives is a constant of the file where it follows from constants, whatever a runtime would make of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor
from torch.utils import _pytree as pytree

from fxcompress.emit.translation import Emitter

_SMALL = 2**16  # bytes


def computed(emit: Emitter, args: Any, kwargs: Any, leaves: Sequence[Any]) -> ir.Value | None:
    """What the call of ``emit.node`` gives; None where that is not known, or is large and larger than what it is made of.

    `leaves` are those of `args` and `kwargs`.

    Runtimes do not compute all such calls when they load a file, and OpenVINO reads some of those that it leaves wrongly.
    """
    target, result = emit.node.target, emit.result
    values = [leaf for leaf in leaves if isinstance(leaf, ir.Value)]
    if not values or getattr(target, "namespace", "") != "aten" or not _is_plain(result):
        return None
    if any(isinstance(leaf, torch.SymInt | torch.SymFloat) for leaf in leaves):
        return None
    if torch.Tag.nondeterministic_seeded in target.tags or not all(map(_is_stored, values)):  # type: ignore[union-attr]
        return None
    args, kwargs = pytree.tree_map_only(ir.Value, emit.data, (args, kwargs))
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    if result.nbytes > max(_SMALL, sum(tensor.nbytes for tensor in tensors)):
        return None
    made = target(*args, **kwargs)  # type: ignore[operator]
    return emit.constant(made.detach())


def _is_plain(result: Any) -> bool:
    """Whether `result` is one tensor of real numbers, of a size that is known."""
    return isinstance(result, torch.Tensor) and not result.is_complex() and all(isinstance(s, int) for s in result.shape)


def _is_stored(value: ir.Value) -> bool:
    """Whether `value` is a constant that is one for torch as well: no pairs of a complex number, no integers in half bytes."""
    fake = value.meta.get("val")
    return isinstance(value.const_value, TorchTensor) and not (fake is not None and fake.is_complex())
