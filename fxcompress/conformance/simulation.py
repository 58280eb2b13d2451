"""A file's outputs beside those of the simulation, which is the lowered graph run in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxcompress.conformance.client import FileProblem
from fxcompress.conformance.rounding import FLOOR, MARGIN, Dithered, difference
from fxcompress.execution.agreement import decibels

_DRAWS = 4


@dataclass(frozen=True)
class Agreement:
    """How far one output is from the simulation, and how far rounding may take it, in dB; infinite where nothing differs."""

    position: int
    decibels: float
    explained: float

    @property
    def faulty(self) -> bool:
        return self.decibels < self.explained


class Simulation:
    """A lowered graph run on flat `inputs`, exactly at first, and with rounding where that is asked for."""

    def __init__(self, graph_module: fx.GraphModule, inputs: Sequence[Any]):
        self.graph_module, self.inputs = graph_module, inputs
        self.exact = self._leaves(fx.Interpreter(graph_module))
        self._draws: list[list[Any]] = []

    @torch.no_grad()
    def _leaves(self, interpreter: fx.Interpreter) -> list[Any]:
        found = interpreter.run(*self.inputs, enable_io_processing=False)
        return [torch.as_tensor(leaf) for leaf in pytree.tree_leaves(found) if leaf is not None]

    def compare(self, outputs: Sequence[Tensor]) -> list[Agreement]:
        """Each of the file's `outputs` beside the simulation's, which is rounded anew until that explains the difference.

        Raises:
            FileProblem: there are more outputs, or fewer.
        """
        if len(outputs) != len(self.exact):
            raise FileProblem(f"it has {len(outputs)} outputs, not {len(self.exact)}")
        found = []
        for position, (exact, other) in enumerate(zip(self.exact, outputs)):
            energy = difference(exact, other.to(exact.device))
            signal = _signal(exact)
            limit = FLOOR * signal if exact.is_floating_point() else 0.0
            for number in range(_DRAWS):
                if energy <= limit:
                    break
                limit = max(limit, MARGIN * difference(exact, self._draw(number)[position]))
            found.append(_agreement(position, signal, energy, limit))
        return found

    def _draw(self, number: int) -> list[Any]:
        while len(self._draws) <= number:
            self._draws.append(self._leaves(Dithered(self.graph_module, len(self._draws))))
        return self._draws[number]


def _signal(exact: Tensor) -> float:
    return float(exact.double().nan_to_num(0, 0, 0).square().sum()) if exact.is_floating_point() else float(exact.numel())


def _agreement(position: int, signal: float, energy: float, limit: float) -> Agreement:
    if energy <= limit:
        return Agreement(position, decibels(signal, energy), float("-inf"))
    return Agreement(position, decibels(signal, energy), decibels(signal, limit))
