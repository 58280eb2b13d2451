"""Geometries of integer convolutions that a runtime computes wrongly, on some CPUs, run as the simulation does."""

from __future__ import annotations

import pytest
import torch
from emission import in_openvino
from test_faults import agree, compile_here
from torch import nn
from torch.nn import functional as F

import fxcompress
from fxcompress import QuantizationSpec, passes
from fxcompress.execution.agreement import sqnr

# Sizes of the input; channels, filters and what else `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d` takes.
SINGLE_COLUMNS = [
    ((7, 7), (1, 3, (2, 3)), {"stride": (1, 3), "dilation": (1, 2)}),
    ((38, 4), (2, 3, (5, 4)), {"stride": (4, 2)}),
    ((29, 4), (17, 3, (4, 2)), {"stride": (4, 3), "dilation": (3, 1)}),
    ((9, 3), (16, 24, 3), {"stride": 2, "padding": (1, 0)}),
    ((9, 2), (16, 24, 3), {"stride": 2, "padding": 1}),
    ((9, 4), (16, 24, 3), {"stride": 2, "padding": (0, 0)}),
    ((12, 9), (1, 17, (2, 5)), {"stride": (1, 2), "padding": (0, 2), "dilation": (3, 3)}),
    ((10, 2), (3, 24, (5, 2)), {"stride": (1, 2), "dilation": (2, 1), "groups": 3}),
    ((8, 23, 8), (16, 16, (3, 4, 3)), {"stride": (2, 2, 4), "padding": (0, 2, 0), "dilation": (1, 3, 3)}),
]
PADDED_OUTPUTS = [
    ((1, 9), (8, 8, 2), {"stride": (1, 3), "padding": (2, 1), "dilation": (3, 2)}),
    ((22, 1), (1, 1, (7, 1)), {"stride": (3, 2), "padding": (0, 1), "dilation": (3, 2)}),
    ((1, 2), (8, 4, (5, 2)), {"stride": (2, 1), "padding": (2, 1), "dilation": (1, 3), "groups": 2}),
    ((10, 17), (5, 40, (2, 1)), {"stride": (3, 2), "padding": (2, 0), "groups": 5}),
    ((18, 1), (16, 2, (4, 1)), {"stride": (3, 4), "padding": (0, 1), "dilation": (3, 1), "groups": 2}),
    ((1, 5, 4), (4, 15, (4, 4, 3)), {"padding": (3, 3, 0), "dilation": (2, 2, 1)}),
]
WIDE_GROUPS = [
    ((32, 16), (5, 85, (1, 4)), {"stride": (4, 3), "padding": (1, 0), "groups": 5}),
    ((15, 8), (4, 34, 2), {"stride": 4, "padding": (2, 0), "dilation": (2, 1), "groups": 2}),
    ((16, 16), (85, 165, (1, 7)), {"stride": (1, 4), "padding": (0, 1), "dilation": (3, 1), "groups": 5}),
    ((14,), (5, 165, 4), {"padding": 3, "groups": 5}),
    ((11,), (3, 99, 3), {"groups": 3}),
]
SHALLOW_VOLUMES = [
    ((1, 10, 7), (2, 17, (2, 5, 3)), {"stride": (2, 2, 1), "padding": (2, 1, 0), "dilation": (2, 2, 1)}),
    ((1, 8, 3), (3, 8, (2, 4, 3)), {"padding": (1, 3, 1), "dilation": (1, 3, 1)}),
    ((1, 12, 4), (1, 64, (3, 4, 2)), {"stride": (2, 3, 2), "padding": (1, 2, 0)}),
]
LONG_ROWS = [
    ((60,), (32, 32, 16), {"padding": 8, "groups": 4}),
    ((60,), (8, 8, 16), {}),
    ((61,), (4, 7, 32), {"padding": 3, "stride": 2}),
    ((60,), (48, 4, 8), {"groups": 2}),
    ((47,), (40, 40, 16), {"padding": 1, "groups": 2, "stride": 3}),
    ((60,), (28, 5, 16), {}),
    ((60,), (8, 8, 16), {"dilation": 2}),
    ((20, 20), (32, 32, (3, 16)), {"padding": (1, 7), "groups": 4}),
    ((20, 19), (16, 3, 8), {"padding": 4, "stride": 2}),
    ((5, 6, 21), (12, 9, (2, 1, 16)), {"padding": (0, 1, 2)}),
    ((140,), (1, 8, 128), {}),
    ((140,), (3, 8, 64), {}),
]


GEOMETRIES = SINGLE_COLUMNS + PADDED_OUTPUTS + WIDE_GROUPS + SHALLOW_VOLUMES + LONG_ROWS


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("sizes", "layer", "options"), GEOMETRIES)
def test_a_geometry_is_computed_as_it_is_simulated(sizes, layer, options, bias):
    bias = bias or (sizes, layer, options) in PADDED_OUTPUTS  # without one, all may be zero
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(sizes) - 1]
    x = torch.randn(5, layer[0], *sizes, generator=torch.Generator().manual_seed(0))
    agree(compile_here(kind(*layer, bias=bias, **options), x), x)


@pytest.mark.parametrize("kernel", [(3, 1), (1, 1), (1, 3)])
@pytest.mark.parametrize("padding", [(0, 1), (1, 1)])
def test_a_transposed_convolution_may_crop_as_much_as_its_kernel_spans(kernel, padding):
    x = torch.randn(5, 16, 5, 4, generator=torch.Generator().manual_seed(0))
    layer = nn.ConvTranspose2d(16, 9, kernel, padding=padding, dilation=(2, 1))
    agree(compile_here(layer, x, activations=QuantizationSpec(signed=True)), x)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 3, 1), (3, 2, 1), (4, 2, 1)])
@pytest.mark.parametrize("between", [nn.Identity, nn.ReLU6, lambda: nn.Upsample(scale_factor=2)])
def test_a_transposed_convolution_of_signed_values_strides(kernel, stride, padding, between):
    x = torch.randn(5, 8, 6, 2, generator=torch.Generator().manual_seed(0))
    layers = nn.Conv2d(8, 8, 1), between(), nn.ConvTranspose2d(8, 17, kernel, stride=stride, padding=padding)
    agree(compile_here(nn.Sequential(*layers), x, activations=QuantizationSpec(signed=True)), x)


BEHIND = {
    "another convolution": lambda x, layer: layer(x),
    "a norm": lambda x, layer: F.instance_norm(x),
    "sums along rows": lambda x, layer: x.cumsum(2),
    "a layer and a norm": lambda x, layer: F.instance_norm(layer(x)),
    "factors": lambda x, layer: x * torch.linspace(0.5, 1.5, 8)[:, None, None],
}
MOVED = {
    "nowhere": lambda x: x,
    "cut": lambda x: x[:, :, 1:],
    "swapped": lambda x: x.transpose(2, 3),
    "pooled": lambda x: F.max_pool2d(x, 2),
}


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
@pytest.mark.parametrize("moved", MOVED.values(), ids=MOVED)
def test_signed_values_move_to_a_convolution_somewhere_behind_a_join(behind, moved):
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(8, 8, 3, bias=False), nn.Conv2d(8, 5, 3)

        def forward(self, x):
            return self.last(moved(behind(torch.cat([x[:, :4], x[:, 4:].tanh()], 1), self.first)))

    x = torch.randn(4, 8, 8, 8)
    agree(compile_here(Joined(), x, activations=QuantizationSpec(signed=True)), x)


AVERAGED = {
    "leaky ReLU": F.leaky_relu,
    "clip": lambda y: y.clamp(-0.5, 0.5),
    "norm": lambda y: F.batch_norm(y, *[torch.linspace(0.5, 1.5, 8)] * 4),
    "factors": lambda y: y * torch.linspace(0.5, 1.5, 8)[:, None, None],
    "moved": lambda y: F.leaky_relu(y.transpose(2, 3)),
    "nothing": lambda y: y,
}


@pytest.mark.parametrize("pool", [nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(3)])
@pytest.mark.parametrize("operation", AVERAGED.values(), ids=AVERAGED)
def test_an_average_of_bytes_is_not_rounded_to_bytes(pool, operation):
    class Averaged(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool, self.layer = pool, nn.Conv2d(8, 5, 1)

        def forward(self, x):
            return self.layer(operation(self.pool(x)))

    x = torch.randn(4, 8, 12, 12)
    compiled = compile_here(Averaged(), x)
    (found,) = in_openvino(agree(compiled, x), (x,))
    assert sqnr(compiled(x), torch.from_numpy(found)) > 55  # 45 at best where it is rounded


@pytest.mark.parametrize("weights", [{"bits": 4, "signed": True}, {"symmetric": False}, {"signed": True, "narrow": True}])
@pytest.mark.parametrize("activations", [{"symmetric": False}, {"symmetric": True, "signed": True}])
def test_rows_of_any_grid_may_fill_registers_in_two_layers_of_one_weight(weights, activations):
    layer = nn.Conv1d(8, 8, 16, padding=8)
    x = torch.randn(5, 8, 40, generator=torch.Generator().manual_seed(0))
    specs = {"weights": QuantizationSpec(**weights), "activations": QuantizationSpec(**activations)}
    agree(compile_here(nn.Sequential(layer, nn.ReLU(), layer), x, **specs), x)


PERMUTED = {
    "alone": lambda x: x,
    "under a step on elements": torch.relu,
    "padded": lambda x: F.pad(x, (1, 1, 1, 1)),
    "once more": lambda x: x[:, [1, 2, 3, 4, 5, 0]],
}


@pytest.mark.parametrize("then", PERMUTED)
@pytest.mark.parametrize("order", [[1, 2, 0, 4, 5, 3], [1, 2, 0, -2, -1, -3], [5, 4, 3, 2, 1, 0]])
@pytest.mark.parametrize("stack", [[], None], ids=["float", "int8"])
def test_permuted_channels_in_front_of_a_convolution(tmp_path, stack, order, then):
    class Permuted(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(6, 4, 3)

        def forward(self, x):
            return self.convolution(PERMUTED[then](x[:, order]))

    torch.manual_seed(0)
    compiled = fxcompress.compile(Permuted(), stack, data=[torch.randn(4, 6, 8, 8)])
    compiled.to_onnx(tmp_path / "model.onnx", verify="strict")
    compiled.to_openvino(tmp_path / "model.xml", verify="strict")


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("weights", "bias"), [(1.0, 1.0), (1e-7, 1.0), (1.0, 1e9)])
def test_biases_of_transposed_convolutions_whose_groups_share_scales(groups, weights, bias):
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(8, 8, 2, 2, groups=groups)
    with torch.no_grad():
        layer.weight.mul_(weights)
        layer.bias.copy_(bias * torch.linspace(-1, 1, 8))
    agree(compile_here(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), layer), torch.randn(4, 3, 8, 8)), torch.randn(4, 3, 8, 8))


def test_an_average_of_what_cancels():
    """Its steps are those of rounding errors, which no ratio of scales in onnxruntime's kernel holds."""
    model = nn.Sequential(nn.InstanceNorm2d(1, affine=True), nn.AdaptiveAvgPool2d(1), nn.Linear(1, 3))
    x = torch.randn(5, 1, 1, 2)
    agree(compile_here(model, x), x)


def test_float_weights_of_what_is_quantized():
    model, x = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 1)), torch.randn(8, 2, 6, 6)
    stack = [passes.Quantize(), passes.Calibrate(), passes.TrainQuantizers(weights_start_epoch=1)]
    agree(fxcompress.compile(model.eval(), stack, data=[x]), x)
