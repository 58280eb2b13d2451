"""How forward passes that only look at values run: in which arithmetic, on which layout.

Where the CPU multiplies bfloat16 natively, convolutions and matrix products run in it, twice as fast. Everything else computes
in float32, but for operations that move values, which take what they get: so no operation meets two types.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxcompress.ir.constants import constants
from fxcompress.ir.dialect import IDLE, resolve

Precision = Literal["auto", "float32", "bfloat16"]

MULTIPLICATIONS = frozenset(
    resolve(name)
    for name in (
        *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        *("linear", "matmul", "mm", "bmm", "scaled_dot_product_attention"),
    )
)
"""What can run in bfloat16 for speed."""

_MOVES = frozenset(IDLE).union(
    resolve(name)
    for name in (
        *("relu", "hardtanh", "clamp", "maximum", "minimum", "max_pool1d", "max_pool2d", "max_pool3d", "add"),
        *("view", "reshape", "flatten", "unflatten", "permute", "transpose", "expand", "squeeze", "unsqueeze", "contiguous"),
        *("slice", "select", "split", "cat", "stack", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "clone"),
    )
)
"""What stays in bfloat16 where all that it reads is."""

_ATTENTION = resolve("scaled_dot_product_attention")
_LARGEST = torch.finfo(torch.bfloat16).max


class Arithmetic:
    """Makes the calls of a graph, those of the nodes `low` in bfloat16 and all others in float32."""

    def __init__(self, low: Collection[fx.Node] = ()):
        self.low = frozenset(low)
        self._fixed = constants(next(iter(self.low)).graph) if self.low else set()
        self._constants: dict[fx.Node, tuple[Tensor, Tensor]] = {}  # as they are, and in bfloat16

    def __str__(self) -> str:
        return "bfloat16" if self.low else "float32"

    def call(self, node: fx.Node, target: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What `node` computes by ``target(*args, **kwargs)``."""
        args, kwargs = self.arguments(node, target, args, kwargs)
        return target(*args, **kwargs)

    def arguments(self, node: fx.Node, target: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, Any]:
        """`args` and `kwargs` in the type that `node`, which calls `target`, computes in."""
        if not self.low:
            return args, kwargs
        if node in self.low:
            if target is _ATTENTION:
                args = (*args[:3], *map(_within_bfloat16, args[3:]))
                kwargs = {name: _within_bfloat16(value) for name, value in kwargs.items()}
            args = tuple(self._lowered(source, value) for source, value in zip(node.args, args))
            kwargs = {name: self._lowered(node.kwargs[name], value) for name, value in kwargs.items()}
        elif not _moves(target) or not _all_low((args, kwargs)):
            args, kwargs = pytree.tree_map_only(Tensor, _raised, (args, kwargs))
        return args, kwargs

    def _lowered(self, source: Any, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if source not in self._fixed:
            return value.to(torch.bfloat16)
        known = self._constants.get(source)
        if known is None or known[0] is not value:
            known = self._constants[source] = (value, value.to(torch.bfloat16))
        return known[1]


FLOAT32 = Arithmetic()


def _moves(target: Callable[..., Any]) -> bool:
    """Whether `target` hands on the values it gets: so does a quantizer that is switched off."""
    return target in _MOVES or getattr(target, "enabled", True) is False


def _within_bfloat16(mask: Any) -> Any:
    """`mask` with finite numbers only where it has them: the lowest float32, a common filling, is below all of bfloat16."""
    if not isinstance(mask, Tensor) or not mask.is_floating_point():
        return mask
    return torch.where(mask.isinf(), mask, mask.clamp(-_LARGEST, _LARGEST))


def _raised(value: Tensor) -> Tensor:
    return value.float() if value.dtype == torch.bfloat16 else value


def _all_low(values: Any) -> bool:
    tensors = [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]
    return all(tensor.dtype == torch.bfloat16 for tensor in tensors)


def channels_last(inputs: Iterable[Any]) -> list[Any]:
    """`inputs`, images with their channels last in memory, which convolutions run fastest on."""
    return [x.contiguous(memory_format=torch.channels_last) if isinstance(x, Tensor) and x.dim() == 4 else x for x in inputs]
