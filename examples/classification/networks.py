"""Classifiers: any of torchvision's, which may start from weights trained on ImageNet, and a small residual network."""

import torch
from torch import nn


class Residual(nn.Module):
    """He et al., arXiv 1512.03385, figure 2: two convolutions beside a shortcut."""

    def __init__(self, channels_in, channels, stride):
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels))
        self.shortcut = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x):
        return (self.second(self.first(x)) + self.shortcut(x)).relu()


def residual(num_classes, widths=(16, 32, 64)):
    blocks = [Residual(a, b, stride=2) for a, b in zip((widths[0], *widths), widths)]
    stem = nn.Sequential(nn.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes))


def build(name, classes, weights=None):
    """The network `name`, "residual" or one of torchvision's.

    Of the file `weights`, a `state_dict`, all but the last layer is taken where that is of another number of classes.
    """
    if name == "residual":
        network = residual(classes)
    else:
        import torchvision

        network = getattr(torchvision.models, name)(num_classes=classes)
    if weights is not None:
        known, own = torch.load(weights, map_location="cpu", weights_only=True), network.state_dict()
        if missing := own.keys() - known.keys():
            raise SystemExit(f"{weights} is no file of {name}: it has no {min(missing)}")
        network.load_state_dict({key: known[key] if known[key].shape == own[key].shape else own[key] for key in own})
    return network
