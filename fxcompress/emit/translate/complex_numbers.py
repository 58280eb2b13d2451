"""Complex numbers, which ONNX has as pairs of real ones along one more axis at the end, and Fourier transforms.

OpenVINO 2026.4 reads a DFT of opset 20 along axis 1 whatever its axis says, and gives a one-sided one an axis too many; so
the axis is brought there, and a one-sided spectrum is cut out of the whole one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch

from fxcompress.emit.complex_parts import imaginary, real
from fxcompress.emit.shapes import Size
from fxcompress.emit.translation import Emitter, translation

aten = torch.ops.aten
_END = 2**63 - 1


@translation(aten._fft_r2c.default, takes_complex=True)
def fft_of_real(emit: Emitter, x: ir.Value, dim: Sequence[int], normalization: int, onesided: bool) -> ir.Value:
    rank, shape = emit.rank(x), emit.shape(x)
    axes = [d % rank for d in dim]
    spectrum = emit.Unsqueeze(x, [rank])
    for axis in reversed(axes):
        spectrum = _transformed(emit, spectrum, axis, rank, inverse=False)
        if onesided and axis == axes[-1]:
            spectrum = emit.Slice(spectrum, [0], [shape[axis] // 2 + 1], [axis])
    return _normalized(emit, spectrum, normalization, [shape[axis] for axis in axes])


@translation(aten._fft_c2c.default, takes_complex=True)
def fft(emit: Emitter, x: ir.Value, dim: Sequence[int], normalization: int, forward: bool) -> ir.Value:
    rank, shape = emit.rank(x), emit.shape(x)
    axes, spectrum = [d % rank for d in dim], x
    for axis in axes:
        spectrum = _transformed(emit, spectrum, axis, rank, inverse=not forward)
    return _normalized(emit, spectrum, normalization, [shape[axis] for axis in axes])


@translation(aten._fft_c2r.default, takes_complex=True)
def fft_to_real(emit: Emitter, x: ir.Value, dim: Sequence[int], normalization: int, last_dim_size: Size) -> ir.Value:
    """The real signal of a one-sided spectrum, whose other half is the conjugate of this one in reverse."""
    rank, shape = emit.rank(x), emit.shape(x)
    *others, last = [d % rank for d in dim]
    spectrum = x
    for axis in others:
        spectrum = _transformed(emit, spectrum, axis, rank, inverse=True)
    half = emit.Slice(spectrum, [0], [last_dim_size // 2 + 1], [last])
    mirrored = emit.Slice(half, [(last_dim_size - 1) // 2], [0], [last], [-1])
    mirrored = emit.Mul(mirrored, torch.tensor([1.0, -1.0]))
    whole = _transformed(emit, emit.Concat(half, mirrored, axis=last), last, rank, inverse=True)
    sizes = [*(shape[axis] for axis in others), last_dim_size]
    return _normalized(emit, real(emit, whole), normalization, sizes)


def _transformed(emit: Emitter, pairs: ir.Value, axis: int, rank: int, *, inverse: bool) -> ir.Value:
    """The transform along `axis` of complex numbers with `rank` axes, without any factor."""
    if rank == 1:
        row = _transformed(emit, emit.Unsqueeze(pairs, [0]), 1, 2, inverse=inverse)
        return emit.Squeeze(row, [0])
    order = list(range(rank + 1))
    order[1], order[axis] = order[axis], order[1]
    moved = pairs if axis == 1 else emit.Transpose(pairs, perm=order)
    if inverse:  # ONNX's inverse has a factor of 1/n, torch's none: the conjugate's transform's conjugate
        moved = emit.Mul(moved, torch.tensor([1.0, -1.0]))
    moved = emit.DFT(moved, None, emit.constant(torch.tensor(1)))
    if inverse:
        moved = emit.Mul(moved, torch.tensor([1.0, -1.0]))
    return moved if axis == 1 else emit.Transpose(moved, perm=order)


def _normalized(emit: Emitter, x: ir.Value, normalization: int, sizes: Sequence[Size]) -> ir.Value:
    """`x` times 1, 1/sqrt(n) or 1/n, torch's normalizations 0, 1 and 2, n being the number of values."""
    if normalization == 0:
        return x
    count: Any = math.prod(sizes) if all(isinstance(size, int) for size in sizes) else None
    if isinstance(count, int):
        return emit.Mul(x, 1 / count if normalization == 2 else 1 / math.sqrt(count))
    total: Size = 1
    for size in sizes:
        total = total * size
    divisor = emit.cast(emit.size_scalar(total), emit.dtype(x))
    return emit.Div(x, divisor if normalization == 2 else emit.Sqrt(divisor))


@translation(aten.stft.default, aten.stft.center, takes_complex=True)
def stft(
    emit: Emitter,
    x: ir.Value,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    *args: Any,
    **kwargs: Any,
) -> ir.Value:
    """Frames, windowed and transformed, by one convolution with the rows of the transform's matrix."""
    given = {**dict(zip(_STFT_ARGUMENTS[str(emit.node.target._overloadname)], args)), **kwargs}  # type: ignore[union-attr]
    if emit.fake(x).is_complex():
        emit.unsupported("a short-time transform of complex signals")
    window = given.get("window")
    taps = torch.ones(n_fft if win_length is None else win_length) if window is None else emit.data(window)
    if taps is None:
        emit.unsupported("the window of a short-time transform is not a constant")
    hop = n_fft // 4 if hop_length is None else hop_length
    before = (n_fft - len(taps)) // 2
    taps = torch.nn.functional.pad(taps.double(), (before, n_fft - len(taps) - before))
    onesided = given.get("onesided")
    bins = n_fft // 2 + 1 if onesided or onesided is None else n_fft
    angles = 2 * math.pi * torch.outer(torch.arange(bins), torch.arange(n_fft)).double() / n_fft
    rows = torch.stack([angles.cos(), -angles.sin()]).flatten(0, 1) * taps
    rows = rows / math.sqrt(n_fft) if given.get("normalized") else rows
    batched = emit.rank(x) == 2
    signal = emit.Unsqueeze(x, [1] if batched else [0, 1])
    if given.get("center"):
        mode = {"reflect": "reflect", "constant": "constant", "replicate": "edge"}.get(given.get("pad_mode") or "reflect")
        if mode is None:
            emit.unsupported(f"padding {given['pad_mode']} of a short-time transform")
        signal = emit.Pad(signal, [0, 0, n_fft // 2] * 2, mode=mode)
    weight = emit.constant(rows[:, None].to(emit.dtype(x)))
    frames = emit.Conv(signal, weight, kernel_shape=[n_fft], strides=[hop])
    pairs = emit.Transpose(emit.Reshape(frames, [0, 2, bins, -1]), perm=[0, 2, 3, 1])
    return pairs if batched else emit.Squeeze(pairs, [0])


_STFT_ARGUMENTS = {
    "default": ("window", "normalized", "onesided", "return_complex", "align_to_window"),
    "": ("window", "normalized", "onesided", "return_complex", "align_to_window"),
    "center": ("window", "center", "pad_mode", "normalized", "onesided", "return_complex", "align_to_window"),
}


@translation(aten.real.default, takes_complex=True)
def real_part(emit: Emitter, x: ir.Value) -> ir.Value:
    return real(emit, x) if emit.fake(x).is_complex() else x


@translation(aten.imag.default, takes_complex=True)
def imaginary_part(emit: Emitter, x: ir.Value) -> ir.Value:
    return imaginary(emit, x)


@translation(aten.view_as_real.default, aten.view_as_complex.default, takes_complex=True)
def pairs(emit: Emitter, x: ir.Value) -> ir.Value:
    return emit.Identity(x)  # the same numbers by another name
