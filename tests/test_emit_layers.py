"""Layers: convolution, pooling, normalization, resizing, products and attention, in their many settings."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from emission import Call, assert_same, captured, checked, in_onnxruntime, in_openvino
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fxcompress.capture import capture
from fxcompress.data.inputs import ExampleInputs
from fxcompress.emit.onnx import to_onnx_model
from fxcompress.execution.agreement import sqnr

IMAGE = torch.randn(2, 4, 9, 7)
BOTH = (in_onnxruntime, in_openvino)
few = settings(max_examples=12, deadline=None)


@few
@given(data=st.data())
def test_convolution(data: st.DataObject) -> None:
    draw = data.draw
    dims, groups = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2]))
    kernel = [draw(st.integers(1, 3)) for _ in range(dims)]
    stride, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    padding: Any = draw(st.sampled_from([0, 1, "same"])) if stride == 1 else draw(st.integers(0, 1))
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    bias = draw(st.booleans())
    layer = kind(4, 6, tuple(kernel), stride, padding, dilation, groups, bias)  # type: ignore[arg-type]
    assert_same(layer, torch.randn(2, 4, *[7, 8, 6][:dims]))


@few
@given(st.integers(1, 3), st.integers(1, 2), st.integers(0, 1), st.booleans(), st.sampled_from([1, 2]))
def test_transposed_convolution(stride: int, dilation: int, padding: int, extra: bool, groups: int) -> None:
    output_padding = int(extra and stride > 1)
    layer = nn.ConvTranspose2d(4, 6, 3, stride, padding, output_padding, groups, dilation=dilation)
    assert_same(layer, torch.randn(2, 4, 5, 4))


@few
@given(data=st.data())
def test_pooling_windows(data: st.DataObject) -> None:
    draw = data.draw
    kernel = draw(st.integers(2, 3))
    options: dict[str, Any] = {
        "stride": draw(st.integers(1, 4)),
        "padding": draw(st.integers(0, kernel // 2)),
        "ceil_mode": draw(st.booleans()),
    }
    size = draw(st.integers(6, 11))
    x = torch.randn(2, 2, size, 8)
    assert_same(lambda x: F.max_pool2d(x, kernel, **options), x)
    options["count_include_pad"] = draw(st.booleans())
    assert_same(lambda x: F.avg_pool2d(x, kernel, **options), x)


@pytest.mark.parametrize("include", [True, False])
def test_pooling_windows_in_openvino(include: bool) -> None:
    """A size rounded up, with a window that hangs over (9 wide) and one that torch leaves out (7 wide)."""

    def pools(x: Tensor) -> list[Tensor]:
        return [F.max_pool2d(x, 2, 2, 1, ceil_mode=True), F.avg_pool2d(x, 3, 2, 1, True, include)]

    assert_same(pools, IMAGE, runtimes=(in_openvino,))


@pytest.mark.parametrize("sizes", [(8, 7), (7, 8), (8, 8), (9, 7)])
@pytest.mark.parametrize("padding", [0, 1, (1, 0)])
@pytest.mark.parametrize("include", [True, False])
def test_the_mean_of_a_window_that_hangs_over_counts_padding_and_no_overhang(sizes, padding, include) -> None:
    """Of 8 or more the last window of three, in steps of two, reaches past the padding."""
    x = torch.rand(2, 3, *sizes) + 1.0
    assert_same(lambda x: F.avg_pool2d(x, 3, 2, padding, True, include), x, runtimes=BOTH)


POOLS: dict[str, Callable[..., Any]] = {
    "max_dilated": lambda x: F.max_pool2d(x, 3, 2, 1, dilation=2),
    "max_3d": lambda x: F.max_pool3d(x.unsqueeze(2), (1, 2, 3)),
    "max_1d": lambda x: F.max_pool1d(x.flatten(2), 3),
    "average_1d": lambda x: F.avg_pool1d(x.flatten(2), 3, padding=1),
    "divisor": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, divisor_override=5),
    "global": lambda x: F.adaptive_avg_pool2d(x, 1) + F.adaptive_max_pool2d(x, 1),
    "identity": lambda x: F.adaptive_avg_pool2d(x, (9, 7)) + F.adaptive_avg_pool2d(x, (None, 7)),
    "divisible": lambda x: F.adaptive_avg_pool2d(x, (3, 7)) + F.adaptive_max_pool2d(x, (3, 7)),
    "uneven": lambda x: F.adaptive_avg_pool2d(x, (4, 3)) + F.adaptive_max_pool2d(x, (4, 3)),
    "larger": lambda x: F.adaptive_avg_pool2d(x, (12, 10)),
    "adaptive_1d": lambda x: F.adaptive_avg_pool1d(x.flatten(2), 5),
}


@pytest.mark.parametrize("name", POOLS)
def test_pools(name: str) -> None:
    assert_same(POOLS[name], IMAGE)


@pytest.mark.parametrize("windows", [(3, 2), (None, 4)])
def test_a_number_of_windows_over_sizes_that_are_free(windows: tuple[int | None, int]) -> None:
    """Sizes that windows divide, sizes that they overlap in, and fewer places than windows."""

    class Windows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = x[:, :, ::2]
            means = F.adaptive_avg_pool2d(x, windows)
            return means if None in windows else means + F.adaptive_max_pool2d(x, windows)

    free = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    graph = capture(Windows(), ExampleInputs((IMAGE,)), dynamic_shapes=(free,))
    serialized = checked(to_onnx_model(graph))
    for height, width in ((12, 8), (9, 7), (21, 5), (4, 3)):
        x = torch.randn(3, 4, height, width)
        for run in BOTH:
            np.testing.assert_allclose(run(serialized, [x])[0], Windows()(x), atol=1e-5)


NORMS: dict[str, Callable[..., Any]] = {
    "batch": lambda x, c: F.batch_norm(x, c, c.abs() + 1, c, -c),
    "batch_without_affine": lambda x, c: F.batch_norm(x, c, c.abs() + 1),
    "layer": lambda x, c: F.layer_norm(x, (9, 7), torch.full((9, 7), 2.0), torch.full((9, 7), 0.3), 1e-3),
    "layer_without_affine": lambda x, c: F.layer_norm(x, (7,)),
    "group": lambda x, c: F.group_norm(x, 2, c, -c, 1e-3),
    "group_without_affine": lambda x, c: F.group_norm(x, 4),
    "group_of_rows": lambda x, c: F.group_norm(x.flatten(2), 2, c, c),
    "instance": lambda x, c: F.instance_norm(x, weight=c, bias=c),
    "rms": lambda x, c: F.rms_norm(x, (7,), torch.arange(7.0)),
    "own_statistics": lambda x, c: F.batch_norm(
        c.view(1, 4, 1).expand(1, 4, 3) * x[:1, :, 0, :3], None, None, c, training=True
    ),
}


@pytest.mark.parametrize("name", NORMS)
def test_normalization(name: str) -> None:
    channels = torch.tensor([0.5, -1.0, 2.0, 0.1])
    runtimes = BOTH if name in ("batch", "layer", "group", "rms") else BOTH[:1]
    assert_same(lambda x: NORMS[name](x, channels), IMAGE, tolerance=1e-4, runtimes=runtimes)


RESIZES: dict[str, Callable[..., Any]] = {
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "nearest_fraction": lambda x: F.interpolate(x, scale_factor=1.7),
    "nearest_size": lambda x: F.interpolate(x, size=(13, 5)),
    "nearest_exact": lambda x: F.interpolate(x, size=(13, 5), mode="nearest-exact"),
    "bilinear": lambda x: F.interpolate(x, scale_factor=(2, 3), mode="bilinear"),
    "bilinear_fraction": lambda x: F.interpolate(x, scale_factor=0.6, mode="bilinear"),
    "bilinear_size": lambda x: F.interpolate(x, size=(4, 15), mode="bilinear"),
    "bilinear_to_one": lambda x: F.interpolate(x, size=(1, 1), mode="bilinear"),
    "bilinear_corners": lambda x: F.interpolate(x, size=(4, 15), mode="bilinear", align_corners=True),
    "bicubic": lambda x: F.interpolate(x, size=(14, 9), mode="bicubic"),
    "linear_1d": lambda x: F.interpolate(x.flatten(2), scale_factor=2, mode="linear"),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x[:, :, :8, :6], 2),
    "channel_shuffle": lambda x: F.channel_shuffle(x, 2),
    "unfold": lambda x: F.unfold(x, (3, 2), padding=1, stride=2),
    "fold": lambda x: F.fold(F.unfold(x, 2, stride=1), (9, 7), 2),
    "grid_sample": lambda x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1).clamp(-1, 1), align_corners=False),
}


@pytest.mark.parametrize("name", RESIZES)
def test_resizing(name: str) -> None:
    runtimes = BOTH if name in ("nearest", "bilinear", "bilinear_size", "bicubic") else BOTH[:1]
    assert_same(RESIZES[name], IMAGE, tolerance=1e-4, runtimes=runtimes)


PRODUCTS: dict[str, Callable[..., Any]] = {
    "matmul": lambda x, y: x @ y.transpose(-1, -2),
    "matrix_vector": lambda x, y: x @ y[0, 0, 0],
    "linear_of_a_vector": lambda x, y: F.linear(x, y[0, 0, 0]).sum() + F.linear(x[:, 0, 0], y[0, 0, 1]),
    "bmm": lambda x, y: torch.bmm(x.flatten(0, 1), y.flatten(0, 1).transpose(1, 2)),
    "baddbmm": lambda x, y: torch.baddbmm(x[:, 0], x[:, 1], y[:, 1, :, :], beta=0.5, alpha=2),
    "addmm": lambda x, y: torch.addmm(x[0, 0, 0], x[:, 0, 0], y[0, 0], beta=2, alpha=0.5),
    "einsum": lambda x, y: torch.einsum("bhid,bhjd->bhij", x, y),
    "outer": lambda x, y: torch.outer(x[:, 0, 0, 0], y[0, 0, 0]),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str) -> None:
    assert_same(PRODUCTS[name], torch.randn(2, 2, 6, 6), torch.randn(2, 2, 6, 6), tolerance=1e-4)


@pytest.mark.parametrize("shape", [(2, 6), (2, 3, 6), (2, 1, 3, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_stores_its_weight_as_the_operator_reads_it(shape: tuple[int, ...], bias: bool) -> None:
    operators = assert_same(nn.Linear(6, 4, bias), torch.randn(*shape), runtimes=BOTH)
    assert operators == ({"Gemm": 1} if len(shape) == 2 else {"MatMul": 1, "Add": 1} if bias else {"MatMul": 1})


def test_tied_weight_is_in_the_file_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(30, 8)
            self.head = nn.Linear(8, 30, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.embedding(ids))

    model = Tied()
    assert_same(model, torch.randint(0, 30, (2, 5)))
    emitted = to_onnx_model(captured(model, torch.randint(0, 30, (2, 5))))
    assert [name in model.state_dict() for name in emitted.graph.initializers] == [True]


class Attention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, mask, **self.options)


@pytest.mark.parametrize("options", [{}, {"scale": 0.3}, {"is_causal": True}])
def test_attention(options: dict[str, Any]) -> None:
    query, key, value = (torch.randn(2, 4, length, 8) for length in (5, 7, 7))
    assert_same(Attention(**options), query, key, value, runtimes=BOTH)


def test_grouped_query_attention() -> None:
    query, key, value = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    assert_same(Attention(enable_gqa=True, is_causal=True), query, key, value)


def test_attention_masks() -> None:
    query, key, value = (torch.randn(2, 4, 5, 8) for _ in range(3))
    assert_same(Attention(), query, key, value, torch.randn(2, 1, 5, 5), runtimes=BOTH)
    seen = torch.rand(2, 1, 5, 5) > 0.4
    seen[0, 0, 3] = False  # a row that sees nothing gives zeros in torch, not the NaN of a plain softmax
    assert_same(Attention(), query, key, value, seen, runtimes=BOTH)


def test_a_mask_of_numbers_that_hides_everything() -> None:
    query, key, value = (torch.randn(2, 4, 5, 8) for _ in range(3))
    given = torch.randn(2, 1, 5, 5)
    given[0, 0, 3] = given[1, 0, 1, :4] = -torch.inf
    assert_same(Attention(), query, key, value, given, runtimes=BOTH)
    seen = torch.rand(2, 1, 5, 5) > 0.4
    seen[0, 0, 3] = False
    hidden = Call(
        lambda *x: F.scaled_dot_product_attention(*x[:3], torch.zeros(5, 5).masked_fill(x[3].logical_not(), -torch.inf))
    )
    assert_same(hidden, query, key, value, seen, runtimes=BOTH)


def test_a_mask_that_hides_a_finite_amount_is_only_added() -> None:
    def attention(x: Tensor, seen: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x, (1 - seen.to(x.dtype)) * -1e4)

    x, seen = torch.randn(2, 4, 5, 8), torch.ones(2, 1, 5, 5, dtype=torch.int64)
    assert not {"Max", "Greater"} & set(assert_same(attention, x, seen))


def test_a_sample_that_is_padding_throughout() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x, padded = torch.randn(2, 5, 8), torch.tensor([[True] * 5, [False] * 3 + [True] * 2])
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it gives NaN there
    try:
        assert_same(
            Call(lambda x, padded: attention(x, x, x, key_padding_mask=padded, need_weights=False)[0]), x, padded, runtimes=BOTH
        )
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def test_a_softmax_that_gives_zeros_where_all_is_hidden() -> None:
    x = torch.randn(2, 3, 5)
    x[0, 1] = x[1, :, 2] = -torch.inf
    assert_same(lambda x: torch.ops.aten._safe_softmax(x, -1) + torch.ops.aten._safe_softmax(x, 1), x, runtimes=BOTH)


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("affine", [False, True])
def test_a_norm_that_takes_the_statistics_of_its_input_in_inference(norm: str, affine: bool) -> None:
    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.BatchNorm2d(4, affine=affine)

        def forward(self, x: Tensor) -> Tensor:
            inner, clone = self.inner, torch.Tensor.clone
            statistics = clone(inner.running_mean), clone(inner.running_var)
            if norm == "instance":
                return F.instance_norm(x, *statistics, inner.weight, inner.bias, use_input_stats=True)
            return F.batch_norm(x, *statistics, inner.weight, inner.bias, training=True)

    assert_same(Norm().eval(), 3 * IMAGE + 1, tolerance=1e-4, runtimes=BOTH)


def test_a_mask_that_hides_nothing_is_left_out() -> None:
    def attention(x: Tensor) -> Tensor:
        seen = torch.ones(1, 1, 5, 5, dtype=torch.bool).expand(x.shape[0], 1, 5, 5)
        return F.scaled_dot_product_attention(x, x, x, seen)

    assert not {"Where", "Expand", "Shape"} & set(assert_same(attention, torch.randn(2, 4, 5, 8)))


def test_causal_attention_of_symbolic_length() -> None:
    assert_same(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), torch.randn(4, 8))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=4), nn.BatchNorm2d(8), nn.Hardswish())
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.stem(image)
        x = F.relu(x + self.body(x))
        return {"logits": self.head(x.mean((2, 3))), "features": x}


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, activation="gelu")
        self.tokens = nn.Embedding(20, 16)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 20)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.tokens(ids))).softmax(-1)


def test_whole_models() -> None:
    residual, transformer = Residual(), Transformer()
    assert_same(residual, torch.randn(2, 3, 12, 12), runtimes=BOTH)
    assert_same(transformer, torch.randint(0, 20, (2, 6)), runtimes=BOTH)


def test_names_are_those_of_the_model() -> None:
    model = to_onnx_model(captured(Residual(), torch.randn(2, 3, 12, 12)), metadata={"made_by": "a test"})
    assert [value.name for value in model.graph.inputs] == ["image"]
    assert [value.name for value in model.graph.outputs] == ["logits", "features"]
    assert {"stem.0.weight", "body.0.bias", "head.weight", "stem.1.running_mean"} <= set(model.graph.initializers)
    assert str(model.graph.inputs[0].shape) == "[batch,3,12,12]"
    assert str(model.graph.outputs[1].shape) == "[batch,8,6,6]"
    assert model.metadata_props == {"made_by": "a test"} and model.producer_name == "fxcompress"
    assert (model.opset_imports, model.ir_version) == ({"": 20}, 10)
    renamed = to_onnx_model(captured(Residual(), torch.randn(2, 3, 12, 12)), input_names=["x"], output_names=["a", "b"])
    assert [v.name for v in (*renamed.graph.inputs, *renamed.graph.outputs)] == ["x", "a", "b"]


def test_symbolic_sizes_are_constants_where_possible() -> None:
    graph_module = captured(Call(lambda x: x.view(x.shape[0], 4, 10).transpose(1, 2).flatten(1)), torch.randn(2, 5, 8))
    assert not {"Shape", "Concat", "Gather"} & {node.op_type for node in to_onnx_model(graph_module).graph}


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [{"size": (4, 11)}, {"scale_factor": 0.45}, {"size": (4, 4), "align_corners": True}])
def test_antialiased_resizing(mode: str, size: dict[str, Any]) -> None:
    assert_same(lambda x: F.interpolate(x, mode=mode, antialias=True, **size), IMAGE, runtimes=BOTH)


@pytest.mark.parametrize("dim", [0, 2, None])
def test_a_weight_of_direction_and_length(dim: int | None) -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 5, 3), dim=dim)
    assert_same(layer, IMAGE, runtimes=BOTH)


def test_integers_are_rectified() -> None:
    assert_same(lambda x: torch.relu(x), torch.randint(-5, 5, (2, 3)), runtimes=BOTH)


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 5, 5)])
@pytest.mark.parametrize("offset", [10, 100])
def test_a_group_norm_of_what_is_far_from_zero(shape, offset):
    torch.manual_seed(0)
    norm, x = nn.GroupNorm(3, 6), torch.randn(shape) * 0.1 + offset
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    serialized = checked(to_onnx_model(captured(norm.eval(), x)))
    expected = copy.deepcopy(norm).double()(x.double())
    for run in (in_onnxruntime, in_openvino):
        assert sqnr(expected, torch.from_numpy(run(serialized, (x,))[0]).double()) > 50
