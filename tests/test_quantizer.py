"""The laws of the integer grid, for every grid that a spec can name."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fxcompress.errors import CalibrationError, InputError
from fxcompress.quantizers.ops import INTEGER_RANGES
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.quantizers.spec import QuantizationSpec

specs = st.builds(
    QuantizationSpec, bits=st.integers(2, 8), symmetric=st.booleans(), signed=st.sampled_from([None, True, False])
)
bounds = st.tuples(st.floats(-1e4, 1e4, width=32), st.floats(-1e4, 1e4, width=32)).map(sorted)


def quantizer_for(spec: QuantizationSpec, low: float, high: float) -> Quantizer:
    quantizer = Quantizer(spec)
    quantizer.set_range(torch.tensor(low), torch.tensor(high))
    return quantizer


@given(specs, bounds, st.integers(0, 2**32 - 1))
def test_quantizing_twice_changes_nothing_and_zero_stays_zero(spec, span, seed):
    quantizer = quantizer_for(spec, *span)
    x = torch.empty(200).uniform_(2 * span[0] - 1, 2 * span[1] + 1, generator=torch.Generator().manual_seed(seed))
    once = quantizer(x)
    assert torch.equal(quantizer(once), once)
    assert quantizer(torch.zeros(1)).item() == 0.0


@given(specs, bounds, st.integers(0, 2**32 - 1))
def test_the_error_inside_the_range_is_at_most_half_a_step(spec, span, seed):
    quantizer = quantizer_for(spec, *span)
    low, high = ((level - quantizer.zero_point) * quantizer.scale for level in quantizer.levels)
    x = torch.empty(200).uniform_(float(low), float(high), generator=torch.Generator().manual_seed(seed))
    assert ((quantizer(x) - x).abs() <= 0.501 * quantizer.scale + 1e-6).all()


@given(specs.filter(lambda s: s.signed is None), bounds)
def test_the_grid_covers_the_range(spec, span):
    quantizer = quantizer_for(spec, *span)
    low, high = ((level - quantizer.zero_point) * quantizer.scale for level in quantizer.levels)
    slack = 0.5 * float(quantizer.scale) + 1e-5 * max(map(abs, span))
    assert low <= min(span[0], 0) + slack and high >= max(span[1], 0) - slack


@given(specs, bounds, st.integers(0, 2**32 - 1))
def test_the_simulation_equals_the_integer_operations_bit_for_bit(spec, span, seed):
    quantizer = quantizer_for(spec, *span)
    x = torch.empty(3, 50).uniform_(2 * span[0] - 1, 2 * span[1] + 1, generator=torch.Generator().manual_seed(seed))
    integers = quantizer.integers(x)
    low, high = INTEGER_RANGES[quantizer.dtype]
    assert integers.min() >= low and integers.max() <= high
    zero_point = quantizer.zero_point.to(torch.int32)
    restored = torch.ops.fxcompress.dequantize(integers.to(torch.int32), quantizer.scale, zero_point, None, quantizer.dtype)
    assert torch.equal(restored, quantizer(x))


@given(st.integers(0, 2), st.integers(0, 2**32 - 1))
def test_per_channel_is_per_tensor_on_every_channel(axis, seed):
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(seed))
    others = [a for a in range(3) if a != axis]
    whole = Quantizer(QuantizationSpec(signed=True, narrow=True, channel_axis=axis), x.shape)
    whole.set_range(x.amin(others), x.amax(others))
    for index, part in enumerate(x.unbind(axis)):
        one = quantizer_for(QuantizationSpec(signed=True, narrow=True), part.min().item(), part.max().item())
        assert torch.equal(whole(x).select(axis, index), one(part))


def test_a_quantizer_without_a_range_passes_its_input_on():
    x = torch.randn(4)
    assert Quantizer(QuantizationSpec())(x) is x


def test_a_range_of_zeros_is_usable():
    assert torch.equal(quantizer_for(QuantizationSpec(symmetric=False), 0.0, 0.0)(torch.zeros(3)), torch.zeros(3))


def test_the_gradient_passes_where_nothing_saturates():
    quantizer = quantizer_for(QuantizationSpec(), -1.0, 1.0)
    x = torch.tensor([-3.0, -0.5, 0.0, 0.7, 3.0], requires_grad=True)
    quantizer(x).backward(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 0.0]


@pytest.mark.parametrize("span", [(float("nan"), 1.0), (-1.0, float("inf"))])
def test_a_range_must_be_finite(span):
    with pytest.raises(CalibrationError):
        quantizer_for(QuantizationSpec(), *span)


@pytest.mark.parametrize("options", [{"bits": 1}, {"bits": 9}, {"narrow": True, "symmetric": False}])
def test_impossible_grids_are_refused(options):
    with pytest.raises(InputError):
        QuantizationSpec(**options)


@given(st.permutations(range(4)), st.lists(st.integers(1, 3), min_size=4, max_size=4), st.booleans())
def test_the_result_lies_in_memory_as_that_of_the_lowered_operations(order, shape, apart):
    x = torch.randn(*(shape[axis] for axis in order), 2 if apart else 1)[..., 0].permute(torch.tensor(order).argsort().tolist())
    quantizer = Quantizer(QuantizationSpec(symmetric=False))
    quantizer.set_range(torch.tensor(-3.0), torch.tensor(3.0))
    grid = quantizer.scale, quantizer.zero_point.to(torch.uint8), None, "uint8"
    lowered = torch.ops.fxcompress.dequantize(torch.ops.fxcompress.quantize(x, *grid), *grid)
    assert quantizer(x).stride() == lowered.stride()


@pytest.mark.parametrize(
    ("spec", "signed", "levels"),
    [
        (QuantizationSpec(), True, (-128, 127)),
        (QuantizationSpec(), False, (0, 255)),
        (QuantizationSpec(narrow=True), True, (-127, 127)),
        (QuantizationSpec(narrow=True), False, (0, 254)),
        (QuantizationSpec(bits=4), True, (-8, 7)),
        (QuantizationSpec(bits=4, narrow=True), True, (-7, 7)),
        (QuantizationSpec(bits=2), False, (0, 3)),
    ],
)
def test_the_levels_of_a_grid(spec, signed, levels):
    assert spec.levels(signed) == levels


TINY = float(torch.finfo(torch.float32).tiny)


@pytest.mark.parametrize(
    ("high", "scale"), [(127 * 1e-30, 1e-30), (127 * 4 * TINY, 4 * TINY), (127 * TINY, 1.0), (TINY, 1.0), (0.0, 1.0)]
)
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_scale_is_one_where_it_could_not_be_divided_by_and_else_as_small_as_the_values(high, scale, symmetric):
    bound = torch.tensor([high, 254.0 if symmetric else 510.0])
    spec = QuantizationSpec(symmetric=symmetric, channel_axis=0)
    low = torch.zeros(2) if symmetric else -bound
    found, _ = spec.fit(low, bound, True) if symmetric else spec.fit(low, bound, False)
    width = 127 if symmetric else 127.5
    wanted = scale if scale == 1 else high / width
    torch.testing.assert_close(found, torch.tensor([wanted, 2.0 if symmetric else 4.0]), rtol=1e-5, atol=0.0)


def test_a_zero_point_that_an_average_made_a_fraction_of_is_whole():
    quantizer = Quantizer(QuantizationSpec(bits=8, symmetric=False))
    quantizer.set_range(torch.tensor(-1.0), torch.tensor(1.0))
    x, point = torch.linspace(-1, 1, 50), quantizer.zero_point.clone()
    expected, integers = quantizer(x), quantizer.integers(x)
    with torch.no_grad():
        dict(quantizer.named_buffers())["zero_point"].sub_(1e-5)
    assert torch.equal(quantizer.zero_point, point)
    assert torch.equal(quantizer(x), expected) and torch.equal(quantizer.integers(x), integers)
