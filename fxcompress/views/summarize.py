"""From a graph to what is drawn of it.

Parameters and what is computed from them are badges on the operation that reads them; inserted modules and
quantize / dequantize pairs are pills on wires; sizes are left out. With `collapse`, an operation that only follows
another (its activation, its normalisation, a change of shape) shares its box, and so do the members of a region.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import replace

import networkx as nx
from torch import fx

from fxcompress.views.labels import detail, mark_label
from fxcompress.views.notation import Notation, from_data, operation_name, uses
from fxcompress.views.summary import Box, Line, Mark, Sink, Summary, Wire
from fxcompress.views.text import block, leaf_scopes

_SHAPES = {"reshape", "view", "flatten", "unflatten", "transpose", "permute", "squeeze", "unsqueeze", "expand", "slice"}
_ACTIVATIONS = {"relu", "clamp", "gelu", "silu", "hardswish", "hardsigmoid", "sigmoid", "tanh", "leaky_relu", "elu", "mish"}
_NORMS = {"batch_norm", "layer_norm", "group_norm", "instance_norm"}
_CONVOLUTIONS = {f"conv{how}{n}d" for how in ("", "_transpose") for n in (1, 2, 3)}

REARRANGING = _SHAPES | {"select", "to"}
"""Operations that move values and compute none; in a row they share a line."""
_IDLE = {"dropout", "drop_path", "stop_gradient"}
FOLLOWING = REARRANGING | _ACTIVATIONS | _NORMS | _IDLE | {"_to_copy", "prelu", "softplus", "softmax", "log_softmax"}
"""Operations that join the box of what they read, where nothing else reads it."""
HEAVY = _CONVOLUTIONS | {"linear", "matmul", "bmm", "einsum", "scaled_dot_product_attention", "lstm", "gru"}
"""Operations that take most of the time."""
MOST_LINES = 6


def summarize(graph_module: fx.GraphModule, collapse: bool = True) -> Summary:
    """The boxes and wires that a drawing of `graph_module` shows."""
    return _Summarizer(graph_module, collapse).run()


class _Summarizer:
    def __init__(self, graph_module: fx.GraphModule, collapse: bool):
        self.graph = graph_module.graph
        self.notation = Notation(graph_module)
        self.collapse = collapse
        self.data = from_data(self.graph)
        self.passing = {n for n in self.data if self._passes_on(n)}
        self.drawn = [n for n in self.graph.nodes if n in self.data and n not in self.passing]
        self.leaves = leaf_scopes(self.graph)
        self.home: dict[fx.Node, str] = {}

    def run(self) -> Summary:
        boxes = {box.name: box for box in self._boxes()}
        summary = Summary(boxes, list(self._wires()))
        for box in boxes.values():
            box.kind = {"input": "input", "output": "output"}.get(box.lines[0].operation, "operation")
        return summary

    def _passes_on(self, node: fx.Node) -> bool:
        """Whether `node` is drawn on a wire: a pill, or the choice of one value among several."""
        if node.target is operator.getitem:
            return True
        if not self.collapse:
            return False
        if node.op == "call_function" and operation_name(node.target) in ("quantize", "dequantize"):
            return True
        inserted = node.op == "call_module" and "created_by" in node.meta
        return inserted and len(self._read(node)) == 1 and self._keeps_shape(node)

    def _keeps_shape(self, node: fx.Node) -> bool:
        shape = self.notation.shape(node)
        return shape is None or shape == self.notation.shape(node.all_input_nodes[0])

    def _block(self, node: fx.Node) -> str:
        return block(node, self.leaves)

    def _read(self, node: fx.Node) -> list[fx.Node]:
        return [used for _, used in uses(node) if used in self.data]

    def _origin(self, node: fx.Node) -> tuple[fx.Node, int, list[Mark]]:
        """The drawn node behind `node`, which of its values, and the pills from there to `node`."""
        index = 0
        marks: list[Mark] = []
        while node in self.passing:
            if node.target is operator.getitem:
                index = int(node.args[1]) if isinstance(node.args[1], int) else 0
            elif mark := self._mark(node):
                marks.insert(0, mark)
            node = self._read(node)[0]
        return node, index, marks

    def _mark(self, node: fx.Node) -> Mark | None:
        """The mark of an inserted node; none for a dequantize, whose quantize has one."""
        quantized = node.all_input_nodes[0].op == "call_function" if node.all_input_nodes else False
        if node.op == "call_function" and operation_name(node.target) == "dequantize" and quantized:
            return None
        return Mark(node.name, mark_label(node, self.notation), node.meta.get("created_by"))

    def _line(self, node: fx.Node) -> Line:
        operation = self.notation.operation(node)
        operation = {"scaled_dot_product_attention": "attention", "_to_copy": "to"}.get(operation, operation)
        line = Line(node.name, operation, detail(node, self.notation), node.meta.get("created_by"))
        line.heavy = self.notation.operation(node) in HEAVY
        for argument, used in uses(node):
            if used not in self.data:
                line.marks += self._badge(argument, used)
        return line

    def _badge(self, argument: str, constant: fx.Node) -> list[Mark]:
        """What passes did to a constant argument, as a badge each: ``"w 50% masked"``, ``"int8"``."""
        chain: list[Mark] = []
        node: fx.Node | None = constant
        while node is not None:
            if node.op != "get_attr" and (mark := self._mark(node)) and mark.created_by:
                chain.insert(0, mark)
            node = node.all_input_nodes[0] if node.op != "get_attr" and node.all_input_nodes else None
        short = {"weight": "w ", "bias": "b "}.get(argument, "")
        return [replace(mark, label=short + mark.label) for mark in chain[:1]] + chain[1:]

    def _boxes(self) -> Iterator[Box]:
        """Nodes that share a box are those that a region or a chain of followers ties together."""
        together: nx.utils.UnionFind = nx.utils.UnionFind(self.drawn)
        if self.collapse:
            self._join_regions(together)
            self._join_followers(together)
        members: dict[fx.Node, list[fx.Node]] = {}
        for node in self.drawn:
            members.setdefault(together[node], []).append(node)
        for nodes in members.values():
            head = nodes[0]
            for node in nodes:
                self.home[node] = head.name
            region = head.meta.get("region") if self.collapse and len(nodes) > 1 else None
            yield Box(head.name, self._block(head), self._lines(nodes), nodes=[n.name for n in nodes], region=region)

    def _lines(self, nodes: list[fx.Node]) -> list[Line]:
        """A line a node; changes of shape in a row share one."""
        lines: list[Line] = []
        rearranged = False
        for node in nodes:
            line = self._line(node)
            for used in self._read(node):
                source, _, marks = self._origin(used)
                line.marks += marks if source in nodes else []
            rearranges = self.collapse and line.operation in REARRANGING
            if rearranges and rearranged and line.created_by == lines[-1].created_by:
                lines[-1].operation += f" · {line.operation}"
                lines[-1].detail = ""
            else:
                lines.append(line)
            rearranged = rearranges
        return lines

    def _join_regions(self, together: nx.utils.UnionFind) -> None:
        regions: dict[str, list[fx.Node]] = {}
        for node in self.drawn:
            if region := node.meta.get("region"):
                regions.setdefault(str(region), []).append(node)
        flow = nx.DiGraph((self._origin(used)[0], node) for node in self.drawn for used in self._read(node))
        for nodes in regions.values():
            if _convex(flow, set(nodes)):
                together.union(*nodes)
                flow = nx.relabel_nodes(flow, dict.fromkeys(nodes, nodes[0]))

    def _join_followers(self, together: nx.utils.UnionFind) -> None:
        readers: dict[fx.Node, int] = {}
        for node in self.drawn:
            for used in self._read(node):
                source = self._origin(used)[0]
                readers[source] = readers.get(source, 0) + 1
        sizes: dict[fx.Node, int] = {}
        for node in self.drawn:
            read = self._read(node)
            follows = len(read) == 1 and operation_name(node.target) in FOLLOWING and not node.meta.get("region")
            if not follows or read[0] in self.passing or readers[read[0]] > 1 or read[0].op == "placeholder":
                continue
            if not f"{self._block(node)}.".startswith(_numbered(self._block(read[0]))):
                continue
            group = together[read[0]]
            if sizes.get(group, 1) < MOST_LINES:
                count = sizes.get(group, 1) + 1
                together.union(read[0], node)
                sizes[together[node]] = count

    def _wires(self) -> Iterator[Wire]:
        reads: dict[tuple[fx.Node, int], list[Sink]] = {}
        counts: dict[str, int] = {}
        for node in self.drawn:
            for used in self._read(node):
                source, index, marks = self._origin(used)
                box = self.home[node]
                if self.home[source] != box:
                    counts[box] = counts.get(box, -1) + 1
                    reads.setdefault((source, index), []).append(Sink(box, marks, counts[box]))
        for (source, index), sinks in reads.items():
            shared = _common([sink.marks for sink in sinks])
            for sink in sinks:
                sink.marks = sink.marks[len(shared) :]
            yield Wire(self.home[source], index, shared, sinks, self._changed_shape(source, index))

    def _changed_shape(self, source: fx.Node, index: int) -> str | None:
        """The shape of a value, where it is not that of what its whole box reads first."""
        value = self._shape_of(source, index)
        head = source
        while (read := self._read(head)) and self.home.get(self._origin(read[0])[0]) == self.home[source]:
            head = self._origin(read[0])[0]
        first = self._shape_of(*self._origin(read[0])[:2]) if read else None
        return None if value == first else value

    def _shape_of(self, node: fx.Node, index: int) -> str | None:
        shape = self.notation.shape(node)
        if shape is None and any(user.target is operator.getitem for user in node.users):
            chosen = [u for u in node.users if u.target is operator.getitem and u.args[1] == index]
            shape = self.notation.shape(chosen[0]) if chosen else None
        return None if shape is None else "×".join(str(s) for s in shape) or "scalar"


def _numbered(scope: str) -> str:
    """The innermost numbered module around `scope`, with a dot: "layer1.0.down" gives "layer1.0."; empty for none."""
    parts = scope.split(".")
    while parts and not parts[-1][-1:].isdigit():
        parts.pop()
    return ".".join(parts) + "." if parts else ""


def _common(chains: list[list[Mark]]) -> list[Mark]:
    """The longest start that all `chains` share."""
    shared = []
    for marks in zip(*chains):
        if len(set(marks)) > 1:
            break
        shared.append(marks[0])
    return shared


def _convex(flow: nx.DiGraph, nodes: set[fx.Node]) -> bool:
    """Whether no path leaves `nodes` and comes back, so that drawing them as one leaves no cycle."""
    out = {v for u in nodes if u in flow for v in flow.successors(u)} - nodes
    reached = out.union(*(nx.descendants(flow, v) for v in out))
    return not reached & nodes
