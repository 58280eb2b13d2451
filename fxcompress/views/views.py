"""The graph in the forms that other tools read: networkx, Graphviz DOT, GraphML."""

from __future__ import annotations

import io

import networkx as nx
from torch import fx

from fxcompress.views.notation import Notation, uses


def to_networkx(graph_module: fx.GraphModule) -> nx.MultiDiGraph:
    """The graph for networkx: a node a node under its name, an edge a use, from producer to consumer.

    Node attributes: `op` (fx's kind, as "call_function"), `operation` ("conv2d"), `target`, `scope`, `shape` (tuple of
    int, or str for symbolic sizes), `dtype`, `created_by`, `region`; None where there is none. Edge attributes:
    `argument` ("input", or "tensors.1" in a list) and `position` (counting all uses from 0). ``a * a`` keeps both edges.
    """
    notation = Notation(graph_module)
    view = nx.MultiDiGraph()
    for node in graph_module.graph.nodes:
        view.add_node(
            node.name,
            op=node.op,
            operation=notation.operation(node),
            target=str(node.target),
            scope=node.meta.get("scope"),
            shape=notation.shape(node),
            dtype=notation.dtype(node),
            created_by=node.meta.get("created_by"),
            region=node.meta.get("region"),
        )
        for position, (argument, used) in enumerate(uses(node)):
            view.add_edge(used.name, node.name, argument=argument, position=position)
    return view


def to_graphml(graph_module: fx.GraphModule) -> str:
    """`to_networkx` as GraphML (yEd, Gephi, Cytoscape); shapes as text, absent attributes left out."""
    view = to_networkx(graph_module)
    for _, attributes in view.nodes(data=True):
        shape = attributes["shape"]
        attributes["shape"] = None if shape is None else _sizes(shape)
        for name in [name for name, value in attributes.items() if value is None]:
            del attributes[name]
    stream = io.BytesIO()
    nx.write_graphml(view, stream)
    return stream.getvalue().decode() + "\n"


def to_dot(graph_module: fx.GraphModule) -> str:
    """The whole graph, parameters included, in Graphviz's DOT; what a pass created is filled."""
    view = to_networkx(graph_module)
    lines = ["digraph model {", '  node [shape=box, style="rounded,filled", fillcolor=white, fontname=Helvetica];']
    for name, attributes in view.nodes(data=True):
        shape = "" if attributes["shape"] is None else f"[{_sizes(attributes['shape'])}]"
        label = [name, f"{attributes['operation']} {shape}".strip(), attributes["created_by"] or ""]
        style = ", fillcolor=lightblue" if attributes["created_by"] else ""
        style += ", shape=ellipse, fontcolor=gray40" if attributes["op"] == "get_attr" else ""
        lines.append(f"  {_quoted(name)} [label={_quoted(*filter(None, label))}{style}];")
    for source, target, attributes in view.edges(data=True):
        lines.append(f"  {_quoted(source)} -> {_quoted(target)} [tooltip={_quoted(attributes['argument'])}];")
    return "\n".join([*lines, "}"]) + "\n"


def _sizes(shape: tuple[int | str, ...]) -> str:
    return ", ".join(map(str, shape))


def _quoted(*lines: str) -> str:
    """A DOT string of `lines`."""
    return '"' + r"\n".join(line.replace("\\", "\\\\").replace('"', r"\"") for line in lines) + '"'
