"""Small programs that a rule is tried on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Example:
    """A program and the shapes of its inputs: ``Example(lambda x: torch.relu(x) + 1, (2, 3))``.

    `program` is a function of tensors, or a function that needs no arguments and makes a module:
    ``Example(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), (2, 3, 8, 8))``.
    """

    def __init__(self, program: Callable[..., Any], *shapes: tuple[int, ...], training: bool = False):
        self.program, self.shapes, self.training = program, shapes, training

    def module(self) -> nn.Module:
        """The program as a module, its vectors (such as a norm's parameters and statistics) random in 0.5 to 1.5."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            parameters = inspect.signature(self.program).parameters.values()
            takes_inputs = any(parameter.default is parameter.empty for parameter in parameters)
            made = _module(self.program) if takes_inputs else self.program()
            with torch.no_grad():
                for tensor in (*made.parameters(), *made.buffers()):
                    if tensor.dim() == 1 and tensor.is_floating_point():
                        tensor.uniform_(0.5, 1.5)
        return made.train(self.training)

    def inputs(self) -> tuple[torch.Tensor, ...]:
        """Normal random inputs, the same ones each time, three times as wide as usual to reach both ends of a clamp."""
        generator = torch.Generator().manual_seed(0)
        return tuple(3 * torch.randn(shape, generator=generator) for shape in self.shapes)

    def __repr__(self) -> str:
        return f"Example({' '.join(inspect.getsource(self.program).split())[:60]}, {self.shapes})"


def _module(function: Callable[..., Any]) -> nn.Module:
    module = nn.Module()
    module.forward = function  # type: ignore[method-assign]
    return module
