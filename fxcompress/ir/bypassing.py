"""Layers inside a compressed module that something else calls: they compute as before, and the graph computes beside them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fxcompress.errors import TrainingWarning, warn_user


class CalledByItself:
    """A hook of the layer at `path` of the compressed module `name`, whose graph does not call it: tells whoever does, once.

    Methods of the user's own, such as `forward_features`, go from layer to layer as they did, without quantizers and masks.

    Args:
        told: what was told of the compressed module already; its layers share it.
    """

    def __init__(self, path: str, name: str, told: list[str]):
        self.path, self.name, self.told = path, name, told

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        if torch.compiler.is_compiling() or self.told:
            return
        self.told.append(self.path)
        warn_user(
            f"{self.path!r} of {self.name} was called by something else than the forward of {self.name}, which alone is "
            "compressed: that computes without quantizers and masks; compress the modules that you call, submodules=[...]",
            TrainingWarning,
        )


def has_hooks(module: nn.Module) -> bool:
    """Whether `module` has hooks around its forward beside those that only tell."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return not all(isinstance(one, CalledByItself) for one in hooks)
