"""A file's outputs beside those of the simulation, which is the lowered graph run in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxcompress.conformance.client import FileProblem
from fxcompress.conformance.rounding import FLOOR, MARGIN, ZERO, Constants, Dithered
from fxcompress.execution.agreement import decibels, difference
from fxcompress.quantization.by_rows import ByRows

_DRAWS = 4


@dataclass(frozen=True)
class Agreement:
    """How far one output is from the simulation, and how far rounding may take it, in dB; infinite where nothing differs.

    `faulty` says that it is farther: of an output that is zero throughout, decibels do not tell.
    """

    position: int
    decibels: float
    explained: float
    faulty: bool


class Simulation:
    """A lowered graph run on flat `inputs`, exactly at first, and with rounding where that is asked for.

    `constants` are those of the graph, for several simulations of it. `explained` are decibels that rounding was found to
    explain before, on other inputs, by the output's position: less is looked at no closer.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        inputs: Sequence[Any],
        constants: Constants | None = None,
        explained: dict[int, float] | None = None,
    ):
        self.graph_module, self.inputs = graph_module, inputs
        self.constants = constants or Constants(graph_module)
        self.explained = {} if explained is None else explained
        self.exact = self._leaves(ByRows(graph_module))
        self._draws: list[list[Any]] = []

    @torch.no_grad()
    def _leaves(self, interpreter: fx.Interpreter) -> list[Any]:
        found = interpreter.run(*self.inputs, initial_env=dict(self.constants.values), enable_io_processing=False)
        return [as_in_file(torch.as_tensor(leaf)) for leaf in pytree.tree_leaves(found) if leaf is not None]

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
            known = signal * 10 ** (-self.explained.get(position, math.inf) / 10)
            limit = max(FLOOR * signal, known, exact.numel() * ZERO**2) if exact.is_floating_point() else 0.0
            for number in range(_DRAWS):
                if energy <= limit:
                    break
                limit = max(limit, MARGIN * difference(exact, self._draw(number)[position]))
            if 0 < limit < math.inf and signal:
                self.explained[position] = min(self.explained.get(position, math.inf), decibels(signal, limit))
            found.append(_agreement(position, signal, energy, limit))
        return found

    def _draw(self, number: int) -> list[Any]:
        while len(self._draws) <= number:
            seed, mirrored = divmod(len(self._draws), 2)
            self._draws.append(self._leaves(Dithered(self.graph_module, self.constants.nodes, seed, bool(mirrored))))
        return self._draws[number]


def as_in_file(value: Tensor) -> Tensor:
    """`value` as files have it: complex numbers are pairs of real ones."""
    return torch.view_as_real(value.resolve_conj()) if value.is_complex() else value


def _signal(exact: Tensor) -> float:
    return float(exact.double().nan_to_num(0, 0, 0).square().sum()) if exact.is_floating_point() else float(exact.numel())


def _agreement(position: int, signal: float, energy: float, limit: float) -> Agreement:
    faulty = energy > limit
    return Agreement(position, decibels(signal, energy), decibels(signal, limit) if faulty else float("-inf"), faulty)
