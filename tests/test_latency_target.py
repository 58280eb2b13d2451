"""How much to prune for a share of the time; times are multiply-adds here, of the very graphs that would be written."""

import numpy as np
import pytest
import torch
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.errors import InputError
from fxcompress.ir.cost import cost
from fxcompress.measure import latency
from fxcompress.measure.latency_target import level_for_latency

X = torch.randn(2, 3, 6, 6)


def pruned(target="openvino", **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 4, 1)).eval()
    stack = [passes.PruneFilters(multiple=1, **options), passes.Quantize(), passes.Calibrate()]
    return fxcompress.compile(model, stack, data=[X], target=target)


@pytest.fixture
def time_is_cost(monkeypatch):
    def measured(variants, example, lower):
        return {name: np.full(3, cost(lower(one)).multiply_adds) for name, one in variants.items()}

    monkeypatch.setattr(latency, "measure_latencies", measured)


def multiply_adds(model):
    return cost(model.lower()).multiply_adds


def test_the_level_is_the_lowest_that_is_fast_enough(time_is_cost):
    model = pruned()
    before = multiply_adds(model)
    found = level_for_latency(model, 0.5, trials=6)
    assert found.share <= 0.5 and all(share > 0.5 for level, share in found.measured.items() if level < found.level)
    assert len(found.measured) == 6 and multiply_adds(model) == before
    whole = multiply_adds(pruned(amount=0.0))
    assert multiply_adds(pruned(amount=found.level)) / whole == pytest.approx(found.share)
    assert multiply_adds(pruned(amount=found.level - 0.04)) > 0.5 * whole


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (pruned, {"share": 1.0}, r"between 0 and 1, got 1\.0"),
        (pruned, {"share": 0.5, "trials": 0}, "trials of 1 or more"),
        (pruned, {"share": 0.01}, "still takes .*% of the time, not 1%"),
        (pruned, {"share": 0.5, "controller": "Prune"}, "no controller 'Prune'"),
        (lambda: pruned(target="onnxruntime"), {"share": 0.5}, "the model is for onnxruntime"),
    ],
)
def test_unusable_options(time_is_cost, build, options, message):
    with pytest.raises(InputError, match=message):
        level_for_latency(build(), **options)
