"""What the last bits of values decide: which of two nearly equal scores comes first, on which side of a step a value is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxcompress.data.inputs import ExampleInputs
from fxcompress.execution.agreement import difference
from fxcompress.ir.dialect import resolve

DRAWS = 4
MARGIN = 8.0
"""The energy of a difference may be this many times the energy of the largest drawn one (9 dB)."""


_LAYERS = (f"conv{how}{rank}d" for how in ("", "_transpose") for rank in (1, 2, 3))
_SUMS = frozenset(map(resolve, (*_LAYERS, "linear", "matmul", "sum", "mean")))
"""Calls that add up: where terms cancel each other, what is left has the last bits of the terms."""


class LastBits(fx.Interpreter):
    """Runs a graph with every float that a call computes moved at random, by its last bit or that of its terms."""

    def __init__(self, graph_module: fx.GraphModule, seed: int):
        super().__init__(graph_module)
        self.generator = torch.Generator().manual_seed(seed)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op != "call_function":
            return value
        if n.target in _SUMS and value.is_floating_point():
            args, kwargs = pytree.tree_map_only(Tensor, _magnitude, self.fetch_args_kwargs_from_env(n))
            return self._moved(value, n.target(*args, **kwargs))  # type: ignore[operator]
        return pytree.tree_map_only(Tensor, self._moved, value)

    def _moved(self, value: Tensor, terms: Tensor | None = None) -> Tensor:
        if not value.is_floating_point():
            return value
        noise = torch.rand(value.shape, generator=self.generator, dtype=value.dtype).to(value.device)
        return value + torch.finfo(value.dtype).eps * (value if terms is None else terms).abs() * (2 * noise - 1)


def _magnitude(value: Tensor) -> Tensor:
    return value.abs() if value.is_floating_point() else value


@torch.no_grad()
def decided_by_last_bits(
    graph_module: fx.GraphModule, example: ExampleInputs, expected: Sequence[Any], found: Sequence[Any]
) -> bool:
    """Whether `found` is as near to `expected`, the outputs of `graph_module`, as they are with other last bits on the way.

    This loosens the promise of a pass that only rounds, and only as far as the model breaks it by itself: a run with other last
    bits is a run of the same model on another CPU, so what differs no more than such runs do is no finding about the pass. Each
    output is judged alone: one that last bits do not decide has to agree as ever, so a wrong rewrite is told by any output that
    it reaches and that is stable. What cannot be told is a fault that only reaches outputs which last bits decide, and moves
    them no more than these do.
    """
    if len(expected) != len(found):
        return False
    leaves = pytree.tree_leaves((example.args, example.kwargs))
    drawn = [pytree.tree_leaves(LastBits(graph_module, seed).run(*leaves, enable_io_processing=False)) for seed in range(DRAWS)]
    pairs = [pair for pair in zip(expected, found, *drawn, strict=True) if isinstance(pair[0], Tensor)]
    return all(difference(e, f) <= MARGIN * max(difference(e, one) for one in others) for e, f, *others in pairs)
