"""The networks of the laboratory: small enough to be trained on two cores, of the two kinds that compression knows best.

Both halve the image in their first layer, so that most of the work is on 14x14 pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fxcompress.demo.digits import ResidualBlock

CLASSES = 10


def residual(width: int = 16, blocks: int = 3) -> nn.Module:
    """The ResNet-20 of He et al., arXiv 1512.03385, section 4.2, with stride 2 in front and 1x1 convolutions as shortcuts."""
    layers: list[nn.Module] = _convolution(1, width, 3, stride=2, activation=nn.ReLU)
    channels = width
    for stage in range(3):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            layers.append(ResidualBlock(channels, width << stage, stride))
            channels = width << stage
    return nn.Sequential(*layers, *_classifier(channels))


class InvertedResidual(nn.Module):
    """Expanded by 1x1, filtered channel by channel, projected back (Sandler et al., arXiv 1801.04381, section 3.3)."""

    def __init__(self, channels_in: int, channels: int, stride: int, expansion: int):
        super().__init__()
        inner = channels_in * expansion
        self.layers = nn.Sequential(
            *(_convolution(channels_in, inner, 1, activation=nn.ReLU6) if expansion > 1 else []),
            *_convolution(inner, inner, 3, stride=stride, groups=inner, activation=nn.ReLU6),
            *_convolution(inner, channels, 1),
        )
        self.adds = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.adds else self.layers(x)


MOBILE_BLOCKS = [(1, 16, 1), (4, 24, 2), (4, 24, 1), (4, 64, 2), (4, 64, 1), (4, 64, 1)]
"""(expansion, channels, stride) of each block."""


def mobile(head: int = 128) -> nn.Module:
    """A MobileNetV2 for small images (Sandler et al., arXiv 1801.04381, section 4)."""
    layers: list[nn.Module] = _convolution(1, 16, 3, stride=2, activation=nn.ReLU6)
    channels = 16
    for expansion, out, stride in MOBILE_BLOCKS:
        layers.append(InvertedResidual(channels, out, stride, expansion))
        channels = out
    layers += _convolution(channels, head, 1, activation=nn.ReLU6)
    return nn.Sequential(*layers, *_classifier(head))


NETWORKS: dict[str, Callable[[], nn.Module]] = {"residual": residual, "mobile": mobile}


def build(name: str, seed: int) -> nn.Module:
    """The network `name` with random weights from `seed`, channels last."""
    torch.manual_seed(seed)
    return NETWORKS[name]().to(memory_format=torch.channels_last)


def _convolution(
    channels_in: int,
    channels: int,
    size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: Callable[[], nn.Module] | None = None,
) -> list[nn.Module]:
    convolution = nn.Conv2d(channels_in, channels, size, stride, size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(channels), *([activation()] if activation else [])]


def _classifier(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]
