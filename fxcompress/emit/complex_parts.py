"""Operations that do the same to the real and the imaginary part, for complex numbers written as pairs."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch.utils import _pytree as pytree

from fxcompress.emit.translation import TRANSLATIONS, Emitter

aten = torch.ops.aten

PARTWISE = {
    *(aten.reshape.default, aten.view.default, aten._unsafe_view.default, aten.flatten.using_ints, aten.unflatten.int),
    *(aten.permute.default, aten.transpose.int, aten.t.default, aten.unsqueeze.default, aten.squeeze.dims),
    *(aten.squeeze.dim, aten.squeeze.default, aten.expand.default, aten.repeat.default, aten.clone.default),
    *(aten.cat.default, aten.stack.default, aten.slice.Tensor, aten.select.int, aten.narrow.default, aten.flip.default),
    *(aten.roll.default, aten.index.Tensor, aten.index_select.default, aten.gather.default, aten.split.Tensor),
    *(aten.split_with_sizes.default, aten.unbind.int, aten.constant_pad_nd.default, aten.sum.dim_IntList, aten.mean.dim),
    *(aten.tril.default, aten.triu.default, aten.neg.default, aten.alias.default, aten.detach.default, aten.movedim.int),
    *(aten.repeat_interleave.self_int, aten.embedding.default, aten.cumsum.default, aten.diff.default),
}
"""Linear operations that move, copy or add up numbers."""


def real(emit: Emitter, pairs: ir.Value) -> ir.Value:
    """The real parts."""
    return emit.Gather(pairs, emit.constant(torch.tensor(0)), axis=-1)


def imaginary(emit: Emitter, pairs: ir.Value) -> ir.Value:
    """The imaginary parts."""
    return emit.Gather(pairs, emit.constant(torch.tensor(1)), axis=-1)


def as_pairs(emit: Emitter, value: ir.Value, dtype: torch.dtype | None = None) -> ir.Value:
    """`value` as complex numbers, whose parts are of `dtype`; by default those of `value`, if they are floats."""
    fake = emit.fake(value)
    if fake.is_complex():
        return value
    numbers = value if fake.is_floating_point() else emit.cast(value, torch.get_default_dtype())
    column = emit.Unsqueeze(numbers if dtype is None else emit.cast(numbers, dtype), [-1])
    return emit.Concat(column, emit.Mul(column, 0.0), axis=-1)


def write_parts(emit: Emitter, args: Any, kwargs: Any) -> Any:
    """The call of ``emit.node``, one of `PARTWISE`, on the real parts and on the imaginary ones, and both joined."""
    translate, results = TRANSLATIONS[emit.node.target], emit.result  # type: ignore[index]
    emit.result = pytree.tree_map_only(torch.Tensor, lambda fake: fake.real, results)
    parts = []
    for part in (real, imaginary):

        def taken(value: ir.Value, part: Any = part) -> ir.Value:
            fake = emit.fake(value)
            if not fake.is_complex():
                return value
            found = emit.derived(value, part.__name__, lambda: part(emit, value))
            found.meta["val"] = fake.real
            return found

        parts.append(
            translate(emit, *pytree.tree_map_only(ir.Value, taken, args), **pytree.tree_map_only(ir.Value, taken, kwargs))
        )
    first, second = parts
    if isinstance(first, ir.Value):
        return _joined(emit, first, second)
    return [_joined(emit, a, b) for a, b in zip(first, second)]


def _joined(emit: Emitter, first: ir.Value, second: ir.Value) -> ir.Value:
    return emit.Concat(emit.Unsqueeze(first, [-1]), emit.Unsqueeze(second, [-1]), axis=-1)
