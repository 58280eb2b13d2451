"""The laws of range estimators: what they see does not depend on batching or memory layout, and bounds what they give."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.errors import InputError
from fxcompress.quantization.quantized import quantizer_calls, serves_weight
from fxcompress.quantization.weights import weight_range
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.quantizers.ranges import ESTIMATORS, Percentile, find_estimator
from fxcompress.quantizers.sampling import PER_CHANNEL, PER_TENSOR, sample_extremes, subsample
from fxcompress.quantizers.spec import QuantizationSpec

SEEDS = st.integers(0, 2**32 - 1)


def _samples(seed: int, count: int) -> torch.Tensor:
    return torch.randn(count, 2, 3, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [None, 2])
@pytest.mark.parametrize("name", ESTIMATORS)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5), seed=SEEDS)
def test_the_range_does_not_depend_on_batches_or_their_order(name, channels, sizes, seed):
    x, spec = _samples(seed, sum(sizes)), QuantizationSpec(symmetric=False, channel_axis=None if channels is None else 1)
    in_batches, one_by_one = (ESTIMATORS[name].start(spec, channels) for _ in range(2))
    for batch in x.split(sizes):
        in_batches.update(batch.contiguous(memory_format=torch.channels_last))
    for sample in x.flip(0):
        one_by_one.update(sample[None])
    for a, b in zip(in_batches.result(), one_by_one.result()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ESTIMATORS)
@given(seed=SEEDS, scale=st.floats(1e-3, 1e3))
def test_no_range_is_wider_than_the_values(name, seed, scale):
    x = scale * _samples(seed, 4)
    statistic = ESTIMATORS[name].start(QuantizationSpec(symmetric=False))
    statistic.update(x)
    low, high = statistic.result()
    assert x.min() <= low <= high <= x.max()


SPECS = st.builds(QuantizationSpec, bits=st.integers(2, 8), symmetric=st.booleans(), signed=st.sampled_from([True, False]))
VALUES = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40).map(torch.tensor)


@pytest.mark.parametrize("name", ESTIMATORS)
@given(seed=SEEDS, spec=SPECS, rows=st.integers(1, 5), size=st.integers(1, 50))
def test_a_row_of_a_weight_gets_the_range_that_it_gets_alone(name, seed, spec, rows, size):
    weight = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))
    for together, alone in zip(
        zip(*ESTIMATORS[name].fit_values(weight, spec)), (ESTIMATORS[name].fit_values(row[None], spec) for row in weight)
    ):
        assert torch.equal(torch.stack(together), torch.cat(alone))


@pytest.mark.parametrize("name", ESTIMATORS)
@given(values=VALUES, spec=SPECS)
def test_no_range_of_a_weight_is_wider_than_the_weight_and_zero(name, values, spec):
    low, high = ESTIMATORS[name].fit_values(values[None], spec)
    assert values.min().clamp(max=0) <= low <= high <= values.max().clamp(min=0)


@given(values=VALUES, spec=SPECS)
def test_the_least_squared_error_is_no_more_than_that_of_the_widest_range(values, spec):
    def error(name):
        quantizer = Quantizer(spec)
        quantizer.set_range(*(bound.squeeze(0) for bound in ESTIMATORS[name].fit_values(values[None], spec)))
        return (quantizer(values).double() - values.double()).square().sum()

    assert error("mse") <= error("min_max") * (1 + 1e-5)


@given(
    name=st.sampled_from([*ESTIMATORS]),
    axis=st.sampled_from([None, 0, 1]),
    group_size=st.sampled_from([None, 1, 3, 4, 9]),
    seed=SEEDS,
    shape=st.lists(st.integers(1, 5), min_size=2, max_size=4),
)
def test_the_ranges_of_a_weight_have_the_shape_of_its_scale_and_see_what_is_broken(name, axis, group_size, seed, shape):
    spec = QuantizationSpec(channel_axis=axis, group_size=group_size)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    assert all(bound.shape == spec.scale_shape(shape) for bound in weight_range(weight, spec, ESTIMATORS[name]))
    weight.view(-1)[seed % weight.numel()] = torch.nan
    assert any(bound.isnan().any() for bound in weight_range(weight, spec, ESTIMATORS[name]))


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_bad_value_among_many_is_seen(name, bad):
    x = torch.randn(3, 100_000)
    x[1, 77_777] = bad
    statistic = ESTIMATORS[name].start(QuantizationSpec(symmetric=False))
    statistic.update(x)
    assert not all(bound.isfinite() for bound in statistic.result())


@given(SEEDS)
def test_what_is_looked_at_does_not_depend_on_the_memory_format(seed):
    x = torch.randn(3, 4, 5, 2, generator=torch.Generator().manual_seed(seed))
    expected = x.flatten(1).amin(1), x.flatten(1).amax(1)
    for layout in (x, x.contiguous(memory_format=torch.channels_last)):
        assert all(torch.equal(a, b) for a, b in zip(sample_extremes(layout, None), expected))
        assert torch.equal(subsample(layout, None).sort().values, x.flatten()[None].sort().values)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=["for all samples", "a sample", "a sample, in a row"])
def test_one_number_has_a_range(name, shape):
    statistic = ESTIMATORS[name].start(QuantizationSpec())
    for value in (-1.0, 2.0, 3.0):
        statistic.update(torch.full(shape, value))
    low, high = statistic.result()
    assert -1 <= low <= high <= 3


def test_an_unknown_estimator_suggests_the_nearest():
    with pytest.raises(InputError, match="did you mean 'percentile'"):
        find_estimator("percentil")


@pytest.mark.parametrize("low, high", [(-1, 99), (50, 50), (1, 101)])
def test_impossible_percentiles_are_refused(low, high):
    with pytest.raises(InputError, match="percentile|Percentile"):
        Percentile(low, high)


class Halves(nn.Module):
    """A convolution reads two values of different ranges, joined."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second, self.head = first, second, nn.Conv2d(6, 4, 1)

    def forward(self, x):
        low, high = self.first
        left = x.clamp(low, high)
        low, high = self.second
        return self.head(torch.cat([left, x.clamp(low, high)], 1))


@pytest.mark.parametrize("ranges", [((-1, 0.5), (-9, 2)), ((-9, 2), (-1, 0.5)), ((-9, 0.5), (-1, 7)), ((-1, 7), (-9, 0.5))])
def test_values_that_share_a_quantizer_get_the_union_of_their_ranges(ranges):
    x = torch.linspace(-20, 20, 3 * 64).view(1, 3, 8, 8)
    quantize = passes.Quantize(activations=QuantizationSpec(symmetric=False))
    compiled = fxcompress.compile(Halves(*ranges), [quantize, passes.Calibrate()], data=[x])
    (quantizer,) = {q for call, q in quantizer_calls(compiled).items() if not serves_weight(call)}
    low, high = ((level - quantizer.zero_point) * quantizer.scale for level in quantizer.levels)
    (a, b), (c, d) = ranges
    torch.testing.assert_close(
        torch.stack([low, high]), torch.tensor([min(a, c), max(b, d)], dtype=torch.float32), rtol=0.02, atol=0.02
    )


@pytest.mark.parametrize("axis", [None, 1, 3])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (1, 0, 3, 2), (3, 2, 1, 0)])
def test_what_is_taken_of_a_large_sample_is_the_same_however_it_lies_and_is_spread_over_it(axis, order):
    shape = (2, 6, 120, 130)
    x = torch.arange(2 * 6 * 120 * 130, dtype=torch.float32).view(shape)
    back = [order.index(d) for d in range(4)]
    laid = x.permute(order).contiguous().permute(back)
    taken, wanted = (subsample(one, axis).sort().values for one in (laid, x))
    assert torch.equal(taken, wanted)
    for channel, row in enumerate(taken):
        values = (x if axis is None else x.select(axis, channel)).flatten().sort().values
        count = min(len(values), 2 * (PER_TENSOR if axis is None else PER_CHANNEL))
        assert len(row) == len(row.unique()) == count and torch.isin(row, values).all()
        share = torch.histc(torch.searchsorted(values, row).float(), 8, 0, len(values)) / count
        assert (share - 1 / 8).abs().max() < 0.02
