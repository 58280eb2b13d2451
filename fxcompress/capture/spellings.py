"""Rows of the table of spellings: arithmetic, activations, reductions, padding and pooling."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from fxcompress.capture.respelling import SPELLINGS, Call, Respell, same_sizes, size_of, spelling

aten = torch.ops.aten


def _renamed(target: OpOverload, **defaults: Any) -> Respell:
    """Only the name differs: arguments pass by position."""

    def respell(call: Call) -> fx.Node:
        return call.same(target, *call.node.args, **{**defaults, **call.node.kwargs})

    return respell


def _identity(call: Call) -> fx.Node:
    return call.node.args[0]  # type: ignore[return-value]


# ------------------------------------------------------------------------------------------- only the name differs

_SAME_ARGUMENTS = {
    aten.add.Tensor: (aten.add.Scalar,),
    aten.sub.Tensor: (aten.sub.Scalar, aten.subtract.Tensor, aten.subtract.Scalar),
    aten.mul.Tensor: (aten.mul.Scalar, aten.multiply.Tensor, aten.multiply.Scalar),
    aten.div.Tensor: (
        aten.div.Scalar,
        aten.divide.Tensor,
        aten.divide.Scalar,
        aten.true_divide.Tensor,
        aten.true_divide.Scalar,
    ),
    aten.neg.default: (aten.negative.default,),
    aten.abs.default: (aten.absolute.default,),
    aten.ne.Tensor: (aten.not_equal.Tensor,),
    aten.ne.Scalar: (aten.not_equal.Scalar,),
    aten.lt.Tensor: (aten.less.Tensor,),
    aten.lt.Scalar: (aten.less.Scalar,),
    aten.le.Tensor: (aten.less_equal.Tensor,),
    aten.le.Scalar: (aten.less_equal.Scalar,),
    aten.gt.Tensor: (aten.greater.Tensor,),
    aten.gt.Scalar: (aten.greater.Scalar,),
    aten.ge.Tensor: (aten.greater_equal.Tensor,),
    aten.ge.Scalar: (aten.greater_equal.Scalar,),
    aten.sigmoid.default: (aten.special_expit.default,),
    aten.softmax.int: (aten.special_softmax.default,),
    aten.log_softmax.int: (aten.special_log_softmax.default,),
    aten.prelu.default: (aten._prelu_kernel.default,),
    aten.clamp.default: (aten.clip.default,),
    aten.clamp.Tensor: (aten.clip.Tensor,),
    aten.matmul.default: (aten.linalg_matmul.default,),
    aten.cat.default: (aten.concat.default, aten.concatenate.default),
    aten.transpose.int: (aten.swapaxes.default, aten.swapdims.default),
    aten.permute.default: (aten.permute_copy.default,),
    aten.reshape.default: (aten.view.default, aten._unsafe_view.default, aten.view_copy.default),
    aten.split.Tensor: (aten.unsafe_split.Tensor, aten.split_copy.Tensor),
    aten.split_with_sizes.default: (
        aten.split.sizes,
        aten.unsafe_split_with_sizes.default,
        aten.split_with_sizes_copy.default,
    ),
    aten.adaptive_avg_pool2d.default: (aten._adaptive_avg_pool2d.default,),
    aten.adaptive_avg_pool3d.default: (aten._adaptive_avg_pool3d.default,),
    aten.index.Tensor: (aten._unsafe_index.Tensor,),
    aten.expand.default: (aten.expand_copy.default,),
    aten.select.int: (aten.select_copy.int,),
    aten.slice.Tensor: (aten.slice_copy.Tensor,),
    aten.unsqueeze.default: (aten.unsqueeze_copy.default,),
    aten.squeeze.dims: (aten.squeeze_copy.dims,),
    aten.bitwise_and.Tensor: (aten.__and__.Tensor,),
    aten.bitwise_or.Tensor: (aten.__or__.Tensor,),
    aten.bitwise_xor.Tensor: (aten.__xor__.Tensor,),
    aten.maximum.default: (aten.max.other,),
    aten.minimum.default: (aten.min.other,),
}
for _target, _sources in _SAME_ARGUMENTS.items():
    for _source in _sources:
        SPELLINGS[_source] = _renamed(_target)

for _target in (aten.clone.default, aten.contiguous.default, aten.alias.default, aten.alias_copy.default):
    SPELLINGS[_target] = _identity
for _target in (aten.detach.default, aten.detach_copy.default, aten.lift_fresh_copy.default, aten.lift_fresh.default):
    SPELLINGS[_target] = _identity
for _target in (aten.lift.default, aten.positive.default, aten.resolve_conj.default, aten.resolve_neg.default):
    SPELLINGS[_target] = _identity


# ------------------------------------------------------------------------------------------------------ arithmetic


@spelling(aten.rsub.Tensor)
def _reversed_subtraction(call: Call) -> fx.Node | None:
    return call.same(aten.sub.Tensor, call["other"], call["self"]) if call["alpha"] == 1 else None


@spelling(aten.div.Tensor_mode, aten.div.Scalar_mode, aten.divide.Tensor_mode, aten.divide.Scalar_mode)
def _division(call: Call) -> fx.Node | None:
    return call.same(aten.div.Tensor, call["self"], call["other"]) if call["rounding_mode"] is None else None


@spelling(aten.square.default)
def _square(call: Call) -> fx.Node:
    return call.same(aten.pow.Tensor_Scalar, call["self"], 2)


@spelling(aten.copy.default)
def _copy(call: Call) -> fx.Node | None:
    old, new = call["self"], call["src"]
    if not same_sizes(size_of(old), size_of(new)):
        return None
    dtype = call.value.dtype
    return new if new.meta["val"].dtype == dtype else call.same(aten._to_copy.default, new, dtype=dtype)


@spelling(aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten.to.other, aten.type_as.default, aten._to_copy.default)
@spelling(aten.to.prim_Device, aten.to.prim_dtype)
def _conversion(call: Call) -> fx.Node | None:
    value, source = call.value, call.node.args[0].meta["val"]  # type: ignore[union-attr]
    if (value.dtype, value.device) == (source.dtype, source.device):
        return _identity(call)
    changed = {k: v for k, v in (("dtype", value.dtype), ("device", value.device)) if v != getattr(source, k)}
    if call.node.target is aten._to_copy.default and call.node.kwargs == changed:
        return None
    return call.same(aten._to_copy.default, call.node.args[0], **changed)


# ----------------------------------------------------------------------------------------------------- activations


@spelling(aten.relu6.default)
def _relu6(call: Call) -> fx.Node:
    return _hardtanh_between(call, 0, 6)


@spelling(aten.hardtanh.default)
def _hardtanh(call: Call) -> fx.Node:
    return _hardtanh_between(call, call["min_val"], call["max_val"])


def _hardtanh_between(call: Call, low: float, high: float) -> fx.Node:
    """A clamp that goes by the name of hardtanh in training: the gradient on the bounds differs, and takes less time."""
    node = call.same(aten.clamp.default, call["self"], low, high)
    node.meta["trains_as"] = aten.hardtanh.default
    return node


@spelling(aten.clamp_min.default)
def _clamp_min(call: Call) -> fx.Node:
    return call.same(aten.clamp.default, call["self"], call["min"])


@spelling(aten.clamp_max.default)
def _clamp_max(call: Call) -> fx.Node:
    return call.same(aten.clamp.default, call["self"], None, call["max"])


@spelling(aten.clamp.default)
def _clamp(call: Call) -> fx.Node | None:
    floor, ceiling = call["min"], call["max"]
    infinite = isinstance(ceiling, float) and ceiling == math.inf
    same_dtype = call.value.dtype == call["self"].meta["val"].dtype  # a real bound makes integers real
    if isinstance(floor, (int, float)) and floor == 0 and (ceiling is None or infinite) and same_dtype:
        return call.same(aten.relu.default, call["self"])
    return None


@spelling(aten.threshold.default)
def _threshold(call: Call) -> fx.Node | None:
    return call.same(aten.relu.default, call["self"]) if call["threshold"] == call["value"] == 0 else None


@spelling(aten._softmax.default)
def _softmax(call: Call) -> fx.Node | None:
    return None if call["half_to_float"] else call.same(aten.softmax.int, call["self"], call["dim"])


@spelling(aten._safe_softmax.default)
def _safe_softmax(call: Call) -> fx.Node:
    """Where all is minus infinity, as in a row of an attention whose mask hides everything, it gives zeros."""
    shown = call.new(aten.ne.Scalar, call["self"], -math.inf)
    some = call.new(aten.any.dim, shown, call["dim"], True)
    weights = call.new(aten.softmax.int, call["self"], call["dim"])
    return call.same(aten.where.ScalarOther, some, weights, 0.0)


@spelling(aten._log_softmax.default)
def _log_softmax(call: Call) -> fx.Node | None:
    return None if call["half_to_float"] else call.same(aten.log_softmax.int, call["self"], call["dim"])


@spelling(aten.native_dropout.default)
def _native_dropout(call: Call) -> fx.Node | None:
    return call.first(aten.dropout.default, call["input"], call["p"], call["train"])


# ------------------------------------------------------------------------------------------------------ reductions


def _all_dimensions(call: Call) -> list[int]:
    return list(range(call["self"].meta["val"].dim()))


@spelling(aten.mean.default)
def _mean_of_all(call: Call) -> fx.Node:
    return call.same(aten.mean.dim, call["self"], _all_dimensions(call), dtype=call["dtype"])


@spelling(aten.sum.default)
def _sum_of_all(call: Call) -> fx.Node:
    return call.same(aten.sum.dim_IntList, call["self"], _all_dimensions(call), dtype=call["dtype"])


@spelling(aten.mean.dim)
def _mean(call: Call) -> fx.Node | None:
    """A mean over height and width that keeps them is a pooling to one pixel."""
    size, dims = size_of(call["self"]), call["dim"]
    if dims is None:
        return call.same(aten.mean.dim, call["self"], _all_dimensions(call), call["keepdim"], dtype=call["dtype"])
    if sorted(dims) != dims:
        return call.same(aten.mean.dim, call["self"], sorted(dims), call["keepdim"], dtype=call["dtype"])
    if len(size) == 4 and dims == [2, 3] and call["keepdim"] and call["dtype"] is None:
        return call.same(aten.adaptive_avg_pool2d.default, call["self"], [1, 1])
    return None


@spelling(aten.var.default, aten.var.dim)
def _variance(call: Call) -> fx.Node:
    return _moment(call, aten.var.correction)


@spelling(aten.std.default, aten.std.dim)
def _deviation(call: Call) -> fx.Node:
    return _moment(call, aten.std.correction)


def _moment(call: Call, target: OpOverload) -> fx.Node:
    whole = "dim" not in {a.name for a in call.node.target._schema.arguments}  # type: ignore[union-attr]
    dims = None if whole else call["dim"]
    return call.same(
        target,
        call["self"],
        _all_dimensions(call) if dims is None else dims,
        correction=int(call["unbiased"]),
        keepdim=False if whole else call["keepdim"],
    )


# --------------------------------------------------------------------------------------------------------- padding


@spelling(aten.pad.default)
def _pad(call: Call) -> fx.Node | None:
    if call["mode"] != "constant":
        return None
    return call.same(aten.constant_pad_nd.default, call["self"], call["pad"], call["value"] or 0)


@spelling(aten.constant_pad_nd.default)
def _no_padding(call: Call) -> fx.Node | None:
    return None if any(isinstance(p, fx.Node) or p for p in call["pad"]) else _identity(call)


# -------------------------------------------------------------------------------------------------------- pooling


@spelling(aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)
@spelling(aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default)
def _pool(call: Call) -> fx.Node | None:
    """A stride that is left out is the kernel's size."""
    if call["stride"]:
        return None
    args = list(call.node.args)
    args[2:3] = [call["kernel_size"]]
    return call.same(call.node.target, *args, **call.node.kwargs)  # type: ignore[arg-type]


@spelling(aten.max_pool2d_with_indices.default)
def _max_pool2d_alone(call: Call) -> fx.Node | None:
    return call.first(aten.max_pool2d.default, *call.node.args, **call.node.kwargs)


@spelling(aten.max_pool3d_with_indices.default)
def _max_pool3d_alone(call: Call) -> fx.Node | None:
    return call.first(aten.max_pool3d.default, *call.node.args, **call.node.kwargs)
