"""Quantizers whose range is trained: their grids and gradients, however they are computed."""

import contextlib
import copy
import math
import os

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fxcompress.quantizers import native, straight_through
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.quantizers.spec import QuantizationSpec
from fxcompress.quantizers.trainable import TrainableQuantizer, grid_of

TRITON = None
if os.environ.get("TRITON_INTERPRET"):  # on CPUs, see conftest.py
    from fxcompress.quantizers.triton_kernels import TritonKernel

    TRITON = TritonKernel()

SHAPE = (4, 6, 3)


@st.composite
def quantizers(draw):
    """A trainable quantizer of a tensor of `SHAPE`, with random parameters."""
    symmetric = draw(st.booleans())
    spec = QuantizationSpec(
        bits=draw(st.integers(2, 8)),
        symmetric=symmetric,
        signed=draw(st.booleans()),
        narrow=symmetric and draw(st.booleans()),
        channel_axis=(axis := draw(st.sampled_from([None, 0, 1]))),
        group_size=None if axis is None else draw(st.sampled_from([None, 2, 5])),
    )
    start = Quantizer(spec, SHAPE)
    start.set_range(-torch.ones_like(start.scale), torch.ones_like(start.scale))
    quantizer = TrainableQuantizer(start)
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    with torch.no_grad():
        quantizer.input_extent.uniform_(0.1, 3, generator=random)
        quantizer.input_extent.mul_(torch.randn(quantizer.input_extent.shape, generator=random).sign())
        if quantizer.input_low is not None:
            quantizer.input_low.uniform_(-2, 0.2, generator=random)
    return quantizer


@st.composite
def quantizers_and_inputs(draw):
    """A quantizer, and values on both sides of each level and beyond the ends, none of them half-way between two."""
    quantizer = draw(quantizers())
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    low, high = quantizer.levels
    levels = torch.randint(low - 4, high + 5, SHAPE, generator=random)
    offsets = torch.empty(SHAPE).uniform_(0.02, 0.4, generator=random) * torch.randn(SHAPE, generator=random).sign()
    scale, zero_point = quantizer.broadcast(torch.Size(SHAPE))
    return quantizer, (levels + offsets - zero_point) * scale, torch.randn(SHAPE, generator=random)


def published(quantizer, x, gradient):
    """The result and the gradients of x, low and extent, in float64: NNCF's formulas, with a mask for each case."""
    scale, zero_point = (v.double() for v in quantizer.broadcast(x.shape))
    x, gradient = x.double(), gradient.double()
    low, high = quantizer.levels
    bottom, top = (low - zero_point) * scale, (high - zero_point) * scale
    y = (((x.clamp(bottom, top) - bottom) / scale).round() * scale) + bottom
    below, above = (x < bottom).double(), (x > top).double()
    inside = 1 - below - above
    ratio = low / high if quantizer.spec.symmetric else 0.0
    of_extent = gradient * (inside * (y - x) / (top - bottom) + above + below * ratio)
    return y, gradient * inside, gradient * (above + below), of_extent


def summed(quantizer, values):
    """`values` added up for each scale."""
    spec = quantizer.spec
    if spec.channel_axis is None:
        return values.sum()
    if spec.group_size is None:
        return values.movedim(spec.channel_axis, 0).flatten(1).sum(1)
    return torch.cat(
        [part.sum(spec.scale_axis, keepdim=True) for part in values.split(spec.group_size, spec.scale_axis)], spec.scale_axis
    )


@contextlib.contextmanager
def computed_by(what):
    """In torch's operations, on the whole or on blocks of some elements, or in a kernel in C or Triton."""
    loaded, block = native.load(), straight_through.BLOCK
    native.loaded = {"C": loaded, "Triton": TRITON}.get(what)
    straight_through.BLOCK = 11 if what == "blocks" else block
    try:
        yield
    finally:
        native.loaded, straight_through.BLOCK = loaded, block


def laid_out(x, order):
    """`x`, its dimensions in another order in memory."""
    return x.permute(order).contiguous().permute(torch.tensor(order).argsort().tolist())


orders = st.permutations(range(3))
WAYS = ["whole", "blocks", "C", *(["Triton"] if TRITON else [])]
ways = st.sampled_from(WAYS)


@given(quantizers_and_inputs(), ways, orders, orders)
def test_the_gradients_are_those_of_the_formulas(example, way, order, other):
    quantizer, x, gradient = example
    x = laid_out(x, order).requires_grad_()
    with computed_by(way):
        y = quantizer(x)
        y.backward(laid_out(gradient, other))
    expected, of_x, of_low, of_extent = published(quantizer, x.detach(), gradient)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x.grad.double(), of_x)
    shape = quantizer.input_extent.shape
    of_extent = summed(quantizer, of_extent).reshape(shape) * quantizer.input_extent.sign()
    torch.testing.assert_close(quantizer.input_extent.grad.double(), of_extent, rtol=1e-3, atol=1e-4)
    if quantizer.input_low is not None:
        of_low = summed(quantizer, of_low).reshape(shape)
        torch.testing.assert_close(quantizer.input_low.grad.double(), of_low, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(TRITON is None, reason="Triton is not installed")
@given(quantizers(), orders)
def test_triton_takes_one_scale_and_one_an_index_of_any_axis_however_a_tensor_lies_in_memory(quantizer, order):
    x = laid_out(torch.zeros(SHAPE), order)
    scale, _ = quantizer.broadcast(x.shape)
    assert TRITON.takes(x, scale) == (quantizer.spec.group_size is None)
    assert not TRITON.takes(x.double(), scale) and not TRITON.takes(x[..., ::2], scale)


@given(quantizers_and_inputs(), ways)
def test_a_value_with_gaps_in_memory_is_rounded_as_without(example, way):
    quantizer, x, gradient = example
    apart, dense = torch.stack((x, x), -1)[..., 0].requires_grad_(), x.clone().requires_grad_()
    with computed_by(way):
        y = quantizer(apart)
        y.backward(gradient)
        assert torch.equal(y, quantizer(dense))
    quantizer(dense).backward(gradient)
    assert torch.equal(apart.grad, dense.grad)


@given(st.integers(0, 2**16), st.integers(1, 9), st.sampled_from([(0, 255), (-128, 127), (0, 15), (-2, 1)]), st.booleans())
def test_the_kernel_has_the_grid_of_the_formulas(seed, count, levels, symmetric):
    random = torch.Generator().manual_seed(seed)
    low, extent = ((torch.randn(count, generator=random) * 3).round(decimals=1) for _ in range(2))  # ends of zero as well
    low = None if symmetric else low
    with computed_by("C"):
        found = grid_of(low, extent, *levels)
    with computed_by("whole"):
        expected = grid_of(low, extent, *levels)
    assert all(one is other is None or torch.equal(one, other) for one, other in zip(found, expected, strict=True))


BOUNDS = st.sampled_from([(0.0, math.inf), (0.0, 1.0), (-1.0, 1.0), (-math.inf, 0.5)])


@given(quantizers_and_inputs(), ways, orders, BOUNDS, st.booleans())
def test_a_quantizer_clamps_as_the_activation_before_it_would(example, way, order, bounds, twice):
    quantizer, x, gradient = example
    x[0, 0, :2] = torch.tensor(bounds).clamp(-9, 9)  # at the ends there is no gradient
    found = []
    with computed_by(way):
        for clamps in False, True:
            source = laid_out(x, order).requires_grad_()
            y = quantizer(source, within=bounds) if clamps else quantizer(F.hardtanh(source, *bounds))
            learned = [source, *quantizer.parameters()]
            found.append([y, *torch.autograd.grad(y, learned, gradient, create_graph=twice, materialize_grads=True)])
    assert all(torch.equal(one, other) for one, other in zip(*found))


@given(quantizers_and_inputs(), st.floats(0, 10))
def test_the_multiplier_is_that_of_the_range_alone(example, multiplier):
    quantizer, x, gradient = example
    twin = copy.deepcopy(quantizer)
    twin.learning_rate_multiplier = multiplier
    sources = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    for one, source in zip((quantizer, twin), sources):
        one(source).backward(gradient)
    assert torch.equal(sources[0].grad, sources[1].grad)
    for plain, scaled in zip(quantizer.parameters(), twin.parameters()):
        torch.testing.assert_close(scaled.grad, plain.grad * multiplier)


@given(quantizers_and_inputs(), ways, orders)
def test_the_simulation_equals_the_integer_operations_bit_for_bit(example, way, order):
    quantizer, x, _ = example
    x = laid_out(x, order)
    grid = quantizer.scale, quantizer.zero_point.to(torch.int32), quantizer.spec.scale_axis
    block = quantizer.spec.group_size or 0
    integers = quantizer.integers(x).to(torch.int32)
    restored = torch.ops.fxcompress.dequantize(integers, *grid, quantizer.dtype, block)
    with computed_by(way):
        with torch.no_grad():
            assert torch.equal(restored, quantizer(x))
        assert torch.equal(quantizer(x.requires_grad_()).detach(), restored)


@given(quantizers())
def test_zero_is_on_the_grid_and_the_range_is_widened_at_one_end_only(quantizer):
    assert torch.equal(quantizer(torch.zeros(SHAPE)).detach(), torch.zeros(SHAPE))
    scale, zero_point = quantizer.grid()
    low, high = quantizer.levels
    extent = quantizer.input_extent.detach().abs().reshape(scale.shape)
    if quantizer.input_low is None:
        torch.testing.assert_close(scale * high, extent)
        return
    bottom, top = (low - zero_point) * scale, (high - zero_point) * scale
    start = quantizer.input_low.detach().reshape(scale.shape)
    wanted = start.clamp(max=0), (start + extent).clamp(min=0)
    slack = 1e-5 * (wanted[1] - wanted[0])
    inner = (zero_point != low) & (zero_point != high)
    assert ((bottom <= wanted[0] + slack) & (top >= wanted[1] - slack))[inner].all()
    kept = torch.minimum((bottom - wanted[0]).abs(), (top - wanted[1]).abs())
    assert (kept <= slack)[inner].all()
    torch.testing.assert_close((top - bottom)[~inner], (wanted[1] - wanted[0])[~inner])


@given(quantizers())
def test_training_starts_from_the_range_that_was_there(quantizer):
    start = Quantizer(quantizer.spec, SHAPE)
    start.set_grid(quantizer.scale, quantizer.zero_point, quantizer.signed)
    again = TrainableQuantizer(start)
    torch.testing.assert_close(again.scale, start.scale)
    assert torch.equal(again.zero_point, start.zero_point)
    assert again.levels == start.levels


@pytest.mark.parametrize("spec", [QuantizationSpec(symmetric=False), QuantizationSpec(signed=True, channel_axis=0)])
@pytest.mark.parametrize("threads", [1, 2])
def test_kernels_and_torch_agree_on_large_tensors(spec, threads):
    torch.manual_seed(0)
    x, gradient = torch.randn(3, 50_000), torch.randn(3, 50_000)
    start = Quantizer(spec, x.shape)
    start.set_range(torch.full_like(start.scale, -2.0), torch.full_like(start.scale, 1.5))
    found = []
    torch.set_num_threads(threads)
    try:
        for way in WAYS:
            quantizer, source = TrainableQuantizer(start), x.clone().requires_grad_()
            with computed_by(way):
                result = quantizer(source)
                result.backward(gradient)
            found.append([result.detach(), source.grad, *(p.grad for p in quantizer.parameters())])
    finally:
        torch.set_num_threads(1)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0][:2], other))
        torch.testing.assert_close(found[0][2:], other[2:], rtol=1e-4, atol=1e-3)


def test_nothing_is_left_of_nothing():
    start = Quantizer(QuantizationSpec())
    start.set_range(torch.tensor(-1.0), torch.tensor(1.0))
    x = torch.zeros(0, 3, requires_grad=True)
    TrainableQuantizer(start)(x).sum().backward()
    assert x.grad.shape == (0, 3)


@given(quantizers_and_inputs(), ways, st.sampled_from([torch.bfloat16, torch.float16]))
def test_half_precision_is_rounded_in_single(example, way, dtype):
    quantizer, x, gradient = example
    x, gradient = x.to(dtype), gradient.to(dtype)
    single, half = x.float().requires_grad_(), x.clone().requires_grad_()
    expected = quantizer(single)
    of_grid = torch.autograd.grad(expected, [single, *quantizer.parameters()], gradient.float())
    with computed_by(way):
        found = quantizer(half)
        grads = torch.autograd.grad(found, [half, *quantizer.parameters()], gradient)
    assert found.dtype == grads[0].dtype == dtype and torch.equal(grads[0], of_grid[0].to(dtype))
    unit = torch.finfo(dtype).eps if way == "Triton" else 0.0  # its interpreter cuts bfloat16 off, where a GPU rounds
    torch.testing.assert_close(found, expected.to(dtype), rtol=unit, atol=0.0)
    torch.testing.assert_close(grads[1:], of_grid[1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (2, 1, 0)], ids=str)
def test_torch_compiles_a_quantizer_as_one_graph_however_its_input_lies_in_memory(symmetric, order):
    start = Quantizer(QuantizationSpec(symmetric=symmetric, channel_axis=1), SHAPE)
    start.set_range(torch.full_like(start.scale, -1.5), torch.full_like(start.scale, 1.0))
    model, x = TrainableQuantizer(start), torch.randn(SHAPE)
    x = x.permute(order).contiguous().permute(sorted(range(3), key=order.__getitem__))
    twin = copy.deepcopy(model)
    for one in (model, torch.compile(twin, backend="aot_eager", fullgraph=True)):
        one(x).square().sum().backward()
    for expected, found in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(found.grad, expected.grad)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_a_value_within_the_bound_of_an_end_is_inside_and_one_beyond_it_is_not(symmetric, way):
    start = Quantizer(QuantizationSpec(symmetric=symmetric, signed=True if symmetric else None))
    start.set_range(torch.tensor(-128.0 if symmetric else -100.0), torch.tensor(127.0 if symmetric else 155.0))
    assert float(start.scale) == 1.0
    low, high = (-128.0, 127.0) if symmetric else (-100.0, 155.0)
    bound, steps = straight_through.BOUND, [-2.0, -0.5, 0.5, 2.0]
    x = torch.tensor([end + step * bound for end in (low, high) for step in steps], requires_grad=True)
    with computed_by(way):
        TrainableQuantizer(start)(x).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]


numbers = st.floats(width=32, allow_nan=True, allow_infinity=True)


@settings(max_examples=200)
@given(low=numbers, extent=numbers, symmetric=st.booleans(), bits=st.integers(2, 8))
def test_a_range_that_a_checkpoint_may_bring_gives_a_grid_and_a_usual_one_may_come(low, extent, symmetric, bits):
    """Whatever passes the check rounds numbers to numbers, on a grid that a file can hold."""
    start = Quantizer(QuantizationSpec(bits=bits, symmetric=symmetric))
    start.set_range(torch.tensor(-1.0), torch.tensor(1.0))
    quantizer = TrainableQuantizer(start)
    state = {**quantizer.state_dict(), "input_extent": torch.tensor([extent])}
    if not symmetric:
        state["input_low"] = torch.tensor([low])
    problem = quantizer.problem_with(state)
    usual = 1e-6 < abs(extent) < 1e6 and (symmetric or abs(low) < 1e6)
    assert not (usual and problem)
    if problem is None:
        quantizer.load_state_dict(state)
        lowest, highest = quantizer.levels
        assert 0 < quantizer.scale < math.inf and lowest <= quantizer.zero_point <= highest
        assert quantizer(torch.tensor([-1e3, -1.0, 0.0, 1e-9, 2.5])).isfinite().all()
