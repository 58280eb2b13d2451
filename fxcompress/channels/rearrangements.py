"""Rules of the channel analysis: what moves, cuts and joins values without changing them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import fx

from fxcompress.channels.analysis import Axes, Channels, rule
from fxcompress.channels.elements import Ids
from fxcompress.channels.layers import listed, rank
from fxcompress.errors import describe
from fxcompress.ir.signature import arguments

# --------------------------------------------------------------------------------------------- order of the dimensions


@rule("permute")
def _permute(channels: Channels, node: fx.Node) -> Axes:
    axes = channels.of(node.args[0])  # type: ignore[arg-type]
    return [axes[d] for d in node.args[1]]  # type: ignore[union-attr]


@rule("transpose")
def _transpose(channels: Channels, node: fx.Node) -> Axes:
    axes = list(channels.of(node.args[0]))  # type: ignore[arg-type]
    first, second = node.args[1:3]
    axes[first], axes[second] = axes[second], axes[first]  # type: ignore[index]
    return axes


@rule("unsqueeze")
def _unsqueeze(channels: Channels, node: fx.Node) -> Axes:
    axes = list(channels.of(node.args[0]))  # type: ignore[arg-type]
    axes.insert(node.args[1] % rank(node), None)  # type: ignore[operator]
    return axes


@rule("squeeze")
def _squeeze(channels: Channels, node: fx.Node) -> Axes:
    axes = channels.of(node.args[0])  # type: ignore[arg-type]
    gone = {d % len(axes) for d in listed(node.args[1])}
    return [axis for d, axis in enumerate(axes) if d not in gone]


@rule("expand")
def _expand(channels: Channels, node: fx.Node) -> Axes:
    """What is stretched from one has no channels of its own, and must not meet ones that go."""
    x = node.args[0]
    assert isinstance(x, fx.Node)
    axes, sizes = channels.of(x), x.meta["val"].shape
    new = node.meta["val"].shape
    fresh = channels.fixed(node.meta["val"], f"{describe(node)} stretches to a fixed size")
    kept: Axes = [*[None] * (len(new) - len(sizes)), *axes]
    before = [1] * (len(new) - len(sizes)) + list(sizes)
    return [f if isinstance(b, int) and b == 1 else k for f, k, b in zip(fresh, kept, before)]


# ------------------------------------------------------------------------------------------------------ cut and join


@rule("cat")
def _cat(channels: Channels, node: fx.Node) -> Axes:
    """One behind the other along a dimension; equal indices meet along the others."""
    parts, dim = list(node.args[0]), arguments(node)["dim"] % rank(node)  # type: ignore[arg-type]
    result: Axes = [
        None if d == dim else channels.meet(node, *(channels.of(part)[d] for part in parts)) for d in range(rank(node))
    ]
    pieces = [channels.of(part)[dim] for part in parts]
    if isinstance(node.meta["val"].shape[dim], int):
        reason = f"{describe(node)} joins an axis of fixed size"
        sizes = [part.meta["val"].shape[dim] for part in parts]
        result[dim] = [one for ids, size in zip(pieces, sizes) for one in ids or channels.pinned(size, reason)]
    else:
        channels.pin_all(pieces, f"{describe(node)} joins an axis of free size")
    return result


@rule("stack")
def _stack(channels: Channels, node: fx.Node) -> Axes:
    parts, dim = node.args[0], arguments(node)["dim"] % rank(node)
    axes = [channels.meet(node, *(channels.of(part)[d] for part in parts)) for d in range(rank(node) - 1)]  # type: ignore[union-attr]
    return [*axes[:dim], None, *axes[dim:]]


@rule("split split_with_sizes")
def _split(channels: Channels, node: fx.Node) -> list[Axes]:
    x, dim = node.args[0], arguments(node)["dim"]
    axes, start, pieces = channels.of(x), 0, []  # type: ignore[arg-type]
    for piece in node.meta["val"]:
        cut, size = list(axes), piece.shape[dim]
        if not isinstance(size, int):
            channels.pin(axes[dim], f"{describe(node)} cuts an axis of free size")
            cut[dim] = None
        elif axes[dim] is not None:
            cut[dim] = axes[dim][start : start + size]  # type: ignore[index]
            start += size
        pieces.append(cut)
    return pieces


@rule("getitem")
def _getitem(channels: Channels, node: fx.Node) -> Axes:
    source, position = node.args
    return channels.axes[source][position]  # type: ignore[index]


@rule("unbind")
def _unbind(channels: Channels, node: fx.Node) -> list[Axes]:
    axes = list(channels.of(node.args[0]))  # type: ignore[arg-type]
    gone = axes.pop(arguments(node)["dim"])
    channels.pin(gone, f"{describe(node)} takes them one by one")
    return [list(axes) for _ in node.meta["val"]]


@rule("select")
def _select(channels: Channels, node: fx.Node) -> Axes:
    axes = list(channels.of(node.args[0]))  # type: ignore[arg-type]
    gone = axes.pop(node.args[1])  # type: ignore[call-overload, arg-type]
    channels.pin(gone, f"{describe(node)} picks one of them")
    return axes


@rule("slice")
def _slice(channels: Channels, node: fx.Node) -> Axes:
    given = arguments(node)
    axes, dim = list(channels.of(given["self"])), given["dim"]
    start, end = given["start"], given["end"]
    whole, size = axes[dim], node.meta["val"].shape[dim]
    if whole is not None:
        known = all(bound is None or isinstance(bound, int) for bound in (start, end)) and isinstance(size, int)
        if given["step"] != 1 or not known:
            channels.pin(whole, f"{describe(node)} takes some of them")
        axes[dim] = whole[start : end : given["step"]] if known else None
    return axes


@rule("index")
def _index(channels: Channels, node: fx.Node) -> Axes:
    """One tensor of indices: its dimensions take the place of the one that it looks into."""
    x, indices = node.args[:2]
    axes = channels.of(x)  # type: ignore[arg-type]
    looked_into = [d for d, index in enumerate(indices) if index is not None]  # type: ignore[arg-type]
    if len(looked_into) != 1:
        reason = f"{describe(node)} picks by several indices"
        channels.pin_all(axes, reason)
        return channels.fixed(node.meta["val"], reason)
    (d,) = looked_into
    channels.pin(axes[d], f"{describe(node)} picks some of them")
    return [*axes[:d], *[None] * rank(indices[d]), *axes[d + 1 :]]  # type: ignore[index]


@rule("constant_pad_nd pad reflection_pad2d replication_pad2d")
def _pad(channels: Channels, node: fx.Node) -> Axes:
    axes, amounts = list(channels.of(node.args[0])), node.args[1]  # type: ignore[arg-type]
    for position in range(len(amounts) // 2):  # type: ignore[arg-type]
        d = len(axes) - 1 - position
        if any(amount != 0 for amount in amounts[2 * position : 2 * position + 2]):  # type: ignore[index]
            channels.pin(axes[d], f"{describe(node)} pads them")
            axes[d] = None
    return axes


@rule("pixel_shuffle")
def _pixel_shuffle(channels: Channels, node: fx.Node) -> Axes:
    """[..., C r^2, H, W] to [..., C, r H, r W]: all r^2 channels of one go together."""
    *leading, whole, _, _ = channels.of(node.args[0])  # type: ignore[arg-type]
    upscale = node.args[1]
    assert isinstance(upscale, int)
    if whole is None:
        return [*leading, None, None, None]
    kept, inner = channels.split(node, whole, (len(whole) // upscale**2, upscale**2))
    channels.pin(inner, f"{describe(node)} puts them beside each other")
    return [*leading, kept, None, None]


@rule("pixel_unshuffle")
def _pixel_unshuffle(channels: Channels, node: fx.Node) -> Axes:
    *leading, part, _, _ = channels.of(node.args[0])  # type: ignore[arg-type]
    downscale = node.args[1]
    assert isinstance(downscale, int)
    merged = None if part is None else channels.merge(node, (part, None), (len(part), downscale**2))
    return [*leading, merged, None, None]


@rule("channel_shuffle")
def _channel_shuffle(channels: Channels, node: fx.Node) -> Axes:
    """Channel j of group i comes to place i of j."""
    axes, groups = list(channels.of(node.args[0])), node.args[1]  # type: ignore[arg-type]
    whole = axes[1]
    assert isinstance(groups, int)
    if whole is not None:
        sizes = (groups, len(whole) // groups)
        of_group, within = channels.split(node, whole, sizes)
        channels.groups[node] = of_group
        axes[1] = channels.merge(node, (within, of_group), sizes[::-1])
    return axes


# --------------------------------------------------------------------------------------------------------------- reshape


@dataclass(frozen=True)
class _Atom:
    """A factor of a size: a number with maybe identifiers, or a free size."""

    size: Any
    axis: int
    ids: Ids | None = None

    @property
    def free(self) -> bool:
        return not isinstance(self.size, int)


@rule("reshape flatten view unflatten")
def _reshape(channels: Channels, node: fx.Node) -> Axes:
    """Runs of axes with equal products correspond: one axis is split, several are merged, or else they are fixed."""
    x = node.args[0]
    assert isinstance(x, fx.Node)
    old = [atom for axis, size in enumerate(x.meta["val"].shape) for atom in _atoms(axis, size, channels.of(x)[axis])]
    new = [atom for axis, size in enumerate(node.meta["val"].shape) for atom in _atoms(axis, size, None)]
    result: Axes = [None] * rank(node)
    for before, after in _runs(old, new):
        for atom, ids in zip(after, _correspond(channels, node, before, after)):
            if not atom.free:
                result[atom.axis] = ids
    _pin_written_sizes(channels, node, result)
    return result


def _atoms(axis: int, size: Any, ids: Ids | None) -> list[_Atom]:
    """The factors of an axis, slowest first; without those of size one."""
    if isinstance(size, int):
        return [_Atom(size, axis, ids)] if size != 1 else []
    factor, rest = sympy.sympify(size.node.expr).as_coeff_Mul()
    if not factor.is_Integer or factor == 1:
        return [_Atom(size.node.expr, axis)]
    inner = ids if ids is not None and len(ids) == factor else None
    return [_Atom(rest, axis), _Atom(int(factor), axis, inner)]


def _runs(old: list[_Atom], new: list[_Atom]) -> list[tuple[list[_Atom], list[_Atom]]]:
    """Corresponding runs of factors: equal ones from the front, then the shortest from the back; last what is left."""
    old, new, runs = list(old), list(new), []
    while old and new and old[0].size == new[0].size:
        runs.append(([old.pop(0)], [new.pop(0)]))
    while old and new:
        before, after = [old[-1]], [new[-1]]
        if before[0].size == after[0].size:
            runs.append(([old.pop()], [new.pop()]))
            continue
        while (left := _size(before)) != (right := _size(after)) or not left:
            shorter, pool = (before, old) if left < right else (after, new)
            if not left or not right or len(shorter) == len(pool):
                return [*runs, (old, new)]
            shorter.insert(0, pool[-len(shorter) - 1])
        del old[-len(before) :], new[-len(after) :]
        runs.append((before, after))
    return [*runs, (old, new)] if old or new else runs


def _size(atoms: Sequence[_Atom]) -> int:
    """Of their sizes; 0 where one is free."""
    return 0 if any(atom.free for atom in atoms) else math.prod(atom.size for atom in atoms)


def _correspond(channels: Channels, node: fx.Node, before: list[_Atom], after: list[_Atom]) -> list[Ids | None]:
    """The identifiers of the factors `after`, which hold the same numbers as `before`."""
    free = any(atom.free for atom in (*before, *after))
    if not free and len(before) == 1:
        return channels.split(node, before[0].ids, [atom.size for atom in after])
    if not free and len(after) == 1:
        return [channels.merge(node, [atom.ids for atom in before], [atom.size for atom in before])]
    reason = f"{describe(node)} cuts across axes"
    channels.pin_all([atom.ids for atom in before], reason)
    return [None if atom.free else channels.pinned(atom.size, reason) for atom in after]


def _pin_written_sizes(channels: Channels, node: fx.Node, axes: Axes) -> None:
    """A size that the graph computes is not adjusted, so the channels in it stay."""
    if node.target is not torch.ops.aten.reshape.default:
        return
    for axis, written in zip(axes, node.args[1]):  # type: ignore[arg-type]
        if isinstance(written, fx.Node):
            channels.pin(axis, f"a size of {describe(node)} is computed")
