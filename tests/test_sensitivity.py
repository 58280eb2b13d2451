"""What each quantized place costs by itself: the laws of the measurement, the report, and what is refused."""

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from recipes import recipes
from torch import fx, nn

import fxcompress
from fxcompress import passes
from fxcompress.data.inputs import ExampleInputs
from fxcompress.errors import InputError, PlanError
from fxcompress.execution.agreement import agreement, outputs
from fxcompress.ir.dialect import copy_graph
from fxcompress.measure.sensitivity import Sensitivity, SensitivityReport, sensitivity
from fxcompress.quantization.quantized import quantized_layers, quantizer_calls
from fxcompress.targets import OPENVINO_CPU
from fxcompress.views.bars import Bar, bar_chart


class Net(nn.Module):
    """A convolution, a residual addition, and a classifier behind a pool."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.a(x).relu()
        x = (x + self.b(x)).relu()
        return self.head(x.mean((2, 3)))


NEAREST = [passes.FoldBatchNorm(), passes.CanonicalizeActivations(), passes.Quantize(), passes.Calibrate()]


@pytest.fixture(scope="module")
def data():
    return list(torch.randn(12, 2, 6, 6, generator=torch.Generator().manual_seed(0)).split(5))


@pytest.fixture(scope="module")
def compiled(data):
    torch.manual_seed(0)
    return fxcompress.compile(Net(), data=data)


def alone(compiled, row):
    """The graph with nothing quantized but the place of `row`: a layer is given a copy of all that it reads through."""
    module = fx.GraphModule(compiled, copy_graph(compiled.graph))
    calls = quantizer_calls(module)
    node = next(n for n in module.graph.nodes if n.name == row.place)
    (cone,) = [layer.cone for layer in quantized_layers(module, OPENVINO_CPU) if layer.node is node] or [()]
    copies = {}
    with module.graph.inserting_before(node):
        for met in cone:
            copies[met] = module.graph.node_copy(met, lambda n: copies.get(n, n))
    node.args = fx.node.map_arg(node.args, lambda n: copies.get(n, n))
    return without(module, calls.keys() - {node})


def without(module, calls):
    for call in calls:
        call.replace_all_uses_with(call.args[0])
    module.recompile()
    return module


@given(recipe=recipes(in_place=False))  # no views: the inputs are laid out as the measurement lays them out
@settings(max_examples=8)
def test_a_place_is_measured_as_if_the_others_were_not_there(recipe):
    x = recipe.inputs(4).contiguous(memory_format=torch.channels_last)  # the same arithmetic
    model = fxcompress.compile(recipe.build(), NEAREST, data=[x])
    if not quantizer_calls(model):
        return
    report = sensitivity(model, [x], samples=3, chunk=3)
    example = ExampleInputs((x[:3],))
    plain = fx.GraphModule(model, copy_graph(model.graph))
    reference = outputs(without(plain, quantizer_calls(plain)), example)
    assert report.decibels == pytest.approx(agreement(reference, outputs(model, example)), abs=1e-6)
    for row in report.rows:
        assert row.decibels == pytest.approx(agreement(reference, outputs(alone(model, row), example)), abs=1e-6)


@given(chunk=st.integers(1, 20))
@settings(max_examples=8)
def test_chunks_change_nothing(compiled, data, chunk):
    expected, found = sensitivity(compiled, data, chunk=7), sensitivity(compiled, data, chunk=chunk)
    assert found.samples == 12
    assert {r.place: r.decibels for r in found.rows} == pytest.approx({r.place: r.decibels for r in expected.rows}, abs=0.05)


def test_a_place_that_loses_nothing_is_infinite():
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor([[127.0, 1.0], [3.0, -127.0]]) / 127
    data = [torch.tensor([[0.0, 255.0], [3.0, 7.0]])]
    report = sensitivity(fxcompress.compile(layer, data=data), data)
    assert report.decibels == math.inf and {row.decibels for row in report.rows} == {math.inf}
    assert "same bits" in str(report)


def test_one_layer_alone_loses_what_all_lose(data):
    model = fxcompress.compile(nn.Sequential(nn.Conv2d(2, 3, 3)), data=data)
    report = sensitivity(model, data)
    (layer,) = (row for row in report.rows if row.kind == "layer")
    assert layer.decibels == report.decibels


def test_the_worst_come_first_and_a_crippled_layer_is_the_worst(data):
    torch.manual_seed(0)
    model = fxcompress.compile(Net(), data=data)
    model.get_submodule("b_weight_quantizer").scale.mul_(30)  # next to no levels left
    report = sensitivity(model, data)
    assert report.rows[0].place == "b"
    assert [r.decibels for r in report.rows] == sorted(r.decibels for r in report.rows)


def test_measuring_changes_nothing(compiled, data):
    before, text = outputs(compiled, compiled.compilation.example), compiled.text()
    sensitivity(compiled, data)
    assert agreement(before, outputs(compiled, compiled.compilation.example)) == math.inf and compiled.text() == text


def test_a_graph_module_will_do(data):
    model = fxcompress.compile(Net(), NEAREST, data=data)
    plain = fx.GraphModule(model, model.graph)
    assert sensitivity(plain, data, target="openvino") == sensitivity(model, data)


@pytest.mark.parametrize("mask", [[], [passes.Sparsify(level=0.5)]])
def test_weights_that_a_pass_put_on_the_grid_are_compared_with_the_float_ones(data, mask):
    layer = nn.Sequential(nn.Conv2d(2, 3, 3))
    float_model = fxcompress.compile(layer, mask, data=data)
    model = fxcompress.compile(
        layer, [*mask, passes.Quantize(reduce_range=False), passes.RoundWeights(), passes.Calibrate()], data=data
    )
    assert "RoundWeights" in model.report.rows[-2].name and model.report.rows[-2].rewrites == 1
    report = sensitivity(model, data)
    (layer,) = (row for row in report.rows if row.kind == "layer")
    example = ExampleInputs((torch.cat(data),))
    assert layer.decibels == report.decibels
    assert report.decibels == pytest.approx(agreement(outputs(float_model, example), outputs(model, example)), abs=0.01)


def test_progress_runs_to_its_total(compiled, data):
    seen = []
    sensitivity(compiled, data, samples=12, chunk=5, progress=lambda *told: seen.append(told))
    done = [d for _, d, _ in seen]
    assert done == sorted(done) and done[-1] < seen[-1][2] == 12 * len(sensitivity(compiled, data).rows)


ROWS = (
    Sensitivity("b", "layer", "conv2d: int4 weight, uint8 data", 12.345, "net.py:3: x"),
    Sensitivity("x_quantizer", "activation", "uint8", math.inf, "net.py:1: x"),
)


def test_the_printed_table():
    golden = Path(__file__).parent / "goldens" / "sensitivity.txt"
    assert str(SensitivityReport(ROWS, 11.0, 32)) == golden.read_text(encoding="utf-8")


def test_the_table_in_markdown(tmp_path):
    file = SensitivityReport(ROWS, 11.0, 32).write(tmp_path / "table.md")
    lines = file.read_text(encoding="utf-8").splitlines()
    assert "all together: 11.0" in lines[0]
    assert [cell.strip() for cell in lines[4].strip("|").split("|")] == [
        "b",
        "layer",
        "conv2d: int4 weight, uint8 data",
        "12.3",
    ]


SVG = "{http://www.w3.org/2000/svg}"


@given(values=st.lists(st.none() | st.floats(-1e3, 1e3), max_size=30))
@example(values=[2.2250738585e-313])
@example(values=[-1e-299, 1e-301])
def test_bars_are_as_long_as_their_values(values):
    bars = [Bar(f"place {i} <&>", value, "x", f"kind {i % 9}") for i, value in enumerate(values)]
    root = ElementTree.fromstring(bar_chart("title", "dB", bars))
    drawn = [g.find(f"{SVG}rect") for g in root.iter(f"{SVG}g") if g.get("class") == "bar"]
    starts, lengths = ([float(one.get(name)) for one in drawn] for name in ("x", "width"))
    finite = [(value, *place) for value, *place in zip(values, starts, lengths, strict=True) if value is not None]
    longest = max(((abs(value), length) for value, _, length in finite), default=(0.0, 0.0))
    zeros = [start if value >= 0 else start + length for value, start, length in finite]
    assert zeros == pytest.approx([zeros[0]] * len(zeros), abs=0.11) if zeros else True
    for value, _, length in finite:
        assert length == pytest.approx(longest[1] * abs(value) / (longest[0] or 1), abs=0.11)
    assert all(
        left <= start and start + length <= left + 440.2 for start, length in zip(starts, lengths) for left in [min(starts)]
    )


def test_the_chart_is_written(compiled, data, tmp_path):
    report = sensitivity(compiled, data)
    root = ElementTree.parse(report.plot(tmp_path / "plot.svg")).getroot()
    names = [g.find(f"{SVG}text").text for g in root.iter(f"{SVG}g") if g.get("class") == "bar"]
    assert names == [row.place for row in report.rows]


def test_what_is_refused(compiled, data, tmp_path):
    with pytest.raises(InputError, match="samples of 1 or more, got 0"):
        sensitivity(compiled, data, samples=0)
    with pytest.raises(InputError, match="needs chunk of 1 or more, got -1"):
        sensitivity(compiled, data, chunk=-1)
    with pytest.raises(InputError, match="not on a Net; compile it first"):
        sensitivity(Net(), data)
    with pytest.raises(InputError, match="holds no quantizer; list Quantize"):
        sensitivity(fxcompress.compile(Net(), [], data=data), data)
    with pytest.raises(InputError, match="data is empty"):
        sensitivity(compiled, [])
    with pytest.raises(InputError, match="expected the shape"):
        sensitivity(compiled, [torch.zeros(1, 2, 5, 6)])
    with pytest.raises(InputError, match="did you mean 'openvino'"):
        sensitivity(compiled, data, target="openvin")
    with pytest.raises(PlanError, match="has no range; list Calibrate"):
        sensitivity(fxcompress.compile(Net(), [passes.Quantize()], data=data), data)
    for path in ("report.png", "report"):
        with pytest.raises(InputError, match=f"cannot write .*{path}: its name must end in .md or .svg"):
            sensitivity(compiled, data).write(tmp_path / path)


def test_a_partly_compiled_model_is_sent_to_its_parts(data):
    partly = fxcompress.compile(nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)), data=data, submodules=["0"])
    with pytest.raises(InputError, match="measure one of its `parts`"):
        sensitivity(partly, data)
    assert sensitivity(partly.parts["0"], data).rows


def test_integer_outputs_tell_no_decibels(data):
    class Argmax(Net):
        def forward(self, x):
            return super().forward(x).argmax(1)

    with pytest.raises(InputError, match="no floating-point output"):
        sensitivity(fxcompress.compile(Argmax(), data=data), data)
