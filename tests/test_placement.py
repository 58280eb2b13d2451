"""Where quantizers go, on small networks drawn as ``producer -> consumers``."""

from dataclasses import replace

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxcompress
from fxcompress import passes
from fxcompress.capture import capture
from fxcompress.data.inputs import ExampleInputs
from fxcompress.execution.agreement import sqnr
from fxcompress.pattern.scopes import select
from fxcompress.quantization.placement import Placement, place
from fxcompress.quantization.quantized import quantizer_calls, serves_weight
from fxcompress.quantizers.options import QuantizationOptions, by_operation
from fxcompress.quantizers.spec import QuantizationSpec
from fxcompress.targets import ONNXRUNTIME_CPU, OPENVINO_CPU


class Convs(nn.Module):
    """Named convolutions, and a forward given as a function of the module and the input."""

    def __init__(self, forward, names="a b c"):
        super().__init__()
        for name in names.split():
            self.add_module(name, nn.Conv2d(4, 4, 3, padding=1))
        self.fc = nn.Linear(4, 2)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


def stochastic_depth(x, training):
    return torch.ops.fxcompress.drop_path(x, 0.1, [0], 1.0, training)


def detached(x, training):
    return x.detach()


DEFAULT = QuantizationOptions(weights=OPENVINO_CPU.weights, activations=OPENVINO_CPU.activations, weight_estimator="min_max")


def placed(graph, ignored=(), overrides=(), target=OPENVINO_CPU) -> Placement:
    """The placement in `graph`, with overrides as (scope, options)."""
    options = by_operation(graph, DEFAULT, [(select(graph, [scope]), one) for scope, one in overrides])
    return place(graph, target, options, select(graph, ignored))


def sites(forward, ignored=(), overrides=(), target=OPENVINO_CPU):
    """The placement on `forward`: activations as text, in order, with ``*`` on those that share another's scale."""
    graph = capture(Convs(forward), ExampleInputs((torch.randn(2, 4, 8, 8),))).graph
    placement = placed(graph, ignored, overrides, target)
    return [
        f"{site.producer.name} -> {', '.join(user.name for user in site.consumers)}"
        + (f" *{site.group}" if site.group != site.producer.name else "")
        for site in placement.activations
    ]


def test_nothing_goes_between_a_convolution_and_its_activation():
    assert sites(lambda m, x: m.b(F.relu(m.a(x)))) == ["x -> a", "relu -> b"]


@pytest.mark.parametrize("exact", [False, True], ids=["rounded first", "exact sums"])
@pytest.mark.parametrize(
    "drop", [F.dropout, F.dropout2d, F.alpha_dropout, stochastic_depth, detached], ids=lambda drop: drop.__name__
)
def test_what_does_nothing_at_inference_changes_no_place(drop, exact):
    def between(drop):
        def forward(m, x):
            y = m.b(F.relu(drop(m.a(x))))
            return m.c(F.relu(drop(y) + x))

        return [one.partition(" ->")[0] for one in sites(forward, target=replace(OPENVINO_CPU, accumulates=exact))]

    assert between(lambda x: drop(x, training=False)) == between(lambda x: x)


def test_one_quantizer_serves_all_readers_of_a_value():
    assert sites(lambda m, x: m.a(x) + m.b(x).sigmoid()) == ["x -> a, b"]


def test_the_shortcut_is_quantized_and_the_convolution_adds_it_before_it_rounds():
    forward = lambda m, x: m.b(F.relu(m.a(x) + x))  # noqa: E731
    assert sites(forward) == ["x -> a, add", "relu -> b"]
    forward = lambda m, x: m.b(x + F.silu(m.a(x)))  # noqa: E731
    assert sites(forward) == ["x -> a, add", "add -> b"]


def test_of_two_convolutions_the_later_one_adds_the_other():
    forward = lambda m, x: m.c(m.a(x) + m.b(x))  # noqa: E731
    assert sites(forward) == ["x -> a, b", "a -> add", "add -> c"]


def test_both_operands_of_an_addition_are_quantized_where_no_convolution_can_add():
    pooled = lambda m, x: m.b(F.max_pool2d(m.a(x), 3, 1, 1) + x)  # noqa: E731
    assert sites(pooled) == ["x -> a, add", "a -> max_pool2d", "add -> b"]
    read_twice = lambda m, x: m.b((y := m.a(x)) + x) + m.c(y)  # noqa: E731
    assert sites(read_twice) == ["x -> a, add", "a -> add, c", "add -> b"]
    broadcast = lambda m, x: m.b(m.a(F.avg_pool2d(x, 8)) + x)  # noqa: E731
    assert sites(broadcast) == ["x -> avg_pool2d, add", "avg_pool2d -> a", "a -> add", "add -> b"]


def test_both_operands_of_an_addition_are_quantized_for_a_target_that_does_not_accumulate():
    forward = lambda m, x: m.b(F.relu(m.a(x) + x))  # noqa: E731
    assert sites(forward, target=ONNXRUNTIME_CPU) == ["x -> a, add", "a -> add", "relu -> b"]


def test_an_add_that_feeds_a_float_operation_stays_in_float():
    assert sites(lambda m, x: torch.exp(m.a(x) + x)) == ["x -> a"]


def test_quantizers_travel_up_through_operations_that_move_values():
    forward = lambda m, x: m.b(F.max_pool2d(F.relu(m.a(x)), 2).permute(0, 1, 3, 2))  # noqa: E731
    assert sites(forward) == ["x -> a", "relu -> max_pool2d"]


def test_but_not_past_a_reader_that_needs_the_float_value():
    def forward(m, x):
        y = F.max_pool2d(m.a(x), 2)
        return m.b(y), y.exp()

    assert sites(forward) == ["x -> a", "max_pool2d -> b"]


def test_the_classifier_reads_the_pooled_value_through_the_flatten():
    forward = lambda m, x: m.fc(torch.flatten(F.adaptive_avg_pool2d(F.relu(m.a(x)), 1), 1))  # noqa: E731
    assert sites(forward) == ["x -> a", "relu -> adaptive_avg_pool2d", "adaptive_avg_pool2d -> flatten"]


def test_the_parts_of_a_concatenation_share_a_scale():
    def forward(m, x):
        joined = torch.cat([F.relu(m.a(x)), m.b(x)], 1)
        return m.c(joined[:, :4])

    assert sites(forward) == ["x -> a, b", "relu -> cat", "b -> cat *relu"]


def test_all_parts_of_a_split_must_want_it():
    both = lambda m, x: [m.b(part) for part in torch.cat([m.a(x), x], 1).split(4, 1)]  # noqa: E731
    one = lambda m, x: [f(part) for f, part in zip((m.b, torch.exp), torch.cat([m.a(x), x], 1).split(4, 1))]  # noqa: E731
    assert sites(both) == ["x -> a, cat", "a -> cat *x"]
    assert sites(one) == ["x -> a", "split_0 -> b"]


def test_an_operand_that_is_computed_from_constants_keeps_the_sum_in_float():
    grid = lambda m: torch.arange(8.0) + m.a.bias[:, None, None]  # noqa: E731
    assert sites(lambda m, x: m.b(F.relu(m.a(x)) + grid(m))) == ["x -> a", "add_1 -> b"]


class WithConstant(nn.Module):
    """A parameter beside an activation: what is quantized for a layer is both, in one range or each in its own."""

    def __init__(self, operation):
        super().__init__()
        self.operation, self.a, self.o = operation, nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(16, 4, 1)
        self.p = nn.Parameter(3 * torch.randn(1, 8, 6, 6, generator=torch.Generator().manual_seed(0)))

    def forward(self, x):
        return self.o(self.operation(self.a(x).relu(), self.p.expand(x.shape[0], -1, -1, -1)))


@pytest.mark.parametrize(
    "operation",
    [
        lambda y, p: torch.cat([y, p], 1),
        lambda y, p: torch.cat([p, y], 1),
        lambda y, p: torch.cat([y + p, y], 1),
        lambda y, p: torch.cat([y, y * p], 1),
    ],
)
def test_a_constant_that_a_layer_reads_as_its_input_has_the_range_of_an_input(operation, tmp_path):
    x = torch.randn(8, 3, 6, 6)
    model = WithConstant(operation).eval()
    compiled = fxcompress.compile(model, data=[x])
    assert sqnr(model(x), compiled(x)) > 24
    session = onnxruntime.InferenceSession(compiled.to_onnx(tmp_path / "model.onnx"))
    assert sqnr(compiled(x), torch.from_numpy(session.run(None, {"x": x.numpy()})[0])) > 40


def test_a_layer_on_a_constant_stays_in_float():
    grid = torch.ones(1, 4, 8, 8)
    forward = lambda m, x: m.b(F.relu(m.a(x) + m.c(grid)))  # noqa: E731
    assert sites(forward) == ["x -> a", "relu -> b"]
    compiled = fxcompress.compile(Convs(forward), data=[torch.randn(2, 4, 8, 8)])
    assert not [name for name, _ in compiled.named_modules() if name.startswith("c_")]
    compiled.lower()


def test_products_of_activations_have_no_zero_points_and_a_signed_second_operand():
    forward = lambda m, x: m.a(x) @ x  # noqa: E731
    assert sites(forward) == ["x -> a", "x -> matmul", "a -> matmul"]
    graph = capture(Convs(forward), ExampleInputs((torch.randn(2, 4, 8, 8),))).graph
    grids = [(site.options.spec.signed, site.options.spec.symmetric) for site in placed(graph).activations]
    assert grids == [(None, False), (True, True), (None, True)]


def test_queries_and_keys_of_an_attention_are_quantized_on_signed_grids():
    def forward(m, x):
        query, key, value = (conv(x).flatten(2) for conv in (m.a, m.b, m.c))
        return F.scaled_dot_product_attention(query, key, value)

    assert sites(forward) == ["x -> a, b, c", "a -> flatten", "b -> flatten_1"]


class Product(nn.Module):
    """A product of two activations: of matrices, or an attention."""

    def __init__(self, product):
        super().__init__()
        self.a, self.b, self.product = nn.Linear(64, 64), nn.Linear(64, 64), product

    def forward(self, x):
        first, second = (layer(x).unflatten(-1, (2, 32)).transpose(1, 2) for layer in (self.a, self.b))
        return self.product(first, second)


@pytest.mark.parametrize(
    "product", [lambda a, b: a @ b.transpose(2, 3), lambda a, b: F.scaled_dot_product_attention(a, b, torch.ones_like(a))]
)
def test_openvino_runs_products_in_integers(product, tmp_path):
    openvino = pytest.importorskip("openvino")
    fxcompress.compile(Product(product), data=[torch.randn(2, 16, 64)]).to_onnx(tmp_path / "model.onnx")
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(tmp_path / "model.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    kernels = {info["layerType"].astype(str): info["runtimePrecision"].astype(str) for info in found}
    assert (kernels.get("MatMul") or kernels.get("Subgraph")) == "i8"


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_onnxruntime_runs_products_of_signed_integers(target, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    x = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(0))
    compiled = fxcompress.compile(Product(lambda a, b: a @ b.transpose(2, 3)), data=[x], target=target)
    session = onnxruntime.InferenceSession(compiled.to_onnx(tmp_path / "model.onnx"))
    assert sqnr(compiled(x), torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])) > 30


def test_ignored_operations_stay_in_float():
    assert sites(lambda m, x: m.b(F.relu(m.a(x))), ignored=["b"]) == ["x -> a"]


def test_a_weight_that_is_computed_from_an_input_stays_in_float():
    graph = capture(Convs(lambda m, x: F.conv2d(x, m.a.weight * x.mean())), ExampleInputs((torch.randn(2, 4, 8, 8),))).graph
    placement = placed(graph)
    assert not placement.weights and not placement.activations
    assert list(placement.left_in_float.values()) == ["its weight is computed by the graph, not a constant"]


def test_a_transposed_weight_is_quantized_before_the_transpose():
    class Transposed(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 6))  # as Hugging Face's Conv1D keeps it: inputs by outputs

        def forward(self, x):
            return x @ self.weight

    graph = capture(Transposed(), ExampleInputs((torch.randn(2, 3, 4),))).graph
    (site,) = placed(graph).weights
    assert (site.weight.name, site.channel_axis) == ("weight", 1)


def test_readers_that_disagree_each_have_a_quantizer():
    narrow = QuantizationOptions(activations=QuantizationSpec(bits=6))
    forward = lambda m, x: m.a(x) + m.b(x) + m.c(x)  # noqa: E731
    assert sites(forward, overrides=[("b", narrow)]) == ["x -> a, c", "x -> b"]


def test_quantizers_do_not_travel_up_from_readers_that_disagree():
    narrow = QuantizationOptions(activations=QuantizationSpec(bits=6))

    def forward(m, x):
        y = F.max_pool2d(x, 2)
        return m.a(y), m.b(y)

    assert sites(forward) == ["x -> max_pool2d"]
    assert sites(forward, overrides=[("b", narrow)]) == ["max_pool2d -> a", "max_pool2d -> b"]


def test_only_the_reader_of_a_concatenation_shares_its_scale():
    narrow = QuantizationOptions(activations=QuantizationSpec(bits=6))

    def forward(m, x):
        y, z = F.relu(m.a(x)), F.relu(m.b(x))
        return m.c(torch.cat([y, z], 1)[:, :4]), m.b(y), m.b(z)

    everywhere = ["x -> a, b", "relu -> cat, b_1", "relu_1 -> cat, b_2 *relu"]
    assert sites(forward) == everywhere
    apart = ["x -> a, b", "relu -> cat", "relu -> b_1", "relu_1 -> cat *relu", "relu_1 -> b_2"]
    assert sites(forward, overrides=[("b_1", narrow), ("b_2", narrow)]) == apart


def test_embeddings_are_quantized_where_asked_for():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.fc = nn.Embedding(5, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(self.table(x))

    graph = capture(Table(), ExampleInputs((torch.tensor([[1, 2], [3, 4]]),))).graph
    assert [site.weight.name for site in placed(graph).weights] == ["fc_weight"]
    found = placed(graph, overrides=[("table", QuantizationOptions(embeddings=True))])
    assert [(site.weight.name, site.channel_axis) for site in found.weights] == [("table_weight", 0), ("fc_weight", 0)]
    assert [site.producer.name for site in found.activations] == ["table"]


def test_tables_of_few_rows_stay_in_float():
    class Kinds(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.kinds, self.fc = nn.Embedding(5, 4), nn.Embedding(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(self.words(x) + self.kinds(x % 4))

    graph = capture(Kinds(), ExampleInputs((torch.tensor([[1, 2], [3, 4]]),))).graph
    found = placed(
        graph, overrides=[("words", QuantizationOptions(embeddings=True)), ("kinds", QuantizationOptions(embeddings=True))]
    )
    assert [site.weight.name for site in found.weights] == ["words_weight", "fc_weight"]
    assert {node.name: why for node, why in found.left_in_float.items()} == {"kinds": "its table has no more than 4 rows"}


class BoxDecoder(nn.Module):
    """Distances as the means of a distribution over fixed values, by a convolution or by a product with a buffer."""

    def __init__(self, by_convolution: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 3)
        self.mean = nn.Conv2d(8, 1, 1, bias=False).requires_grad_(False) if by_convolution else None
        self.register_buffer("values", torch.arange(8.0))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.conv(x).flatten(2).unflatten(1, (4, 8)).transpose(1, 2)
        if self.mean is not None:
            return self.mean(parts.softmax(1))
        return F.linear(parts.softmax(1).movedim(1, -1), self.values[None])


@pytest.mark.parametrize("by_convolution", [True, False])
def test_expectations_over_fixed_values_stay_in_float(by_convolution: bool) -> None:
    model = BoxDecoder(by_convolution)
    compiled = fxcompress.compile(model, data=[torch.randn(2, 3, 8, 8)])
    assert [str(name) for name in quantizer_calls(compiled) if "softmax" in str(name) or "mean" in str(name)] == []
    if by_convolution:
        assert any("mean of fixed values" in note for row in compiled.report.rows for note in row.notes)
    assert any("conv" in str(name) for name in quantizer_calls(compiled))


def test_boxes_and_scores_that_are_joined_last_share_no_scale() -> None:
    """Boxes are thousands of times larger: on their scale every score would be zero."""

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.boxes, self.scores = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 6, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            features = self.stem(x).relu()
            return torch.cat([1000 * self.boxes(features).exp(), self.scores(features).sigmoid()], 1)

    model, x = Head().eval(), torch.randn(4, 3, 8, 8)
    compiled = fxcompress.compile(model, data=[x])
    with torch.no_grad():
        assert sqnr(model(x)[:, 4:], compiled(x)[:, 4:]) > 30


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_a_norm_that_a_layer_computes_reads_it_unrounded_and_any_other_reads_bytes(target):
    def read_through_quantizers(*layers):
        model = fxcompress.compile(
            nn.Sequential(*layers), [passes.Quantize()], example_inputs=torch.randn(2, 3, 8, 8), target=target
        )
        return {call.args[0].name for call in quantizer_calls(model) if not serves_weight(call)}

    first, last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
    assert read_through_quantizers(first, nn.BatchNorm2d(4), nn.ReLU(), last) == {"input_1", "_2"}
    assert read_through_quantizers(first, nn.ReLU(), nn.BatchNorm2d(4), last) == {"input_1", "_1", "_2"}
