"""Batch norms of a compressed model do in training what others say to them later, as those of the model do."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

import fxcompress

BATCHES = [torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(seed)) + seed for seed in range(4)]


def ran(model):
    for x in BATCHES:
        model(x)
    return model


def frozen(model):
    model.train()[1].eval()
    return ran(model)


def with_another_momentum(model):
    model.train()[1].momentum = 0.7
    return ran(model)


def kept_by_a_trainer(model):
    """As Lightning freezes norms."""
    model.train()[1].track_running_stats = False
    return ran(model)


def averaged_over_all(model):
    update_bn(BATCHES, model)
    return model


def averaged_in_a_copy(model):
    average = AveragedModel(model)
    update_bn(BATCHES, average)
    return average.module


TOLD = (ran, frozen, with_another_momentum, kept_by_a_trainer, averaged_over_all, averaged_in_a_copy)


@pytest.mark.parametrize("tell", TOLD, ids=[one.__name__ for one in TOLD])
def test_norms_do_what_they_are_told_after_compression(tell):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).train()
    expected = tell(copy.deepcopy(model))
    fxcompress.compress(model, [], data=BATCHES)
    found = tell(model)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value)
    torch.testing.assert_close(found(BATCHES[0]), expected(BATCHES[0]))
