"""What operations do to channels that move, cut and join values without changing them."""

from __future__ import annotations

import math
from typing import Any

import torch

from fxcompress.channels.call import Axes, Axis, Call, rule

# --------------------------------------------------------------------------------------------- order of the dimensions


@rule("permute")
def _permute(call: Call) -> Axes:
    return [call["self"].axes[d] for d in call["dims"]]


@rule("transpose")
def _transpose(call: Call) -> Axes:
    axes = list(call["self"].axes)
    first, second = call["dim0"], call["dim1"]
    axes[first], axes[second] = axes[second], axes[first]
    return axes


@rule("t numpy_T")
def _reverse(call: Call) -> Axes:
    return call["self"].axes[::-1]


@rule("unsqueeze")
def _unsqueeze(call: Call) -> Axes:
    axes = list(call["self"].axes)
    axes.insert(call["dim"] % (len(axes) + 1), Axis(1))
    return axes


@rule("squeeze")
def _squeeze(call: Call) -> Axes:
    axes, given = call["self"].axes, call["dim"]
    several = range(len(axes)) if given is None else given if isinstance(given, (list, tuple)) else [given]
    gone = {d % len(axes) for d in several}
    return [axis for d, axis in enumerate(axes) if d not in gone or axis.size != 1]


@rule("flip")
def _flip(call: Call) -> Axes:
    axes = list(call["self"].axes)
    for d in call["dims"]:
        if axes[d].fixed:
            axes[d] = call.take(axes[d], range(axes[d].size)[::-1])
        else:
            call.pin([axes[d]], "they are in another order")
    return axes


@rule("roll")
def _roll(call: Call) -> Axes:
    axes, dims = call["self"].axes, call["dims"]
    call.pin([axes[d] for d in dims] if dims else axes, "they are moved by a fixed number")
    return axes


# ------------------------------------------------------------------------------------------------------------- copies


@rule("expand")
def _expand(call: Call) -> Axes:
    """What is stretched from one follows what it meets: the size that is written can be another."""
    axes, sizes = call["self"].axes, call.result.shape
    axes = [*[Axis(1)] * (len(sizes) - len(axes)), *axes]
    return [call.stretched(size) if axis.size == 1 and size != 1 else axis for axis, size in zip(axes, sizes)]


@rule("repeat")
def _repeat(call: Call) -> Axes:
    return _copies(call, call["repeats"])


@rule("tile")
def _tile(call: Call) -> Axes:
    return _copies(call, call["dims"])


def _copies(call: Call, counts: Any) -> Axes:
    axes = call["self"].axes
    rank = max(len(axes), len(counts))
    axes, counts = [*[Axis(1)] * (rank - len(axes)), *axes], [*[1] * (rank - len(counts)), *counts]
    several = zip(axes, counts, call.result.shape)
    return [
        axis if count == 1 else call.join([axis] * count) if isinstance(size, int) else Axis(size)
        for axis, count, size in several
    ]


@rule("repeat_interleave")
def _repeat_interleave(call: Call) -> Axes | tuple[Axes, ...]:
    x, count = call["self"], call["repeats"]
    if x is None or not isinstance(count, int) or call["dim"] is None or call["output_size"] is not None:
        return call.whole()
    axes, dim = list(x.axes), call.dimension()
    if not axes[dim].fixed:
        return call.whole()
    axes[dim] = call.take(axes[dim], [index for index in range(axes[dim].size) for _ in range(count)])
    return axes


# ------------------------------------------------------------------------------------------------------ cut and join


@rule("cat")
def _cat(call: Call) -> Axes:
    """One behind the other along a dimension; equal indices meet along the others."""
    parts = [operand.axes for operand in call["tensors"] if operand.rank == call.result.dim()]
    dim = call["dim"] % call.result.dim()
    columns = list(zip(*parts))
    return [call.join(column) if d == dim else call.meet(*column) for d, column in enumerate(columns)]


@rule("stack")
def _stack(call: Call) -> Axes:
    axes = [call.meet(*column) for column in zip(*(operand.axes for operand in call["tensors"]))]
    dim = call["dim"] % (len(axes) + 1)
    return [*axes[:dim], Axis(len(call["tensors"])), *axes[dim:]]


@rule("split split_with_sizes")
def _split(call: Call) -> tuple[Axes, ...]:
    axes, dim = call["self"].axes, call.dimension()
    pieces, start = [], 0
    for piece in call.results:
        size = piece.shape[dim]
        if isinstance(size, int) and axes[dim].fixed:
            part = call.take(axes[dim], range(start, start + size))
            start += size
        else:
            part = Axis(size)
        pieces.append([*axes[:dim], part, *axes[dim + 1 :]])
    return tuple(pieces)


@rule("unbind")
def _unbind(call: Call) -> Axes:
    dim = call.dimension()
    return [axis for d, axis in enumerate(call["self"].axes) if d != dim]


@rule("select")
def _select(call: Call) -> Axes:
    dim = call.dimension()
    return [axis for d, axis in enumerate(call["self"].axes) if d != dim]


@rule("slice")
def _slice(call: Call) -> Axes:
    axes, dim = list(call["self"].axes), call.dimension()
    positions = _positions(call, axes[dim])
    if positions is None:
        axes[dim] = Axis(call.result.shape[dim])
    elif len(positions) < axes[dim].size:
        if call["step"] != 1:
            call.pin([axes[dim]], "every few are taken")
        axes[dim] = call.take(axes[dim], positions)
    return axes


@rule("slice_scatter")
def _slice_scatter(call: Call) -> Axes:
    """The source lies where the slice would be."""
    axes, source, dim = call["self"].axes, call["src"].axes, call.dimension()
    positions = _positions(call, axes[dim])
    result = [axis if d == dim else call.meet(axis, source[d]) for d, axis in enumerate(axes)]
    if positions is None:
        result[dim] = Axis(call.result.shape[dim])
    else:
        if call["step"] != 1:
            call.pin([axes[dim]], "every few are written")
        call.tie(call.take(axes[dim], positions), source[dim])
    return result


def _positions(call: Call, axis: Axis) -> range | None:
    """Which indices of `axis` a slice takes; None where that is not known."""
    bounds = call["start"], call["end"]
    known = axis.fixed and all(bound is None or isinstance(bound, int) for bound in bounds)
    return range(axis.size)[slice(*bounds, call["step"])] if known else None


@rule("glu")
def _glu(call: Call) -> Axes:
    """The halves of a dimension meet."""
    axes, dim = list(call["self"].axes), call.dimension()
    if axes[dim].fixed:
        half = axes[dim].size // 2
        axes[dim] = call.meet(call.take(axes[dim], range(half)), call.take(axes[dim], range(half, 2 * half)))
    return axes


@rule("index index_select")
def _index(call: Call) -> Axes | tuple[Axes, ...]:
    """One tensor of indices: its dimensions take the place of the one that it looks into."""
    axes = call["self"].axes
    indices = call["indices"] if call["index"] is None else [*[None] * call.dimension(), call["index"]]
    looked_into = [d for d, index in enumerate(indices) if index is not None]
    if len(looked_into) != 1 or indices[looked_into[0]].node.meta["val"].dtype is torch.bool:
        return call.whole()
    (d,) = looked_into
    return [*axes[:d], *indices[d].axes, *axes[d + 1 :]]


@rule("constant_pad_nd pad")
def _pad(call: Call) -> Axes:
    """Constants, as many as are written, lie beside."""
    axes, amounts = list(call["self"].axes), call["pad"]
    if call["mode"] not in (None, "constant"):
        spatial = len(amounts) // 2
        return [*axes[: len(axes) - spatial], *map(Axis, call.result.shape[len(axes) - spatial :])]
    for d, before, after in zip(range(len(axes))[::-1], amounts[::2], amounts[1::2]):
        if before == after == 0:
            continue
        known = axes[d].fixed and isinstance(call.result.shape[d], int) and before >= 0 and after >= 0
        axes[d] = call.join([Axis(before), axes[d], Axis(after)]) if known else Axis(call.result.shape[d])
    return axes


# ------------------------------------------------------------------------------------------------ channels and places


@rule("pixel_shuffle")
def _pixel_shuffle(call: Call) -> Axes:
    """[..., C r^2, H, W] to [..., C, r H, r W]: all r^2 channels of one go together."""
    *leading, whole, _, _ = call["self"].axes
    area = call["upscale_factor"] ** 2
    kept, _ = call.split(whole, (whole.size // area, area))
    return [*leading, kept, *map(Axis, call.result.shape[-2:])]


@rule("pixel_unshuffle")
def _pixel_unshuffle(call: Call) -> Axes:
    *leading, part, _, _ = call["self"].axes
    merged = call.merge([part, Axis(call["downscale_factor"] ** 2)])
    return [*leading, merged, *map(Axis, call.result.shape[-2:])]


@rule("im2col")
def _im2col(call: Call) -> Axes:
    """[..., C, H, W] to [..., C k, L]: all k places of a channel go together."""
    *leading, part, _, _ = call["self"].axes
    merged = call.merge([part, Axis(math.prod(call["kernel_size"]))])
    return [*leading, merged, Axis(call.result.shape[-1])]


@rule("channel_shuffle")
def _channel_shuffle(call: Call) -> Axes:
    """Channel j of group i comes to place i of j."""
    axes, groups = list(call["self"].axes), call["groups"]
    sizes = groups, axes[1].size // groups
    of_group, within = call.split(axes[1], sizes)
    call.channels.groups[call.node] = of_group.ids
    axes[1] = call.merge([within, of_group])
    return axes
