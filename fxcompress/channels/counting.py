"""Statistics that leave out masked channels, so that these can go: in place of those over all channels, and back.

What sums over channels (a layer norm, a mean, the product of queries and keys) depends on how many there are. It computes
the same behind masks as with the channels gone once it reads, from a constant of ones, which of them count: the constant is
masked with the channels, and shrinks with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import fx

from fxcompress.channels.dependencies import Channels
from fxcompress.ir.counted_ops import (
    COUNTED,
    COUNTED_GROUP_NORM,
    COUNTED_LAYER_NORM,
    COUNTED_MEAN,
    COUNTED_RMS_NORM,
)
from fxcompress.ir.dialect import resolve
from fxcompress.ir.edit import attribute, insert_constant
from fxcompress.ir.signature import arguments, operation

Statistic: TypeAlias = "tuple[int, Callable[[fx.Node], None]]"
"""How many channels there are to count, and what lets a call count those that its constant, the argument, says."""

_LAYER_NORM, _RMS_NORM, _GROUP_NORM = map(resolve, ("layer_norm", "rms_norm", "group_norm"))
_MEAN, _SUM, _ATTENTION = map(resolve, ("mean", "sum", "scaled_dot_product_attention"))
_NORMS = (torch.ops.aten.linalg_vector_norm.default, torch.ops.aten.norm.ScalarOpt_dim)
_PRODUCTS = tuple(map(resolve, ("matmul", "bmm")))


def count_channels(graph_module: fx.GraphModule, channels: Channels, created_by: str) -> None:
    """Let what sums over channels of `graph_module` read which of them count: all, until masks say otherwise.

    Grouped convolutions lose channels of every group from then on, rather than whole groups.
    """
    for node in list(graph_module.graph.nodes):
        if operation(node).startswith("conv"):
            node.meta["summed"] = True  # grouped ones sum over what is within a group
        found = _statistic(channels, node) if node.op == "call_function" else None
        if found is not None:
            size, rewrite = found
            counts = insert_constant(graph_module, f"{node.name}_counts", torch.ones(size), before=node, created_by=created_by)
            counts.meta["val"] = _like(node.meta["val"], torch.ones(size))
            rewrite(counts)


def _like(value: Any, tensor: torch.Tensor) -> Any:
    mode = getattr(value, "fake_mode", None)
    return tensor if mode is None else mode.from_tensor(tensor, static_shapes=True)


def _statistic(channels: Channels, node: fx.Node) -> Statistic | None:
    """What the call `node` sums over, where that is an axis of channels; None where it is something else."""
    given = arguments(node) if isinstance(node.target, torch._ops.OpOverload) else {}
    if node.target in (_LAYER_NORM, _RMS_NORM) and len(given["normalized_shape"]) == 1:
        return _last(channels, node, given)
    if node.target is _GROUP_NORM:
        return _group_norm(channels, node, given)
    if node.target in (_MEAN, _SUM, *_NORMS) and given.get("dtype") is None:
        return _reduction(channels, node, given)
    if node.target is _ATTENTION and not given["enable_gqa"]:
        return _attention(channels, node, given)
    if node.target in _PRODUCTS:
        return _product(channels, node)
    return None


def _last(channels: Channels, node: fx.Node, given: dict[str, Any]) -> Statistic | None:
    ids = channels.of(given["input"])[-1]
    names = ("input", "normalized_shape", "weight", *(["bias"] if node.target is _LAYER_NORM else []), "eps")
    target = COUNTED_LAYER_NORM if node.target is _LAYER_NORM else COUNTED_RMS_NORM
    return None if ids is None else (len(ids), lambda counts: _become(node, target, *map(given.get, names), counts))


def _group_norm(channels: Channels, node: fx.Node, given: dict[str, Any]) -> Statistic | None:
    ids, groups = channels.of(given["input"])[1], given["num_groups"]
    if ids is None or len(ids) == groups:
        return None
    names = "input", "num_groups", "weight", "bias", "eps"
    return len(ids) // groups, lambda counts: _become(node, COUNTED_GROUP_NORM, *map(given.get, names), counts)


def _reduction(channels: Channels, node: fx.Node, given: dict[str, Any]) -> Statistic | None:
    """Over one axis of channels, and maybe others that lose no index."""
    axes, dims = channels.of(given["self"]), given["dim"]
    dims = range(len(axes)) if not dims and dims != 0 else dims if isinstance(dims, (list, tuple)) else [dims]
    dims = [dim % len(axes) for dim in dims]
    along = [dim for dim in dims if axes[dim] is not None]
    order = given.get("ord", given.get("p"))
    if len(along) != 1 or (order is not None and order <= 0):
        return None
    (axis,) = along
    if node.target is _MEAN:
        return len(axes[axis] or ()), lambda counts: _become(
            node, COUNTED_MEAN, given["self"], dims, given["keepdim"], counts, axis
        )
    return len(axes[axis] or ()), lambda counts: _zero(node, given["self"], counts, axis)


def _attention(channels: Channels, node: fx.Node, given: dict[str, Any]) -> Statistic | None:
    query, key = channels.of(given["query"])[-1], channels.of(given["key"])[-1]
    if query is None or key is None:
        return None

    def rewrite(counts: fx.Node) -> None:
        if given["scale"] is None:
            node.update_kwarg("scale", 1 / math.sqrt(len(query)))
        _zero(node, given["query"], counts, -1)

    return len(query), rewrite


def _product(channels: Channels, node: fx.Node) -> Statistic | None:
    left, right = node.args
    axes = channels.of(left), channels.of(right)  # type: ignore[arg-type]
    if min(map(len, axes)) < 2 or axes[0][-1] is None or axes[1][-2] is None:
        return None
    if any(layer.node is node for layer in channels.layers):
        return None  # a constant's columns are masked already
    return len(axes[0][-1]), lambda counts: _zero(node, left, counts, -1)  # type: ignore[arg-type]


def _become(node: fx.Node, target: torch._ops.OpOverload, *args: Any) -> None:
    node.target, node.args, node.kwargs = target, args, {}


def _zero(node: fx.Node, value: fx.Node, counts: fx.Node, axis: int) -> None:
    """Let `node` read `value` with zeros where `counts` has them."""
    with node.graph.inserting_before(node):
        made = node.graph.call_function(COUNTED, (value, counts, axis))
    made.meta = {key: value.meta[key] for key in ("val", "scope", "stack_trace", "region") if key in value.meta}
    made.meta["created_by"] = counts.meta["created_by"]
    node.replace_input_with(value, made)


# ---------------------------------------------------------------------------------------------------------- and back


_PLAIN: dict[Any, Callable[..., tuple[Any, tuple[Any, ...]]]] = {
    COUNTED_LAYER_NORM: lambda x, shape, weight, bias, eps, _: (_LAYER_NORM, (x, shape, weight, bias, eps)),
    COUNTED_RMS_NORM: lambda x, shape, weight, eps, _: (_RMS_NORM, (x, shape, weight, eps)),
    COUNTED_GROUP_NORM: lambda x, groups, weight, bias, eps, _: (_GROUP_NORM, (x, groups, weight, bias, eps)),
    COUNTED_MEAN: lambda x, dim, keepdim, *_: (_MEAN, (x, dim, keepdim)),
}
"""The operation and the arguments over all channels, from the arguments of the one that counts them."""


def count_all(graph_module: fx.GraphModule) -> list[fx.Node]:
    """Put the plain operations back where all channels are left that there are; returns them."""
    changed = []
    for node in list(graph_module.graph.nodes):
        if node.target is COUNTED and _all_count(graph_module, node):
            node.replace_all_uses_with(node.args[0])
            graph_module.graph.erase_node(node)
        elif node.target in _PLAIN and _all_count(graph_module, node):
            node.target, node.args = _PLAIN[node.target](*node.args)
            changed.append(node)
    return changed


def _all_count(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    *_, counts = (one for one in node.args if isinstance(one, fx.Node))
    return counts.op == "get_attr" and bool((attribute(graph_module, str(counts.target)) == 1).all())
