"""Rules of the channel analysis: layers with weights, norms, products, elementwise operations, pools and reductions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx

from fxcompress.channels.analysis import Axes, Channels, rule
from fxcompress.channels.elements import Ids
from fxcompress.errors import describe
from fxcompress.ir.signature import arguments


def rank(node: fx.Node) -> int:
    return node.meta["val"].dim()


def is_tensor(value: Any) -> bool:
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), Tensor)


def listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


# ------------------------------------------------------------------------------------------------ layers with weights


@rule("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")
def _convolution(channels: Channels, node: fx.Node) -> Axes:
    """Input channel i of a group meets weight[:, i], filter o is weight[o]; the other way round if it is transposed."""
    given = arguments(node)
    x, weight, bias, groups = (given[name] for name in ("input", "weight", "bias", "groups"))
    transposed = "transpose" in str(node.target)
    first, second, *kernel = channels.of(weight)
    for places in kernel:
        channels.pin(places, f"they are places of the kernel of {describe(node)}")
    position = rank(node) - (rank(weight) - 2) - 1
    taken = channels.of(x)[position]
    if groups == 1:
        made = second if transposed else first
        channels.meet(node, taken, first if transposed else second)
    else:
        taken, made = _grouped(channels, node, taken, channels.of(weight), transposed)
    if not channels.add_weight(weight):
        channels.pin(taken, f"the weight is computed, not a constant, in {describe(node)}")
    if bias is not None:
        channels.add_weight(bias)
        channels.meet(node, made, channels.of(bias)[0])
    channels.add_layer(node, weight, made)
    return [*channels.of(x)[:position], made, *[None] * (rank(weight) - 2)]


def _grouped(
    channels: Channels, node: fx.Node, taken: Ids | None, weight: Axes, transposed: bool
) -> tuple[Ids | None, Ids | None]:
    """The input and output channels of a grouped convolution: whole groups can go, or the same channels of every group."""
    groups = arguments(node)["groups"]
    first, second = weight[:2]
    if taken is None or first is None:
        channels.pin(first, f"it reads an axis of fixed size: {describe(node)}")
        channels.pin(second, f"it reads an axis of fixed size: {describe(node)}")
        return taken, channels.fixed(node.meta["val"], f"of {describe(node)}")[-(len(weight) - 1)]
    whole, inner, outer = (first, None, second) if transposed else (taken, second, first)
    of_group, within = channels.split(node, taken, (groups, len(taken) // groups))
    channels.groups[node] = of_group
    if transposed:
        channels.meet(node, taken, whole)
        made = channels.merge(node, (of_group, outer), (groups, len(outer or [0])))
        return taken, made
    channels.meet(node, within, inner)
    made_group, _ = channels.split(node, outer, (groups, len(outer or [0]) // groups))
    channels.meet(node, of_group, made_group)
    return taken, outer


@rule("linear")
def _linear(channels: Channels, node: fx.Node) -> Axes:
    given = arguments(node)
    x, weight, bias = (given[name] for name in ("input", "weight", "bias"))
    if rank(weight) != 2:
        channels.pin_all(channels.of(x), f"the weight has one dimension in {describe(node)}")
        return [*channels.of(x)[:-1]]
    filters, columns = channels.of(weight)
    channels.meet(node, channels.of(x)[-1], columns)
    if not channels.add_weight(weight):
        channels.pin(columns, f"the weight is computed, not a constant, in {describe(node)}")
    if bias is not None:
        channels.add_weight(bias)
        channels.meet(node, filters, channels.of(bias)[-1])
    channels.add_layer(node, weight, filters)
    return [*channels.of(x)[:-1], filters]


@rule("matmul bmm mm")
def _product(channels: Channels, node: fx.Node) -> Axes:
    """With a constant to the right a linear layer. Of two activations, the summed axis stays: whole heads go, or none."""
    left, right = node.args[:2]
    assert isinstance(left, fx.Node) and isinstance(right, fx.Node)
    if min(rank(left), rank(right)) < 2:
        reason = f"a vector is multiplied in {describe(node)}"
        for operand in (left, right):
            channels.pin_all(channels.of(operand), reason)
        return channels.fixed(node.meta["val"], reason)
    a, b = channels.of(left), channels.of(right)
    channels.meet(node, a[-1], b[-2])
    if rank(right) == 2 and channels.add_weight(right):
        channels.add_layer(node, right, b[-1])
    else:
        channels.pin(a[-1], f"they are summed over in {describe(node)}")
        channels.pin(b[-2], f"they are summed over in {describe(node)}")
    leading = _broadcast(channels, node, [(a[:-2], _shape(left)[:-2]), (b[:-2], _shape(right)[:-2])], rank(node) - 2)
    return [*leading, a[-2], b[-1]]


@rule("scaled_dot_product_attention")
def _attention(channels: Channels, node: fx.Node) -> Axes:
    """Heads can go; what is inside a head stays, because the default scale depends on its size."""
    given = arguments(node)
    query, key, value, mask = (given[name] for name in ("query", "key", "value", "attn_mask"))
    reason = f"they are inside an attention head of {describe(node)}"
    for operand in (query, key, value):
        channels.pin_all(channels.of(operand)[-2:], reason)
    operands = [(channels.of(one)[:-2], _shape(one)[:-2]) for one in (query, key, value)]
    if mask is not None:
        operands.append((channels.of(mask)[:-2], _shape(mask)[:-2]))
    leading = _broadcast(channels, node, operands, rank(node) - 2)
    if given.get("enable_gqa"):
        channels.pin_all(leading, f"query heads share keys in {describe(node)}")
    return [*leading, channels.of(query)[-2], channels.of(value)[-1]]


@rule("embedding")
def _embedding(channels: Channels, node: fx.Node) -> Axes:
    table, indices = node.args[:2]
    rows, features = channels.of(table)  # type: ignore[arg-type]
    channels.pin(rows, f"they are looked up by index in {describe(node)}")
    return [*channels.of(indices), features]  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------------------- norms


@rule("batch_norm instance_norm")
def _norm_by_channel(channels: Channels, node: fx.Node) -> Axes:
    """Each channel by itself. The scale and the shift are masked: statistics of nothing are no number."""
    given = arguments(node)
    axes = list(channels.of(given["input"]))
    for name in ("weight", "bias", "running_mean", "running_var"):
        vector = given[name]
        if vector is not None:
            axes[1] = channels.meet(node, axes[1], channels.of(vector)[0])
            if name in ("weight", "bias"):
                channels.add_weight(vector)
    return axes


@rule("layer_norm rms_norm")
def _norm_over_channels(channels: Channels, node: fx.Node) -> Axes:
    """Its mean and variance are over all normalized channels, so that leaving one out changes the others."""
    given = arguments(node)
    axes = channels.of(given["input"])
    last = len(given["normalized_shape"])
    channels.pin_all(axes[-last:], f"{describe(node)} computes its statistics over all of them")
    for name in ("weight", "bias"):
        if given.get(name) is not None:
            for axis, other in zip(axes[-last:], channels.of(given[name])):
                channels.meet(node, axis, other)
    return axes


@rule("group_norm")
def _norm_over_groups(channels: Channels, node: fx.Node) -> Axes:
    given = arguments(node)
    axes = channels.of(given["input"])
    channels.pin(axes[1], f"{describe(node)} computes its statistics over groups of them")
    for name in ("weight", "bias"):
        if given[name] is not None:
            channels.meet(node, axes[1], channels.of(given[name])[0])
    return axes


# --------------------------------------------------------------------------------------------------------- elementwise


@rule("add sub rsub mul div pow maximum minimum where eq ne lt le gt ge logical_and logical_or logical_not masked_fill")
@rule("abs neg exp log sqrt rsqrt reciprocal sin cos erf tanh sigmoid relu relu6 hardtanh clamp clamp_min clamp_max")
@rule("hardswish hardsigmoid silu gelu mish leaky_relu elu selu celu softplus softsign logsigmoid hardshrink softshrink")
@rule("threshold sign floor ceil round to _to_copy clone contiguous detach alias dropout feature_dropout alpha_dropout")
@rule("ones_like zeros_like full_like isnan isinf nan_to_num log1p expm1 square")
def _elementwise(channels: Channels, node: fx.Node) -> Axes:
    operands = [(channels.of(source), _shape(source)) for source in node.all_input_nodes if is_tensor(source)]
    return _broadcast(channels, node, operands, rank(node))


@rule("prelu")
def _prelu(channels: Channels, node: fx.Node) -> Axes:
    x, slope = node.args
    axes = list(channels.of(x))  # type: ignore[arg-type]
    (slopes,) = channels.of(slope)  # type: ignore[arg-type]
    if slopes is not None:
        axes[1] = channels.meet(node, axes[1], slopes)
    return axes


def _broadcast(channels: Channels, node: fx.Node, operands: Iterable[tuple[Axes, Any]], dimensions: int) -> Axes:
    """The axes of what operands of these axes and sizes give together, each stretched where its size is 1 or missing."""
    operands = list(operands)
    result: Axes = []
    for back in range(dimensions, 0, -1):
        parts = [axes[-back] for axes, sizes in operands if len(axes) >= back and not _is_one(sizes[-back])]
        result.append(channels.meet(node, *parts))
    return result


def _shape(node: fx.Node) -> torch.Size:
    return node.meta["val"].shape


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


# ----------------------------------------------------------------------------------------------- pools and reductions


@rule("max_pool1d avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d upsample_nearest1d upsample_linear1d")
def _pool1d(channels: Channels, node: fx.Node) -> Axes:
    return _spatial(channels, node, 1)


@rule("max_pool2d avg_pool2d adaptive_avg_pool2d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d")
def _pool2d(channels: Channels, node: fx.Node) -> Axes:
    return _spatial(channels, node, 2)


@rule("max_pool3d avg_pool3d adaptive_avg_pool3d upsample_nearest3d upsample_trilinear3d")
def _pool3d(channels: Channels, node: fx.Node) -> Axes:
    return _spatial(channels, node, 3)


def _spatial(channels: Channels, node: fx.Node, dimensions: int) -> Axes:
    """Each channel by itself, over its last `dimensions`."""
    axes = channels.of(node.args[0])  # type: ignore[arg-type]
    channels.pin_all(axes[-dimensions:], f"{describe(node)} pools over them")
    return [*axes[:-dimensions], *[None] * dimensions]


@rule("mean sum amax amin var std prod linalg_vector_norm argmax argmin any all")
def _reduction(channels: Channels, node: fx.Node) -> Axes:
    """What is reduced over stays."""
    given = arguments(node)
    axes = channels.of(node.args[0])  # type: ignore[arg-type]
    dims = given.get("dim")
    reduced = {d % len(axes) for d in listed(dims)} if dims not in (None, []) else set(range(len(axes)))
    channels.pin_all([axes[d] for d in reduced], f"{describe(node)} reduces over them")
    if given.get("keepdim"):
        return [None if d in reduced else axis for d, axis in enumerate(axes)]
    return [axis for d, axis in enumerate(axes) if d not in reduced]


@rule("softmax log_softmax cumsum roll flip")
def _mixing(channels: Channels, node: fx.Node) -> Axes:
    """Along the dimensions that are named, indices depend on each other."""
    given = arguments(node)
    axes = channels.of(node.args[0])  # type: ignore[arg-type]
    dims = listed(given["dim"] if "dim" in given else given["dims"])
    mixed = [axes[d] for d in dims] if dims else axes
    channels.pin_all(mixed, f"{describe(node)} mixes them")
    return axes
