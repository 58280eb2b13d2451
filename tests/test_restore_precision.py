"""Layers taken out of the integers: what the graph is afterwards, how few they are, and what is refused."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes import recipes
from test_sensitivity import Net
from torch import fx, nn

import fxcompress
from fxcompress import QuantizationSpec, passes
from fxcompress.data.inputs import ExampleInputs
from fxcompress.errors import InputError, PlanError
from fxcompress.execution.agreement import agreement, outputs
from fxcompress.ir.dialect import copy_graph
from fxcompress.quantization.quantized import quantized_layers, quantizer_calls, serves_weight
from fxcompress.quantization.restoration import added_bytes, leave_in_float, widen
from fxcompress.targets import OPENVINO_CPU

FOUR_BITS = QuantizationSpec(bits=4, signed=True, narrow=True)


@pytest.fixture(scope="module")
def data():
    return list(torch.randn(12, 2, 6, 6, generator=torch.Generator().manual_seed(0)).split(5))


def quantized(model, data, *more, **options):
    return fxcompress.compile(model, [*passes_before(**options), *more], data=data)


def passes_before(**options):
    return [passes.FoldBatchNorm(), passes.CanonicalizeActivations(), passes.Quantize(**options), passes.Calibrate()]


def test_a_model_without_weights_has_none_to_restore():
    restore = passes.RestorePrecision(max_size=0.5)
    compiled = fxcompress.compile(
        nn.Sequential(nn.ReLU()), [passes.Quantize(), passes.Calibrate(), restore], data=[torch.randn(2, 3)]
    )
    assert torch.equal(compiled(torch.tensor([[-1.0, 2.0]])), torch.tensor([[0.0, 2.0]]))


def four_bits_net():
    torch.manual_seed(0)
    return Net()


@pytest.fixture(scope="module")
def four_bits(data):
    return quantized(four_bits_net(), data, weights=FOUR_BITS)


def wires(module):
    """Which value reaches which reader through a quantizer, with the integers' grid left out."""
    calls = quantizer_calls(module)
    return {(call.args[0].name, reader.name) for call in calls for reader in call.users}


def copy(module):
    return fx.GraphModule(module, copy_graph(module.graph))


@given(recipe=recipes(), data=st.data())
@settings(max_examples=12)
def test_quantizers_stand_where_placement_would_have_put_them(recipe, data):
    x = recipe.inputs(3)
    module = quantized(recipe.build(), [x])
    layers = [layer.node for layer in quantized_layers(module, OPENVINO_CPU)]
    if not layers:
        return
    chosen = data.draw(st.lists(st.sampled_from([node.name for node in layers]), unique=True))
    once, by_turns = copy(module), copy(module)
    left = leave_in_float(once, [node for node in once.graph.nodes if node.name in chosen], OPENVINO_CPU)
    for name in chosen:
        leave_in_float(by_turns, [node for node in by_turns.graph.nodes if node.name == name], OPENVINO_CPU)
    expected = fxcompress.compile(recipe.build(), passes_before(ignored=chosen), data=[x])
    assert wires(once) == wires(expected) == wires(by_turns)
    assert {node.name for node in left} >= set(chosen)
    once.graph.lint()
    assert all(call.users and quantizer.ready for call, quantizer in quantizer_calls(once).items())


@given(recipe=recipes())
@settings(max_examples=6)
def test_without_its_layers_the_model_is_the_float_model(recipe):
    x = recipe.inputs(3)
    model = recipe.build()
    module = quantized(model, [x])
    plain = fxcompress.compile(model, passes_before()[:2], data=[x])
    leave_in_float(module, [layer.node for layer in quantized_layers(module, OPENVINO_CPU)], OPENVINO_CPU, plain)
    example = ExampleInputs((x,))
    assert not quantizer_calls(module)
    assert agreement(outputs(plain, example), outputs(module, example)) == math.inf


@given(recipe=recipes(), data=st.data())
@settings(max_examples=6)
def test_other_layers_read_what_they_read_before(recipe, data):
    """A quantizer that moves down behind a max pool or a concatenation keeps its range, and so its integers."""
    x = recipe.inputs(3)
    module = quantized(recipe.build(), [x])
    names = [layer.node.name for layer in quantized_layers(module, OPENVINO_CPU)]
    if not names:
        return
    chosen = data.draw(st.sampled_from(names))
    before = {layer.node.name: grids(module, layer) for layer in quantized_layers(module, OPENVINO_CPU)}
    leave_in_float(module, [node for node in module.graph.nodes if node.name == chosen], OPENVINO_CPU)
    for layer in quantized_layers(module, OPENVINO_CPU):
        assert grids(module, layer) == before[layer.node.name]


@pytest.mark.parametrize("exact_sums", [False, True])
def test_a_sum_reads_the_operands_that_it_read_before(exact_sums):
    """Whether a kernel adds its shortcut unrounded was an option of the pass that placed the quantizers."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            x = self.a(x)
            return self.c(self.b(x) + x)

    module = quantized(Residual(), [torch.randn(2, 3, 4, 4)], exact_sums=exact_sums)
    leave_in_float(module, [node for node in module.graph.nodes if node.name == "a"], OPENVINO_CPU)
    assert ("b", "add") not in wires(module) if exact_sums else ("b", "add") in wires(module)
    assert ("a", "add") in wires(module)


def grids(module, layer):
    return {str(call.target) for call in (*layer.weights, *layer.activations)}


def test_a_quantizer_moves_behind_the_pool_that_a_float_layer_reads():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)

        def forward(self, x):
            x = F.max_pool2d(x, 2)
            return self.a(x), self.b(x)

    module = quantized(Shared(), [torch.randn(2, 2, 6, 6)])
    assert ("x", "max_pool2d") in wires(module)
    leave_in_float(module, [node for node in module.graph.nodes if node.name == "a"], OPENVINO_CPU)
    assert wires(module) == {("max_pool2d", "b"), ("b_weight", "b")}


def test_constants_that_a_pass_exchanged_come_back(data):
    module = quantized(Net(), data)
    plain = fx.GraphModule(module, copy_graph(module.graph))
    for call in quantizer_calls(plain):
        call.replace_all_uses_with(call.args[0])
    plain.graph.eliminate_dead_code()
    layer = next(layer for layer in quantized_layers(module, OPENVINO_CPU) if layer.node.name == "a")
    module.rounded = nn.Parameter(module.a.weight.detach().round())
    with module.graph.inserting_before(layer.weights[0]):
        layer.weights[0].args = (module.graph.get_attr("rounded"),)
    module.corrected = nn.Parameter(module.a.bias.detach() + 1)
    with module.graph.inserting_before(layer.node):
        layer.node.update_arg(2, module.graph.get_attr("corrected"))
    leave_in_float(module, [layer.node], OPENVINO_CPU, plain)
    held = [module.get_parameter(str(node.target)) for node in layer.node.all_input_nodes if node.op == "get_attr"]
    assert held[0] is module.a.weight and held[1] is module.a.bias


def test_layers_of_which_only_the_weight_is_quantized(data):
    """They stay what they are; no activation is quantized for them."""
    module = quantized(Net(), data)
    for call in list(quantizer_calls(module)):
        if not serves_weight(call):
            call.replace_all_uses_with(call.args[0])
            module.graph.erase_node(call)
    leave_in_float(module, [node for node in module.graph.nodes if node.name == "b"], OPENVINO_CPU)
    assert wires(module) == {("a_weight", "a"), ("head_weight", "head")}


class Shuffled:
    """A loader whose samples are others whenever it is read."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def __iter__(self):
        yield torch.randn(6, 2, 6, 6, generator=self.generator)


def test_data_that_is_shuffled_is_compared_with_itself():
    torch.manual_seed(0)
    report = quantized(Net(), Shuffled(), passes.RestorePrecision(min_decibels=20.0)).report
    assert "nothing to restore" in report.notes[-1]


def needed(report):
    return report.rows[-1].rewrites


@given(wanted=st.lists(st.floats(34, 60), min_size=2, max_size=4))
@settings(max_examples=4)
def test_more_tolerance_never_restores_more_layers(data, wanted):
    torch.manual_seed(0)
    model = Net()
    counts = []
    for decibels in sorted(wanted):
        report = quantized(model, data, passes.RestorePrecision(min_decibels=decibels), weights=FOUR_BITS).report
        counts.append(needed(report))
    assert counts == sorted(counts)


@pytest.mark.parametrize("decibels", [37.0, 40.0, 50.0])
def test_the_loss_asked_for_is_kept(data, decibels):
    torch.manual_seed(0)
    model = Net()
    plain = fxcompress.compile(model, passes_before()[:2], data=data)
    module = quantized(model, data, passes.RestorePrecision(min_decibels=decibels), weights=FOUR_BITS)
    example = ExampleInputs((torch.cat(data),))
    assert agreement(outputs(plain, example), outputs(module, example)) >= decibels - 0.1
    module.lower()


def test_nothing_is_restored_where_the_loss_is_tolerable(data):
    report = quantized(Net(), data, passes.RestorePrecision(min_decibels=1.0)).report
    assert needed(report) == 0 and "nothing to restore" in report.notes[-1]


def test_at_most_so_many_layers_and_a_note_that_it_is_not_enough(data):
    report = quantized(Net(), data, passes.RestorePrecision(min_decibels=300.0, max_layers=1)).report
    assert "is not reached" in report.notes[-1] and "raise max_layers=1" in report.notes[-1]
    assert sum("left in float" in note for note in report.notes) == 1


def test_without_a_limit_every_loss_can_be_reached(data):
    module = quantized(Net(), data, passes.RestorePrecision(min_decibels=300.0))
    assert not quantizer_calls(module) and "same bits" in module.report.notes[-1]


def test_a_metric_of_the_users(data):
    torch.manual_seed(0)
    model, x = Net(), torch.cat(data)
    wanted = model(x).detach()
    distance = lambda m: -float((m(x).detach() - wanted).abs().max())  # noqa: E731
    module = quantized(model, data, passes.RestorePrecision(metric=distance, tolerance=0.006), weights=FOUR_BITS)
    assert distance(module) >= -0.0061 and "metric -0.0" in module.report.notes[-1]
    assert quantizer_calls(module) and needed(module.report)
    assert "0x" not in str(module.report.rows[-1].name)


def test_more_bits_instead_of_float(data):
    torch.manual_seed(0)
    model = Net()
    wide = passes.RestorePrecision(min_decibels=38.0, bits=8)
    module = quantized(model, data, wide, weights=FOUR_BITS)
    bits = {call.name: q.spec.bits for call, q in quantizer_calls(module).items() if serves_weight(call)}
    assert set(bits.values()) == {4, 8} and len(bits) == 3
    assert wires(module) == wires(quantized(model, data))
    plain = fxcompress.compile(model, passes_before()[:2], data=data)
    example = ExampleInputs((torch.cat(data),))
    assert agreement(outputs(plain, example), outputs(module, example)) >= 37.9
    module.lower()


def test_all_layers_given_eight_bits_are_those_of_eight_bits(data):
    torch.manual_seed(0)
    model = Net()
    module = quantized(model, data, weights=FOUR_BITS)
    for layer in quantized_layers(module, OPENVINO_CPU):
        widen(module, layer, 8, OPENVINO_CPU)
    example = ExampleInputs((torch.cat(data),))
    assert agreement(outputs(quantized(model, data), example), outputs(module, example)) == math.inf


def test_bits_that_do_not_suffice_are_told(data):
    report = quantized(Net(), data, passes.RestorePrecision(min_decibels=90.0, bits=8), weights=FOUR_BITS).report
    assert "leave bits out, so that layers return to float" in report.notes[-1]


@given(added=st.integers(0, 250), bits=st.sampled_from([8, None]))
@settings(max_examples=8)
def test_a_size_is_kept_and_used(data, four_bits, added, bits):
    """No layer that is left fits into what is left."""
    before, original = four_bits.report.rows[-1].bytes, four_bits.report.rows[0].bytes
    wide = passes.RestorePrecision(bits=bits, max_size=(before + added + 0.5) / original)
    row = quantized(four_bits_net(), data, wide, weights=FOUR_BITS).report.rows[-1]
    assert row.bytes <= before + added
    layers = quantized_layers(four_bits, OPENVINO_CPU)
    costs = {layer.node.name: added_bytes(four_bits, layer, bits, OPENVINO_CPU) for layer in layers if layer.weights}
    restored = [name for note in row.notes[:-1] for name in note.partition(" (")[0].split(", ")]
    assert f"{row.rewrites} of {len(costs if bits else layers)} layers: " in row.notes[-1]  # a sum has no weights to widen
    assert len(restored) == row.rewrites
    assert row.bytes == before + sum(costs.get(name, 0) for name in restored)
    assert all(cost > before + added - row.bytes for name, cost in costs.items() if name not in restored)


def test_the_noisiest_layer_of_a_size_comes_first(data):
    """Two layers of one size, of which one multiplies what comes out of the model by a hundred."""

    class Loud(nn.Module):
        def __init__(self):
            super().__init__()
            self.quiet, self.loud = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.quiet(x) * 0.01 + self.loud(x)

    torch.manual_seed(0)
    wide = passes.RestorePrecision(bits=8, max_size=0.42)
    module = quantized(Loud(), [torch.randn(10, 8)], wide, weights=FOUR_BITS)
    bits = {call.name: q.spec.bits for call, q in quantizer_calls(module).items() if serves_weight(call)}
    assert bits == {"quiet_weight_quantizer": 4, "loud_weight_quantizer": 8}
    assert "1 of 2 layers" in module.report.notes[-1]


def test_layers_of_rounded_weights_are_ranked_by_what_their_weights_lose(data):
    """The weights in the graph lie on the grid already, and still are not the float ones."""
    stack = [passes.Quantize(weights=FOUR_BITS), passes.RoundWeights(), passes.Calibrate()]
    module = fxcompress.compile(four_bits_net(), [*stack, passes.RestorePrecision(min_decibels=90.0, bits=8)], data=data)
    alone = [note for note in module.report.notes if "by itself" in note]
    assert len(alone) == 3 and not any("same bits by itself" in note for note in alone)


def test_a_size_limits_what_a_tolerance_asks_for(data):
    wide = passes.RestorePrecision(bits=8, max_size=0.36, min_decibels=90.0)
    report = quantized(four_bits_net(), data, wide, weights=FOUR_BITS).report
    assert "is not reached" in report.notes[-1] and "raise max_size=0.36" in report.notes[-1]
    assert report.rows[-1].bytes <= 0.36 * report.rows[0].bytes


def test_a_size_that_is_exceeded_already_is_refused(data):
    with pytest.raises(InputError, match=r"take 0\.\d+ of the original model's size before anything is restored"):
        quantized(Net(), data, passes.RestorePrecision(bits=8, max_size=0.01), weights=FOUR_BITS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give min_decibels, or metric and tolerance, or max_size"),
        ({"max_size": 0}, "max_size above 0, or None, got 0"),
        ({"max_size": math.nan}, "max_size above 0, or None, got nan"),
        ({"min_decibels": math.nan}, "min_decibels that is a finite number, or None, got nan"),
        ({"min_decibels": 20, "tolerance": 0.1}, "give metric, or say min_decibels instead"),
        ({"metric": len, "tolerance": -1}, "tolerance of 0 or more, got -1"),
        ({"metric": 0.5}, "metric that is a function, or None, got 0.5"),
        ({"min_decibels": 20, "max_layers": 0}, "max_layers of 1 or more, or None, got 0"),
        ({"min_decibels": 20, "bits": 9}, "bits from 3 to 8, or None, got 9"),
        ({"min_decibels": 20, "samples": 0}, "samples of 1 or more, got 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        passes.RestorePrecision(**options)


@pytest.mark.parametrize("metric", [lambda model: None, lambda model: math.nan, lambda model: "good"])
def test_a_metric_must_return_a_number(data, metric):
    with pytest.raises(InputError, match="returned (None|NaN|'good'); let it return a number"):
        quantized(Net(), data, passes.RestorePrecision(metric=metric))


def test_it_comes_after_calibration(data):
    with pytest.raises(PlanError, match="list Calibrate before RestorePrecision"):
        fxcompress.compile(Net(), [passes.Quantize(), passes.RestorePrecision(min_decibels=1.0), passes.Calibrate()], data=data)


def test_a_model_without_weights_has_no_size_to_take_a_share_of(tmp_path):
    model, data = nn.Softsign(), [torch.randn(4, 3)]  # whose file has a constant
    compiled = fxcompress.compile(
        model, [passes.Quantize(), passes.Calibrate(), passes.RestorePrecision(max_size=0.3)], data=data
    )
    assert compiled.to_onnx(tmp_path / "m.onnx").exists()
