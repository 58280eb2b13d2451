"""Graphs for the tests of views and drawings: random ones from printable recipes, and a small network."""

import torch
from hypothesis import strategies as st
from torch import fx, nn

aten = torch.ops.aten

Recipe = list[tuple[str, int, int, str]]
"""A step a node: what it does, two earlier nodes (counted backwards), the module it is in."""

recipes = st.lists(
    st.tuples(
        st.sampled_from(["relu", "add", "square", "cat", "quantizer", "weight", "size"]),
        st.integers(0, 30),
        st.integers(0, 30),
        st.sampled_from(["", "a", "a.b", "c.0", "c.1", "c.2"]),
    ),
    max_size=30,
)


class Marker(nn.Module):
    """Stands for what a pass inserts."""

    def extra_repr(self) -> str:
        return "int8, per tensor"

    def forward(self, x):
        return x


def build(recipe: Recipe) -> fx.GraphModule:
    """The graph of a recipe; what has no reader goes to the output."""
    root = nn.Module()
    root.w = nn.Parameter(torch.ones(3))
    root.mark = Marker()
    graph = fx.Graph()
    values = [graph.placeholder("x")]
    for kind, i, j, scope in recipe:
        a, b = values[-1 - i % len(values)], values[-1 - j % len(values)]
        node = _add(graph, kind, a, b)
        node.meta["scope"] = scope
        if kind in ("quantizer", "square"):
            node.meta["created_by"] = "Quantize" if kind == "quantizer" else 'Sq<&>"uare'
        if kind == "size":
            node.meta["val"] = 3
        else:
            values.append(node)
    graph.output(tuple(value for value in values if not value.users) or values[-1])
    return fx.GraphModule(root, graph)


def _add(graph: fx.Graph, kind: str, a: fx.Node, b: fx.Node) -> fx.Node:
    if kind == "quantizer":
        return graph.call_module("mark", (a,))
    if kind == "cat":
        return graph.call_function(aten.cat.default, ([a, b, a], 0))
    if kind == "weight":
        return graph.call_function(aten.mul.Tensor, (a, graph.get_attr("w")))
    if kind == "size":
        return graph.call_function(aten.sym_size.int, (a, 0))
    if kind == "relu":
        return graph.call_function(aten.relu.default, (a,))
    return graph.call_function({"add": aten.add.Tensor, "square": aten.mul.Tensor}[kind], (a, a if kind == "square" else b))


class Residual(nn.Module):
    """One residual block."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return (x + self.conv2(self.bn1(self.conv1(x)).relu())).relu()


class Network(nn.Module):
    """A stem, residual blocks that are all alike, a head."""

    def __init__(self, blocks: int = 1, channels: int = 4):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, stride=2)
        self.blocks = nn.Sequential(*(Residual(channels) for _ in range(blocks)))
        self.head = nn.Linear(channels, 10)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x).relu()).mean((2, 3)))


def captured(model: nn.Module) -> fx.GraphModule:
    """`model` for images of 1x9x9 in the dialect."""
    from fxcompress.capture import capture
    from fxcompress.data.inputs import ExampleInputs

    return capture(model.eval(), ExampleInputs((torch.randn(2, 1, 9, 9),)))


def insert_quantizers(module: fx.GraphModule) -> fx.GraphModule:
    """`module` with a marker on the input and the weight of each convolution, as a pass would insert quantizers."""
    module.mark = Marker()
    for conv in module.graph.find_nodes(op="call_function", target=aten.conv2d.default):
        for source in conv.all_input_nodes[:2]:
            name = f"{source.name}_quantizer"
            made = next((user for user in source.users if user.name == name), None)
            if made is None:
                with module.graph.inserting_before(conv if source.op == "get_attr" else source.next):
                    made = module.graph.create_node("call_module", "mark", (source,), name=name)
                made.meta = {"val": source.meta["val"], "scope": source.meta.get("scope", ""), "created_by": "Quantize"}
            conv.replace_input_with(source, made)
    module.recompile()
    return module
