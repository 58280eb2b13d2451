"""A graph run node by node, by a pass that looks at values, or changes the graph, on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, fx

from fxcompress.builder import attribute


class Execution:
    """The run of a graph on `inputs`, which are flattened as its placeholders are. It moves when it is told to.

    A value is kept, with all its samples, until the last node that reads it has run.
    """

    def __init__(self, graph_module: fx.GraphModule, inputs: Sequence[Tensor]):
        placeholders = graph_module.graph.find_nodes(op="placeholder")
        self._start(graph_module, graph_module.graph.nodes, dict(zip(placeholders, inputs)))

    @classmethod
    def of_part(cls, graph_module: fx.GraphModule, nodes: Iterable[fx.Node], known: Mapping[fx.Node, Any]) -> Execution:
        """The run of `nodes`, as the graph orders them, where `known` holds what they read from outside.

        A constant in `known`, such as a quantized weight, has the value that it has there.
        """
        execution = cls.__new__(cls)
        execution._start(graph_module, nodes, known)
        return execution

    def _start(self, graph_module: fx.GraphModule, nodes: Iterable[fx.Node], known: Mapping[fx.Node, Any]) -> None:
        self.graph_module = graph_module
        self.left = list(reversed(list(nodes)))
        self.values: dict[fx.Node, Any] = dict(known)
        self.readers = {node: len(node.users) for node in (*self.left, *known)}

    def advance(self, node: fx.Node) -> None:
        """Run all that comes before `node` and has not run yet."""
        while self.left[-1] is not node:
            self.run(self.left[-1])

    def run(self, node: fx.Node, known: Any = None) -> None:
        """Run `node`, the next one, or take `known` for what it computes."""
        assert self.left.pop() is node
        if node.op in ("call_function", "call_module") and not _is_constant(node):
            self.values[node] = self._compute(node) if known is None else known
        self._release(source for source in node.all_input_nodes if source in self.readers)  # not one made on the way

    def value(self, node: fx.Node) -> Any:
        """What `node` computed. Constants are computed when they are read: a pass may change a layer's before it runs."""
        if node in self.values:
            return self.values[node]
        assert _is_constant(node), f"{node} has not run, or all that read it have"
        if node.op == "get_attr":
            held = attribute(self.graph_module, str(node.target))
            return held.detach() if isinstance(held, Tensor) else held
        return self._compute(node)

    def _compute(self, node: fx.Node) -> Any:
        args, kwargs = fx.map_arg((node.args, node.kwargs), self.value)
        call = self.graph_module.get_submodule(str(node.target)) if node.op == "call_module" else node.target
        assert callable(call)
        return call(*args, **kwargs)

    def _release(self, sources: Iterable[fx.Node]) -> None:
        for source in sources:
            self.readers[source] -= 1
            if not self.readers[source]:
                self.values.pop(source, None)


def _is_constant(node: fx.Node) -> bool:
    """Whether `node` depends on the model's weights alone."""
    return node.op == "get_attr" or (bool(node.all_input_nodes) and all(map(_is_constant, node.all_input_nodes)))
