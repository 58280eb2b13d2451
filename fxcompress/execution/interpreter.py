"""A graph run node by node, by a pass that looks at values, or changes the graph, on the way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fxcompress.errors import InputError, describe
from fxcompress.execution.precision import FLOAT32, Arithmetic, channels_last
from fxcompress.ir.constants import constants
from fxcompress.ir.edit import attribute


class Execution:
    """The run of a graph on `inputs`, which are flattened as its placeholders are. It moves when it is told to.

    A value is kept, with all its samples, until the last node that reads it has run.
    """

    def __init__(self, graph_module: fx.GraphModule, inputs: Sequence[Any], arithmetic: Arithmetic = FLOAT32):
        self.graph_module, self.arithmetic = graph_module, arithmetic
        self.held: dict[fx.Node, Any] | None = None  # constants that have been computed, where they are shared
        self.left = list(reversed(graph_module.graph.nodes))
        self.values: dict[fx.Node, Any] = dict(zip(graph_module.graph.find_nodes(op="placeholder"), channels_last(inputs)))
        self.readers = {node: len(node.users) for node in self.left}
        self.constants = constants(graph_module.graph)

    def advance(self, node: fx.Node) -> None:
        """Run all that comes before `node` and has not run yet."""
        while self.left[-1] is not node:
            self.run(self.left[-1])

    def run(self, node: fx.Node, known: Any = None) -> None:
        """Run `node`, the next one, or take `known` for what it computes."""
        assert self.left.pop() is node
        if node.op in ("call_function", "call_module") and node not in self.constants:
            self.values[node] = self.compute(node) if known is None else known
        self._release(source for source in node.all_input_nodes if source in self.readers)  # not one made on the way

    def separate(self, node: fx.Node) -> Tensor:
        """What `node`, which has run, computed, as a tensor of its readers alone, with a gradient where these are on."""
        value = self.values[node]
        value = value.view_as(value)
        self.values[node] = value if value.requires_grad or not torch.is_grad_enabled() else value.requires_grad_()
        return self.values[node]

    def value(self, node: fx.Node) -> Any:
        """What `node` computed. Constants are computed when they are read: a pass may change a layer's before it runs."""
        if node.op == "get_attr":
            held = attribute(self.graph_module, str(node.target))
            return held.detach() if isinstance(held, Tensor) else held
        if node not in self.constants:
            return self.values[node]
        if self.held is None:
            return self.compute(node)
        if node not in self.held:
            self.held[node] = self.compute(node)
        return self.held[node]

    def compute(self, node: fx.Node) -> Any:
        """What `node`, whose inputs have run, computes.

        Raises:
            InputError: it cannot, of these values: indices that no table has, sizes that do not fit each other.
        """
        args, kwargs = fx.map_arg((node.args, node.kwargs), self.value)
        call = self.graph_module.get_submodule(str(node.target)) if node.op == "call_module" else node.target
        assert callable(call)
        try:
            return self.arithmetic.call(node, call, args, kwargs)
        except (IndexError, RuntimeError) as problem:
            if not _is_of_values(problem):
                raise
            raise InputError(f"{describe(node)} cannot be computed for some of the data: {problem}") from problem

    def _release(self, sources: Iterable[fx.Node]) -> None:
        for source in sources:
            self.readers[source] -= 1
            if not self.readers[source]:
                self.values.pop(source, None)


def _is_of_values(problem: Exception) -> bool:
    """Whether values can be why an operation failed, rather than the machine or an operation that is not there.

    torch has no type of error for a CPU without memory, only these words.
    """
    return not isinstance(problem, (torch.OutOfMemoryError, NotImplementedError)) and "DefaultCPUAllocator" not in str(problem)


def advance_together(executions: Sequence[Execution], node: fx.Node) -> None:
    """Run all `executions` of one graph up to `node`, each node in all of them, so that they share the constants it reads.

    For that long the graph does not change.
    """
    held: dict[fx.Node, Any] = {}
    for execution in executions:
        execution.held = held
    while executions[0].left[-1] is not node:
        for execution in executions:
            execution.run(execution.left[-1])
        held.clear()
    for execution in executions:
        execution.held = None
