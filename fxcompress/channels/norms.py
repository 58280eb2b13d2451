"""What normalizations do to channels: each is normalized by itself, or statistics are over several, which stay."""

from __future__ import annotations

from fxcompress.channels.call import Axes, Call, rule


@rule("batch_norm instance_norm")
def _by_channel(call: Call) -> Axes:
    """The scale and the shift are masked: statistics of nothing are no number."""
    x = call["input"]
    call.pin(x.axes[2:], "statistics are over them")
    channel = x.axes[1]
    for name in ("running_mean", "running_var"):
        if call[name] is not None:
            channel = call.meet(channel, call[name].axes[0])
    return [x.axes[0], call.affine(channel, call["weight"], call["bias"]), *x.axes[2:]]


@rule("layer_norm rms_norm")
def _over_channels(call: Call) -> Axes:
    x, last = call["input"], len(call["normalized_shape"])
    axes = x.axes
    call.pin(axes[-last:], "statistics are computed over all of them")
    for name in ("weight", "bias"):
        if call[name] is not None:
            axes = call.broadcast(axes, call[name].axes)
    return axes


@rule("group_norm counted_group_norm")
def _by_group(call: Call) -> Axes:
    """Whole groups can go; or the same channels of every group, where those that are left are counted."""
    x, groups = call["input"], call["num_groups"]
    call.pin(x.axes[2:], "statistics are over them")
    channel = call.affine(x.axes[1], call["weight"], call["bias"])
    of_group, within = call.split(channel, (groups, channel.size // groups))
    if call["counts"] is None:
        call.pin([within], "statistics are over groups of them")
    else:
        within = call.affine(within, call["counts"])
    call.tie(of_group)
    call.tie(within)
    call.channels.groups[call.node] = of_group.ids
    return [x.axes[0], channel, *x.axes[2:]]


@rule("counted_layer_norm counted_rms_norm")
def _over_counted_channels(call: Call) -> Axes:
    *leading, channel = call["input"].axes
    return [*leading, call.affine(channel, call["counts"], call["weight"], call["bias"])]
