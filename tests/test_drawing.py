"""Layout and pictures: nothing overlaps, wires stay off boxes, everything is drawn, repeats are folded only when equal."""

import itertools
import re
import xml.etree.ElementTree as ElementTree

import networkx as nx
import pytest
import torch
from graphs import Network, Residual, build, captured, insert_quantizers, recipes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

import fxcompress
from fxcompress import passes
from fxcompress.views.drawing import draw
from fxcompress.views.layout.layers import break_columns, crossings, order, rank
from fxcompress.views.layout.page import lay_out
from fxcompress.views.layout.shapes import Item, Layout, Net, Rect, Route
from fxcompress.views.notation import from_data
from fxcompress.views.repeats import fold_repeats
from fxcompress.views.summarize import summarize
from fxcompress.views.summary import Summary
from fxcompress.views.svg import cut, text_width

SVG = "{http://www.w3.org/2000/svg}"
aten = torch.ops.aten


# ---------------------------------------------------------------------------------------------------------- layout


@st.composite
def problems(draw_from) -> tuple[list[Item], list[Net]]:
    """Boxes with groups, and nets from earlier boxes to later ones."""
    count = draw_from(st.integers(1, 25))
    groups = st.sampled_from([(), ("a",), ("a", "a.b"), ("c",)])
    size = st.integers(20, 200)
    items = [
        Item(str(i), draw_from(size), draw_from(size) / 4, draw_from(size) / 10, draw_from(size) / 10, draw_from(groups))
        for i in range(count)
    ]
    nets = []
    for i in range(count - 1):
        for _ in range(draw_from(st.integers(0, 2))):
            targets = draw_from(st.lists(st.integers(i + 1, count - 1), min_size=1, max_size=4))
            nets.append(Net(str(i), tuple(map(str, targets)), tuple(20.0 for _ in targets)))
    return items, nets


pages = st.sampled_from([(1600.0, 1000.0), (500.0, 300.0), (3000.0, 200.0)])


def overlap(a: Rect, b: Rect) -> bool:
    return a.x + 0.01 < b.right and b.x + 0.01 < a.right and a.y + 0.01 < b.bottom and b.y + 0.01 < a.bottom


def points(route: Route) -> list[tuple[float, float]]:
    """Points along a route, its curves sampled."""
    found = [(s.x, s.top + (s.bottom - s.top) * t / 8) for s in route.stretches for t in range(9)]
    for i, (before, after) in enumerate(itertools.pairwise(route.stretches)):
        if i == route.turn:
            corners = [(before.x, before.bottom), *route.detour, (after.x, after.top)]
            for (ax, ay), (bx, by) in itertools.pairwise(corners):
                found += [(ax + (bx - ax) * t / 40, ay + (by - ay) * t / 40) for t in range(41)]
        else:
            bend = (after.top - before.bottom) * 0.55
            ys = (before.bottom, before.bottom + bend, after.top - bend, after.top)
            xs = (before.x, before.x, after.x, after.x)
            found += [(bezier(xs, t / 20), bezier(ys, t / 20)) for t in range(21)]
    return found


def bezier(p: tuple[float, ...], t: float) -> float:
    return sum(c * t**k * (1 - t) ** (3 - k) * v for k, (c, v) in enumerate(zip((1, 3, 3, 1), p)))


@given(problems(), pages)
def test_boxes_stand_apart_and_within_the_drawing(problem, page):
    items, nets = problem
    layout = lay_out(items, nets, page)
    assert set(layout.boxes) == {item.name for item in items}
    places = [*layout.boxes.values(), *layout.references.values()]
    assert not any(overlap(a, b) for a, b in itertools.combinations(places, 2))
    for item in items:
        assert (layout.boxes[item.name].width, layout.boxes[item.name].height) == (item.width, item.height)
    whole = Rect(-0.01, -0.01, layout.width + 0.02, layout.height + 0.02)
    assert all(whole.holds(place) for place in [*places, *(frame.rect for frame in layout.frames)])


@settings(max_examples=25)
@given(problems(), pages)
def test_every_use_has_a_route_that_goes_down_and_off_all_boxes(problem, page):
    items, nets = problem
    layout = lay_out(items, nets, page)
    uses = [(i, k) for i, net in enumerate(nets) for k in range(len(net.targets))]
    assert sorted((route.net, route.use) for route in layout.routes) == uses
    for route in layout.routes:
        source, target = nets[route.net].source, nets[route.net].targets[route.use]
        assert layout.rows[source] < layout.rows[target]
        start = layout.references.get((route.net, route.use), layout.boxes[source])
        first, last, end = route.stretches[0], route.stretches[-1], layout.boxes[target]
        assert first.top == pytest.approx(start.bottom) and start.x <= first.x <= start.right
        assert last.bottom == pytest.approx(end.y) and end.x <= last.x <= end.right
        for i, (before, after) in enumerate(itertools.pairwise(route.stretches)):
            assert before.bottom < after.top + 0.01 or i == route.turn
        for box in layout.boxes.values():
            inside = Rect(box.x + 0.1, box.y + 0.1, box.width - 0.2, box.height - 0.2)
            assert not any(inside.x < x < inside.right and inside.y < y < inside.bottom for x, y in points(route))


@given(problems(), pages)
def test_frames_hold_their_own_and_no_strangers(problem, page):
    items, nets = problem
    layout = lay_out(items, nets, page)
    for frame in layout.frames:
        for item in items:
            box = layout.boxes[item.name]
            if frame.group not in item.groups:
                assert not overlap(frame.rect, box)
            elif overlap(frame.rect, box):
                assert frame.rect.holds(box)


@given(problems())
def test_rows_follow_the_longest_path(problem):
    items, nets = problem
    ranks = rank([item.name for item in items], [(net.source, net.targets) for net in nets])
    graph = nx.DiGraph((net.source, target) for net in nets for target in net.targets)
    longest = nx.dag_longest_path_length(graph) if graph else 0
    assert max(ranks.row.values()) == longest
    for net in nets:
        assert all(ranks.row[net.source] < ranks.row[target] for target in net.targets)


@given(st.data())
def test_order_counts_crossings_and_never_adds_any(data):
    rows = [[f"{i}.{j}" for j in range(data.draw(st.integers(1, 6)))] for i in range(data.draw(st.integers(1, 4)))]
    below: dict = {}
    above: dict = {}
    for upper, lower in itertools.pairwise(rows):
        for u, v in data.draw(st.sets(st.tuples(st.sampled_from(upper), st.sampled_from(lower)))):
            below.setdefault(u, []).append(v)
            above.setdefault(v, []).append(u)
    slow = 0
    for upper, lower in itertools.pairwise(rows):
        links = [(upper.index(u), lower.index(v)) for u in upper for v in below.get(u, ())]
        slow += sum((a - c) * (b - d) < 0 for (a, b), (c, d) in itertools.combinations(links, 2))
    assert crossings(rows, below) == slow
    arranged = order(rows, above, below)
    assert [sorted(row) for row in arranged] == [sorted(row) for row in rows]
    assert crossings(arranged, below) <= slow


def chain(length: int) -> tuple[list[Item], list[Net]]:
    """Boxes one after the other, each third with a wire that skips the next two."""
    items = [Item(str(i), 80 + 10 * (i % 5), 30) for i in range(length)]
    targets = [[i + 1] + [i + 3] * (i % 3 == 0) for i in range(length - 1)]
    nets = [Net(str(i), tuple(str(t) for t in to if t < length)) for i, to in enumerate(targets)]
    return items, nets


def middle(layout: Layout, name: str) -> float:
    return layout.boxes[name].x + layout.boxes[name].width / 2


def test_a_main_line_is_straight():
    layout = lay_out(*chain(10), page=(500.0, 2000.0))
    assert {round(middle(layout, str(i)), 3) for i in range(10)} == {round(middle(layout, "0"), 3)}


def test_a_long_graph_breaks_into_columns_that_fit_the_page():
    layout = lay_out(*chain(150))
    assert max(layout.columns.values()) >= 4
    assert 1.0 < layout.width / layout.height < 2.5


def test_columns_break_where_little_is_cut():
    costs = [9.0] * 20
    costs[10] = 0.0
    starts, _ = break_columns([50.0] * 20, costs, lambda first, end: 300.0, (800.0, 600.0))[0]
    assert starts == [0, 10]


# -------------------------------------------------------------------------------------------------------- summaries


def lines(summary: Summary) -> list[list[str]]:
    return [[line.operation for line in box.lines] for box in summary.boxes.values()]


def test_followers_share_a_box_and_shapes_are_told_where_they_change():
    summary = summarize(captured(Network()))
    block = [["conv2d", "batch_norm", "relu"], ["conv2d"], ["add", "relu"]]
    assert lines(summary) == [["input"], ["conv2d", "relu"], *block, ["mean"], ["linear"], ["output"]]
    shapes = {wire.box: wire.shape for wire in summary.wires}
    assert shapes["stem"] == "N×4×4×4" and shapes["blocks_0_conv1"] is None and shapes["head"] == "N×10"


def test_quantizers_are_pills_and_badges():
    summary = summarize(insert_quantizers(captured(Network())))
    assert not any("Marker" in found for found in lines(summary))
    wires = {wire.box: wire for wire in summary.wires}
    assert [mark.label for mark in wires["x"].marks] == ["int8"]
    conv, add = sorted(wires["stem"].sinks, key=lambda sink: "add" in sink.box)
    assert [mark.node for mark in conv.marks] == ["relu_quantizer"] and add.marks == [] and wires["stem"].marks == []
    assert [mark.label for mark in summary.boxes["stem"].lines[0].marks] == ["w int8"]


def test_a_lowered_pair_is_one_pill():
    module = captured(Network())
    conv = next(iter(module.graph.find_nodes(op="call_function", target=aten.conv2d.default)))
    with module.graph.inserting_before(conv):
        settings_of = (module.graph.get_attr("head.bias"), module.graph.get_attr("head.bias"), None, "uint8")
        q = module.graph.call_function(torch.ops.fxcompress.quantize.default, (conv.args[0], *settings_of))
        d = module.graph.call_function(torch.ops.fxcompress.dequantize.default, (q, *settings_of))
    q.meta, d.meta = {"val": conv.args[0].meta["val"].to(torch.uint8)}, {"val": conv.args[0].meta["val"]}
    conv.replace_input_with(conv.args[0], d)
    wire = next(wire for wire in summarize(module).wires if wire.box == "x")
    assert [mark.label for mark in wire.marks] == ["uint8"]


def test_a_region_is_one_box_unless_that_makes_a_cycle():
    module = captured(Network())
    nodes = {node.name: node for node in module.graph.nodes}
    for name in ("blocks_0_conv2", "blocks_0_add", "blocks_0_relu_1"):
        nodes[name].meta["region"] = "kernel"
    assert ["conv2d", "add", "relu"] in lines(summarize(module))
    for name in ("stem", "blocks_0_add"):
        nodes[name].meta["region"] = "torn"
    assert ["conv2d", "relu"] in lines(summarize(module)) and ["add"] in lines(summarize(module))


def worth_drawing(module: fx.GraphModule) -> set[str]:
    """All that depends on data, but for inserted modules that no operation on data reads in the end."""
    found: set[fx.Node] = set()
    data = from_data(module.graph)
    for node in reversed(module.graph.nodes):
        if node in data and (node.op != "call_module" or found.intersection(node.users)):
            found.add(node)
    return {node.name for node in found}


@given(recipes, st.booleans())
def test_summaries_are_acyclic_and_lose_no_operation_on_data(recipe, collapse):
    module = build(recipe)
    summary = summarize(module, collapse)
    assert nx.is_directed_acyclic_graph(nx.DiGraph(summary.edges()))
    shown = {name for box in summary.boxes.values() for name in box.nodes}
    marks = {mark.node for wire in summary.wires for m in (wire.marks, *(s.marks for s in wire.sinks)) for mark in m}
    marks |= {mark.node for box in summary.boxes.values() for line in box.lines for mark in line.marks}
    assert worth_drawing(module) <= shown | marks


def test_equal_blocks_are_drawn_once():
    summary = summarize(captured(Network(blocks=5)))
    folded = fold_repeats(summary)
    assert folded.repeats == {"blocks.0": ("blocks.4", 5)}
    assert lines(folded) == lines(summarize(captured(Network(blocks=1))))
    assert ("blocks_0_add", "mean") in folded.edges()


def test_a_block_that_differs_ends_the_run():
    model = Network(blocks=5)
    model.blocks[3].conv1 = nn.Conv2d(4, 4, 3, padding=1)
    model.blocks[3].conv2.stride = (1, 1)
    model.blocks[3].bn1 = nn.Identity()
    assert fold_repeats(summarize(captured(model))).repeats == {"blocks.0": ("blocks.2", 3)}


def test_blocks_marked_unlike_are_not_folded():
    module = captured(Network(blocks=4))
    next(node for node in module.graph.nodes if node.name == "blocks_2_conv1").meta["created_by"] = "Prune"
    assert fold_repeats(summarize(module)).repeats == {}


def test_blocks_read_from_outside_are_not_folded():
    class Tapped(Network):
        def forward(self, x):
            x = first = self.blocks[0](self.stem(x))
            for block in self.blocks[1:]:
                x = block(x)
            return x + first

    assert fold_repeats(summarize(captured(Tapped(blocks=3)))).repeats == {}
    assert fold_repeats(summarize(captured(Tapped(blocks=4)))).repeats == {"blocks.1": ("blocks.3", 3)}


def test_blocks_of_other_shapes_are_not_folded():
    class Shrinking(nn.Module):
        def __init__(self):
            super().__init__()
            self.steps = nn.ModuleList(nn.Sequential(Residual(1), nn.MaxPool2d(2, 1)) for _ in range(4))

        def forward(self, x):
            for step in self.steps:
                x = step(x)
            return x

    assert fold_repeats(summarize(captured(Shrinking()))).repeats == {}


# --------------------------------------------------------------------------------------------------------- pictures


def rectangle(element: ElementTree.Element) -> Rect:
    return Rect(*(float(element.get(name)) for name in ("x", "y", "width", "height")))


@settings(max_examples=20)
@given(recipes, st.booleans())
def test_a_picture_is_well_formed_and_names_only_nodes(tmp_path_factory, recipe, collapse):
    module = build(recipe)
    path = draw(module, tmp_path_factory.mktemp("pictures") / "graph.svg", title='<&"\x00>', collapse=collapse)
    root = ElementTree.parse(path).getroot()
    assert root.find(f"{SVG}title").text == '<&"�>'
    named = {name for g in root.iter(f"{SVG}g") for name in g.get("data-nodes").split()}
    nodes = {node.name for node in module.graph.nodes}
    assert named <= nodes
    assert collapse or worth_drawing(module) <= named
    squares = sum(node.meta.get("created_by") == 'Sq<&>"uare' for node in module.graph.nodes)
    legend = [text.text for text in root.iter(f"{SVG}text") if "Sq<&>" in (text.text or "")]
    assert legend == ([f'Sq<&>"uare · {squares} node{"s" * (squares > 1)}'] if squares else [])


@pytest.mark.parametrize("collapse", [True, False])
def test_text_stays_in_its_box(tmp_path, collapse):
    path = draw(insert_quantizers(captured(Network(blocks=3))), tmp_path / "graph.svg", collapse=collapse)
    boxes = [g for g in ElementTree.parse(path).getroot().iter(f"{SVG}g") if g.get("class") == "operation"]
    assert len(boxes) >= 6
    for box in boxes:
        place = rectangle(box.find(f"{SVG}rect"))
        for text in box.findall(f".//{SVG}text"):
            size, x = float(text.get("font-size")), float(text.get("x"))
            width = text_width("".join(text.itertext()), size, bold=text.get("font-weight") == "600")
            left = {"end": x - width, "middle": x - width / 2}.get(text.get("text-anchor"), x)
            assert place.x <= left and left + width <= place.right


def test_highlight_colours_one_pass_only(tmp_path):
    module = insert_quantizers(captured(Network()))
    next(node for node in module.graph.nodes if node.name == "head").meta["created_by"] = "Prune"
    both = draw(module, tmp_path / "both.svg").read_text()
    one = draw(module, tmp_path / "one.svg", highlight="Prune").read_text()
    assert "Quantize · 6 nodes" in both and "Prune · 1 node" in both
    assert "Prune · 1 node" in one and "Quantize · " not in one
    assert "#0072b2" in both and "#0072b2" not in one


def test_each_pass_has_a_badge_of_its_own_on_a_weight():
    stack = [passes.PruneFilters(amount=0.25, multiple=1), passes.Sparsify(level=0.5), passes.Quantize(), passes.Calibrate()]
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    compiled = fxcompress.compile(model, stack, data=[torch.randn(2, 3, 8, 8)])
    marks = summarize(compiled).boxes["_0"].lines[0].marks
    assert [mark.created_by for mark in marks] == ["PruneFilters", "Sparsify", "Quantize", "PruneFilters"]
    assert [mark.label for mark in (marks[0], *marks[2:])] == ["w 25% masked", "int8", "b 25% masked"]
    assert re.fullmatch(r"\d+% masked", marks[1].label)


def test_colours_are_told_of_what_is_drawn_alone(tmp_path):
    """A pass that exchanged constants has no place in the picture."""
    module = captured(Network())
    next(node for node in module.graph.nodes if node.op == "get_attr").meta["created_by"] = "RoundWeights"
    next(node for node in module.graph.nodes if node.name == "head").meta["created_by"] = "Prune"
    for highlight in (None, "RoundWeights"):
        told = draw(module, tmp_path / "graph.svg", highlight=highlight).read_text()
        assert "Prune · 1 node" in told and "RoundWeights · " not in told


def test_a_step_that_made_nothing_shows_what_others_made(tmp_path):
    """The last step of the default sets ranges: its picture shows the quantizers that they are of."""
    module = insert_quantizers(captured(Network()))
    last, whole = (draw(module, tmp_path / f"{name}.svg", highlight=name, title="") for name in ("Calibrate", None))
    assert last.read_text() == whole.read_text() and "Quantize · " in last.read_text()


def test_repeats_are_marked(tmp_path):
    module = captured(Network(blocks=4))
    assert "×4  blocks.0–3" in draw(module, tmp_path / "folded.svg").read_text()
    assert "×4  " not in draw(module, tmp_path / "whole.svg", collapse=False).read_text()


def test_an_empty_graph_can_be_drawn(tmp_path):
    ElementTree.parse(draw(build([]), tmp_path / "empty.svg"))


@given(st.text(max_size=40), st.floats(0, 200))
def test_cut_text_fits(text, width):
    short = cut(text, 10, width)
    assert text_width(short, 10) <= width or short == ""
    assert short == text or short == "" or (short.endswith("…") and text.startswith(short[:-1]))
