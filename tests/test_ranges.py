"""The laws of range estimators: what they see does not depend on batching or memory layout, and bounds what they give."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fxcompress.errors import InputError
from fxcompress.quantization.ranges import ESTIMATORS, Percentile, find_estimator
from fxcompress.quantization.sampling import sample_extremes, subsample
from fxcompress.quantization.spec import QuantizationSpec

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


def test_an_unknown_estimator_suggests_the_nearest():
    with pytest.raises(InputError, match="did you mean 'percentile'"):
        find_estimator("percentil")


@pytest.mark.parametrize("low, high", [(-1, 99), (50, 50), (1, 101)])
def test_impossible_percentiles_are_refused(low, high):
    with pytest.raises(InputError, match="percentiles"):
        Percentile(low, high)
