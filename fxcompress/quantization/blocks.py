"""Parts of a quantized graph that hand on one value: what is fitted to the float model's value at the same place.

Li et al., "BRECQ", arXiv 2102.05426, section 3.2: layers that make up for each other's errors are fitted together, and
what follows them sees their common output only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from fxcompress.quantization.layers import Layer


@dataclass(frozen=True)
class Block:
    """Nodes of the quantized graph behind one place where it is narrow, up to the next.

    Attributes:
        nodes: in the order of the graph, without constants and inputs of the model; the last one is the output.
        twin: the node of the float graph that computes what the last one does.
        layers: those with a quantized weight, never none.
    """

    nodes: tuple[fx.Node, ...]
    twin: fx.Node
    layers: tuple[Layer, ...]

    @property
    def output(self) -> fx.Node:
        return self.nodes[-1]

    @property
    def sources(self) -> list[fx.Node]:
        """The nodes outside, constants included, that those inside read."""
        return list(dict.fromkeys(source for node in self.nodes for source in node.all_input_nodes if source not in self.nodes))


def blocks(graph: fx.Graph, reference: fx.Graph, layers: Sequence[Layer], size: int) -> list[Block]:
    """Cut `graph` where a single value that depends on `layers` is read later on, into blocks of `size` layers or more.

    The last block may have fewer. What comes behind the last layer, up to such a place, belongs to the last block.

    Args:
        reference: the float model's graph, which has the values at the cuts under the same names.
    """
    twins = {node.name: node for node in reference.nodes}
    inside = {layer.node: layer for layer in layers}
    found: list[Block] = []
    nodes: list[fx.Node] = []
    touched: set[fx.Node] = set()
    unread: dict[fx.Node, int] = {}
    for node in graph.nodes:
        if node.op == "output":
            break
        if node in inside or any(source in touched for source in node.all_input_nodes):
            touched.add(node)
            unread[node] = len(node.users)
        for source in node.all_input_nodes:
            if source in unread:
                unread[source] -= 1
                if not unread[source]:
                    del unread[source]
        if node.op in ("call_function", "call_module"):
            nodes.append(node)
        members = tuple(inside[n] for n in nodes if n in inside)
        if len(members) >= size and unread.keys() == {node} and node.name in twins:
            found.append(Block(tuple(nodes), twins[node.name], members))
            nodes = []
    return found
