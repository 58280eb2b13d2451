"""Calls that leave their input alone, or put slices of it to zero at random: found by trying them, however they are written."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxcompress.capture.respelling import same_sizes, size_of
from fxcompress.ir.edit import attribute
from fxcompress.ir.fake import example_sizes
from fxcompress.ir.reach import reached
from fxcompress.ir.signature import argument

aten = torch.ops.aten

_UNIFORM = {aten.rand.default, aten.rand_like.default, aten.uniform.default}
_BERNOULLI = {aten.bernoulli.p, aten.bernoulli.default}
_STEPS, _TRIED = 24, 8
"""How closely the threshold of a uniform number is found, as a power of 1/2, and how many numbers are tried beside it."""


@dataclass(frozen=True)
class Drop:
    """``drop_path(source, p, dims, scale)``, which `region` computes in training."""

    source: fx.Node
    region: frozenset[fx.Node]
    p: float
    dims: tuple[int, ...]
    scale: float


def find_drop(module: fx.GraphModule, value: fx.Node, known: Collection[fx.Node]) -> Drop | None:
    """The drop that makes `value` of one of the values that it is computed from; None where it is none.

    Args:
        known: nodes that need not be computed from anything; one of them, where it can be.
    """
    drawn = [node for node in _behind(value, known) if node.target in _UNIFORM | _BERNOULLI]
    for source in sorted(_behind(value, known, and_known=True), key=lambda node: node not in known):
        if source is value or not _alike(source, value):
            continue
        region = _behind(value, {*known, source})
        random = [node for node in region if node in drawn]
        loose = {one for node in region for one in node.all_input_nodes} - {*region, source}
        if len(random) == 1 and _chance(random) and not any(_is_data(node) for node in loose):
            found = _tried(module, value, source, region, random[0])
            if found:
                return found
    return None


def _behind(value: fx.Node, known: Collection[fx.Node], and_known: bool = False) -> list[fx.Node]:
    """What `value` is computed from, itself first, back to what is `known`."""

    def counts(node: fx.Node) -> bool:  # what a size is computed from plays no part
        return isinstance(node.meta.get("val"), Tensor) and (and_known or node not in known)

    found = reached(filter(counts, [value]), lambda node: () if node in known else filter(counts, node.all_input_nodes))
    return sorted(found, key=_position(value).__getitem__, reverse=True)


def _position(node: fx.Node) -> dict[fx.Node, int]:
    return {one: place for place, one in enumerate(node.graph.nodes)}


def _alike(left: fx.Node, right: fx.Node) -> bool:
    a, b = left.meta.get("val"), right.meta.get("val")
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or left.op == "get_attr":
        return False
    return a.dtype == b.dtype and a.dtype.is_floating_point and same_sizes(size_of(a), size_of(b))


def _is_data(node: fx.Node) -> bool:
    return node.op != "get_attr" and isinstance(node.meta.get("val"), Tensor)


def _chance(random: list[fx.Node]) -> bool:
    return all(torch.Tag.nondeterministic_seeded in node.target.tags for node in random)  # type: ignore[union-attr]


def _tried(module: fx.GraphModule, value: fx.Node, source: fx.Node, region: list[fx.Node], drawn: fx.Node) -> Drop | None:
    """Run `region` with numbers of our own for what is `drawn`, on ones and on random numbers, and look at what comes out."""
    run = _Runner(module, value, source, frozenset(region), drawn)
    shape = example_sizes(drawn.meta["val"].shape)
    try:
        threshold, below = _threshold(run, drawn, shape)
        draws = _checkered(shape)
        kept = run(run.ones, run.number(draws, threshold))
        inner = torch.where(draws < threshold, threshold / 2, (1 + threshold) / 2)
        steady = torch.allclose(run(run.ones, run.number(inner, threshold)), kept)  # not so noise that multiplies
        scale = float(run(run.ones, run.number(torch.full(shape, 0.0 if below else 1.0), threshold)).max())
        inputs = torch.randn(run.ones.shape)
        linear = torch.allclose(run(inputs, run.number(draws, threshold)), inputs * kept, rtol=1e-4, atol=1e-6)
    except (RuntimeError, TypeError, ValueError, _NoDrop):
        return None
    two = bool(((kept == 0) | torch.isclose(kept, torch.tensor(scale))).all())
    dims = tuple(dim for dim in range(kept.dim()) if not torch.equal(kept, kept.narrow(dim, 0, 1).expand_as(kept)))
    own = math.prod(kept.shape[dim] for dim in dims) == math.prod(shape)
    if not (steady and linear and two and own and scale > 0):
        return None
    p = 1 - threshold if below else threshold
    return Drop(source, frozenset(region), p, dims, scale)


class _NoDrop(Exception):
    """The values tried are those of no drop."""


class _Runner:
    """Computes `value` of a region for a source and a draw."""

    def __init__(self, module: fx.GraphModule, value: fx.Node, source: fx.Node, region: frozenset[fx.Node], drawn: fx.Node):
        self.module, self.value, self.source, self.region, self.drawn = module, value, source, region, drawn
        self.ones = torch.ones(example_sizes(source.meta["val"].shape), dtype=torch.float32)
        self.dtype = value.meta["val"].dtype

    def number(self, uniform: Tensor, threshold: float) -> Tensor:
        """What is drawn where a uniform number is `uniform`: that itself, or whether it is below the probability."""
        if self.drawn.target in _BERNOULLI:
            return (uniform < threshold).float()
        if self.drawn.target is aten.uniform.default:
            low, high = argument(self.drawn, "from"), argument(self.drawn, "to")
            return uniform * (high - low) + low
        return uniform

    def __call__(self, source: Tensor, drawn: Tensor) -> Tensor:
        given = {self.source: source.to(self.dtype), self.drawn: drawn.to(self.drawn.meta["val"].dtype)}
        with torch.no_grad():
            return self.value_of(self.value, given).float()

    def value_of(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        """The value of `node`, where `values` are known, to which it is added."""
        if node not in values:
            if node.op == "get_attr":
                values[node] = attribute(self.module, str(node.target))
            elif node in self.region:
                args, kwargs = fx.map_arg((node.args, node.kwargs), lambda one: self.value_of(one, values))  # type: ignore[misc]
                values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
            else:
                values[node] = example_sizes([node.meta["val"]])[0]
        return values[node]


def _threshold(run: _Runner, drawn: fx.Node, shape: list[int]) -> tuple[float, bool]:
    """The uniform number at which the input is dropped on one side and kept on the other, and whether it is kept below."""
    if drawn.target in _BERNOULLI:
        chance = argument(drawn, "p") if drawn.target is aten.bernoulli.p else _constant(run, drawn.args[0])
        kept = run(run.ones, torch.ones(shape))
        dropped = run(run.ones, torch.zeros(shape))
        if (kept == 0).all() and (dropped != 0).all():
            return float(chance), False
        if (dropped == 0).all() and (kept != 0).all():
            return float(chance), True
        raise _NoDrop

    def is_kept(number: float) -> bool:
        found = run(run.ones, run.number(torch.full(shape, number), 0.5)) != 0
        if found.all() or not found.any():
            return bool(found.all())
        raise _NoDrop

    below = is_kept(0.0)
    low, high = 0.0, 1.0
    if is_kept(1 - 2.0**-_STEPS) == below:
        raise _NoDrop
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_kept(middle) == below else (low, middle)
    threshold = round((low + high) / 2, 6)
    if any(is_kept(one) != ((one < threshold) == below) for one in _grid(threshold)):
        raise _NoDrop
    return threshold, below


def _grid(threshold: float) -> list[float]:
    return [one for one in (place / _TRIED for place in range(1, _TRIED)) if abs(one - threshold) > 1e-4]


def _constant(run: _Runner, node: Any) -> float:
    """The probability that a tensor of probabilities holds everywhere."""
    held = run.value_of(node, {run.source: run.ones})
    if not torch.equal(held, held.flatten()[:1].expand_as(held)):
        raise _NoDrop
    return float(held.flatten()[0])


def _checkered(shape: list[int]) -> Tensor:
    """0 and almost 1 in turn, along every dimension."""
    places = torch.ones(shape).nonzero().sum(-1).reshape(shape)
    return (places % 2) * (1 - 2.0**-_STEPS)
