"""Masks on weights: what pruning and sparsity multiply weights with until the zeros are removed or written to a file.

They stand right behind the constant, in front of what rounds it: ``get_attr weight -> mask -> quantizer -> convolution``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxcompress.errors import InputError
from fxcompress.ir.constants import is_constant
from fxcompress.ir.edit import add_attribute, called, insert_call, value_of
from fxcompress.ir.state import outside


class Mask(nn.Module):
    """Multiplies a weight by zeros and ones.

    Args:
        mask: zeros and ones, of a shape that broadcasts over the weight.

    Attributes:
        mask: a buffer of truth values, which no average over models makes fractions of; a training pass may write others
            to it.
    """

    mask: Tensor

    def __init__(self, mask: Tensor):
        super().__init__()
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise InputError("a mask holds zeros and ones only")
        self.register_buffer("mask", mask.bool())

    def problem_with(self, state: Mapping[str, Tensor]) -> str | None:
        """What is wrong with `state`, its own by name; None where it can be loaded."""
        return outside(state, "mask", 0, 1, whole=True)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask

    def zeros(self) -> int:
        """How many of its values are zero."""
        return int((self.mask == 0).sum())

    @property
    def whole_axes(self) -> tuple[int, ...]:
        """The axes that can lose no index."""
        return ()

    def narrowed(self, kept: Mapping[int, Tensor]) -> Mask:
        """The mask of a weight of which only the indices `kept` of axes are left, by axis."""
        along = {axis: indices for axis, indices in kept.items() if self.mask.shape[axis] > 1}
        return type(self)(select_indices(self.mask, along)) if along else self

    def extra_repr(self) -> str:
        return f"{self.zeros()} of {self.mask.numel()} masked"


class FilterMask(Mask):
    """A mask of whole channels: once they are removed, and it masks nothing else, it goes with them."""


def select_indices(tensor: Tensor, kept: Mapping[int, Tensor]) -> Tensor:
    """`tensor` with only the indices `kept` of axes, by axis."""
    for axis, indices in kept.items():
        tensor = tensor.index_select(axis, indices.to(tensor.device))
    return tensor


def mask_of(graph_module: fx.GraphModule, node: fx.Node) -> Mask | None:
    """The mask that `node` calls; None where it is something else."""
    return called(graph_module, node, Mask)


def masks_up_to(graph_module: fx.GraphModule, node: fx.Node) -> Iterator[Mask]:
    """The masks that `node` stands behind, its own if it calls one, from the last to the first."""
    while (mask := mask_of(graph_module, node)) is not None:
        yield mask
        node = node.args[0]  # type: ignore[assignment]


def masks(graph_module: fx.GraphModule) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Every mask call whose value is read by something else than a mask, with the constant behind it."""
    for node in graph_module.graph.find_nodes(op="call_module"):
        if mask_of(graph_module, node) and any(mask_of(graph_module, user) is None for user in node.users):
            constant = constant_behind(graph_module, node)
            if constant is not None:
                yield node, constant


def source_constant(node: fx.Node) -> Any:
    """The constant that `node` is, or that it makes something of by modules alone (masks, quantizers); None if there is none.

    Modules in a graph are those that passes put between a value and its readers.
    """
    while node.op == "call_module":
        node = node.args[0]  # type: ignore[assignment]
    return node if is_constant(node) else None


def constant_behind(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The constant that `node` is, or that it masks; None where it is something else."""
    while mask_of(graph_module, node) is not None:
        node = node.args[0]  # type: ignore[assignment]
    return node if is_constant(node) else None


def last_mask(graph_module: fx.GraphModule, constant: fx.Node) -> fx.Node:
    """The last of the masks that stand behind `constant`, one after the other; `constant` where there is none."""
    value = constant
    while (following := next((user for user in value.users if mask_of(graph_module, user)), None)) is not None:
        value = following
    return value


def replace_constant(node: fx.Node, constant: fx.Node) -> None:
    """Let the masks and quantizers that the call `node` ends read `constant` in place of the one behind them."""
    while node.args[0].op == "call_module":  # type: ignore[union-attr]
        node = node.args[0]  # type: ignore[assignment]
    node.update_arg(0, constant)


def masked(graph_module: fx.GraphModule, node: fx.Node) -> Tensor:
    """The value of `node`, a constant or a mask (or several) of one, detached."""
    mask = mask_of(graph_module, node)
    if mask is None:
        return value_of(graph_module, node)
    return (mask.mask * masked(graph_module, node.args[0])).detach()  # type: ignore[arg-type]


def insert_mask(graph_module: fx.GraphModule, constant: fx.Node, mask: Mask, created_by: str) -> fx.Node:
    """Let every reader of `constant` read it through `mask`, behind the masks that it has already."""
    value = last_mask(graph_module, constant)
    readers = list(value.users)
    target = add_attribute(graph_module, f"{constant.name}_mask", mask)
    return insert_call(value, readers, target, name=f"{constant.name}_mask", created_by=created_by)


def alive(tensor: Tensor, axis: int) -> Tensor:
    """Which indices of `axis` hold anything but zeros: bool ``[size of the axis]``."""
    return (tensor != 0).movedim(axis, 0).flatten(1).any(1) if tensor.dim() > 1 else tensor != 0


def combined(graph_module: fx.GraphModule, node: fx.Node) -> Tensor:
    """The product of the masks that `node` stands behind, of the constant's shape; ones where there is none."""
    held = value_of(graph_module, source_constant(node))
    product = torch.ones(held.shape, device=held.device)
    for mask in masks_up_to(graph_module, node):
        product = product * mask.mask
    return product
