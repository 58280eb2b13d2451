"""Zero points that files leave to biases and types, and ranges that may do without one."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from emission import checked, in_onnxruntime, in_openvino
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import nn

import fxcompress
from fxcompress import QuantizationSpec, passes
from fxcompress.emit.onnx import to_onnx_model
from fxcompress.execution.agreement import sqnr
from fxcompress.quantization import centring
from fxcompress.quantization.quantized import quantizer_calls, serves_weight
from fxcompress.quantizers.output_error import OutputError
from fxcompress.targets import find_target
from fxcompress.targets.faults import Fault


def compiled_of(model: nn.Module, x: torch.Tensor, estimator="min_max", **options) -> fxcompress.Compiled:
    torch.manual_seed(0)
    return fxcompress.compile(model.eval(), [passes.Quantize(**options), passes.Calibrate(estimator=estimator)], data=[x])


def read_zero_points(serialized: bytes) -> dict[str, int]:
    """The zero point of what each convolution reads, by its name."""
    graph = onnx.load_from_string(serialized).graph
    numbers = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    found = {node.name: makers[node.input[0]] for node in graph.node if node.op_type == "Conv"}
    return {name: int(numbers[read.input[2]]) if len(read.input) > 2 else 0 for name, read in found.items()}


@settings(max_examples=30)
@given(st.data())
def test_a_bias_has_what_a_zero_point_adds(data):
    rank = data.draw(st.integers(1, 3))
    groups = data.draw(st.sampled_from([1, 2]))
    kernel, stride, dilation = (data.draw(st.integers(1, most)) for most in (3, 2, 2))
    bits = data.draw(st.sampled_from([4, 8]))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    kind = [nn.Conv1d, nn.Conv2d, nn.Conv3d][rank - 1]
    layer = kind(4, 6, kernel, stride, dilation=dilation, groups=groups, bias=data.draw(st.booleans()))
    x = torch.randn(2, 4, *[7] * rank) + data.draw(st.floats(-1, 1))
    compiled = compiled_of(layer, x, weights=QuantizationSpec(bits=bits, channel_axis=0))
    plain, written = (
        checked(to_onnx_model(compiled.lower(), faults=faults)) for faults in ((), {Fault.BARE_SUMS, Fault.ZERO_POINTS})
    )
    assert any(read_zero_points(plain).values())
    assert not any(read_zero_points(written).values())
    wanted, found = (torch.from_numpy(in_onnxruntime(one, (x,))[0]) for one in (plain, written))
    assert sqnr(wanted, found) > 90


def test_padding_stays_zero():
    x = torch.randn(2, 4, 7, 7) + 0.5
    compiled = compiled_of(nn.Conv2d(4, 6, 3, padding=1), x)
    written = checked(to_onnx_model(compiled.lower(), faults=compiled.compilation.target.faults))
    assert any(read_zero_points(written).values())


class Residual(nn.Module):
    """What several layers read, and a sum beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 5, 1)

    def forward(self, x):
        x = self.first(x)
        return self.last(x + self.second(x) + self.third(x))


def test_readers_of_every_kind_read_the_same_numbers():
    torch.manual_seed(0)
    x = torch.randn(3, 3, 6, 6)
    compiled = compiled_of(Residual(), x)
    serialized = checked(to_onnx_model(compiled.lower(), faults=compiled.compilation.target.faults))
    for run in (in_onnxruntime, in_openvino):
        assert sqnr(compiled(x), torch.from_numpy(run(serialized, (x,))[0])) > 40


@pytest.mark.parametrize(("low", "signed"), [(-128.0, True), (-127.0, False), (0.0, False)])
def test_unsigned_bytes_with_their_middle_as_zero_point_are_signed(low, signed):
    x = torch.linspace(low, 255 + low, 256).reshape(1, 1, 16, 16) / 64
    compiled = compiled_of(nn.Conv2d(1, 2, 3, padding=1), x)
    serialized = checked(to_onnx_model(compiled.lower(), faults=compiled.compilation.target.faults))
    points = [one for one in onnx.load_from_string(serialized).graph.initializer if one.data_type == onnx.TensorProto.UINT8]
    assert bool(points) is not signed
    for run in (in_onnxruntime, in_openvino):
        assert sqnr(compiled(x), torch.from_numpy(run(serialized, (x,))[0])) > 90


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(0.1, 3)), min_size=1, max_size=6), st.integers(0, 99))
def test_centred_ranges_cost_no_more_than_is_allowed(kinds, seed):
    random, spec = torch.Generator().manual_seed(seed), QuantizationSpec(symmetric=False)
    statistics = {}
    for place, (shift, width) in enumerate(kinds):
        statistics[place] = OutputError().start(spec)
        x = torch.randn(500, generator=random) * width + shift
        statistics[place].update(x)
        statistics[place].weigh(x[None], torch.randn(1, 500, generator=random))
    ranges = {name: one.extremes for name, one in statistics.items()}
    before = sum(one.cost(ranges[name]) for name, one in statistics.items())
    wider = centring.centred(statistics, ranges, statistics)
    after = sum(one.cost((ranges | wider)[name]) for name, one in statistics.items())
    assert after <= (1 + centring.ALLOWED) * before * (1 + 1e-6)
    for name, (low, high) in wider.items():
        assert low <= ranges[name][0] * (1 - 1e-6) and high >= ranges[name][1] * (1 - 1e-6)
        _, zero_point = spec.fit(low, high, False)
        assert int(zero_point) == 128


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_ranges_are_centred_where_the_runtime_is_faster_by_it(target):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Hardswish(), nn.Conv2d(8, 4, 3, padding=1))
    images = torch.randn(40, 3, 8, 8).clamp(-2.1, 2.2)
    compiled = fxcompress.compile(model.eval(), fxcompress.defaults.post_training(), data=[images], target=target)
    points = [
        int(quantizer.zero_point)
        for node, quantizer in quantizer_calls(compiled).items()
        if not serves_weight(node) and not quantizer.spec.symmetric
    ]
    assert (points[0] == 128) is (target == "openvino") is (Fault.MIDDLES in find_target(target).faults)
    assert np.less(points[1:], 128).all()  # of Hardswish, which hardly falls below zero


@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(-4, 4), st.floats(-4, 4)), min_size=1, max_size=5),
    st.integers(2, 8),
)
def test_only_ranges_with_a_zero_point_are_centred_and_hold_what_they_held(drawn, bits):
    statistics, ranges = {}, {}
    for name, (per_tensor, symmetric, *ends) in enumerate(drawn):
        spec = SimpleNamespace(symmetric=symmetric, levels=lambda signed: (0, 2**bits - 1))
        statistics[name] = SimpleNamespace(per_tensor=per_tensor, spec=spec, cost=lambda span: 1.0)
        ranges[name] = tuple(torch.tensor(end) for end in sorted(ends))
    found = centring.centred(statistics, ranges, list(statistics))
    wanted = {
        name
        for name, one in statistics.items()
        if one.per_tensor and not one.spec.symmetric and ranges[name][0] < 0 < ranges[name][1]
    }
    assert set(found) == wanted
    for name, (low, high) in found.items():
        assert low <= ranges[name][0] * (1 - 1e-6) and high >= ranges[name][1] * (1 - 1e-6)
        assert torch.isclose(-low / 2 ** (bits - 1), high / (2 ** (bits - 1) - 1))
