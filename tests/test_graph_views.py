"""Text, networkx, DOT and GraphML views, and their files."""

import collections
import os
import re
from pathlib import Path

import networkx as nx
import pytest
import torch
from graphs import Network, build, captured, insert_quantizers, recipes
from hypothesis import given
from torch import fx

from fxcompress.errors import InputError
from fxcompress.views.dump import dump
from fxcompress.views.text import diff_text, to_text
from fxcompress.views.views import to_dot, to_graphml, to_networkx

GOLDENS = Path(__file__).parent / "goldens"
aten = torch.ops.aten


def agree_with_golden(text: str, name: str) -> None:
    """Compare with a file of tests/goldens; FXCOMPRESS_UPDATE_GOLDENS=1 writes it instead."""
    path = GOLDENS / name
    if os.environ.get("FXCOMPRESS_UPDATE_GOLDENS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def test_golden_text():
    agree_with_golden(to_text(captured(Network())), "view_residual.txt")


def test_golden_text_with_quantizers():
    module = insert_quantizers(captured(Network()))
    module.graph.find_nodes(op="call_function", target=aten.add.Tensor)[0].meta |= {"region": "r1", "rule": "fuse"}
    agree_with_golden(to_text(module), "view_residual_quantized.txt")


@given(recipes)
def test_text_has_each_node_once(recipe):
    module = build(recipe)
    lines = to_text(module).splitlines()
    told = [line.split(" = ")[0].strip() for line in lines if " = " in line]
    assert sorted(told) == sorted(node.name for node in module.graph.nodes if node.op != "output")
    assert sum(line.strip().startswith("output ") for line in lines) == 1


@given(recipes)
def test_text_is_in_running_order_and_repeatable(recipe):
    module = build(recipe)
    text = to_text(module)
    place = {line.split(" = ")[0].strip(): i for i, line in enumerate(text.splitlines())}
    for node in module.graph.nodes:
        for used in node.all_input_nodes:
            if used.op != "get_attr" and node.op != "output":
                assert place[used.name] < place[node.name]
    assert to_text(build(recipe)) == text
    assert "0x" not in text


def test_text_tells_arguments_by_their_schema():
    graph = fx.Graph()
    x = graph.placeholder("x")
    pooled = graph.call_function(aten.max_pool2d.default, (x, [3, 3], [2, 1]))
    plain = graph.call_function(aten.add.Tensor, (pooled, 0.5))
    scaled = graph.call_function(aten.add.Tensor, (plain, x), {"alpha": 2})
    graph.output(graph.call_function(aten.slice.Tensor, (scaled, 0, 0, 9223372036854775807)))
    text = to_text(fx.GraphModule(torch.nn.Module(), graph))
    assert "max_pool2d(x, kernel_size=3, stride=[2, 1])" in text
    assert re.search(r"= add\(max_pool2d\S*, 0\.5\)", text)
    assert ", alpha=2)" in text
    assert "add.Scalar" not in text


def test_an_overload_outside_the_dialect_is_told():
    graph = fx.Graph()
    graph.output(graph.call_function(aten.add.Scalar, (graph.placeholder("x"), 2)))
    assert "add.Scalar(x" in to_text(fx.GraphModule(torch.nn.Module(), graph))


def test_diff_shows_what_a_pass_did():
    before = to_text(captured(Network()))
    after = to_text(insert_quantizers(captured(Network())))
    assert diff_text(before, before) == ""
    added = [line for line in diff_text(before, after).splitlines() if line.startswith(("+ ", "+x"))]
    assert any("x_quantizer = Marker<int8, per tensor>(x)" in line and line.endswith("by Quantize") for line in added)


@given(recipes)
def test_networkx_has_an_edge_for_each_use(recipe):
    module = build(recipe)
    view = to_networkx(module)
    uses: collections.Counter = collections.Counter()
    for node in module.graph.nodes:
        fx.map_arg((node.args, node.kwargs), lambda used, node=node: uses.update([(used.name, node.name)]))
    assert collections.Counter((u, v) for u, v, _ in view.edges) == uses
    assert list(view.nodes) == [node.name for node in module.graph.nodes]
    for node in module.graph.nodes:
        positions = sorted(d["position"] for _, _, d in view.in_edges(node.name, data=True))
        assert positions == list(range(len(positions)))


def test_networkx_attributes():
    view = to_networkx(insert_quantizers(captured(Network())))
    stem = view.nodes["stem"]
    assert (stem["op"], stem["operation"], stem["target"]) == ("call_function", "conv2d", "aten.conv2d.default")
    assert (stem["scope"], stem["shape"], stem["dtype"]) == ("stem", ("N", 4, 4, 4), "float32")
    assert stem["created_by"] is None and view.nodes["x_quantizer"]["created_by"] == "Quantize"
    assert view.edges["stem_bias", "stem", 0]["argument"] == "bias"


@given(recipes)
def test_graphml_reads_back(recipe):
    module = build(recipe)
    view, read = to_networkx(module), nx.parse_graphml(to_graphml(module), force_multigraph=True)
    assert set(read.nodes) == set(view.nodes)
    assert collections.Counter((u, v) for u, v, _ in read.edges) == collections.Counter((u, v) for u, v, _ in view.edges)
    for name, attributes in view.nodes(data=True):
        kept = {k: v for k, v in attributes.items() if v is not None and k != "shape"}
        assert {k: read.nodes[name].get(k, "") for k in kept} == kept


STRING = r'"(?:[^"\\]|\\.)*"'


@given(recipes)
def test_dot_has_nothing_but_nodes_and_edges(recipe):
    module = build(recipe)
    first, _, *lines, last = to_dot(module).splitlines()
    assert (first, last) == ("digraph model {", "}")
    nodes = [line for line in lines if re.fullmatch(rf"  {STRING} \[label={STRING}[^\"]*\];", line)]
    edges = [line for line in lines if re.fullmatch(rf"  {STRING} -> {STRING} \[tooltip={STRING}\];", line)]
    assert (len(nodes), len(edges)) == (len(module.graph.nodes), to_networkx(module).number_of_edges())
    assert len(nodes) + len(edges) == len(lines)


def test_dump_writes_every_view(tmp_path):
    paths = dump(captured(Network()), tmp_path / "deep" / "er", "00-Capture", title="captured")
    assert [path.name for path in paths] == [f"00-Capture.{kind}" for kind in ("txt", "dot", "graphml", "svg")]
    assert sorted(path.name for path in paths[0].parent.iterdir()) == sorted(path.name for path in paths)
    assert all(path.stat().st_size for path in paths)


def test_dump_into_what_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"cannot make the folder .*name one that you may write to"):
        dump(build([]), tmp_path / "file", "graph")
    assert (tmp_path / "file").read_text() == "mine"
