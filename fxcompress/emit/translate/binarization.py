"""The binary convolution, which ONNX does not have: a node of our own domain, for `fxcompress.emit.openvino` to convert."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch

import fxcompress.binarization.ops  # noqa: F401 -- defines torch.ops.fxcompress
from fxcompress.emit.translation import Emitter, translation

DOMAIN, BINARY_CONVOLUTION = "fxcompress", "BinaryConvolution"


@translation(torch.ops.fxcompress.binary_convolution.default)
def binary_convolution(
    emit: Emitter,
    x: ir.Value,
    threshold: ir.Value,
    signs: ir.Value,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> ir.Value:
    return emit.op(
        BINARY_CONVOLUTION,
        x,
        threshold,
        signs,
        domain=DOMAIN,
        strides=list(stride),
        padding=list(padding),
        dilations=list(dilation),
    )
