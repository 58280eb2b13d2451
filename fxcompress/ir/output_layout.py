"""Outputs that a model asks to be contiguous: what calls it may read them by strides, as ``view`` does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

aten = torch.ops.aten

_KEY = "contiguous"


def note_contiguous_outputs(graph: fx.Graph) -> None:
    """Note which outputs of `graph`, as torch.export made it, are results of ``contiguous()``; the dialect has none."""
    output = graph.output_node()
    values = pytree.tree_leaves(output.args)
    output.meta[_KEY] = tuple(i for i, value in enumerate(values) if isinstance(value, fx.Node) and _is_contiguous(value))


def contiguous_outputs(graph: fx.Graph) -> tuple[int, ...]:
    """The positions of those outputs, among all that the graph returns."""
    return graph.output_node().meta.get(_KEY, ())


def laid_out(result: Any, positions: tuple[int, ...]) -> Any:
    """`result` with the tensors at these positions contiguous, as most are anyway."""
    if not positions:
        return result
    leaves, spec = pytree.tree_flatten(result)
    for position in positions:
        if position < len(leaves) and isinstance(leaves[position], Tensor):
            leaves[position] = leaves[position].contiguous()
    return pytree.tree_unflatten(leaves, spec)


def _is_contiguous(value: fx.Node) -> bool:
    if value.target not in (aten.contiguous.default, aten.clone.default):
        return False
    usual = torch.contiguous_format if value.target is aten.contiguous.default else torch.preserve_format
    return value.kwargs.get("memory_format", usual) is torch.contiguous_format
