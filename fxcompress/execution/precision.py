"""How forward passes that only look at values run: in which arithmetic, on which layout."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

Precision = Literal["auto", "float32", "bfloat16"]


LARGEST = torch.finfo(torch.bfloat16).max
"""A little less than float32's: masks that fill with the lowest float32 do not run in bfloat16."""


def takes_bfloat16(precision: Precision, graph: fx.Graph) -> bool:
    """Whether to run `graph` in bfloat16; ``"auto"``: where this CPU multiplies it natively (AVX512-BF16 or AMX).

    Not so where an operation on floats is called with a finite number beyond `LARGEST`.
    """
    if precision != "auto":
        return precision == "bfloat16"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return native and not any(map(_overflows, graph.nodes))


def _overflows(node: fx.Node) -> bool:
    literals = [leaf for leaf in pytree.tree_leaves((node.args, node.kwargs)) if isinstance(leaf, float)]
    if not any(LARGEST < abs(literal) < math.inf for literal in literals):
        return False
    values = [source.meta.get("val") for source in node.all_input_nodes]
    return any(isinstance(value, Tensor) and value.is_floating_point() for value in values)


def forward_in(precision: Precision, graph: fx.Graph) -> torch.autocast:
    """A context in which convolutions and matrix products of `graph` run in `precision`; it can be entered repeatedly."""
    return torch.autocast("cpu", torch.bfloat16, enabled=takes_bfloat16(precision, graph))


def channels_last(inputs: Iterable[Tensor]) -> list[Tensor]:
    """`inputs`, images with their channels last in memory, which convolutions run fastest on."""
    return [x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in inputs]
