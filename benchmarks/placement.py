"""Where a file runs in integers, read from OpenVINO's own execution graph, and how that compares with other files.

By itself: ``python -m benchmarks.placement ours.onnx peer.xml ...`` compares the first file with the others.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import networkx as nx
from rich.console import Console

from benchmarks import openvino_runner, peers
from benchmarks.models import IMAGE_SHAPE
from benchmarks.scoreboard import Bar, Figure, Section

NETWORKS = ("resnet18", "mobilenet_v2", "resnet50", "efficientnet_lite0")

INTEGERS = frozenset({"i8", "u8"})
NO_COMPUTATION = frozenset({"Const", "Input", "Output"})
MOVES_DATA = frozenset({"Reorder", "Reshape", "Transpose", "Split"})
KINDS = {
    "Convolution": "convolution",
    "Deconvolution": "convolution",
    "FullyConnected": "product",
    "MatMul": "product",
    "Pooling": "pooling",
    "Reduce": "pooling",
    "Concatenation": "concatenation",
    "Eltwise": "elementwise",
    "Subgraph": "elementwise",
    "FakeQuantize": "elementwise",
    "Interpolate": "interpolation",
}
"""Layer types that do the same work under several names."""


@dataclass(frozen=True)
class Layer:
    """A node of the execution graph: one kernel, with the original nodes fused into it."""

    name: str
    type: str
    precision: str
    shape: tuple[int, ...]
    inputs: tuple[str, ...]
    originals: str = ""

    @property
    def integer(self) -> bool:
        return self.precision in INTEGERS

    @property
    def computes(self) -> bool:
        return self.type not in NO_COMPUTATION | MOVES_DATA

    @property
    def role(self) -> tuple[str, tuple[int, ...]]:
        """What the layer does, to find its equal in another file: its kind, and its shape less the axes of size 1."""
        return KINDS.get(self.type, self.type), tuple(size for size in self.shape if size != 1)


def execution_graph(path: Path, shape: tuple[int, ...] = (1, *IMAGE_SHAPE)) -> list[Layer]:
    """The layers that OpenVINO runs for the file at `path`, in the order of execution."""
    model = openvino_runner.compile_file(path, shape).get_runtime_model()
    return [_layer(node) for node in model.get_ordered_ops()]


def _layer(node) -> Layer:
    told = {key: value.astype(str) for key, value in node.get_rt_info().items() if hasattr(value, "astype")}
    shape = node.output(0).get_partial_shape() if node.get_output_size() else ()
    return Layer(
        name=node.get_friendly_name(),
        type=told["layerType"],
        precision=told["runtimePrecision"].lower(),
        shape=tuple(size.get_length() if size.is_static else -1 for size in shape),
        inputs=tuple(port.get_source_output().get_node().get_friendly_name() for port in node.inputs()),
        originals=told.get("originalLayersNames", ""),
    )


def integer_share(layers: Sequence[Layer]) -> float:
    """The share, 0 to 1, of computing layers that run in integers."""
    computing = [layer for layer in layers if layer.computes]
    return sum(layer.integer for layer in computing) / max(len(computing), 1)


def float_islands(layers: Sequence[Layer]) -> list[list[Layer]]:
    """Connected groups of float layers that lie between integer layers: values leave the integers and come back."""
    by_name = {layer.name: layer for layer in layers if layer.type not in NO_COMPUTATION}
    edges = [(source, layer.name) for layer in by_name.values() for source in layer.inputs if source in by_name]
    floats = nx.Graph()
    floats.add_nodes_from(name for name, layer in by_name.items() if not layer.integer)
    floats.add_edges_from(edge for edge in edges if edge[0] in floats and edge[1] in floats)
    into = {sink for source, sink in edges if by_name[source].integer}
    out = {source for source, sink in edges if by_name[sink].integer}
    groups = [group for group in nx.connected_components(floats) if group & into and group & out]
    return [[layer for layer in by_name.values() if layer.name in group] for group in groups]


def float_where_peer_is_not(ours: Sequence[Layer], peer: Sequence[Layer]) -> list[Layer]:
    """Layers of `ours` that run in float though `peer` runs as many more layers of that role in integers."""
    missing = Counter(layer.role for layer in peer if layer.computes and layer.integer)
    missing.subtract(layer.role for layer in ours if layer.computes and layer.integer)
    found = []
    for layer in ours:
        if layer.computes and not layer.integer and missing[layer.role] > 0:
            missing[layer.role] -= 1
            found.append(layer)
    return found


def section(files: Mapping[str, Mapping[str, Path]], *, report: Callable[[str], None]) -> Section:
    """Compare the emitted file of each network with the peers', given by network and tool."""
    result = Section(
        "Placement",
        "OpenVINO's execution graph. Integer: the share of computing layers whose runtime precision is 8 bits. "
        "Islands: groups of float layers between integer layers. Lost: layers in float that the peer's file runs in "
        "integers.",
    )
    for name, by_tool in files.items():
        report(f"{name}: placement")
        graphs = {tool: execution_graph(path) for tool, path in by_tool.items() if tool != peers.FLOAT.name}
        result.figures += figures(name, graphs)
        result.notes += notes(name, graphs)
    return result


def figures(name: str, graphs: Mapping[str, Sequence[Layer]]) -> list[Figure]:
    """Of every file; the bars of fxcompress are the best of the peers."""
    others = [graph for tool, graph in graphs.items() if tool != peers.OURS.name]
    share = Bar("at least", 100 * max(map(integer_share, others), default=0.0))
    islands = Bar("at most", min((len(float_islands(graph)) for graph in others), default=0))
    found = []
    for tool, graph in graphs.items():
        subject, ours = f"{name}, {tool}", tool == peers.OURS.name
        computing = sum(layer.computes for layer in graph)
        found.append(Figure(subject, "layers", computing, "count"))
        found.append(Figure(subject, "integer", 100 * integer_share(graph), "%", bar=share if ours else None))
        found.append(Figure(subject, "islands", len(float_islands(graph)), "count", bar=islands if ours else None))
        if not ours:
            lost = float_where_peer_is_not(graphs[peers.OURS.name], graph)
            found.append(Figure(subject, "lost", len(lost), "count", bar=Bar("at most", 0)))
    return found


def notes(name: str, graphs: Mapping[str, Sequence[Layer]]) -> list[str]:
    """The layers behind the figures, by their original names."""
    ours = graphs[peers.OURS.name]
    lines = [f"{name}: float island: {', '.join(map(_named, island))}" for island in float_islands(ours)]
    for tool, graph in graphs.items():
        lost = [] if graph is ours else float_where_peer_is_not(ours, graph)
        lines += [f"{name}: in float, but in integers in {tool}'s file: {_named(layer)}" for layer in lost]
    return lines


def _named(layer: Layer) -> str:
    return f"{layer.type} {layer.originals or layer.name}"


def main(paths: Sequence[str]) -> None:
    """Print the comparison of the first path with the others."""
    names = [peers.OURS.name, *(Path(path).name for path in paths[1:])]
    graphs = {name: execution_graph(Path(path)) for name, path in zip(names, paths)}
    stem = Path(paths[0]).stem
    Console().print(Section("", "", figures(stem, graphs)).table())
    for note in notes(stem, graphs):
        print(note)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit("usage: python -m benchmarks.placement ours.onnx peer.xml ...")
    main(sys.argv[1:])
