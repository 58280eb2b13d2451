"""What operations on elements, pools and reductions do to channels."""

from __future__ import annotations

from typing import Any

from fxcompress.channels.call import Axes, Axis, Call, rule


@rule("pointwise hardswish log_sigmoid softsign to _to_copy contiguous detach alias lift_fresh_copy")
@rule("dropout feature_dropout alpha_dropout feature_alpha_dropout drop_path stop_gradient")
@rule("bernoulli ones_like zeros_like full_like rand_like randn_like")
@rule("expand_as type_as")
def _elementwise(call: Call) -> Axes:
    return call.broadcast(*(operand.axes for operand in call.operands))


@rule("prelu")
def _prelu(call: Call) -> Axes:
    x, (slopes,) = call["self"].axes, call["weight"].axes
    return [*x[:1], call.meet(x[1], slopes), *x[2:]] if len(x) > 1 else x


# ----------------------------------------------------------------------------------------------- pools and reductions


@rule("max_pool1d avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d upsample_nearest1d upsample_linear1d")
@rule("max_pool1d_with_indices reflection_pad1d replication_pad1d _upsample_nearest_exact1d")
def _pool1d(call: Call) -> Axes:
    return _spatial(call, 1)


@rule("max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d")
@rule("max_pool2d_with_indices fractional_max_pool2d reflection_pad2d replication_pad2d")
@rule("_upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa")
def _pool2d(call: Call) -> Axes:
    return _spatial(call, 2)


@rule("max_pool3d avg_pool3d adaptive_avg_pool3d adaptive_max_pool3d upsample_nearest3d upsample_trilinear3d")
@rule("max_pool3d_with_indices fractional_max_pool3d reflection_pad3d replication_pad3d _upsample_nearest_exact3d")
def _pool3d(call: Call) -> Axes:
    return _spatial(call, 3)


def _spatial(call: Call, dimensions: int) -> Axes:
    """Each channel by itself, over its last `dimensions`."""
    x = call.operands[0]
    return [*x.axes[:-dimensions], *map(Axis, call.result.shape[-dimensions:])]


@rule("grid_sampler")
def _grid_sampler(call: Call) -> Axes:
    return [*call["input"].axes[:2], *map(Axis, call.result.shape[2:])]


@rule("mean sum amax amin var std prod linalg_vector_norm argmax argmin any all logsumexp max min median nanmean nansum norm")
@rule("var_mean std_mean count_nonzero aminmax mode")
def _reduction(call: Call) -> Axes:
    axes = call.operands[0].axes
    reduced = _dimensions(call, "dim", len(axes)) or set(range(len(axes)))
    call.tie_counted(call.operands[0], reduced)
    if call["keepdim"]:
        return [Axis(1) if d in reduced else axis for d, axis in enumerate(axes)]
    return [axis for d, axis in enumerate(axes) if d not in reduced]


@rule("counted")
def _counted(call: Call) -> Axes:
    axes, axis = list(call["input"].axes), call.dimension("axis")
    axes[axis] = call.affine(axes[axis], call["counts"])
    return axes


@rule("counted_mean")
def _counted_mean(call: Call) -> Axes:
    axes, axis = call["self"].axes, call.dimension("axis")
    call.tie(call.affine(axes[axis], call["counts"]))
    return _reduction(call)


@rule("softmax log_softmax cumsum cumprod cummax cummin logcumsumexp sort argsort renorm")
def _mixing(call: Call) -> Axes:
    """Along a dimension, indices depend on each other."""
    axes = call["self"].axes
    call.pin([axes[d] for d in _dimensions(call, "dim", len(axes))], "they depend on each other")
    return axes


@rule("topk kthvalue")
def _picking(call: Call) -> Axes:
    axes, dim = call["self"].axes, call.dimension()
    kept = [Axis(call.result.shape[dim])] if call.result.dim() == len(axes) else []
    return [*axes[:dim], *kept, *axes[dim + 1 :]]


def _dimensions(call: Call, name: str, rank: int) -> set[int]:
    """The dimensions that an argument names, one or several, counted from the front."""
    given: Any = call[name]
    several = given if isinstance(given, (list, tuple)) else [] if given is None else [given]
    return {d % rank for d in several} if rank else set()
