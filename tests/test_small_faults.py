"""Single places whose change no other test saw (see `benchmarks.mutations`)."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from emission import assert_same
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes
from torch import fx, nn
from torch.nn.functional import scaled_dot_product_attention

import fxcompress
from fxcompress import passes
from fxcompress.channels.dependencies import Channels
from fxcompress.emit.rewiring import rank_of
from fxcompress.emit.shapes import broadcast_shape
from fxcompress.emit.types import output_type
from fxcompress.errors import apart
from fxcompress.quantization.allocation import allocate
from fxcompress.quantization.reconstruction import train
from fxcompress.quantizers.layout import is_dense
from fxcompress.quantizers.spec import QuantizationSpec

LINEAR = nn.Linear(8, 4)
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_bits_are_chosen_for_frozen_weights_and_leave_them_frozen():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).requires_grad_(False)
    choose = passes.ChooseBits(loss=lambda model, batch: model(batch).square().mean(), ratio=1.5)
    compiled = fxcompress.compile(model, [passes.Quantize(), choose, passes.Calibrate()], data=[IMAGES])
    bits = {one.spec.bits for one in compiled.modules() if hasattr(one, "spec")}
    assert min(bits) < 8 and not any(parameter.requires_grad for parameter in compiled.parameters())


def test_each_thing_needs_as_many_losses_as_costs():
    with pytest.raises(ValueError, match="zip"):
        allocate([[1, 2], [1, 2]], [[0.5, 0.1]], 4)


def test_a_kernel_is_named_for_all_that_is_fused_to_it():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    compiled = fxcompress.compile(model, [passes.Quantize(), passes.Calibrate()], data=[IMAGES])
    regions = {str(node.target): node.meta.get("region") for node in compiled.graph.nodes if node.op == "call_function"}
    assert regions["aten.relu.default"] is not None
    assert sum(node.meta.get("region") == regions["aten.relu.default"] for node in compiled.graph.nodes) == 2


def test_filters_that_a_recurrent_layer_reads_can_go():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 16), nn.LSTM(16, 8, batch_first=True, bidirectional=True)

        def forward(self, x):
            return self.last(self.first(x).relu())[0]

    compiled = fxcompress.compile(Recurrent(), [passes.PruneFilters(amount=0.5, multiple=1)], data=[torch.randn(2, 5, 4)])
    assert any(note.startswith("8 of 16 filters are masked") for row in compiled.report.rows for note in row.notes)


def test_the_shape_of_a_recurrent_layer_is_known_without_its_steps(monkeypatch):
    """Torch's own way makes some ten calls a step, for every change of a graph."""
    monkeypatch.setattr(torch._decomp.decompositions, "_rnn_helper", None)
    model = nn.Sequential(nn.Linear(4, 16), nn.GRU(16, 8, batch_first=True))
    compiled = fxcompress.compile(model, [passes.PruneFilters(amount=0.5, multiple=1)], data=[torch.randn(2, 5, 4)])
    assert compiled.lower()(torch.randn(2, 7, 4))[0].shape == (2, 7, 8)


def test_a_grouped_convolution_loses_whole_groups_or_the_same_channels_of_each():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 4, 3))
    compiled = fxcompress.compile(model, [passes.PruneFilters(amount=0.4, multiple=1)], data=[torch.randn(2, 3, 9, 9)])
    kept = compiled.get_submodule("_1_weight_mask").mask.flatten(1).any(1).view(2, 4)
    whole_groups = bool((kept.all(1) | ~kept.any(1)).all())
    assert not kept.all() and (whole_groups or torch.equal(kept[0], kept[1]))


@pytest.mark.parametrize("model", [nn.ReLU(), nn.AvgPool2d(2), nn.Softmax(1)], ids=repr)
def test_a_model_without_weights_has_no_size_to_restore(model):
    x = torch.randn(4, 3, 8, 8)
    compiled = fxcompress.compile(
        model.eval(), [passes.Quantize(), passes.Calibrate(), passes.RestorePrecision(max_size=0.5)], data=[x]
    )
    assert torch.equal(compiled(x), model(x))


class Attention(nn.Module):
    """Of one head, whose scale is written."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.last = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x):
        return self.last(scaled_dot_product_attention(self.query(x), self.key(x), self.value(x), scale=0.3))


def test_what_is_inside_a_head_stays_unless_that_is_asked_for():
    torch.manual_seed(0)
    x = torch.randn(3, 5, 16)
    for summed in (False, True):
        prune = passes.PruneFilters(amount=0.5, multiple=1, summed=summed)
        compiled = fxcompress.compile(Attention(), [prune], data=[x])
        masked = {name for name, module in compiled.named_modules() if hasattr(module, "mask") and not module.mask.all()}
        assert any("query" in name or "key" in name for name in masked) == summed
        torch.testing.assert_close(compiled.lower()(x), compiled(x))


def test_a_bias_of_too_many_steps_is_added_behind_its_layer_whatever_makes_the_steps_small(tmp_path):
    """Steps of the sum are the product of those of the input and of the weight: here both are far below one."""
    torch.manual_seed(0)
    first = nn.Linear(16, 8)
    with torch.no_grad():
        first.weight.mul_(0.05)
        first.bias.fill_(1.0)
    model, x = nn.Sequential(first, nn.ReLU(), nn.Linear(8, 4)), torch.randn(32, 16) * 1e-4
    stack = [passes.Quantize(), passes.Calibrate()]
    compiled = fxcompress.compile(model, stack, data=[x], target="onnxruntime")
    kinds = [node.op_type for node in onnx.load(compiled.to_onnx(tmp_path / "m.onnx", verify="strict")).graph.node]
    assert kinds.count("Add") == 1


def test_the_learning_rate_grows_over_a_tenth_and_falls_along_half_a_cosine():
    class Student:
        def __init__(self):
            self.weight, self.rates = torch.zeros((), requires_grad=True), []

        def groups(self, learning_rate):
            self.held = [{"params": [self.weight], "lr": learning_rate}]
            return self.held

        def loss(self, teacher, leaves):
            self.rates.append(self.held[0]["lr"])
            return self.weight * 1.0

        def keep_zeros(self):
            pass

    teacher = fxcompress.compile(nn.Linear(4, 4), [], example_inputs=torch.randn(1, 4))
    student = Student()
    list(train(student, teacher, [[torch.randn(1, 4)] for _ in range(20)], epochs=2, batch_size=1, learning_rate=0.5))
    done = np.arange(40) / 40
    expected = 0.5 * np.minimum(1, (done + 1 / 40) / 0.1) * (1 + np.cos(np.pi * done)) / 2
    assert student.rates == pytest.approx(expected.tolist())


@given(mutually_broadcastable_shapes(num_shapes=3, min_dims=0, max_dims=4, max_side=3))
def test_shapes_are_broadcast_as_in_torch(drawn):
    assert broadcast_shape(*drawn.input_shapes) == list(drawn.result_shape)


@given(st.recursive(st.none() | st.integers(1, 4), lambda one: st.lists(one, max_size=3), max_leaves=6))
def test_every_channel_of_every_tensor_is_pinned(sizes):
    dependencies = Channels(fx.GraphModule({}, fx.Graph()))
    made = []

    def axes(size):
        if isinstance(size, list):
            return [axes(one) for one in size]
        if size is None:
            return None
        made.extend(ids := dependencies.elements.fresh(size))
        return ids

    dependencies.pin_all([axes(sizes)], "it is read")
    assert not any(dependencies.elements.is_free(one) for one in made)


class Gate(nn.Module):
    def forward(self, x):
        return x * x.amax((2, 3), keepdim=True)


@pytest.mark.parametrize("layer", [nn.PReLU(16), Gate()])
def test_filters_that_a_layer_hands_on_can_go(layer):
    model = nn.Sequential(nn.Conv2d(3, 16, 3), layer, nn.Flatten(), nn.Linear(576, 4))
    pruned = fxcompress.compile(model, [passes.PruneFilters(amount=0.5)], data=[IMAGES])
    assert pruned.lower().state_dict()["3.weight_pruned"].shape == (4, 288)


def test_a_kernel_of_one_column_is_more_than_one_pixel():
    kernels = [3, (3, 1), (1, 3), 1]
    model = nn.Sequential(*(layer for kernel in kernels for layer in (nn.Conv2d(3, 3, kernel), nn.ReLU())))
    notes = fxcompress.compile(model, [passes.Binarize()], data=[IMAGES]).report.rows[-1].notes
    assert [note.partition(" is not")[0] for note in notes] == ["_0", "_6"]


def test_ranks_follow_from_what_a_value_is_computed_from():
    x, unknown = ir.Value(name="x", shape=ir.Shape([2, 3, 4])), ir.Value(name="unknown")
    one, two = (ir.Value(name=str(n), const_value=ir.tensor(np.arange(n)), shape=ir.Shape([n])) for n in (1, 2))

    def rank(kind, *inputs, **attributes):
        return rank_of(ir.node(kind, inputs, attributes).outputs[0])

    wider = ir.node("Unsqueeze", [x, two]).outputs[0]
    assert [rank("Unsqueeze", x, two), rank("Squeeze", x, two), rank("Reshape", x, two), rank("Transpose", wider)] == [
        5,
        1,
        2,
        5,
    ]
    assert [rank("ReduceSum", x, one), rank("ReduceSum", x, one, keepdims=0), rank("ReduceSum", x, keepdims=0)] == [3, 2, 0]
    assert [rank("Add", x, wider), rank("Add", x, unknown), rank("NonZero", x), rank_of(unknown), rank_of(None)] == [
        5,
        0,
        0,
        0,
        0,
    ]


def test_signed_weights_of_float_layers_are_stored_unsigned_where_one_channel_has_a_zero_point():
    model = nn.Sequential(nn.Linear(16, 2, bias=False))
    model[0].weight.data = torch.stack([torch.linspace(-8, 7, 16), torch.linspace(0, 15, 16)])  # of zero points 0 and -8
    weights = QuantizationSpec(bits=4, symmetric=False, signed=True, channel_axis=0)
    compiled = fxcompress.compile(
        model, [passes.Quantize(weights=weights, activations=None)], example_inputs=torch.randn(2, 16)
    )
    lowered = compiled.lower()
    assert [node.args[4] for node in lowered.graph.nodes if "dequantize" in node.name] == ["uint4"]
    assert torch.equal(lowered.eval()(torch.eye(16)), model[0].weight.T)


def test_the_largest_of_whole_numbers_that_no_kernel_takes():
    assert_same(lambda x: x.amax(1), torch.randint(-300, 300, (2, 5), dtype=torch.int16))


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("signed", [False, True])
def test_levels_that_a_grid_leaves_out_are_cut_off_in_the_file_and_no_others(signed, narrow):
    spec = QuantizationSpec(bits=8, symmetric=True, signed=signed, narrow=narrow)
    stack = [passes.Quantize(activations=spec), passes.Calibrate()]
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    both = (stack, [*stack, passes.LowerQuantizers()])
    compiled, lowered = (fxcompress.compile(nn.Sequential(nn.Identity(), LINEAR), one, data=[x]) for one in both)
    clamps = lowered.graph.find_nodes(op="call_function", target=torch.ops.aten.clamp.default)
    assert bool(clamps) == narrow
    torch.testing.assert_close(lowered(4 * x), compiled(4 * x))


@pytest.mark.parametrize("exponent, shows", [(0.3, True), (0.6, False), (2.0, False)])
def test_a_power_tells_the_smallest_number_from_zero_where_its_exponent_is_small(exponent, shows, tmp_path):
    class Power(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(8, 8, bias=False), nn.Linear(8, 4)

        def forward(self, x):
            return self.last(self.first(x).abs().pow(exponent))

    compiled = fxcompress.compile(Power(), [passes.Quantize(), passes.Calibrate()], data=[torch.randn(8, 8)])
    nodes = onnx.load(compiled.to_onnx(tmp_path / "model.onnx", verify=False)).graph.node
    assert ("Max" in {node.op_type for node in nodes}) == shows


def test_a_tensor_is_dense_in_whichever_order_its_dimensions_lie():
    x = torch.zeros(2, 3, 4, 5)
    assert all(map(is_dense, (x, x.to(memory_format=torch.channels_last), x.permute(3, 0, 2, 1), x[1:])))
    assert not any(map(is_dense, (x[:, 1:], x[..., ::2], x.to(memory_format=torch.channels_last)[:, :2])))


@pytest.mark.parametrize(
    "kind, like, attributes, expected",
    [
        ("Shape", "FLOAT", {}, "INT64"),
        ("ArgMax", "FLOAT", {}, "INT64"),
        ("Less", "FLOAT", {}, "BOOL"),
        ("Add", "DOUBLE", {}, "DOUBLE"),
        ("Relu", "FLOAT16", {}, "FLOAT16"),
        ("Cast", "FLOAT", {"to": ir.DataType.INT32}, "INT32"),
        ("And", None, {}, "BOOL"),
    ],
)
def test_what_a_node_gives_has_the_type_that_onnx_says(kind, like, attributes, expected):
    assert output_type(kind, like and ir.DataType[like], attributes) == ir.DataType[expected]


@pytest.mark.parametrize("channels", [2, 3])
def test_what_is_stretched_over_two_channels_loses_one_with_them(channels):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.body, self.head = nn.Conv2d(3, 1, 1), nn.Conv2d(3, channels, 1), nn.Conv2d(channels, 4, 1)

        def forward(self, x):
            return self.head(self.gate(x).expand(-1, channels, -1, -1) * self.body(x))

    torch.manual_seed(0)
    model, prune = Gated(), passes.PruneFilters(amount=0.5, multiple=1)
    masked = fxcompress.compile(model, [prune], data=[IMAGES])
    removed = fxcompress.compile(model, [prune, passes.RemoveFilters()], data=[IMAGES])
    assert removed.get_parameter("body.weight").shape[0] < channels
    torch.testing.assert_close(removed(IMAGES), masked(IMAGES))


@pytest.mark.parametrize(
    "found, asked, form, told", [(1.99987, 2.0, ".3g", ("1.9999", "2")), (0.4, 0.5, ".1%", ("40.0%", "50.0%"))]
)
def test_numbers_that_differ_are_told_apart(found, asked, form, told):
    assert apart(found, asked, form) == told
