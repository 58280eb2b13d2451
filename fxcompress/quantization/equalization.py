"""Factors that make the weights of linked layers equally wide, channel by channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Scaling:
    """A weight, seen as one matrix a group, and the factors that its channels have been given so far.

    Attributes:
        widths: the largest magnitude at any place of the kernel, ``[groups, outputs of a group, inputs of a group]``.
        inputs: what input channels are multiplied by, ``[groups, 1, inputs of a group]``.
        outputs: what output channels are divided by, ``[groups, outputs of a group, 1]``.
        offsets: the magnitude of the bias, as far as it counts beside the weights, ``[groups, outputs of a group]``.
    """

    widths: Tensor
    inputs: Tensor
    outputs: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, weight: Tensor, groups: int, bias: Tensor | None = None) -> Scaling:
        """Of a weight ``[outputs, inputs of a group, *kernel]`` and a bias ``[outputs]``, without any scaling."""
        widths = weight.abs().double().reshape(groups, len(weight) // groups, weight.shape[1], -1).amax(3)
        offsets = torch.zeros_like(widths[:, :, 0]) if bias is None else bias.abs().double().reshape(groups, -1)
        return cls(widths, torch.ones_like(widths[:, :1]), torch.ones_like(widths[:, :, :1]), offsets)

    def scaled(self, weight: Tensor) -> Tensor:
        """`weight` with all factors."""
        matrices = weight.reshape(*self.widths.shape, -1)
        return (matrices * (self.inputs / self.outputs).unsqueeze(3)).to(weight.dtype).reshape(weight.shape)

    def divide_outputs(self, factor: Tensor) -> None:
        """By a factor an output channel, ``[outputs]``."""
        factor = factor.reshape(self.outputs.shape)
        self.outputs, self.widths = self.outputs * factor, self.widths / factor
        self.offsets = self.offsets / factor.squeeze(2)

    def multiply_inputs(self, factor: Tensor) -> None:
        """By a factor for each run of as many consecutive input channels, ``[runs]``."""
        factor = factor.repeat_interleave(self.inputs.numel() // len(factor)).reshape(self.inputs.shape)
        self.inputs, self.widths = self.inputs * factor, self.widths * factor


def width_ratio(first: Scaling, second: Scaling) -> Tensor:
    """How much wider each output channel of `first` is than what reads it in `second`, ``[outputs of first]``.

    An output channel is as wide as its widest weight, or as its offset if that is wider. The ratio is 1 where either is
    nothing but zeros, so that no factor makes them equal.
    """
    before = torch.maximum(first.widths.amax(2), first.offsets).flatten()
    after = second.widths.amax(1).reshape(len(before), -1).amax(1)
    ratio = before / after
    return torch.where((ratio > 0) & ratio.isfinite(), ratio, 1.0)


def equalize(pairs: Sequence[tuple[Scaling, Scaling]], iterations: int, tolerance: float) -> int:
    """Scale linked layers until each channel is as wide in the one as in the other; returns the iterations it took.

    A pair's factors are equation 11 of Nagel et al., arXiv 1906.04721: ``s = sqrt(r1 * r2) / r2``. A layer can be in two
    pairs, so that all pairs take turns until the widths of each agree within a share of `tolerance`.
    """
    for done in range(iterations):
        if all((width_ratio(*pair).log().abs() <= tolerance).all() for pair in pairs):
            return done
        for first, second in pairs:
            factor = width_ratio(first, second).sqrt()
            first.divide_outputs(factor)
            second.multiply_inputs(factor)
    return iterations
