"""Ranges chosen by statistics that are of no data: told where they are chosen."""

import warnings

import pytest
import torch
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.errors import TrainingWarning


def network(gain, depth=6):
    """Layers that scale what they are given by `gain`, which untrained norms leave as it is."""
    torch.manual_seed(0)
    layers = [(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)) for _ in range(depth)]
    for convolution, _ in layers:
        convolution.weight.data = gain * torch.eye(4).view(4, 4, 1, 1)
    return nn.Sequential(*[layer for pair in layers for layer in pair], nn.Flatten(), nn.Linear(16, 2))


DATA = [torch.randn(8, 4, 2, 2, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


@pytest.mark.parametrize("gain", [1e-3, 0.2, 1e3])
def test_a_network_that_was_never_run_is_told_where_ranges_are_chosen(gain):
    with pytest.warns(TrainingWarning, match=r"batch norms have statistics of other data than this.*training mode"):
        fxcompress.compress(network(gain).eval(), data=DATA)


@pytest.mark.parametrize("gain", [1e-3, 0.2, 1e3])
def test_after_a_run_in_training_mode_there_is_nothing_to_tell(gain):
    model = network(gain).train()
    for layer in model:
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    model(DATA[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrainingWarning)
        fxcompress.compress(model.eval(), data=DATA)


def test_neither_where_most_norms_fit_nor_where_they_are_folded_nor_where_they_stay_in_inference():
    frozen = network(1e-3).eval()
    frozen.train = lambda mode=True: nn.Module.train(frozen, False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrainingWarning)
        fxcompress.compile(network(0.5).eval(), fxcompress.defaults.training(), data=DATA)
        fxcompress.compile(network(1e-3).eval(), data=DATA)
        fxcompress.compile(network(1e-3).eval(), [passes.Quantize()], data=DATA)
        fxcompress.compile(frozen, fxcompress.defaults.training(), data=DATA)
