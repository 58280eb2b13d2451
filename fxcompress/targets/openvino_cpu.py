"""OpenVINO on x86 CPUs.

Checked against the runtime's own execution graph (`CompiledModel.get_runtime_model`), version 2026.4: a residual add and
the activation after it run inside the integer kernel of the convolution that computes one operand, if the other one is
quantized; if that is left in float, the sum is written as float and quantized by a separate node. A quantizer between the
convolution and the add makes nothing faster, and is not run as it says: it limits the values and does not round them.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator

from torch import fx

from fxcompress.ir.dialect import IDLE, resolve
from fxcompress.ir.reach import reached
from fxcompress.ir.signature import argument
from fxcompress.quantizers.spec import QuantizationSpec
from fxcompress.targets.faults import Fault
from fxcompress.targets.table import Product, Target, Weighted, ops


def _padded_average(node: fx.Node) -> str | None:
    """The padding of an average pool counts as the integer 0, whatever the zero point."""
    if any(argument(node, "padding")) and argument(node, "count_include_pad"):
        return "OpenVINO averages padding wrongly in integers; use count_include_pad=False to have it quantized"
    return None


def _padding_off_the_grid(node: fx.Node) -> str | None:
    """Only zero is on every grid, so only padding with zeros can go behind a quantizer."""
    return "it pads with a value that a quantizer may not represent" if argument(node, "value") else None


def _joins_channels(node: fx.Node) -> bool:
    """OpenVINO gives what is joined a scale an index of the dimension that grows, which must be a kernel's channels."""
    rank = node.meta["val"].dim()
    axis = argument(node, "dim") % rank
    return all(axis == (1 if channels_first else rank - 1) for channels_first in set(_readers(node)))


def _readers(value: fx.Node) -> Iterator[bool]:
    """Whether the operations that compute with `value`, moved or not, count channels along dimension 1, or the last."""
    moved = reached([value], lambda one: filter(_is_transparent, one.users))
    return (user.target not in ROWS for one in moved for user in one.users if not _is_transparent(user))


def _is_transparent(node: fx.Node) -> bool:
    return node.target in TRANSPARENT or node.target is operator.getitem


JOINING = ops("cat stack")
TRANSPARENT = (
    JOINING
    | set(IDLE)
    | ops(
        "max_pool2d reshape flatten unflatten transpose permute squeeze unsqueeze slice select expand split"
        " split_with_sizes chunk pixel_shuffle channel_shuffle upsample_nearest2d constant_pad_nd"
    )
)
ROWS = ops("linear matmul scaled_dot_product_attention")

OPENVINO_CPU = Target(
    name="openvino",
    runtime="openvino",
    weighted={
        resolve("conv1d"): Weighted(),
        resolve("conv2d"): Weighted(),
        resolve("conv3d"): Weighted(),
        resolve("conv_transpose2d"): Weighted(channel_axis=1),
        resolve("linear"): Weighted(),
        resolve("embedding"): Weighted(data=None, weight=0),
    },
    elementwise={
        resolve("add"): (0, 1),
        resolve("mul"): (0, 1),
        resolve("batch_norm"): (0,),
        resolve("mean"): (0,),
        resolve("avg_pool2d"): (0,),
        resolve("adaptive_avg_pool2d"): (0,),
    },
    products={
        resolve("matmul"): Product(signed=(1,), paired=1),
        resolve("scaled_dot_product_attention"): Product(signed=(0, 1), paired=1),  # of queries and keys
    },
    transparent=TRANSPARENT - JOINING,
    joining=JOINING,
    travels=dict.fromkeys(JOINING, _joins_channels),
    fused=ops("relu clamp hardswish hardsigmoid silu gelu sigmoid tanh leaky_relu elu mish prelu batch_norm"),
    exceptions={
        resolve("avg_pool2d"): _padded_average,
        resolve("constant_pad_nd"): _padding_off_the_grid,
    },
    accumulates=True,
    signed_weights=True,
    filter_multiple=32,
    faults=frozenset(Fault),  # also those of onnxruntime, which runs the same files
    activations=QuantizationSpec(symmetric=False),
)
