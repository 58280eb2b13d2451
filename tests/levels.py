"""A small network, and a pass whose controller has a level, for the tests of training."""

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

import fxcompress
from fxcompress import Effect, Pass
from fxcompress.masks.mask import Mask
from fxcompress.training import CompressionStage, Controller


def network(norm=True):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4) if norm else nn.Identity(), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2)]
    return nn.Sequential(*layers, nn.Hardswish(), nn.Flatten(), nn.Linear(24, 5))


class Undecided(nn.Module):
    """Control flow that depends on values, around a part that traces."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        y = self.backbone(x)
        return y * 2 if y.sum() > 0 else y - 1


def images(batch=8, seed=0):
    return torch.randn(batch, 1, 6, 6, generator=torch.Generator().manual_seed(seed))


_known = {}


def compile_once(make, listed, data):
    """A copy of what `compile` makes of ``make()``, which is done once for each `make`, list of passes and data."""
    key = make, *map(str, listed), str(data)
    if key not in _known:
        _known[key] = fxcompress.compile(make(), list(listed), data=data)
    return copy.deepcopy(_known[key])


class Leveled(Controller):
    """Masks that share of the indices of every mask, the first ones."""

    def __init__(self, masks):
        super().__init__()
        self.masks, self.level = masks, 0.0

    def set_level(self, level):
        self.level = level
        for one in self.masks:
            flat = one.mask.flatten()
            one.mask.copy_((torch.arange(len(flat)) >= level * len(flat)).reshape(one.mask.shape))

    def compression_stage(self):
        return CompressionStage.FULLY_COMPRESSED if self.level else CompressionStage.UNCOMPRESSED


@dataclass(frozen=True, kw_only=True)
class Level(Pass):
    """Gives the masks that are in the graph a controller with a level."""

    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, graph_module, context):
        return []

    def controller(self, graph_module):
        calls = graph_module.graph.find_nodes(op="call_module")
        modules = [graph_module.get_submodule(node.target) for node in calls]
        return Leveled([module for module in modules if isinstance(module, Mask)])
