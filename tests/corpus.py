"""Small networks that reach what the compiler can do: every operation between two layers.

Each network has a branch for each operation, with a layer in front and one behind it, so that what a branch becomes is told by
itself, and many are traced at once.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.random_stacks import operations
from benchmarks.random_stacks.operations import Operation

SHAPES: dict[int, tuple[int, ...]] = {2: (8,), 3: (6, 8), 4: (4, 6, 6), 5: (4, 3, 4, 4)}
"""Sizes of a branch's input without the batch, by the number of dimensions with it."""
WORDS = 20


def layer(x: Tensor, size: int) -> nn.Module:
    """A layer with so many filters for a value like `x`."""
    kinds = {4: nn.Conv2d, 5: nn.Conv3d}
    return kinds[x.dim()](x.shape[1], size, 1) if x.dim() in kinds else nn.Linear(x.shape[-1], size)


class Branch(nn.Module):
    """A layer for each value that an operation reads, the operation, and a layer behind it."""

    def __init__(self, operation: Operation, choices: dict[str, Any], x: Tensor):
        super().__init__()
        self.reads_integers = operation.reads_integers
        width = x.shape[1 if x.dim() > 3 else -1]
        self.front = nn.ModuleList([] if self.reads_integers else [layer(x, width) for _ in range(operation.values)])
        values = self._fronts(x)
        sizes = list(values[0].shape[1:])
        texts = {**dict(zip("xyz", "xyz")), "m": "m", "shape": str(sizes), "c": str(sizes[0]), "d": str(sizes[-1])}
        texts |= {name: str(value).format(**texts) for name, value in choices.items()}
        self.call = operation.call.format(**texts)
        self.m = eval(operation.layer.format(**texts)) if operation.layer else None
        self.eval()
        y = self._called(values)
        if not y.is_floating_point() or not 2 <= y.dim() <= 5 or y.shape[0] != x.shape[0] or not y.isfinite().all():
            raise ValueError("not for a network")
        self.behind = layer(y, 5)

    def _fronts(self, x: Tensor) -> list[Tensor]:
        return [one(x) for one in self.front] or [x]

    def _called(self, values: list[Tensor]) -> Tensor:
        scope = {**dict(zip("xyz", values)), "m": self.m, "F": F, "torch": torch, "nn": nn}
        return eval(self.call, scope)

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self._called(self._fronts(x)))


class Branches(nn.Module):
    """What each branch computes of one input."""

    def __init__(self, branches: dict[str, Branch]):
        super().__init__()
        self.names = list(branches)
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: getattr(self, name)(x) for name in self.names}


def example(rank: int, integers: bool, batch: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(rank)
    sizes = (batch, *((6,) * (rank - 1) if integers else SHAPES[rank]))
    return torch.randint(0, WORDS, sizes, generator=generator) if integers else torch.randn(sizes, generator=generator)


OF_OTHERS = ("encoder_layer",)
"""What is made of other operations, and takes seconds to trace."""
MOST = 3
"""Branches of one operation."""


def branches_of(name: str, operation: Operation, rank: int) -> Iterator[tuple[str, Branch]]:
    """The operation's branches on values of so many dimensions, those that PyTorch takes.

    It has as many as its options have values, up to `MOST`, on values of other dimensions each.
    """
    first = zlib.crc32(name.encode())
    for place in range(min(MOST, max([1, *(len(values) for values in operation.choices.values())]))):
        ranks = operation.ranks
        if ranks[(first + place) % len(ranks)] != rank:
            continue
        choices = {key: values[place % len(values)] for key, values in operation.choices.items()}
        torch.manual_seed(first + place)
        try:
            with torch.no_grad():
                yield f"{name}_{place}", Branch(operation, choices, example(rank, operation.reads_integers))
        except (RuntimeError, ValueError, IndexError, TypeError, AssertionError, SyntaxError):
            continue


FAMILIES = {
    name.lower(): getattr(operations, name)
    for name in ("LAYERS", "INTEGERS", "ACTIVATIONS", "ELEMENTWISE", "SHAPES", "REDUCTIONS", "POOLS", "PRODUCTS")
}


def networks() -> dict[str, tuple[str, int]]:
    """The names of all networks of branches, with family and dimensions."""
    return {f"{family}{rank}": (family, rank) for family in FAMILIES for rank in SHAPES}


def network(family: str, rank: int) -> nn.Module | None:
    found = {
        label: branch
        for name, operation in FAMILIES[family].items()
        if name not in OF_OTHERS
        for label, branch in branches_of(name, operation, rank)
    }
    return Branches(found).eval() if found else None
