"""How far a file may be from the simulation: by what one more rounding of every value would do, and no further.

A runtime rounds in other places than the simulation: it adds in another order, keeps a sum where the simulation has a float,
limits a value where the simulation rounds it. Each of these moves what a quantizer reads, and so its integer, by less than
one step; that is as much as the quantizer itself does to its input (an error of at most half a step, with a variance of
step^2 / 12: Widrow, "A study of rough amplitude quantization by means of Nyquist sampling theory", 1956). What a network
makes of such differences, with depth, through residual sums and at discontinuities, is found by running it: the simulation
with every quantizer's input moved at random by up to half a step, every bias of a sum of integers by up to half a step of that
sum (a runtime may keep it as one of them, in 32 bits), and every other value by a few of its last bits, differs from itself by
as much as rounding explains.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxcompress.ir.constants import constants
from fxcompress.ir.dialect import resolve
from fxcompress.quantization.by_rows import ByRows
from fxcompress.quantizers.ops import DEQUANTIZE, QUANTIZE, along

FLOAT_ROUNDING = 2.0**-18
"""How far floats are moved, as a share of themselves and of their root mean square: 64 of the last bits of float32.

Runtimes approximate exp, tanh and erf to a few of them, and sums of thousands lose some more.
"""

MARGIN = 8.0
"""The energy of a difference may be this many times the energy of the largest drawn one (9 dB)."""

_SUBTRACTING = frozenset(resolve(name) for name in ("log_softmax", "logsumexp", "logcumsumexp", "log_sigmoid", "softplus"))
"""What subtracts within itself, or adds one: of what it reads, not of what it gives, the last bits are lost."""

_SUMS = frozenset(resolve(name) for name in ("linear", "conv1d", "conv2d", "conv3d"))
"""What adds a bias, its third argument, to products of the first two."""

_WHOLE = 2.0**22
"""Larger floats may be whole because they have no bits for more."""

_LARGEST_CONSTANTS = 2**26  # bytes that are kept from run to run
_SPARE = 4099  # numbers more than twice what is taken at a time

FLOOR = 1e-8
"""What no difference needs to be smaller than, as a share of the signal's energy (80 dB)."""

ZERO = 1e-30
"""What is no larger is zero: a runtime may flush to zero what float32 holds with few bits (below 1.2e-38), and sums of it."""


class Constants:
    """What a lowered graph computes from its weights alone: computed once for several runs, and exact in every runtime."""

    def __init__(self, graph_module: fx.GraphModule):
        self.graph_module = graph_module
        self.nodes = constants(graph_module.graph)
        sizes = (node.meta.get("val") for node in self.nodes)
        small = sum(val.numel() * val.itemsize for val in sizes if isinstance(val, Tensor)) <= _LARGEST_CONSTANTS
        self.values = self._computed() if small else {}

    def _computed(self) -> dict[fx.Node, Any]:
        interpreter = fx.Interpreter(self.graph_module, garbage_collect_values=False)
        for node in self.graph_module.graph.nodes:
            if node in self.nodes:
                interpreter.env[node] = interpreter.run_node(node)
        return interpreter.env


class Dithered(ByRows):
    """Runs a lowered graph with every value moved at random by as much as a rounding may.

    With `mirrored`, by as much the other way: of the two runs of a seed, one crosses any discontinuity that a value is at.
    """

    def __init__(self, graph_module: fx.GraphModule, exact: set[fx.Node], seed: int, mirrored: bool):
        super().__init__(graph_module)
        self.exact, self.mirrored = exact, mirrored
        self.generator = torch.Generator().manual_seed(seed)
        self.drawn = torch.empty(0)

    def fetch_args_kwargs_from_env(self, node: fx.Node) -> tuple[Any, Any]:
        """What `node` reads. Each reader sees its own rounding of a value: what is zero because it cancels may be off."""

        def read(source: fx.Node) -> Any:
            value = self.env[source]
            if source.op != "call_function" or source in self.exact:
                return value
            return pytree.tree_map_only(Tensor, self._moved, value)

        args, kwargs = fx.map_arg(node.args, read), fx.map_arg(node.kwargs, read)
        if (step := self._step_of_sum(node)) is not None:
            x, weight, bias, *others = args  # type: ignore[misc]
            args = x, weight, bias + step * (self._noise(bias) - 0.5), *others
        return args, kwargs  # type: ignore[return-value]

    def _step_of_sum(self, node: fx.Node) -> Tensor | None:
        """The step of what `node` adds its bias to, where that is a sum of products of integers."""
        if node.target not in _SUMS or len(node.args) < 3 or node.args[2] is None:
            return None
        scales = [one.args[1] for one in node.args[:2] if isinstance(one, fx.Node) and one.target is DEQUANTIZE]
        if len(scales) < 2 or not all(isinstance(scale, fx.Node) and scale.op == "get_attr" for scale in scales):
            return None
        of_x, of_weight = (self.fetch_attr(str(scale.target)) for scale in scales)  # type: ignore[union-attr]
        fits = of_x.numel() == 1 and of_weight.numel() in (1, len(self.env[node.args[2]]))  # type: ignore[index]
        return of_x.reshape(()) * of_weight.reshape(-1) if fits else None

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target is QUANTIZE:
            x, scale, _, axis, _, *block = args
            step = along(scale, axis, block[0] if block else 0, x.shape)
            args = (x + step * (self._noise(x) - 0.5), *args[1:])
        value = super().call_function(target, args, kwargs)
        if target in _SUBTRACTING:
            return value + FLOAT_ROUNDING * _root_mean_square(args[0]) * (2 * self._noise(value) - 1)
        return value

    def _moved(self, value: Tensor) -> Tensor:
        if not value.is_floating_point() or _is_whole(value):
            return value
        size = value.where(value.isfinite(), 0).abs() + _root_mean_square(value)
        return value + FLOAT_ROUNDING * size * (2 * self._noise(value) - 1)

    def _noise(self, like: Tensor) -> Tensor:
        """Numbers from 0 to 1: a part, at random, of those that were drawn once, since drawing takes longer than a layer."""
        count = like.numel()
        if len(self.drawn) < 2 * count:
            self.drawn = torch.rand(2 * count + _SPARE, generator=self.generator)
        start = int(torch.randint(len(self.drawn) - count + 1, (), generator=self.generator))
        drawn = self.drawn[start : start + count].view(like.shape).to(like)
        return 1 - drawn if self.mirrored else drawn


def _is_whole(value: Tensor) -> bool:
    """Whether a tensor holds whole numbers alone, as counts and masks do: whoever adds and multiplies those rounds nothing."""
    return bool(((value == value.round()) & (value.abs() < _WHOLE)).all())


def _root_mean_square(value: Tensor) -> Tensor:
    return value.where(value.isfinite(), 0).square().mean().sqrt()
