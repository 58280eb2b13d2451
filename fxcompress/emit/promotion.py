"""The arguments of a call in the types that torch computes in, which translations may then take for granted."""

from __future__ import annotations

import functools
from typing import Any

import onnx_ir as ir
import torch
from torch.utils import _pytree as pytree

from fxcompress.emit.complex_parts import as_pairs
from fxcompress.emit.translation import Emitter
from fxcompress.emit.types import number


def promoted(emit: Emitter, target: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """`args` and `kwargs` of a call of `target` by torch's own rules: tensors cast, numbers converted."""
    rule = _rules().get_rule(target.overloadpacket) if hasattr(target, "overloadpacket") else None
    if rule is None:
        return args, kwargs
    fakes = pytree.tree_map_only(ir.Value, emit.fake, (args, kwargs))
    types = rule.preview_type_promotion(*fakes)

    def promote(argument: Any, dtype: torch.dtype | None) -> Any:
        if dtype is None or argument is None:
            return argument
        if isinstance(argument, list | tuple):
            return [promote(one, dtype) for one in argument]
        if not isinstance(argument, ir.Value):
            return complex(argument) if dtype.is_complex else number(argument, dtype)
        if dtype.is_complex:
            return as_pairs(emit, argument)
        cast = emit.cast(argument, dtype)
        cast.meta.setdefault("val", emit.fake(argument).to(dtype))
        return cast

    return (
        tuple(promote(argument, types.args_dtypes.get(i)) for i, argument in enumerate(args)),
        {name: promote(argument, types.kwargs_dtypes.get(name)) for name, argument in kwargs.items()},
    )


def is_mixed(args: Any, kwargs: Any) -> bool:
    """Whether the tensors among the arguments are of several types."""
    return len({value.dtype for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, ir.Value)}) > 1


@functools.cache
def _rules() -> Any:
    from torch.onnx._internal.fx.passes.type_promotion import TypePromotionTable

    return TypePromotionTable()
