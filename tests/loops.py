"""A small classifier, its data and its stack of passes, for tests inside other people's loops."""

import torch
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.training import Polynomial


class Classifier(nn.Module):
    """A network with batch statistics and dropout, which returns a loss where it is given labels."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(6, 3)

    def forward(self, images):
        return self.head(self.body(images).mean((2, 3)))


def classifier():
    torch.manual_seed(0)
    return Classifier()


def images(count=24):
    """Pairs of images and labels."""
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(1, 8, 8, generator=generator), position % 3) for position in range(count)]


def loader(batch_size=4):
    """In order, and without a draw of the common random numbers, so that a run can go on in the middle of it."""
    return torch.utils.data.DataLoader(images(), batch_size=batch_size, generator=torch.Generator())


def stack():
    """Masks that grow with every step, learned ranges, and a loss of compression."""
    ramp = Polynomial(epochs=3, steps_per_epoch=6)
    return [passes.Sparsify(level=0.5, schedule=ramp), *fxcompress.defaults.training(), passes.Distill()]


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
