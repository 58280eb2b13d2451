"""A graph run without ever holding all that is computed of a large weight: a few of its rows at a time.

The largest weight of a language model is a seventh of it or more, and its integers a quarter of that. Sums of the rows of a
matrix in another number can round otherwise, so large weights in floats are multiplied in the same pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxcompress.data.inputs import ExampleInputs
from fxcompress.execution.agreement import outputs
from fxcompress.execution.interpreter import Execution
from fxcompress.ir.constants import constants
from fxcompress.ir.dialect import resolve
from fxcompress.quantizers.ops import DEQUANTIZE, UNPACK
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.storage.memory import give_back

LINEAR, EMBEDDING = resolve("linear"), resolve("embedding")

_LARGE = 2**20  # values of a weight that is taken in pieces
_PIECE = 2**20  # values of a piece, about


@torch.no_grad()
def outputs_by_rows(graph_module: fx.GraphModule, example: ExampleInputs) -> list[Any]:
    """As `execution.agreement.outputs`, large weights by rows."""
    if not _large(graph_module.graph):
        return outputs(graph_module, example)
    given = [leaf for _, leaf in example.copy().leaves()]
    return pytree.tree_leaves(ByRows(graph_module).run(*given, enable_io_processing=False))


class ByRows(fx.Interpreter):
    """Multiplies by large constant matrices, and looks up in them, a few rows at a time."""

    def __init__(self, graph_module: fx.GraphModule, **options: Any):
        super().__init__(graph_module, **options)
        large = [node for node in _large(graph_module.graph) if _read_by_rows(node)]
        self.rounded = {node: module for node in large if (module := _quantizer(graph_module, node)) is not None}
        self.later = {node for node in large if _dequantizes_rows(node)}
        self.unpacked = {node.args[0] for node in self.later if node.args[0].target is UNPACK}

    def run_node(self, node: fx.Node) -> Any:
        if node in self.unpacked:
            return _Packed(*self.fetch_args_kwargs_from_env(node)[0])
        if node in self.later:
            return _Integers(*self.fetch_args_kwargs_from_env(node)[0])
        if node in self.rounded:
            return _Rounded(self.rounded[node], *self.fetch_args_kwargs_from_env(node)[0])
        return super().run_node(node)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target is LINEAR and (isinstance(args[1], _Later) or args[1].numel() >= _LARGE):
            x, weight, *rest = args
            bias = rest[0] if rest else kwargs.get("bias")
            # First: among the pieces it would keep memory from being used again.
            result = x.new_empty(*x.shape[:-1], weight.shape[0])
            for start, stop, rows in _pieces(weight):
                some = (x, rows, None if bias is None else bias[start:stop])
                result[..., start:stop] = super().call_function(target, some, {})
                give_back()  # of a heap that is fragmented by then, the next piece would take more
            return result
        if target is EMBEDDING and isinstance(args[0], _Later):
            return args[0].at(args[1].reshape(-1)).unflatten(0, args[1].shape)
        return super().call_function(target, args, kwargs)


class LookingUp(Execution):
    """Rounds the rows of a table that are looked up, and not the table."""

    def compute(self, node: fx.Node) -> Any:
        quantizer = _quantizer(self.graph_module, node.args[0]) if node.target is EMBEDDING else None
        if quantizer is None:
            return super().compute(node)
        table, indices = self.value(node.args[0].args[0]), self.value(node.args[1])
        return quantizer.rounded_rows(table, indices.reshape(-1)).unflatten(0, indices.shape)


@dataclass(frozen=True)
class _Packed:
    """Integers of 4 bits, two in a byte."""

    packed: Tensor
    shape: Sequence[int]
    dtype: str

    def __getitem__(self, rows: Any) -> Tensor:
        columns = self.shape[1]
        packed = self.packed.view(self.shape[0], columns // 2)[rows]
        return UNPACK(packed.reshape(-1), [packed.shape[0], columns], self.dtype)


class _Later:
    """A matrix whose floats are computed when they are asked for."""

    shape: Sequence[int]

    def at(self, rows: Any) -> Tensor:
        """The floats of some rows."""
        raise NotImplementedError


@dataclass(frozen=True)
class _Rounded(_Later):
    """One that a quantizer rounds."""

    quantizer: Quantizer
    x: Tensor

    @property
    def shape(self) -> Sequence[int]:  # type: ignore[override]
        return self.x.shape

    def at(self, rows: Any) -> Tensor:
        return self.quantizer.rounded_rows(self.x, rows)


@dataclass(frozen=True)
class _Integers(_Later):
    """One that is dequantized, with the arguments of that."""

    q: Tensor | _Packed
    scale: Tensor
    zero_point: Tensor
    axis: int | None
    dtype: str
    block_size: int = 0
    widened: bool = False

    @property
    def shape(self) -> Sequence[int]:  # type: ignore[override]
        return self.q.shape

    def at(self, rows: Any) -> Tensor:
        per_row = self.axis == 0 or bool(self.block_size)
        scale, points = (one[rows] if per_row and one.dim() else one for one in (self.scale, self.zero_point))
        return DEQUANTIZE(self.q[rows], scale, points, self.axis, self.dtype, self.block_size, self.widened)


def _pieces(weight: Tensor | _Later) -> Iterator[tuple[int, int, Tensor]]:
    count, width = weight.shape
    step = max(1, _PIECE // width)
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        yield rows.start, rows.stop, weight[rows] if isinstance(weight, Tensor) else weight.at(rows)


def _large(graph: fx.Graph) -> list[fx.Node]:
    """The large matrices among what `graph` computes from constants alone."""
    values = ((node, node.meta.get("val")) for node in constants(graph))
    return [node for node, held in values if isinstance(held, Tensor) and held.dim() == 2 and held.numel() >= _LARGE]


def _read_by_rows(node: fx.Node) -> bool:
    """Whether all that reads the matrix `node` can take it a few rows at a time."""
    return all(
        (user.target is LINEAR and user.args[1] is node and user.args[0] is not node)
        or (user.target is EMBEDDING and user.args[0] is node)
        for user in node.users
    )


def _dequantizes_rows(node: fx.Node) -> bool:
    """Whether `node` dequantizes a matrix whose rows have grids of their own, and begin at a byte."""
    if node.target is not DEQUANTIZE:
        return False
    (held, _, _, axis, *_), block = node.args, node.args[5] if len(node.args) > 5 else 0
    apart = axis == 1 if block else axis in (0, None)
    return apart and (held.target is not UNPACK or (held.args[1][1] % 2 == 0 and len(held.users) == 1))


def _quantizer(graph_module: fx.GraphModule, node: fx.Node) -> Quantizer | None:
    """The quantizer that `node` calls, where it rounds its rows one by one."""
    module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return module if type(module) is Quantizer and module.by_rows and module.ready and module.enabled else None
